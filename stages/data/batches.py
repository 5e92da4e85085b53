"""Samples as a student is shown them, and batches of these.

Letters: B batch, K kept patches, P patches of the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ...artifacts_schema import LabelMaps
from ...artifacts_schema.geometry import Scores
from .token_labels import TokenLabels


class Batch(NamedTuple):
    """Inputs of a model. `num_skipped` counts bad images that were left out, as the user asked, before this batch.

    Where `positions` are given, `images` are the patches that stand there, and scores of other patches are -inf.
    """

    images: Tensor  # uint8 [B, channels, H, W]; of patches [B, M, p, p, channels]
    labels: Tensor  # int64 [B]
    keep_indices: Tensor | None  # int64 [B, K], None for all patches; padded where there are counts
    num_skipped: int
    scores: Tensor | None = None  # float32 [B, P], instead of keep_indices where images are to be mixed
    token_labels: TokenLabels | None = None
    keys: tuple[str, ...] = ()  # B
    positions: Tensor | None = None  # int64 [B, M], ascending
    counts: tuple[int, ...] | None = None  # B, patches that each image keeps, where that differs (adaptive tickets)


class Shown(NamedTuple):
    """A sample as the student is shown it."""

    key: str
    image: Tensor  # uint8 [channels, H, W]; of patches [M, p, p, channels]
    label: int
    scores: Scores | None  # float32 [P], None for all patches
    token_labels: LabelMaps | None = None  # [P, k]
    positions: npt.NDArray[np.int64] | None = None  # [M], of patches
    num_keep: int | None = None  # its own, where images have their own
