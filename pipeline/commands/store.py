"""dataltt store: merge, subset, thin, diff"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...artifacts_schema.locking import LOCK_TIMEOUT_S
from ...stages.options import Group, LockTimeout, Option, Overwrite, RemoteOptions, whole_numbers
from ..ends import print_json, say, warn
from ..escaping import cell
from ..messages import as_flags
from ..options import takes
from ..progress import reporting

if TYPE_CHECKING:
    from ...artifacts_schema.combining.assembly import Combined, Target
    from ...stages.analysis.store_diff import StoreDiff
    from ...stages.runtime.reporting import Reporter

Out = Annotated[
    Path,
    Option(
        help="The store to write.",
        is_common=True,
        instead_of_url="write it into a folder, then: dataltt push FOLDER URL",
    ),
]
Store = Annotated[str, Option(help="A ticket store: a folder, a zip file, or a URL.", is_argument=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig(Group):
    """Options of `dataltt store merge`."""

    stores: Annotated[
        tuple[str, ...], Option(help="Ticket stores, two or more: folders, zip files, or URLs.", is_argument=True)
    ]
    out: Out
    overwrite: Overwrite = False
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    remote: RemoteOptions = RemoteOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetConfig(Group):
    """Options of `dataltt store subset`."""

    store: Store
    out: Out
    shards: Annotated[
        str | None, Option(help="Names of shards: braces or a glob, in quotes, e.g. 'train-0000*.tar'.", is_common=True)
    ] = None
    keys: Annotated[Path | None, Option(help="A text file of keys, one a line.", is_common=True)] = None
    classes: Annotated[
        tuple[int, ...] | None,
        Option(help="Class indices, e.g. 0,3,5.", parser=whole_numbers, metavar="N,N,…", is_common=True),
    ] = None
    overwrite: Overwrite = False
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    remote: RemoteOptions = RemoteOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinConfig(Group):
    """Options of `dataltt store thin`."""

    store: Store
    out: Out
    ratio: Annotated[
        float | None, Option(help="Share of patches to keep, lower than the store's.", above=0, max=1, is_common=True)
    ] = None
    ranks: Annotated[bool, Option(help="Keep the ranks.", is_common=True)] = True
    overwrite: Overwrite = False
    lock_timeout_s: LockTimeout = LOCK_TIMEOUT_S
    remote: RemoteOptions = RemoteOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffConfig(Group):
    """Options of `dataltt store diff`."""

    first: Annotated[str, Option(help="A ticket store, A.", is_argument=True)]
    second: Annotated[str, Option(help="Another, B.", is_argument=True)]
    png: Annotated[Path | None, Option(help="Write where on the grid they agree as a picture.", is_common=True)] = None
    remote: RemoteOptions = RemoteOptions()


@takes(MergeConfig)
def merge(config: MergeConfig, as_json: bool) -> None:
    """Merge stores of one selector, view and ratio: all their shards in one store.

    Shards that several stores have come once. Stores that disagree on an image are refused, and the image named. Where
    two hold other images of one shard, these are put in the shard's order if that is certain, else refused.

    Example: dataltt store merge first-half.zarr second-half.zarr --out whole.zarr
    """
    from ...artifacts_schema.combining.merge import merge_stores

    with _target(config) as target:
        combined = merge_stores([config.remote.location(s) for s in config.stores], target)
    _end(config.out, combined, as_json)


@takes(SubsetConfig)
def subset(config: SubsetConfig, as_json: bool) -> None:
    """Write some shards, keys or classes of a store as a new one; of several conditions, all must hold.

    Example: dataltt store subset imagenet.zarr --classes 0,217,482 --out three.zarr
    """
    from ...artifacts_schema.combining.subset import Wanted, subset_store

    wanted = Wanted(shards=config.shards, keys=config.keys, classes=config.classes)
    with _target(config) as target:
        combined = subset_store(config.remote.location(config.store), wanted, target)
    _end(config.out, combined, as_json)


@takes(ThinConfig)
def thin(config: ThinConfig, as_json: bool) -> None:
    """Cut a store's tickets down to fewer patches by their ranks, or leave the ranks out, or both.

    Thinned tickets are approximate: a selector run at that ratio drops patches earlier, and ranks the rest otherwise.
    The new store keeps the selector's record, and says that it is thinned. `dataltt train --ratio` does it in passing.

    Example: dataltt store thin half.zarr --ratio 0.3 --out third.zarr
    """
    from ...artifacts_schema.combining.thin import thin_store

    with _target(config) as target:
        combined = thin_store(config.remote.location(config.store), target, ratio=config.ratio, ranks=config.ranks)
    _end(config.out, combined, as_json)


@takes(DiffConfig)
def diff(config: DiffConfig, as_json: bool) -> None:
    """Compare two stores: the same images, selector and views? How far do their tickets agree, and where?

    Overlap is the share of the smaller ticket's patches that the other has too. By chance it would be the larger
    ticket's share of the grid.

    Example: dataltt store diff deit_s.zarr deit_b.zarr --png diff.png
    """
    from ...artifacts_schema import OptionError
    from ...stages.analysis.store_diff import diff_stores

    png = config.png
    if png is not None and not png.parent.is_dir():
        raise OptionError(f"`png={str(png)!r}`: there is no folder {png.parent}")
    places = [config.remote.location(place) for place in (config.first, config.second)]
    with reporting() as reporter:
        steps = _Steps(reporter)
        found = diff_stores(
            places[0],
            places[1],
            steps.named("comparing tickets", "images"),
            steps.named("downloading tickets", "bytes"),
        )
        reporter.finish()
    if png is not None:
        from ...artifacts_schema.files import writing
        from ..reports.diff_figure import diff_figure

        with writing(png):
            diff_figure(found, config.first, config.second).savefig(png, format="png", dpi=150)
    if as_json:
        print_json({"first": config.first, "second": config.second, **_as_document(found)})
        return
    _print_diff(config.first, config.second, found)
    if png is not None:
        say(f"picture: {png}")


class _Steps:
    """Steps of one call, of which each shows how far it is."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._running, self._seen = "", 0

    def named(self, name: str, unit: str) -> Callable[[int, int], None]:
        """A function to call with (done, in all), over and over, while the step runs."""

        def on_progress(done: int, total: int) -> None:
            if self._running != name or done < self._seen:
                if self._running:
                    self._reporter.finish()
                self._reporter.start(name, total, unit)
                self._running, self._seen = name, 0
            self._reporter.advance(done - self._seen)
            self._seen = done

        return on_progress


