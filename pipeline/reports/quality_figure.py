"""Picture of `dataltt quality`: what a judge still sees over how much it is shown, a line for each arm."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from ...artifacts_schema.files import write_atomically
from ...stages.analysis.quality_result import WORDS, QualityResult, Scored
from ..escaping import shown
from .figures import shortened, to_svg, write_png

_NAME_CHARS = 40
_ASIDE = 0.35  # per cent of tokens between two arms' marks, so that their bars can be told apart
_CONTROLS = {"random": ":", "center": "--", "resize": "-."}


def quality_figure(result: QualityResult) -> Figure:
    """Lines with 95 % intervals over the share of patches that the judge computes on; controls are grey."""
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.subplots()
    arms: dict[tuple[str, str], list[Scored]] = {}
    for row in result.rows:
        arms.setdefault((row.kind, row.arm), []).append(row)
    for number, ((kind, name), rows) in enumerate(arms.items()):
        figures = [row.figures.of(result.measure) for row in rows]
        means = [f.mean for f in figures]
        bars = [[f.mean - f.low for f in figures], [f.high - f.mean for f in figures]]
        style = {"color": "0.45", "linestyle": _CONTROLS[name]} if kind == "control" else {"color": f"C{number}"}
        label = shortened(shown(name), _NAME_CHARS) + (" *" if any(row.is_self_judged for row in rows) else "")
        label += " ≈" if any(row.is_approximate for row in rows) else ""
        aside = (number - (len(arms) - 1) / 2) * _ASIDE
        x = [100 * row.num_tokens / result.num_patches + aside for row in rows]
        axes.errorbar(x, means, yerr=bars, marker="o", markersize=3.5, capsize=2, label=label, **style)  # type: ignore[arg-type]
    if result.measure == "top1":
        best = result.all_patches.figures.of("top1").mean
        axes.axhline(best, color="black", linewidth=1, label="all patches")
    axes.set_xlabel("tokens that the judge is shown (%)")
    axes.set_ylabel(f"{WORDS[result.measure]} (%)")
    axes.set_title(
        f"{shown(result.judge)} judges {result.num_images:,} images, not trained on tickets; bars: 95 %",
        fontsize=9,
        parse_math=False,
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def write_picture(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all, as SVG or PNG by the name of the file."""
    if path.suffix == ".svg":
        write_atomically(path, to_svg(figure).encode())
    else:
        write_png(figure, path)
