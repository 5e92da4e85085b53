"""Pictures: the heat map of kept patches, tickets drawn over their images, learning curves. Matplotlib, no screen."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from ...artifacts_schema import TicketStore
from ...artifacts_schema.files import write_atomically
from ...artifacts_schema.summary import kept_share
from ...stages.analysis.sample_tickets import SampleTicket
from ..escaping import shown

_PER_ROW = 8
_KEY_CHARS = 24
# What is dropped is shown at this share of its brightness, with lines of this brightness across it: they show on black.
_DIM = 0.3
_HATCH = 230
_PNG_DPI = 150
_LOTTERY_ARMS = (
    ("ticket", "ticket: original weights", "o"),
    ("fresh", "same mask, fresh weights", "s"),
    ("random-mask", "random mask, original weights", "^"),
)
_MAX_LOTTERY_TICKS = 10


def draw_heat_map(axes: Axes, share: npt.NDArray[np.float64], title: str | None = None) -> None:
    """Draws the share of images that keep each position, [grid_h, grid_w], with a colour bar of its own range."""
    low, high = _colour_range(share)
    shown = axes.imshow(share, cmap="viridis", vmin=low, vmax=high)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title or f"kept share per position (mean {share.mean():.1%})", fontsize=10, parse_math=False)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(shown, ax=axes, fraction=0.046, format=PercentFormatter(1, decimals=0 if high - low > 0.04 else 1))


def _colour_range(share: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Ends of the colours: the least and the most share, or values around it where all are the same."""
    low, high = float(share.min()), float(share.max())
    return (low, high) if high - low > 1e-6 else (max(0.0, low - 0.05), min(1.0, high + 0.05))


