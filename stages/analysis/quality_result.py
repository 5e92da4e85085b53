"""Results of judging: figures with intervals, differences of arms, and sentences about which is better.

Letters: N images, R resamples of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..runtime.randomness import generator_of
from .bootstrap import Figure, bootstrap_means, figure_of
from .judging import METRICS, Outcomes

Kind = Literal["tickets", "selector", "control", "all patches"]
Measure = Literal["top1", "agreement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of some images: accuracies and agreement in per cent, loss in nats; None where the labels are unknown.

    Agreement is the share of images of which the judge says the same as on all patches.
    """

    top1: Figure | None = None
    top5: Figure | None = None
    loss: Figure | None = None
    agreement: Figure | None = None

    def of(self, measure: Measure) -> Figure:
        """The figure that arms are compared by.

        Raises:
            LookupError: it is unknown.
        """
        found = self.top1 if measure == "top1" else self.agreement
        if found is None:
            raise LookupError(f"{measure} is unknown")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Figures of one arm at one number of patches.

    Attributes:
        num_tokens: that the judge computed on: K, but of smaller pictures a square.
        is_approximate: tickets by rank, not as their selector would choose so many.
        is_self_judged: the judge is the network that chose.
        by_class: by label, the figure that arms are compared by.
    """

    arm: str
    kind: Kind
    num_keep: int
    num_tokens: int
    is_approximate: bool = False
    is_self_judged: bool = False
    figures: Figures = Figures()
    by_class: dict[int, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Differences of two arms at one number of patches, the first minus the other, image by image."""

    arm: str
    other: str
    num_keep: int
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClass:
    """A class of the images: its name where classes.json gives one, and how many images there are."""

    label: int
    name: str | None
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityResult:
    """Tickets judged side by side.

    Attributes:
        measure: "top1", or "agreement" where the judge does not know the labels; `unknown_labels` then says why.
        conclusions: sentences about which arm is better, by `measure`.
    """

    judge: str
    judge_sha256: str
    measure: Measure
    unknown_labels: str | None
    num_images: int
    num_patches: int
    precision: str
    seed: int
    all_patches: Scored
    rows: list[Scored]
    gains: list[Gain]
    classes: list[ImageClass]
    conclusions: list[str]


def scored_rows(
    rows: Sequence[Scored], found: Sequence[Outcomes], labels: npt.NDArray[np.int64], *, measure: Measure, seed: int
) -> tuple[list[Scored], list[Gain]]:
    """Gives rows their figures, and compares those of one number of patches.

    Args:
        found: of each row, METRICS of every image, [N, 4].
        labels: int64 [N]; negative ones are of no class.
        seed: of the bootstrap, which draws the same images for all rows.
    """
    columns = np.stack(found)  # [rows, N, 4]
    resampled = _resampled(columns, generator_of(seed, "bootstrap"))
    by_class = _by_class(columns[:, :, [METRICS.index(measure)]], labels, seed)
    filled = [
        replace(
            row,
            figures=_figures(columns[i], resampled[i]),
            by_class={label: figures[i] for label, figures in by_class.items()},
        )
        for i, row in enumerate(rows)
    ]
    gains = [
        Gain(
            arm=rows[i].arm,
            other=rows[j].arm,
            num_keep=rows[i].num_keep,
            figures=_figures(columns[i] - columns[j], resampled[i] - resampled[j]),
        )
        for i, j in combinations(range(len(rows)), 2)
        if rows[i].num_keep == rows[j].num_keep and rows[i].kind in ("tickets", "selector")
    ]
    return filled, gains


def _resampled(columns: Outcomes, generator: np.random.Generator) -> Outcomes:
    """Bootstrap means [rows, R, metrics] of figures [rows, N, metrics]."""
    num_rows, num_images, num_metrics = columns.shape
    means = bootstrap_means(columns.transpose(1, 0, 2).reshape(num_images, -1), generator)
    return means.reshape(-1, num_rows, num_metrics).transpose(1, 0, 2)


def _figures(of_images: Outcomes, of_resamples: Outcomes) -> Figures:
    found = {
        metric: figure_of(of_images[:, m], of_resamples[:, m])
        for m, metric in enumerate(METRICS)
        if not np.isnan(of_images[:, m]).any()
    }
    return Figures(**found)


def _by_class(columns: Outcomes, labels: npt.NDArray[np.int64], seed: int) -> dict[int, list[Figure]]:
    """The one figure of every row [rows, N, 1], by label."""
    found = {}
    for label in np.unique(labels[labels >= 0]).tolist():
        own = columns[:, labels == label]
        resampled = _resampled(own, generator_of(seed, "bootstrap", label))
        found[label] = [figure_of(own[i, :, 0], resampled[i, :, 0]) for i in range(len(own))]
    return found


def conclusions(rows: Sequence[Scored], gains: Sequence[Gain], measure: Measure, num_patches: int) -> list[str]:
    """Sentences about which arm is better: by how much the best differs from the next, and from the best control."""
    said = []
    for num_keep in dict.fromkeys(row.num_keep for row in rows):
        here = sorted((r for r in rows if r.num_keep == num_keep), key=lambda r: -r.figures.of(measure).mean)
        best, *others = (row for row in here if row.kind != "control")
        controls = [row for row in here if row.kind == "control"]
        compared = [
            _compared(other, difference(gains, best.arm, other.arm, num_keep, measure), measure)
            for other in (*others[:1], *controls[:1])
        ]
        name = f"{best.arm} (judged by its own network)" if best.is_self_judged else best.arm
        leads = f"{name} leads" if others else name
        said.append(f"at {num_keep} of {num_patches} patches {leads}: {'; '.join(compared)}")
    return said


def difference(gains: Sequence[Gain], arm: str, other: str, num_keep: int, measure: Measure) -> Figure:
    """Difference of one arm from another at a number of patches.

    Raises:
        LookupError: they were not compared.
    """
    for gain in gains:
        if gain.num_keep == num_keep and {gain.arm, gain.other} == {arm, other}:
            found = gain.figures.of(measure)
            return found if gain.arm == arm else Figure(mean=-found.mean, low=-found.high, high=-found.low)
    raise LookupError(f"{arm} and {other} were not compared at {num_keep} patches")


def _compared(other: Scored, difference: Figure, measure: Measure) -> str:
    """The part of a sentence about the best arm that tells it from another."""
    whom = f"the control {other.arm}" if other.kind == "control" else other.arm
    verdict = (
        "better than" if difference.low > 0 else "worse than" if difference.high < 0 else "not shown to differ from"
    )
    points = f"{difference.mean:+.1f} points of {WORDS[measure]} [{difference.low:.1f}, {difference.high:.1f}]"
    return f"{verdict} {whom}, {points}"


WORDS: Mapping[Measure, str] = {"top1": "top-1", "agreement": "agreement"}