@contextmanager
def _target(config: MergeConfig | SubsetConfig | ThinConfig) -> Iterator[Target]:
    from ...artifacts_schema.combining.assembly import Target
    from ...stages.runtime.version import tool_version

    with reporting() as reporter:
        steps = _Steps(reporter)
        yield Target(
            path=config.out,
            overwrite=config.overwrite,
            lock_timeout_s=config.lock_timeout_s,
            tool_version=tool_version(),
            on_progress=steps.named("writing the store", "rows"),
            on_download=steps.named("downloading tickets", "bytes"),
        )
        reporter.finish()


def _end(out: Path, combined: Combined, as_json: bool) -> None:
    from ...artifacts_schema.thinning import kept_in_words

    m = combined.manifest
    if as_json:
        print_json({"store": str(out), "notes": list(combined.notes), **m.to_json()})
        return
    kept = kept_in_words(m)
    ranks = ", with ranks" if m.has_ranks else ""
    say(f"{out}: {kept}{ranks} of {m.num_images} images in {len(m.dataset.shards)} shard(s)")
    for note in combined.notes:
        warn(as_flags(note))


def _as_document(found: StoreDiff) -> dict[str, Any]:
    document = asdict(found)
    for name in ("kept_a", "kept_b", "kept_both"):
        document[name] = document[name].tolist()
    for name in ("selector", "view"):
        document[name] = [d._asdict() for d in getattr(found, name)]
    return document


def _print_diff(first: str, second: str, d: StoreDiff) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    of_a, of_b, of_both = d.num_images
    same = "the same images" if d.same_images else f"{of_both} of {of_a} and {of_b}"
    changed = f"; {d.num_changed} of other bytes" if d.num_changed else ""
    views = "the same" if not d.view else "differ, so the first view of each is compared"
    kept = " and ".join(dict.fromkeys(d.kept))
    facts = {
        "A": first + (f" ({d.approximate[0]})" if d.approximate[0] else ""),
        "B": second + (f" ({d.approximate[1]})" if d.approximate[1] else ""),
        "images": same + changed,
        "selector": "the same" if not d.selector else "differs",
        "views": f"{views} ({d.num_views} per image)",
        "tickets": kept,
        "overlap": f"{d.overlap:.1%}; chance {d.chance:.1%}, by position alone {d.chance_by_position:.1%}",
        "identical": f"{d.num_identical} of {of_both} images",
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in facts.items():
        table.add_row(f"[bold]{name}", cell(text))
    console.print(table, highlight=False)
    if d.selector or d.view:
        fields = Table("differs", "A", "B", box=None, padding=(0, 2, 0, 0))
        for each in (*d.selector, *d.view):
            fields.add_row(cell(each.field), cell(each.first), cell(each.second))
        console.print()
        console.print(fields, highlight=False)
    console.print()
    console.print(_overlaps("class", [(str(c.label), str(c.num_images), c.overlap) for c in d.by_class[:_SHOWN]]))
    if len(d.by_class) > _SHOWN:
        console.print(f"and {len(d.by_class) - _SHOWN} classes more (--json has all)", style="dim", highlight=False)
    console.print()
    console.print(_overlaps("differs most", [(e.key, str(e.label), e.overlap) for e in d.examples]))


_SHOWN = 10


def _overlaps(name: str, rows: list[tuple[str, str, float]]) -> Any:
    from rich.table import Table

    table = Table(name, "images" if name == "class" else "class", "overlap", box=None, padding=(0, 2, 0, 0))
    table.columns[1].justify = table.columns[2].justify = "right"
    for first, second, overlap in rows:
        table.add_row(cell(first), cell(second), f"{overlap:.1%}")
    return table
