"""dataltt demo"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ...stages.options import Group, Option, Overwrite, Seed
from ..ends import is_said, numbers
from ..options import takes
from ..progress import reporting


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig(Group):
    """Options of `dataltt demo`."""

    out: Annotated[Path, Option(help="Folder for everything the demo makes.")] = Path("dataltt-demo")
    seed: Seed = 0
    overwrite: Overwrite = False


@takes(DemoConfig)
def demo(config: DemoConfig, as_json: bool) -> None:
    """Both stages on embedded real images (Fashion-MNIST), in a few minutes on two cores.

    Trains a small ViT on all patches (c), selects tickets with it, trains one on the tickets (a) and one on random
    subsets of the same size (b), and one on whole pictures made as small (resize); tests them, prints the table, and
    writes report.html.

    Example: dataltt demo --out dataltt-demo
    """
    from ..demo.run import run_demo

    with reporting() as reporter:
        result = run_demo(config.out, seed=config.seed, overwrite=config.overwrite, reporter=reporter)
    if is_said(as_json, lambda: asdict(result)):
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "",
        "trained on",
        "tested on",
        *numbers("top-1 %", "loss", "10¹² operations"),
        title="Does a ViT need all patches?",
    )
    for row in result.rows:
        spent = "" if row.tflops is None else f"{row.tflops:.2f}"
        table.add_row(row.label, row.trained_on, row.tested_on, f"{row.top1:.2f}", f"{row.loss:.3f}", spent)
    console = Console()
    console.print(table)
    console.print(
        f"tickets keep {result.num_keep} of {result.num_patches} patches; one seed, {result.epochs} epochs, "
        f"{result.seconds:.0f} s in all\nreport: {result.report}",
        highlight=False,
    )
