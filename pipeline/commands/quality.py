"""dataltt quality"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ...stages.analysis.config import QualityConfig
from ...stages.options import Group, Option
from ..ends import is_said, numbers, say
from ..escaping import cell, shown
from ..options import takes
from ..progress import reporting

if TYPE_CHECKING:
    from rich.table import Table

    from ...stages.analysis.bootstrap import Figure
    from ...stages.analysis.quality_result import QualityResult, Scored

_SUFFIXES = (".svg", ".png")
_NAME_CHARS = 24
_MAX_CLASSES = 10
_MIN_IMAGES = 10  # of a class that is worth a line


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityCommandConfig(Group):
    """Options of `dataltt quality`."""

    judged: QualityConfig
    picture: Annotated[Path | None, Option(help="Write the curve as a picture, .svg or .png.", is_common=True)] = None


@takes(QualityCommandConfig)
def quality(config: QualityCommandConfig, as_json: bool) -> None:
    """Judge tickets without training: what does a ViT still see that is shown the kept patches alone?

    Top-1, top-5 and loss where the judge knows the labels, and agreement with its own answer on all patches, against
    random and central patches and smaller pictures of as many. Intervals are 95 %, by image.

    Example: dataltt quality --model deit_t --selector cascade --selector attention --shards 'photos/val-*.tar'
    """
    from ...stages.analysis.quality import quality as run

    _check_picture(config.picture)
    with reporting() as reporter:
        result = run(config.judged, reporter)
    if config.picture is not None:
        from ..reports.quality_figure import quality_figure, write_picture

        write_picture(quality_figure(result), config.picture)
    if is_said(as_json, lambda: asdict(result)):
        return
    from rich.console import Console

    console = Console()
    for table in _tables(result):
        console.print(table)
    for sentence in result.conclusions:
        say(sentence)
    if config.picture is not None:
        say(f"picture: {config.picture}")


def _check_picture(path: Path | None) -> None:
    """Refuses a picture that could not be written, before minutes are spent."""
    from ...artifacts_schema import OptionError

    if path is None:
        return
    if path.suffix not in _SUFFIXES:
        raise OptionError(f"`picture={str(path)!r}` should end in {' or '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise OptionError(f"`picture={str(path)!r}`: there is no folder {path.parent}")


def _tables(result: QualityResult) -> Iterator[Table]:
    yield _figures(result)
    yield _against_controls(result)
    if sum(each.num_images >= _MIN_IMAGES for each in result.classes) > 1:
        yield _classes(result)


def _figures(result: QualityResult) -> Table:
    from rich.table import Table

    title = f"{shown(result.judge)} shown some patches of {result.num_images:,} images"
    accuracies = ("top-1 %", "top-5 %", "loss") if result.measure == "top1" else ()
    table = Table("kept", "shown", *numbers("tokens", *accuracies, "agreement %"), title=cell(title))
    before = result.num_patches
    for row in [result.all_patches, *result.rows]:
        if row.num_keep != before:
            table.add_section()
            before = row.num_keep
        f = row.figures
        known = (
            (f"{f.top1}", _mean(f.top5), _mean(f.loss, 3), _mean(f.agreement)) if accuracies else (f"{f.agreement}",)
        )
        table.add_row(str(row.num_keep), cell(_name(row)), str(row.num_tokens), *known)
    table.caption = cell(_caption(result))
    return table


def _caption(result: QualityResult) -> str:
    marks = {
        "≈ by rank, not as the selector would choose so many": any(r.is_approximate for r in result.rows),
        "* chosen by the judge's own network": any(r.is_self_judged for r in result.rows),
    }
    return "; ".join([mark for mark, is_there in marks.items() if is_there] + ["[95 % interval]"])


def _name(row: Scored) -> str:
    from ..reports.figures import shortened

    marks = (" ≈" if row.is_approximate else "") + (" *" if row.is_self_judged else "")
    return shortened(row.arm, _NAME_CHARS) + marks


def _mean(figure: Figure | None, digits: int = 1) -> str:
    return "" if figure is None else f"{figure.mean:.{digits}f}"


def _against_controls(result: QualityResult) -> Table:
    from rich.table import Table

    from ...stages.analysis.quality_result import WORDS, difference

    controls = list(dict.fromkeys(row.arm for row in result.rows if row.kind == "control"))
    title = f"points of {WORDS[result.measure]} more than"
    table = Table("kept", "shown", *numbers(*controls), title=title, box=None, padding=(0, 1, 0, 0))
    for row in result.rows:
        if row.kind == "control":
            continue
        found = [difference(result.gains, row.arm, c, row.num_keep, result.measure) for c in controls]
        table.add_row(
            str(row.num_keep), cell(_name(row)), *(f"{d.mean:+.1f} [{d.low:.1f}, {d.high:.1f}]" for d in found)
        )
    return table


def _classes(result: QualityResult) -> Table:
    """The classes of which the first arm keeps least, at the fewest patches."""
    from rich.table import Table

    from ...stages.analysis.quality_result import WORDS

    rows = [row for row in result.rows if row.num_keep == result.rows[-1].num_keep]
    first = rows[0]
    known = [each for each in result.classes if each.num_images >= _MIN_IMAGES]
    lowest = sorted(known, key=lambda each: (first.by_class[each.label].mean, each.label))[:_MAX_CLASSES]
    title = f"{WORDS[result.measure]} % by class at {first.num_keep} patches: lowest of {first.arm} (--json has all)"
    columns = numbers("images", *(cell(_name(row)) for row in rows))
    table = Table("class", *columns, title=cell(title), box=None, padding=(0, 2, 0, 0))
    for each in lowest:
        name = str(each.label) if each.name is None else each.name
        table.add_row(cell(name), str(each.num_images), *(f"{row.by_class[each.label].mean:.1f}" for row in rows))
    return table
