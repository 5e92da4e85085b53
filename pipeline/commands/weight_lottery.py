"""dataltt weight-lottery"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...stages.options import Group, Option, RuntimeOptions
from ...stages.weight_lottery.config import PruningOptions, Seeds
from ..ends import is_said, numbers
from ..escaping import shown
from ..options import takes
from ..progress import reporting

if TYPE_CHECKING:
    from ...stages.training.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLotteryConfig(Group):
    """Options of `dataltt weight-lottery`. The recipe is the demo's, with `shards` DeiT's, where nothing is given."""

    out: Annotated[Path, Option(help="Folder for everything it makes.", is_common=True)] = Path("weight-lottery")
    seeds: Seeds = (0, 1, 2)
    shards: Annotated[
        str | None, Option(help="Training shards, in quotes. Default: embedded images.", is_common=True)
    ] = None
    test_shards: Annotated[str | None, Option(help="Test shards, in quotes (with `shards`).", is_common=True)] = None
    images: Annotated[
        int | None, Option(help="Train on the first so many embedded images alone.", min=1, max=10_000)
    ] = None
    model: Annotated[str | None, Option(help="The ViT. Default: vit_fashion; with `shards` none.")] = None
    epochs: Annotated[int | None, Option(help="Default: 4; with `shards` 300.", min=1)] = None
    batch_size: Annotated[
        int | None, Option(help="Images per process and step. Default: 50; with `shards` 128.", min=1)
    ] = None
    lr: Annotated[float | None, Option(help="Learning rate for a global batch of 512; scaled linearly.", min=0)] = None
    pruning: PruningOptions = PruningOptions()
    runtime: RuntimeOptions = RuntimeOptions()


@takes(WeightLotteryConfig)
def weight_lottery(config: WeightLotteryConfig, as_json: bool) -> None:
    """Iterative magnitude pruning: are there winning tickets among a ViT's weights?

    Each round prunes a share of the weights that are left in the linear layers of the blocks, resets the others, and
    trains again: the ticket. It is compared with the same mask on fresh weights, and with random masks.

    Done runs are skipped and interrupted ones go on, so the same command can be given again, also with more --rounds
    or --seeds. Everything is in lottery.json, the plot in lottery.png. With --out STUDY/weight-lottery the plot also
    stands in that study's report, beside the data-level comparison.

    Example: dataltt weight-lottery --images 2000 --seeds 0,1,2
    """
    from ...stages.weight_lottery.config import LotteryConfig
    from ..studies.lottery import NUM_FASHION, run_weight_lottery

    train, tested = _recipe(config)
    given = {"model": config.model, "epochs": config.epochs, "batch_size": config.batch_size, "lr": config.lr}
    lottery = LotteryConfig(
        out=config.out,
        train=train.but(**{k: v for k, v in (given | config.runtime.flat()).items() if v is not None}),
        test_shards=tested,
        pruning=config.pruning,
        seeds=config.seeds,
    )
    with reporting() as reporter:
        num_fashion = (config.images or NUM_FASHION) if config.shards is None else None
        document = run_weight_lottery(lottery, reporter, num_fashion=num_fashion)
    if document is None or is_said(as_json, lambda: document):
        return
    _print(document, config.out)


def _recipe(config: WeightLotteryConfig) -> tuple[TrainConfig, str]:
    """Training options, and the shards to test on."""
    from ...artifacts_schema import OptionError
    from ..studies.lottery import deit_config, fashion_config

    if config.shards is None:
        if config.test_shards is not None:
            raise OptionError("`test_shards` without `shards`; give the shards to train on as well, or neither")
        return fashion_config(config.out, epochs=config.epochs)
    if config.images is not None:
        raise OptionError("`images` is of the embedded images; leave it out, or leave `shards` out")
    if config.test_shards is None or config.model is None:
        raise OptionError("`shards` needs `test_shards` (what to test on) and `model`, e.g. deit_t")
    return deit_config(config.out, config.shards, config.model), config.test_shards


def _print(document: Mapping[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from ...stages.analysis.statistics import Paired, lottery_conclusion
    from ..studies.lottery import FIGURE_FILE

    columns = numbers("remaining %", "ticket", "fresh", "random mask", "ticket − fresh")
    table = Table("round", *columns, title="Top-1 in per cent")
    table.add_row("dense", "100.0", _figure(document["dense"]), "", "", "")
    for row in document["rounds"]:
        arms = [
            _figure(row["arms"][name]) if name in row["arms"] else "" for name in ("ticket", "fresh", "random-mask")
        ]
        difference = str(Paired(**row["ticket_minus_fresh"])) if row["ticket_minus_fresh"] else ""
        table.add_row(str(row["round"]), f"{100 * row['remaining']:.1f}", *arms, difference)
    console = Console()
    console.print(table)
    console.print(lottery_conclusion(document), highlight=False, markup=False)
    console.print(shown(f"plot: {out / FIGURE_FILE}"), highlight=False, markup=False)


def _figure(arm: Mapping[str, Any]) -> str:
    return f"{arm['mean']:.2f}" + ("" if arm["sd"] is None else f" ± {arm['sd']:.2f}")
