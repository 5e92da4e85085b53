"""Intervals by the bootstrap over images: means of images that are drawn again and again, with replacement.

Letters: N images, M columns (figures of each image), R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .statistics import CONFIDENCE

NUM_RESAMPLES = 2000
_MAX_DRAWS = 1 << 22  # at a time, so that memory does not grow with images
_TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A mean over images, or a difference of two, with its 95 % interval: the percentiles of the bootstrap."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def bootstrap_means(values: Floats, generator: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> Floats:
    """Means of N images drawn from N with replacement, R times over: float64 [R, M].

    The same images are drawn for all columns, so that differences of columns of the result are paired.

    Args:
        values: float64 [N, M].
    """
    num_images = len(values)
    per_block = max(1, _MAX_DRAWS // num_images)
    means = np.empty((num_resamples, values.shape[1]))
    for first in range(0, num_resamples, per_block):
        size = min(per_block, num_resamples - first)
        drawn = generator.integers(num_images, size=(size, num_images))
        drawn += np.arange(size)[:, None] * num_images
        counts = np.bincount(drawn.ravel(), minlength=size * num_images).reshape(size, num_images)
        means[first : first + size] = counts @ values / num_images
    return means


def figure_of(values: Floats, resampled: Floats) -> Figure:
    """The mean of some images' figures [N], with the interval of its resamples [R]."""
    low, high = np.percentile(resampled, _TAILS)
    return Figure(mean=float(values.mean()), low=float(low), high=float(high))
