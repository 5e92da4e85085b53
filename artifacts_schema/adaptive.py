"""Adaptive tickets: as many patches of each view as it needs, so that the mean over a store is its budget.

A view's patches stand in order of their scores, which are non-negative weights. Its first n patches hold the share
s(n) of all weight, and it keeps the fewest that hold the threshold τ, within a least and a most number. τ is the
highest that keeps the mean over all views within the budget. Shares are rounded down to 65,535ths, and so τ is one of
65,536: the views whose share lies below each are counted in one pass, in any order, and τ follows exactly.

Letters: V views, P patches, L least and K most patches kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from .tickets import MAX_PATCHES, Mask

STEPS = 65_535  # of a share, in uint16
LEAST_OF_BUDGET = 0.5
MOST_OF_BUDGET = 1.5

Counts = npt.NDArray[np.uint16]
Shares = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """Numbers of patches that adaptive tickets keep; the most is the manifest's `num_keep`.

    Attributes:
        budget: mean share of the patches that was asked for.
        least_keep: fewest patches of a view, L.
        threshold: share of a view's weight that its ticket holds, τ.
    """

    budget: Annotated[float, Field(gt=0, le=1)]
    least_keep: Annotated[int, Field(ge=1, le=MAX_PATCHES)]
    threshold: Annotated[float, Field(ge=0, le=1)]

    @property
    def steps(self) -> int:
        """The threshold in 65,535ths."""
        return round(self.threshold * STEPS)


def least_and_most(num_patches: int, budget: float) -> tuple[int, int]:
    """Fewest and most patches of a view, for a mean share: half the budget, and half as much again."""
    least, most = (math.ceil(round(num_patches * budget * part, 9)) for part in (LEAST_OF_BUDGET, MOST_OF_BUDGET))
    return least, min(num_patches, max(most, least + 1))


def shares_of(weights: npt.NDArray[np.floating], least: int, most: int) -> Shares:
    """Shares of the weight that the first L, L + 1, …, K - 1 patches hold: uint16 [..., K - L], not decreasing.

    Args:
        weights: [..., n], n >= K - 1, non-negative, from the highest to the lowest, of each view. Where all are zero,
            all patches count alike.
    """
    held = np.cumsum(weights, axis=-1, dtype=np.float64)
    total = held[..., -1:]
    even = np.arange(1, held.shape[-1] + 1) / held.shape[-1]
    shares = np.where(total > 0, held / np.where(total > 0, total, 1), even)
    return np.floor(np.minimum(shares[..., least - 1 : most - 1], 1) * STEPS).astype(np.uint16)


def counts_of(shares: Shares, adaptive: Adaptive) -> Counts:
    """Patches that each view keeps, uint16 [...], of shares [..., K - L]."""
    below: npt.NDArray[np.int64] = (shares < adaptive.steps).sum(axis=-1)
    return (adaptive.least_keep + below).astype(np.uint16)


def mask_of(ranks: npt.NDArray[np.integer], counts: Counts) -> Mask:
    """The patches [..., P] of ranks below a view's own count [...]."""
    mask: Mask = ranks < counts[..., None]
    return mask


class ThresholdFinder:
    """Finds the threshold of a store from the shares of all of its views, in any order, in 512 KiB."""

    def __init__(self) -> None:
        self._num_at = np.zeros(STEPS + 1, dtype=np.int64)
        self._num_views = 0

    def add(self, shares: Shares) -> None:
        """Counts the shares [..., K - L] of some views."""
        self._num_at += np.bincount(shares.ravel(), minlength=STEPS + 1)
        self._num_views += math.prod(shares.shape[:-1])

    def threshold(self, *, num_patches: int, budget: float, least: int) -> float:
        """The highest threshold at which the mean is at most the budget."""
        most_added = round(num_patches * budget * self._num_views, 6) - least * self._num_views
        num_below = np.cumsum(self._num_at) - self._num_at  # shares below each step: patches beyond L, over all views
        return max(0, int(np.searchsorted(num_below, most_added, side="right")) - 1) / STEPS
