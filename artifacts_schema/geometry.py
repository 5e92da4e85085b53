"""View geometry: which part of the source image a view shows, and how a patch map follows from one view to another.

Boxes are (y0, x0, height, width) as fractions of the source image, so that re-encoded and resized copies share them. A
flipped view is mirrored left-right after it is cut out. NumPy only.

Letters: V views, P = grid_h · grid_w patches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Box = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]

# How much the prior weighs beside views that cover a cell whole: a cell which hardly any view covers falls back on it
# (docs/LOG.md).
_PRIOR_SHARE = 0.05


class BoxPx(NamedTuple):
    """A box in whole pixels of an image."""

    top: int
    left: int
    height: int
    width: int


def center_box(width_px: int, height_px: int, *, resize_px: int, crop_px: int) -> Box:
    """The box of the centre view, float32 [4].

    The shorter side is resized to `resize_px` and the central square of `crop_px` is cut out; where that square is
    larger than the resized image, the whole of it is meant.
    """
    side_px = min(width_px, height_px) * min(1.0, crop_px / resize_px)
    height, width = side_px / height_px, side_px / width_px
    return np.array([(1 - height) / 2, (1 - width) / 2, height, width], dtype=np.float32)


def box_of_px(px: BoxPx, width_px: int, height_px: int) -> Box:
    """Pixels of an image of this size as fractions, float32 [4]."""
    return np.array(
        [px.top / height_px, px.left / width_px, px.height / height_px, px.width / width_px], dtype=np.float32
    )


def box_to_px(box: Box, width_px: int, height_px: int) -> BoxPx:
    """The whole pixels nearest to a box, at least one and inside the image: on an image of the size that the box was
    drawn on, the very pixels (float32 tells apart fractions of images of up to 2^20 pixels a side)."""
    height = min(max(round(float(box[2]) * height_px), 1), height_px)
    width = min(max(round(float(box[3]) * width_px), 1), width_px)
    top = min(max(round(float(box[0]) * height_px), 0), height_px - height)
    left = min(max(round(float(box[1]) * width_px), 0), width_px - width)
    return BoxPx(top, left, height, width)


def _overlap(source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shares of each target cell that each source cell covers, [V, m, n], along one axis: from edges [V, n + 1] and
    [m + 1]."""
    low = np.maximum(source[:, None, :-1], target[None, :-1, None])
    high = np.minimum(source[:, None, 1:], target[None, 1:, None])
    return np.maximum(high - low, 0) / (target[1] - target[0])


def _edges(start: npt.NDArray[np.float64], length: npt.NDArray[np.float64], cells: int) -> npt.NDArray[np.float64]:
    return np.asarray(start)[..., None] + np.asarray(length)[..., None] * (np.arange(cells + 1) / cells)


def _box_iou(boxes: npt.NDArray[np.float64], box: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes [V, 4] with one, [V]."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], box[:2] + box[2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    return shared / (boxes[:, 2:].prod(axis=1) + box[2:].prod() - shared)


def warp_scores(
    scores: npt.NDArray[np.floating],
    boxes: Box,
    flips: npt.NDArray[np.integer],
    *,
    to_box: Box,
    to_flip: bool,
    grid: tuple[int, int],
    prior: npt.NDArray[np.floating],
) -> Scores:
    """Patch scores of an image's known views, resampled to another view of it.

    What a view says beyond the prior is spread over the source image, and averaged over the cells of the target: over
    their areas (a target cell that covers two halves of source patches gets their mean), and over the views, each by
    how well its box agrees with the target's (intersection over union). Where no view looks, the prior is left.

    Args:
        scores: [V, P], on each view's own grid; more is more informative.
        boxes: float32 [V, 4]; flips: [V].
        to_box: float32 [4], and to_flip: the view to resample to.
        prior: [P], the score to expect of each grid position of any view, or of all alike where nothing is known.

    Returns:
        float32 [P].
    """
    height, width = grid
    source, target = boxes.astype(np.float64), to_box.astype(np.float64)
    rows = _overlap(_edges(source[:, 0], source[:, 2], height), _edges(target[0], target[2], height))
    columns = _overlap(_edges(source[:, 1], source[:, 3], width), _edges(target[1], target[3], width))
    if to_flip:
        columns = columns[:, ::-1]
    columns = np.where(flips[:, None, None] > 0, columns[:, :, ::-1], columns)
    weights = _box_iou(source, target)
    weights = weights / max(weights.sum(), 1e-12)
    residuals = (scores - prior).reshape(-1, height, width) * weights[:, None, None]
    warped = (rows @ residuals @ columns.transpose(0, 2, 1)).sum(axis=0)
    covered = np.einsum("v,vi,vj->ij", weights, rows.sum(axis=2), columns.sum(axis=2))
    mean = warped * ((1 + _PRIOR_SHARE) / (covered + _PRIOR_SHARE))
    result: Scores = (mean.ravel() + prior).astype(np.float32)
    return result
