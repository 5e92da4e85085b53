"""dataltt study"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Json, Workers, print_json
from ..progress import reporting


def study(
    name: Annotated[str, typer.Argument(help="views-fashion (needs nothing else), or views-photos.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study. Default: studies/NAME.")] = None,
    shards: Annotated[str | None, typer.Option(help="Training shards, in quotes (views-photos).")] = None,
    test_shards: Annotated[str | None, typer.Option(help="Test shards, in quotes (views-photos).")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The selector's weights (views-photos).")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 0,1,2.")] = "0,1,2",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Run a whole comparison: every arm with every seed, and a table at the end.

    Done runs are skipped and interrupted ones go on, so the same command can be given again, or be shared out: give
    each process other --seeds and the same --out, once the first has selected the tickets.

    Example: dataltt study views-fashion
    """
    from dataclasses import asdict

    from ...artifacts_schema import OptionError
    from ..studies.views import run_views_study

    try:
        numbers = tuple(int(s) for s in seeds.split(","))
    except ValueError:
        raise OptionError(f"--seeds {seeds!r} should be whole numbers such as 0,1,2") from None
    with reporting() as reporter:
        found = run_views_study(
            name,
            out or Path("studies") / name,
            shards=shards,
            test_shards=test_shards,
            checkpoint=checkpoint,
            seeds=numbers,
            workers=workers,
            reporter=reporter,
        )
    if as_json:
        print_json([asdict(row) for row in found])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "arm",
        "tested on",
        "top-1 %",
        "sd",
        *(f"seed {s}" for s in numbers),
        "bytes",
        title=f"{name} (bytes: of tickets, per image)",
    )
    for row in found:
        sd = "" if row.sd is None else f"{row.sd:.2f}"
        each = (f"{row.top1[s]:.2f}" for s in numbers)
        table.add_row(row.name, row.tested_on, f"{row.mean:.2f}", sd, *each, f"{row.bytes_per_image:.0f}")
    Console().print(table)
