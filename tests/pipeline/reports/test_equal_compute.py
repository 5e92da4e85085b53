"""Accuracy against arithmetic: which arm each one is set beside, and the table on a study's page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from dataltt.pipeline.reports.equal_compute import equal_compute
from dataltt.pipeline.reports.figures import Spent, compute_figure
from dataltt.pipeline.reports.study_report import write_study_report


def _row(arm: str, tflops: float | None, top1: dict[str, float], tested_on: str = "ticket") -> dict[str, Any]:
    mean = sum(top1.values()) / len(top1)
    fixed = {"group": "", "trained_on": "x", "sd": None, "loss": 1.0, "bytes_per_image": 0.0, "num_steps": 1}
    return {"arm": arm, "tested_on": tested_on, "top1": top1, "mean": mean, "tflops": tflops, **fixed}


_ROWS = [
    _row("dense", 20.0, {"0": 80.0, "1": 82.0}, "dense"),
    _row("ticket", 10.0, {"0": 70.0, "1": 75.0}),
    _row("ticket", 10.0, {"0": 90.0, "1": 95.0}, "dense"),  # a second test, which is not what it is compared by
    _row("resize", 10.05, {"0": 74.0, "1": 76.0}, "resize"),
    _row("few", 5.0, {"2": 60.0}),
    _row("unknown", None, {"0": 99.0}),
]
_DOCUMENT = {"study": "test", "seeds": [0, 1, 2], "results": _ROWS, "differences": [], "cost": None}


def test_each_arm_is_set_beside_the_best_that_costs_no_more() -> None:
    found = equal_compute(_DOCUMENT)
    beside = [(each.row["arm"], each.other and each.other["arm"]) for each in found]
    assert beside == [("few", None), ("ticket", "resize"), ("resize", "ticket"), ("dense", "resize")]
    differences = {each.row["arm"]: each.difference for each in found}
    assert differences["few"] is None
    assert differences["ticket"] is not None
    assert differences["ticket"].mean == pytest.approx(-2.5)
    assert differences["dense"] is not None
    assert differences["dense"].mean == pytest.approx(6.0)


def test_arms_without_a_common_seed_have_no_difference() -> None:
    few, ticket = equal_compute({"results": [_ROWS[1], _ROWS[4]]})
    assert (few.other, few.difference, ticket.difference) == (None, None, None)
    assert ticket.other is not None
    assert ticket.other["arm"] == "few"


def test_the_page_has_the_table(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(_DOCUMENT))
    page = write_study_report(tmp_path).read_text()
    table = page.split('aria-label="Equal compute"')[1].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>([^<]*)", row) for row in table.split("<tr>")[2:]]
    assert rows[0] == ["few", "ticket", "5", "60.00", "none", "", "", ""]
    assert rows[1][:7] == ["ticket", "ticket", "10", "72.50", "resize", "resize", "75.00"]
    assert rows[3] == ["dense", "dense", "20", "81.00", "resize", "resize", "75.00", "+6.00 [+6.00, +6.00]"]


def test_arms_of_a_kind_have_one_colour_and_other_marks() -> None:
    arms = [
        Spent(name=f"{kind}-{epochs}", kind=kind, tflops=epochs, mean=50.0, sd=1.0)
        for epochs in (3, 10)
        for kind in ("dense", "ticket", "resize")
    ]
    lines = [bars.lines[0] for bars in compute_figure(arms).axes[0].containers]
    colours = [line.get_color() for line in lines]
    assert len(set(colours)) == 3
    assert colours[:3] == colours[3:]
    assert [line.get_marker() for line in lines] == ["o"] * 3 + ["s"] * 3
