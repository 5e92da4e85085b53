"""dataltt bench"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ...artifacts_schema.errors import OptionError
from ...stages.options import Group, Option, Precision
from ..ends import is_said, numbers
from ..options import takes
from ..progress import reporting

if TYPE_CHECKING:
    from ...stages.runtime.reporting import Reporter
    from ..bench.timing import BenchRow

STORE_SIZES = (20_000, 2_000_000)
GROWTH_SIZES = (100_000, 1_000_000, 10_000_000)  # measured too, below the largest
IMAGENET_ROWS = 1_281_167
REPLAY_VIEWS, REPLAY_GOAL = 10, 42.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig(Group):
    """Options of `dataltt bench`."""

    what: Annotated[
        Literal["select", "train", "join", "input", "baked", "loop", "store"],
        Option(help="select, train, join, input, baked, loop or store.", is_argument=True),
    ]
    model: Annotated[str, Option(help="Student of train: deit_s, lvvit_s, swin_t (packed into a smaller image), …")] = (
        "deit_s"
    )
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto"
    precision: Annotated[Precision, Option(help="Of select and train.")] = "fp32"
    batch_size: Annotated[int | None, Option(help="Default: 64 for select, 32 for train.", min=1)] = None
    repeats: Annotated[int, Option(help="Rounds; each times both sides.", min=1)] = 7
    rows: Annotated[
        int | None,
        Option(help="Rows of the large store. Default: 2,000,000; with --remote 1,281,167.", min=STORE_SIZES[0]),
    ] = None
    shards: Annotated[str | None, Option(help="Of input: shards to read, instead of photographs that are made.")] = None
    remote: Annotated[
        bool, Option(help="Of store: time until the first shard is joined over HTTP, with an empty and a full cache.")
    ] = False


@takes(BenchConfig)
def bench(config: BenchConfig, as_json: bool) -> None:
    """Measure dataltt against what it should be no slower than, both timed in turn within one run.

    select: over a plain forward. train: over the FLOPs saved. join: with tickets over without. input: decoding by
    torchvision over Pillow. baked: reading baked patches over drawing the same views. loop: how fast a device may be
    that does not wait for input. store: bytes per image; seconds to open it, and to join a shard; seconds and memory
    of commit, join, verify, merge and diff, and how memory grows from twenty thousand rows on; with --remote, how soon
    a far one is read.

    Example: dataltt bench select --json
    """
    with reporting() as reporter:
        found = _run(config, reporter)
    if is_said(as_json, lambda: [asdict(row) for row in found]):
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", *numbers("measured"), "goal", "")
    for row in found:
        table.add_row(
            row.name,
            f"{row.value:.3f}",
            row.goal,
            "" if not row.goal else "[green]reached" if row.ok else "[red]missed",
        )
    console = Console()
    console.print(table)
    for row in found:
        details = ", ".join(f"{k} {v}" for k, v in row.detail.items() if v is not None and not isinstance(v, dict))
        if details:
            console.print(f"{row.name}: {details}", style="dim", highlight=False)


def _run(config: BenchConfig, reporter: Reporter) -> list[BenchRow]:
    if config.remote:
        if config.what != "store":
            raise OptionError(f"`remote=True` is of store, and this is {config.what}; leave it out")
        from ..bench.remote import bench_remote

        return bench_remote(config.rows or IMAGENET_ROWS, config.repeats, reporter.message)
    if config.shards is not None and config.what != "input":
        raise OptionError(f"`shards` are of input, and this is {config.what}; leave them out")
    if config.what == "store":
        return _store_rows(config.rows or STORE_SIZES[1], reporter)
    if config.what == "join":
        from ..bench.data import bench_join

        return bench_join(repeats=config.repeats, reporter=reporter)
    if config.what == "input":
        from ..bench.inputs import bench_input

        return bench_input(repeats=config.repeats, shards=config.shards, reporter=reporter)
    if config.what == "baked":
        from ..bench.baked import bench_baked

        return bench_baked(repeats=config.repeats, reporter=reporter)
    if config.what == "loop":
        from ..bench.loop import bench_loop

        return bench_loop(model=config.model, device=config.device, precision=config.precision, reporter=reporter)
    from ..bench.compute import bench_select, bench_train

    options: dict[str, Any] = {
        "device": config.device,
        "precision": config.precision,
        "repeats": config.repeats,
        "reporter": reporter,
    }
    if config.what == "select":
        return bench_select(batch_size=config.batch_size or 64, **options)
    return bench_train(model=config.model, batch_size=config.batch_size or 32, **options)


def _store_rows(rows: int, reporter: Reporter) -> list[BenchRow]:
    from ..bench.load import bench_memory, load_rows
    from ..bench.store import bytes_per_view
    from ..bench.timing import BenchRow

    small = STORE_SIZES[0]
    sizes = (small, *(size for size in GROWTH_SIZES if size < rows), rows)
    found = bench_memory(sizes, reporter.message)
    tickets, everything = (found[small]["commit"][k] for k in ("tickets_bytes_per_image", "all_bytes_per_image"))
    table = [
        BenchRow(
            name=f"store: {name}, {small} rows",
            value=value,
            goal=f"≤ {goal}",
            ok=value <= goal,
            detail=found[small]["commit"]["bytes_per_image"],
        )
        for name, value, goal in (
            ("bytes per image of tickets", tickets, 25.5),
            ("bytes per image in all", everything, 40),
        )
    ]
    each = bytes_per_view(small, REPLAY_VIEWS)
    table.append(
        BenchRow(
            name=f"store: bytes per replayed view and image (box, flip, ticket), {REPLAY_VIEWS} views",
            value=each,
            goal=f"≤ {REPLAY_GOAL:g}",
            ok=each <= REPLAY_GOAL,
            detail={"rows": small},
        )
    )
    return [*table, *load_rows(found)]
