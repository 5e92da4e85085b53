"""Whole views made smaller: the control that spends a ticket's tokens on all of the picture at a lower resolution.

Letters: B batch, P patches of the grid, K kept patches, n patches along a side of the smaller picture.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from ...artifacts_schema import OptionError
from .student import Geometry, Student


def resized_side(num_keep: int, grid: tuple[int, int]) -> int:
    """The n whose n² patches are nearest to K in number, at most the grid's own side."""
    below = max(1, math.isqrt(num_keep))
    nearest = min(below, below + 1, key=lambda n: abs(n * n - num_keep))
    return min(nearest, *grid)


def resized_px(geometry: Geometry, num_keep: int) -> int:
    """The side of the smaller picture, a whole number of patches."""
    return resized_side(num_keep, geometry.grid) * geometry.patch_px


def resized_in_words(geometry: Geometry, image_px: int, num_keep: int) -> str:
    """Smaller pictures as a run's first line names them: their side, and how its tokens compare with a ticket's."""
    side = image_px // geometry.patch_px
    return (
        f"whole views resized to {image_px} px, {side * side} patches in place of {num_keep} of {geometry.num_patches}"
    )


def resize_images(images: Tensor, image_px: int | None) -> Tensor:
    """Images float [B, channels, H, W] as squares of `image_px`, bicubic and antialiased; None: as they are."""
    if image_px is None or image_px == images.shape[-1]:
        return images
    return F.interpolate(images, size=(image_px, image_px), mode="bicubic", antialias=True)


def check_resizable(student: Student, model: str, option: str) -> None:
    """Refuses a network that cannot be shown a smaller picture.

    Args:
        option: what asks for it, for the message.

    Raises:
        OptionError
    """
    height, width = student.geometry.grid
    if height != width:
        raise OptionError(f"{option}: {model} sees {height}×{width} patches, and views are resized to squares alone")
    if not student.takes_smaller:
        raise OptionError(f"{option}: {model} cannot be shown smaller pictures; {student.no_smaller}")
