"""Batches whose images keep different numbers of patches: in groups of about as many, padded within each group.

Padding every image to the batch's largest would compute on most of the patches that adaptive tickets save. So a batch
is sorted by count and cut into groups, and each is padded to its own largest. Which images make up a batch, and in
which order batches come, does not depend on counts.

Letters: B batch, K patches of the image that keeps most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NO_PATCH = -1  # stands in `keep_indices` after an image's own patches
MAX_GROUPS = 8
MIN_IMAGES = 8  # of a group: smaller ones would leave a device idle


class Group(NamedTuple):
    """Images of a batch that are computed on together."""

    images: list[int]  # their places in the batch
    num_patches: int  # of the largest
    is_even: bool  # all have as many


def groups_of(counts: Sequence[int]) -> list[Group]:
    """The groups of a batch whose images keep so many patches each, the smallest first."""
    order = np.argsort(counts, kind="stable")
    size = max(MIN_IMAGES, math.ceil(len(order) / MAX_GROUPS))
    parts = [order[first : first + size].tolist() for first in range(0, len(order), size)]
    return [
        Group(images=part, num_patches=counts[part[-1]], is_even=counts[part[0]] == counts[part[-1]]) for part in parts
    ]


def padded(kept: Sequence[npt.NDArray[np.int64]]) -> Tensor:
    """Kept patches of the images of a batch, int64 [B, K], `NO_PATCH` after each one's own."""
    rows = np.full((len(kept), max(map(len, kept))), NO_PATCH, dtype=np.int64)
    for row, patches in zip(rows, kept, strict=True):
        row[: len(patches)] = patches
    return torch.from_numpy(rows)


@dataclass(kw_only=True, slots=True)
class PatchesShown:
    """Sums over the images that a student was shown in training.

    Attributes:
        num_images: images.
        kept: patches that they keep.
        padded, padded_squares: patches that are computed on, padding among them, and their squares.
    """

    num_images: int = 0
    kept: int = 0
    padded: int = 0
    padded_squares: int = 0

    def go_on(self, **sums: int) -> None:
        """Goes on from the sums of a checkpoint, if it has any."""
        for name, value in sums.items():
            setattr(self, name, value)

    def add(self, counts: Sequence[int]) -> None:
        """Adds a batch that is computed on at once."""
        self.num_images += len(counts)
        self.kept += sum(counts)
        for group in groups_of(counts):
            self.padded += len(group.images) * group.num_patches
            self.padded_squares += len(group.images) * group.num_patches**2

    @property
    def mean_kept(self) -> float:
        """Patches that an image keeps, on average."""
        return self.kept / self.num_images

    @property
    def mean_padded(self) -> float:
        """Patches that are computed on for an image, on average."""
        return self.padded / self.num_images
