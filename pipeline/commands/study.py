"""dataltt study"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import Device, Json, Precision, Workers, print_json
from ..progress import reporting

if TYPE_CHECKING:
    from rich.table import Table


def study(
    name: Annotated[str, typer.Argument(help="fashion (needs nothing else), photos, …; `list` for all.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the study. Default: studies/NAME.")] = None,
    shards: Annotated[str | None, typer.Option(help="Training shards, in quotes.")] = None,
    test_shards: Annotated[str | None, typer.Option(help="Test shards, in quotes.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The selector's weights to start from. Default: timm's pretrained ones.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 0,1,2.")] = "0,1,2",
    views: Annotated[int | None, typer.Option(min=1, help="Views per image (paper recipes). Default: 16.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Per process. Default: the recipe's.")] = None,
    precision: Annotated[Precision, typer.Option(help="Of paper recipes.")] = Precision.fp32,
    workers: Workers = None,
    device: Device = "auto",
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what the recipe does, costs and expects, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a whole comparison: every arm with every seed, and one report at the end.

    Done runs are skipped and interrupted ones go on, so the same command can be given again, or be shared out: give
    each process other --seeds and the same --out, once the first has selected the tickets. The report of the last
    call, with all seeds, is the study's. Under torchrun every run is trained by all ranks.

    Writes OUT/report.html and OUT/study.json.

    Example: dataltt study fashion
    """
    from ..studies.catalog import STUDIES, study_named
    from ..studies.catalog import describe as describe_study

    if name == "list":
        for known, each in STUDIES.items():
            typer.echo(f"{known:32} {describe_study(each).splitlines()[0]}")
        return
    maker = study_named(name)
    if describe:
        typer.echo(describe_study(maker))
        return
    from ...artifacts_schema import OptionError
    from ...stages.runtime.distributed import is_main_process, process_group
    from ..reports.study_report import write_study_report
    from ..studies.engine import StudyInputs, run_study

    try:
        numbers = tuple(int(s) for s in seeds.split(","))
    except ValueError:
        raise OptionError(f"--seeds {seeds!r} should be whole numbers such as 0,1,2") from None
    inputs = StudyInputs(
        out=out or Path("studies") / name.replace("-", "_"),
        seeds=numbers,
        shards=shards,
        test_shards=test_shards,
        checkpoint=checkpoint,
        views=views,
        batch_size=batch_size,
        workers=workers,
        device=device,
        precision=precision.value,
    )
    with reporting() as reporter, process_group(device):
        document = run_study(maker(inputs, reporter), inputs, reporter)
    if not is_main_process():
        return
    report = write_study_report(inputs.out)
    if as_json:
        print_json(document)
        return
    from rich.console import Console

    console = Console()
    console.print(_results(document))
    if document["differences"]:
        console.print(_differences(document))
    console.print(f"report: {report}", highlight=False)


def _results(document: dict[str, Any]) -> Table:
    from rich.table import Table

    seeds = [str(s) for s in document["seeds"]]
    has_bytes = any(row["bytes_per_image"] for row in document["results"])
    columns = ["arm", "tested on", "top-1 %", "sd", *(f"seed {s}" for s in seeds)]
    title = document["study"] + (" (bytes: of tickets, per image)" if has_bytes else "")
    table = Table(*columns, *(["bytes"] if has_bytes else []), title=title)
    table.columns[0].overflow = "fold"
    last = None
    for row in document["results"]:
        each = [f"{row['top1'][s]:.2f}" if s in row["top1"] else "" for s in seeds]
        cells = [
            row["arm"] if row["arm"] != last else "",
            row["tested_on"],
            f"{row['mean']:.2f}",
            "" if row["sd"] is None else f"{row['sd']:.2f}",
            *each,
        ]
        table.add_row(*cells, *([f"{row['bytes_per_image']:.0f}"] if has_bytes else []))
        last = row["arm"]
    return table


def _differences(document: dict[str, Any]) -> Table:
    from rich.table import Table

    from ...stages.analysis.statistics import Paired

    table = Table("difference in top-1, paired by seed", "mean [95 % interval]", "seeds")
    for row in document["differences"]:
        difference = Paired(**row["paired"])
        table.add_row(row["name"], str(difference), str(difference.num_seeds))
    return table
