"""A study's report: one self-contained HTML page made of what the study wrote down, so it can be made again."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from ...artifacts_schema.parts import write_atomically
from ...stages.run_log import METRICS_FILE
from ...stages.version import tool_version
from ..figures import curve_figure, lottery_figure, to_svg
from .engine import STUDY_FILE
from .statistics import Paired, lottery_conclusion

REPORT_FILE = "report.html"
LOTTERY_FOLDER, LOTTERY_FILE = "weight-lottery", "lottery.json"


def write_study_report(out: Path) -> Path:
    """Writes out/report.html from out/study.json, the runs' metrics, and out/weight-lottery/lottery.json if there."""
    document = json.loads((out / STUDY_FILE).read_text())
    lottery_path = out / LOTTERY_FOLDER / LOTTERY_FILE
    lottery = json.loads(lottery_path.read_text()) if lottery_path.exists() else None
    curves = _curves(out, document)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["interval"] = lambda paired: str(Paired(**paired))
    template = environment.from_string((files("dataltt.pipeline") / "study.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        d=document,
        note={k: v for k, v in document.items() if k not in ("results", "differences", "cost", "seeds", "study")},
        has_bytes=any(row["bytes_per_image"] for row in document["results"]),
        curves=to_svg(curve_figure(curves, "top-1 (%) as each arm is validated")) if curves else "",
        lottery=lottery,
        lottery_figure=to_svg(lottery_figure(lottery)) if lottery else "",
        conclusion=lottery_conclusion(lottery) if lottery else "",
        version=tool_version(),
    )
    path = out / REPORT_FILE
    write_atomically(path, page.encode())
    return path


def _curves(out: Path, document: Mapping[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """Validation top-1 after each epoch, means over seeds, of the arms whose runs were validated."""
    found = {}
    for arm in dict.fromkeys(row["arm"] for row in document["results"]):
        by_epoch: dict[float, list[float]] = {}
        for seed in document["seeds"]:
            path = out / "runs" / f"{arm}-{seed}" / METRICS_FILE
            lines = path.read_text().splitlines() if path.exists() else []
            for values in (json.loads(line) for line in lines):
                if "val_top1" in values:
                    by_epoch.setdefault(values["epoch"] + 1, []).append(values["val_top1"])
        if by_epoch:
            epochs = sorted(by_epoch)
            found[arm] = (epochs, [statistics.fmean(by_epoch[e]) for e in epochs])
    return found
