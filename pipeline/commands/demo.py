"""dataltt demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Json, print_json
from ..progress import reporting


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("dataltt-demo"),
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in that folder.")] = False,
    as_json: Json = False,
) -> None:
    """Both stages on embedded real images (Fashion-MNIST), in a few minutes on two cores.

    Trains a small ViT on all patches (c), selects tickets with it, trains one on the tickets (a) and one on random
    subsets of the same size (b), tests them, prints the table, and writes report.html.

    Example: dataltt demo --out dataltt-demo
    """
    from dataclasses import asdict

    from ..demo.run import run_demo

    with reporting() as reporter:
        result = run_demo(out, seed=seed, overwrite=overwrite, reporter=reporter)
    if as_json:
        print_json(asdict(result))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", "trained on", "tested on", "top-1 %", "loss", title="Does a ViT need all patches?")
    for row in result.rows:
        table.add_row(row.label, row.trained_on, row.tested_on, f"{row.top1:.2f}", f"{row.loss:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"tickets keep {result.num_keep} of {result.num_patches} patches; one seed, {result.epochs} epochs, "
        f"{result.seconds:.0f} s in all\nreport: {result.report}",
        highlight=False,
    )
