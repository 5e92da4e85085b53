"""dataltt fidelity"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ...stages.analysis.config import FidelityConfig
from ...stages.options import Group, Option
from ..ends import is_said, numbers, say
from ..escaping import cell
from ..options import takes
from ..progress import reporting


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityCommandConfig(Group):
    """Options of `dataltt fidelity`."""

    measured: FidelityConfig
    png: Annotated[Path | None, Option(help="Write the table as a picture.")] = None


@takes(FidelityCommandConfig)
def fidelity(config: FidelityCommandConfig, as_json: bool) -> None:
    """Measure how well cached tickets agree with the selector run online on what the student really sees.

    One row for each way to train: static, warped, replayed, mixed. The figure is the intersection over union of the
    two sets of kept patches; a random subset of half the patches reaches about .33.

    Example: dataltt fidelity --model deit_t --shards 'photos/val-*.tar' --png fidelity.png
    """
    from ...artifacts_schema import OptionError
    from ...stages.analysis.fidelity import fidelity as run
    from ...stages.analysis.statistics import chance_iou
    from ..reports.figures import fidelity_figure, write_png

    png = config.png
    if png is not None and not png.parent.is_dir():
        raise OptionError(f"`png={str(png)!r}`: there is no folder {png.parent}")
    with reporting() as reporter:
        result = run(config.measured, reporter)
    title = f"IoU with the online ticket: {result.num_keep} of {result.num_patches} patches, policy {result.augment}"
    chance = chance_iou(result.num_keep, result.num_patches)
    if png is not None:
        rows = [(r.name, r.mean, r.percentile_5) for r in result.rows]
        write_png(fidelity_figure(rows, title, chance), png)
    if is_said(as_json, lambda: asdict(result)):
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("what train would use", *numbers("mean", "5th percentile", "images"), title=cell(title))
    for row in result.rows:
        table.add_row(row.name, f"{row.mean:.3f}", f"{row.percentile_5:.3f}", str(row.num_images))
    table.caption = f"random subsets of this size: {chance:.3f}"
    Console().print(table)
    if png is not None:
        say(f"picture: {png}")