def shortened(text: str, length: int) -> str:
    """The text, or its first third and its end with … between them, `length` characters in all."""
    if len(text) <= length:
        return text
    head = (length - 1) // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def overlay(sample: SampleTicket) -> npt.NDArray[np.uint8]:
    """The image with dropped patches dimmed and hatched, uint8 [H, W] or [H, W, 3]."""
    pixels = np.asarray(sample.image).astype(np.float64)
    patch_px = pixels.shape[0] // sample.mask.shape[0]
    kept = np.kron(sample.mask, np.ones((patch_px, patch_px), dtype=bool))
    y, x = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    every = max(4, patch_px * 3 // 4)
    lines = (x + y) % every < max(1, every // 5)
    if pixels.ndim == 3:
        kept, lines = kept[..., None], lines[..., None]
    # A line is a mean of what it crosses and its own brightness.
    dropped = np.where(lines, (pixels * _DIM + _HATCH) / 2, pixels * _DIM)
    return np.where(kept, pixels, dropped).astype(np.uint8)


def _draw_samples(figure: Figure | SubFigure, samples: Sequence[SampleTicket], columns: int, *, keys: bool) -> None:
    """Rows of images, each whole above its ticket."""
    rows = -(-len(samples) // columns)
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, sample in enumerate(samples):
        row, column = 2 * (i // columns), i % columns
        if keys:
            grid[row, column].set_title(shortened(shown(sample.key), _KEY_CHARS), fontsize=6.5, parse_math=False)
        for offset, pixels in enumerate((np.asarray(sample.image), overlay(sample))):
            grid[row + offset, column].imshow(pixels, cmap="gray" if pixels.ndim == 2 else None, vmin=0, vmax=255)


def ticket_figure(samples: Sequence[SampleTicket]) -> Figure:
    """Pairs of images, the whole above its ticket."""
    columns = min(_PER_ROW, len(samples))
    figure = Figure(figsize=(1.35 * columns, 2.9 * -(-len(samples) // columns)), layout="constrained")
    _draw_samples(figure, samples, columns, keys=False)
    return figure


def heat_map_figure(share: npt.NDArray[np.float64], title: str | None = None) -> Figure:
    """The heat map alone: the share of images that keep each position, [grid_h, grid_w]."""
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    draw_heat_map(figure.subplots(), share, title)
    return figure


def write_heat_map(store: TicketStore, path: Path, title: str | None = None) -> None:
    """Writes where a store's tickets lie on the grid as a PNG file, whole or not at all; about 690 by 600 px.

    Args:
        title: a line above the map; by default it says what is shown, and its mean.

    Raises:
        SchemaError: the store is damaged.
    """
    write_png(heat_map_figure(kept_share(store), title), path)


def write_ticket_gallery(samples: Sequence[SampleTicket], path: Path) -> None:
    """Writes images, each whole above its ticket, as a PNG file, whole or not at all; eight in a row, 200 px each.

    `stages.analysis.sample_tickets.spread_sample_tickets` gives samples from all over a store.

    Args:
        samples: one at least.
    """
    write_png(ticket_figure(samples), path)


def write_png(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG file, whole or not at all."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a key may be in any script; a box is shown
        figure.savefig(buffer, format="png", dpi=_PNG_DPI)
    write_atomically(path, buffer.getvalue())


def store_figure(share: npt.NDArray[np.float64], samples: Sequence[SampleTicket]) -> Figure:
    """The heat map, and beside it sample tickets where there are any."""
    if not samples:
        return heat_map_figure(share)
    columns = -(-len(samples) // 2)
    figure = Figure(figsize=(4.4 + 1.6 * columns, 6.6), layout="constrained")
    left, right = cast(list[SubFigure], figure.subfigures(1, 2, width_ratios=[4.4, 1.6 * columns]))
    draw_heat_map(left.subplots(), share)
    _draw_samples(right, samples, columns, keys=True)
    return figure


def curve_figure(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], ylabel: str) -> Figure:
    """Lines over epochs: name → (epochs, values)."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in curves.items():
        axes.plot(x, y, marker="o", markersize=3, label=name)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


# A line of `group_figure`: (group, mean, standard deviation or None).
Points = list[tuple[str, float, float | None]]


def group_figure(kinds: Mapping[str, Points], dense: float | None, dense_sd: float | None) -> Figure:
    """Top-1 on tickets over groups (ratios), a line per kind of arm, and the dense model's top-1 across."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    groups = list(dict.fromkeys(group for points in kinds.values() for group, _, _ in points))
    if dense is not None:
        axes.axhline(dense, color="black", linestyle="--", linewidth=1, label="dense, all patches")
        if dense_sd is not None:
            axes.axhspan(dense - dense_sd, dense + dense_sd, color="black", alpha=0.08)
    for kind, points in kinds.items():
        x = [groups.index(group) for group, _, _ in points]
        sd = [s for _, _, s in points if s is not None]
        bars = sd if len(sd) == len(points) else None  # one seed has none
        axes.errorbar(x, [m for _, m, _ in points], yerr=bars, label=kind, marker="o", markersize=4, capsize=3)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel("tickets (ratio)")
    axes.set_ylabel("top-1 on tickets (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


class Spent(NamedTuple):
    """Result of an arm, in per cent of top-1, and the arithmetic of its training, in 10¹² operations.

    `kind` is what it is trained on: arms of a kind have one colour.
    """

    name: str
    kind: str
    tflops: float
    mean: float
    sd: float | None


def compute_figure(arms: Sequence[Spent]) -> Figure:
    """Top-1 over the arithmetic of training, a mark for each arm."""
    figure = Figure(figsize=(8.2, max(4.2, 0.27 * len(arms))), layout="constrained")
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for i, arm in enumerate(arms):
        colour = colours.setdefault(arm.kind, f"C{len(colours) % 10}")
        marker = "osDv^P"[sum(other.kind == arm.kind for other in arms[:i]) % 6]
        bars = None if arm.sd is None else [arm.sd]
        axes.errorbar(
            [arm.tflops], [arm.mean], yerr=bars, marker=marker, color=colour, ls="", capsize=3, label=arm.name
        )
    axes.set_xlabel("arithmetic of training (10¹² operations, counted)")
    axes.set_ylabel("top-1 (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "dataltt"}):  # else ids are drawn, and the same page is never written twice
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def fidelity_figure(rows: Sequence[tuple[str, float, float]], title: str, chance: float | None = None) -> Figure:
    """Bars of mean IoU, the best first, each with a mark at its 5th percentile: (name, mean, 5th percentile).

    Args:
        chance: the mean IoU of random subsets of this size, drawn as a line across.
    """
    figure = Figure(figsize=(7.2, 1.4 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names, means, lows = zip(*sorted(rows, key=lambda row: row[1]), strict=True)
    bars = axes.barh(names, means, color="#4878a8")
    axes.scatter(lows, names, color="black", marker="|", s=90, zorder=3, label="5th percentile")
    if chance is not None:
        axes.axvline(chance, color="#b3401f", linestyle="--", linewidth=1.2, zorder=2, label=f"chance ({chance:.3f})")
    axes.bar_label(bars, labels=[f"{m:.3f}" for m in means], padding=4, fontsize=8)
    axes.set_xlim(0, 1.15)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("mean IoU")
    axes.set_title(shown(title), fontsize=10, parse_math=False)
    figure.legend(loc="outside lower right", ncols=2, fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def lottery_figure(document: Mapping[str, Any]) -> Figure:
    """Top-1 over the share of weights that remain, as `dataltt weight-lottery` writes it into lottery.json."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    rounds = document["rounds"]
    x = [100 * row["remaining"] for row in rounds]
    axes.axhline(document["dense"]["mean"], color="black", linestyle="--", linewidth=1, label="dense, all weights")
    for arm, label, marker in _LOTTERY_ARMS:
        found = [(at, row["arms"][arm]) for at, row in zip(x, rounds, strict=True) if arm in row["arms"]]
        sd = None if any(f["sd"] is None for _, f in found) else [f["sd"] for _, f in found]
        axes.errorbar(
            [at for at, _ in found],
            [f["mean"] for _, f in found],
            yerr=sd,
            label=label,
            marker=marker,
            markersize=4,
            capsize=3,
        )
    axes.set_xscale("log")
    axes.invert_xaxis()
    every = -(-len(x) // _MAX_LOTTERY_TICKS)
    axes.set_xticks(x[::every], [f"{value:.3g}" for value in x[::every]])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("remaining weights (%)")
    axes.set_ylabel("top-1 (%)")
    step, num_seeds = document["rewind_step"], len(document["seeds"])
    reset = f"rewound to step {step}" if step else "reset to initialisation"
    bars = f"{num_seeds} seeds, bars: sd" if num_seeds > 1 else "one seed"
    axes.set_title(
        f"{document['model']}, pruned by {document['scope']} magnitude, {reset}; {bars}", fontsize=9, parse_math=False
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
