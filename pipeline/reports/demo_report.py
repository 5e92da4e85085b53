"""The demo's report: one self-contained HTML page."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from ...artifacts_schema import TicketStore
from ...artifacts_schema.files import write_atomically
from ...artifacts_schema.summary import kept_share
from ...stages.analysis.sample_tickets import sample_tickets
from ...stages.runtime.version import tool_version
from ...stages.training.run_log import METRICS_FILE
from ..escaping import in_page
from .figures import Spent, compute_figure, curve_figure, draw_heat_map, ticket_figure, to_svg

_NUM_SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoRow:
    """Row of the table: a student, what it was trained on, what it is tested on, and how it did.

    `tflops` is the arithmetic of its training, in 10¹² operations, where it is known.
    """

    label: str
    trained_on: str
    tested_on: str
    top1: float
    loss: float
    tflops: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """Results of the demo. `runs` maps (a), (b), (c) and resize to the folders of their runs."""

    rows: list[DemoRow]
    num_keep: int
    num_patches: int
    ratio: float
    epochs: int
    seed: int
    seconds: float
    runs: dict[str, str]
    report: str


def write_report(result: DemoResult, *, test_store: str, test_shards: str, num_train: int, num_test: int) -> None:
    """Writes result.report: the table, the learning curves, sample tickets over their images, where tickets lie."""
    names = {"(c)": "(c) dense", "(a)": "(a) tickets", "(b)": "(b) random, tested on tickets", "resize": "resize"}
    curves = {name: _curve(Path(result.runs[label])) for label, name in names.items() if label in result.runs}
    top1 = {row.label: row.top1 for row in result.rows if row.label}
    first = {row.trained_on: row for row in reversed(result.rows)}  # each student by its own test
    spent = [
        Spent(name=f"{r.trained_on}, on {r.tested_on}", kind=r.trained_on, tflops=r.tflops, mean=r.top1, sd=None)
        for r in reversed(first.values())
        if r.tflops is not None
    ]
    heat = Figure(figsize=(4.2, 3.6), layout="constrained")
    draw_heat_map(heat.subplots(), kept_share(TicketStore.open(test_store)))
    share = top1["(a)"] / 100
    template = jinja2.Environment(autoescape=True, finalize=in_page, undefined=jinja2.StrictUndefined).from_string(
        (files(__package__) / "demo.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(
        r=result,
        c_minus_a=top1["(c)"] - top1["(a)"],
        a_minus_b=top1["(a)"] - top1["(b)"],
        num_train=num_train,
        num_test=num_test,
        stderr=100 * math.sqrt(share * (1 - share) / num_test),
        curves=to_svg(curve_figure(curves, "top-1 (%)")),
        by_compute=to_svg(compute_figure(spent)) if spent else "",
        tickets=to_svg(ticket_figure(sample_tickets(test_store, test_shards, _NUM_SAMPLES))),
        heat=to_svg(heat),
        shards=test_shards.replace("test-", "train-"),
        version=tool_version(),
    )
    write_atomically(Path(result.report), page.encode())


def _curve(run: Path) -> tuple[list[float], list[float]]:
    """Epochs and validation top-1 of a run."""
    lines = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    tested = [line for line in lines if "val_top1" in line]
    return [line["epoch"] + 1 for line in tested], [line["val_top1"] for line in tested]
