"""View geometry: which part of the source image a view shows, as fractions, so that re-encoded copies share it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def center_box(width_px: int, height_px: int, *, resize_px: int, crop_px: int) -> npt.NDArray[np.float32]:
    """The box (y0, x0, height, width) of the centre view, float32 [4], as fractions of the source image.

    The shorter side is resized to `resize_px` and the central square of `crop_px` is cut out; where that square is
    larger than the resized image, the whole of it is meant.
    """
    side_px = min(width_px, height_px) * min(1.0, crop_px / resize_px)
    height, width = side_px / height_px, side_px / width_px
    return np.array([(1 - height) / 2, (1 - width) / 2, height, width], dtype=np.float32)
