"""A study's report: one self-contained HTML page made of what the study wrote down, so it can be made again."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ...artifacts_schema.files import write_atomically
from ...stages.analysis.statistics import EQUAL_WITHIN, Paired, lottery_conclusion
from ...stages.runtime.version import tool_version
from ...stages.training.run_log import METRICS_FILE
from ..escaping import in_page
from .equal_compute import equal_compute, first_tests
from .figures import Points, Spent, compute_figure, curve_figure, group_figure, lottery_figure, to_svg

REPORT_FILE, COMPUTE_FILE = "report.html", "compute.svg"
STUDY_FILE = "study.json"
LOTTERY_FOLDER, LOTTERY_FILE = "weight-lottery", "lottery.json"


def write_study_report(out: Path) -> Path:
    """Writes out/report.html from out/study.json, the runs' metrics, and out/weight-lottery/lottery.json if there; its
    picture of accuracy over arithmetic is out/compute.svg, too.
    """
    document = json.loads((out / STUDY_FILE).read_text())
    lottery_path = out / LOTTERY_FOLDER / LOTTERY_FILE
    lottery = json.loads(lottery_path.read_text()) if lottery_path.exists() else None
    curves = _curves(out, document)
    by_share = _by_group(document)
    spent = _spent(document)
    by_compute = to_svg(compute_figure(spent)) if spent else ""
    environment = jinja2.Environment(autoescape=True, finalize=in_page, undefined=jinja2.StrictUndefined)
    environment.filters["interval"] = lambda paired: str(Paired(**paired))
    environment.filters["said"] = claim_in_words
    template = environment.from_string((files(__package__) / "study.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        d=document,
        note={k: v for k, v in document.items() if k not in ("results", "differences", "cost", "seeds", "study")},
        has_bytes=any(row["bytes_per_image"] for row in document["results"]),
        curves={group: to_svg(curve_figure(lines, "top-1 (%)")) for group, lines in curves.items()},
        by_share=to_svg(group_figure(by_share, *_dense(document))) if by_share else "",
        by_compute=by_compute,
        equal_compute=equal_compute(document),
        lottery=lottery,
        lottery_figure=to_svg(lottery_figure(lottery)) if lottery else "",
        conclusion=lottery_conclusion(lottery) if lottery else "",
        version=tool_version(),
    )
    if by_compute:
        write_atomically(out / COMPUTE_FILE, by_compute.encode())
    path = out / REPORT_FILE
    write_atomically(path, page.encode())
    return path


_WITHIN = f"{EQUAL_WITHIN:g} point"
_CLAIMS = {"above": "the first is above the second", "no worse": f"the second loses at most {_WITHIN}"}
_CONCLUSIONS = {
    ("above", "shown"): "the first is the better one",
    ("above", "not shown"): "nothing: either may be ahead",
    ("above", "contradicted"): "the second is the better one",
    ("no worse", "shown"): f"the second is as good, to {_WITHIN}",
    ("no worse", "not shown"): f"nothing: more or less than {_WITHIN} may be lost",
    ("no worse", "contradicted"): f"the second is worse, by more than {_WITHIN}",
}


def claim_in_words(difference: Mapping[str, Any]) -> dict[str, str]:
    """`claim`, `verdict` and `conclusion` of a row of study.json's differences, empty where nothing is claimed."""
    claim, verdict = difference.get("claim"), difference.get("verdict")
    if claim is None or verdict is None:
        return {"claim": "", "verdict": "", "conclusion": ""}
    return {"claim": _CLAIMS[claim], "verdict": verdict, "conclusion": _CONCLUSIONS[claim, verdict]}


_Curve = tuple[list[float], list[float]]


def _curves(out: Path, document: Mapping[str, Any]) -> dict[str, dict[str, _Curve]]:
    """Validation top-1 after each epoch by group and arm, means over seeds. Arms without a group are in each."""
    groups = {row["arm"]: row["group"] for row in document["results"]}
    found = {arm: curve for arm in groups if (curve := _curve(out, arm, document["seeds"]))[0]}
    names = dict.fromkeys(group for arm, group in groups.items() if arm in found and group) or {"": None}
    curves = {name: {arm: c for arm, c in found.items() if groups[arm] in ("", name)} for name in names}
    return {name: of for name, of in curves.items() if of}


def _curve(out: Path, arm: str, seeds: Sequence[int]) -> _Curve:
    by_epoch: dict[float, list[float]] = {}
    for seed in seeds:
        path = out / "runs" / f"{arm}-{seed}" / METRICS_FILE
        lines = path.read_text().splitlines() if path.exists() else []
        for values in (json.loads(line) for line in lines):
            if "val_top1" in values:
                by_epoch.setdefault(values["epoch"] + 1, []).append(values["val_top1"])
    epochs = sorted(by_epoch)
    return epochs, [statistics.fmean(by_epoch[e]) for e in epochs]


def _by_group(document: Mapping[str, Any]) -> dict[str, Points]:
    """Tests on tickets by kind of arm, as (group, mean, sd), where there is more than one group."""
    found: dict[str, Points] = {}
    for row in document["results"]:
        kind = row["arm"].removesuffix(f"-{row['group']}")
        if row["group"] and row["tested_on"] == "ticket":
            found.setdefault(kind, []).append((row["group"], row["mean"], row["sd"]))
    return {kind: points for kind, points in found.items() if len(points) > 1}


def _spent(document: Mapping[str, Any]) -> list[Spent]:
    """Arms by the test that they are validated on, as marks of the picture."""
    return [
        Spent(
            name=f"{row['arm']}, on {row['tested_on']}",
            kind=row["trained_on"],
            tflops=row["tflops"],
            mean=row["mean"],
            sd=row["sd"],
        )
        for row in first_tests(document)
    ]


def _dense(document: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the dense arm, tested on all patches."""
    rows = [r for r in document["results"] if (r["arm"], r["tested_on"]) == ("dense", "dense")]
    return (rows[0]["mean"], rows[0]["sd"]) if rows else (None, None)
