"""Picture of two stores' tickets: where on the grid each keeps patches, and where they agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...stages.analysis.store_diff import StoreDiff
from ..escaping import shown

_NAME_CHARS = 34


def diff_figure(diff: StoreDiff, first: str, second: str) -> Figure:
    """Four heat maps of the grid: shares kept by A and by B, agreement, and agreement of unrelated tickets."""
    figure = Figure(figsize=(12.4, 3.9), layout="constrained")
    axes = figure.subplots(1, 4)
    top = max(float(diff.kept_a.max()), float(diff.kept_b.max()))
    _draw(axes[0], diff.kept_a, f"A keeps\n{_short(first)}", top)
    _draw(axes[1], diff.kept_b, f"B keeps\n{_short(second)}", top)
    agreement = iou(diff.kept_both, diff.kept_a, diff.kept_b)
    by_position = iou(diff.kept_a * diff.kept_b, diff.kept_a, diff.kept_b)
    top = max(float(agreement.max()), float(by_position.max()), 1e-9)
    _draw(axes[2], agreement, "both of those either keeps", top)
    _draw(axes[3], by_position, "the same of unrelated images", top)
    count = diff.num_images[2]
    figure.suptitle(
        f"overlap {diff.overlap:.1%} of {count} images; chance {diff.chance:.1%}, by position alone "
        f"{diff.chance_by_position:.1%}",
        fontsize=11,
    )
    return figure


def iou(
    both: npt.NDArray[np.float64], a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share that both keep of what either keeps, by position; 0 where neither ever does."""
    either = a + b - both
    result: npt.NDArray[np.float64] = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return result


def _short(name: str) -> str:
    """A name, shortened in the middle."""
    name = shown(name)
    if len(name) <= _NAME_CHARS:
        return name
    half = (_NAME_CHARS - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _draw(axes: Axes, share: npt.NDArray[np.float64], title: str, top: float) -> None:
    image = axes.imshow(share, cmap="viridis", vmin=0, vmax=top)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=9, parse_math=False)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(image, ax=axes, fraction=0.046)
