"""dataltt study"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...stages.options import Group, Option
from ..ends import is_said, numbers
from ..escaping import cell, shown
from ..options import takes
from ..progress import reporting
from ..studies.inputs import StudyInputs

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyConfig(Group):
    """Options of `dataltt study`."""

    name: Annotated[str, Option(help="fashion (needs nothing else), photos, …; `list` for all.", is_argument=True)]
    inputs: StudyInputs = StudyInputs()
    describe: Annotated[bool, Option(help="Print what the study does, costs and expects, and stop.")] = False


@takes(StudyConfig)
def study(config: StudyConfig, as_json: bool) -> None:
    """Run a whole comparison: every arm with every seed, and one report at the end.

    Done runs are skipped and interrupted ones go on, so the same command can be given again, or be shared out: give
    each process other --seeds and the same --out, once the first has selected the tickets. The report of the last
    call, with all seeds, is the study's. Under torchrun every run is trained by all ranks.

    Writes OUT/report.html, OUT/study.json and OUT/compute.svg, a picture of accuracy over arithmetic.

    Example: dataltt study fashion
    """
    from ..studies.catalog import STUDIES, study_named
    from ..studies.catalog import describe as describe_study

    if config.name == "list":
        for known, each in STUDIES.items():
            typer.echo(f"{known:32} {describe_study(each).splitlines()[0]}")
        return
    maker = study_named(config.name)
    if config.describe:
        typer.echo(describe_study(maker))
        return
    from ...stages.runtime.distributed import is_main_process, process_group
    from ..reports.study_report import write_study_report
    from ..studies.engine import run_study

    inputs = config.inputs.of_study(config.name)
    with reporting() as reporter, process_group(inputs.runtime.device):
        document = run_study(maker(inputs, reporter), inputs, reporter)
    if not is_main_process():
        return
    report = write_study_report(inputs.folder)
    if is_said(as_json, lambda: document):
        return
    from rich.console import Console

    console = Console()
    console.print(_results(document))
    if document["differences"]:
        console.print(_differences(document))
    console.print(shown(f"report: {report}"), highlight=False, markup=False)


def _results(document: dict[str, Any]) -> Table:
    from rich.table import Table

    seeds = [str(s) for s in document["seeds"]]
    has_bytes = any(row["bytes_per_image"] for row in document["results"])
    figures = ["top-1 %", "sd", *(f"seed {s}" for s in seeds), *(["bytes"] if has_bytes else [])]
    title = document["study"] + (" (bytes: of tickets, per image)" if has_bytes else "")
    table = Table("arm", "tested on", *numbers(*figures), title=title)
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
        table.add_row(*map(cell, cells), *([f"{row['bytes_per_image']:.0f}"] if has_bytes else []))
        last = row["arm"]
    return table


def _differences(document: dict[str, Any]) -> Table:
    from rich.table import Table

    from ...stages.analysis.statistics import Paired

    table = Table("difference in top-1, paired by seed", *numbers("mean [95 % interval]", "seeds"), "claim")
    for row in document["differences"]:
        difference = Paired(**row["paired"])
        table.add_row(cell(row["name"]), str(difference), str(difference.num_seeds), row["verdict"] or "")
    return table
