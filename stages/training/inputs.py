"""Pixels of a batch as a network takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.batches import Batch
from ..data.images import normalize
from ..data.patch_pixels import normalize_patches
from ..data.stream_config import StreamConfig
from ..models.prune import gather_patches
from ..models.student import Student


def network_inputs(batch: Batch, stream: StreamConfig, student: Student) -> Tensor:
    """Normalised images float [B, channels, H, W]; of baked patches [B, M, channels, p, p]."""
    if batch.images.ndim == 5:
        return normalize_patches(batch.images, stream.view)
    images = normalize(batch.images, stream.view)
    return images.contiguous(memory_format=torch.channels_last) if student.channels_last else images


def kept_inputs(batch: Batch, stream: StreamConfig, student: Student) -> Tensor:
    """Normalised pixels of a batch that is shown as it is: of the kept patches alone, float [B, K, channels, p, p],
    if the student takes these; they are gathered first, so that nothing else is normalised.
    """
    keep = batch.keep_indices
    if keep is None or not student.takes_patches or batch.images.ndim == 5:
        return network_inputs(batch, stream, student)
    return normalize(gather_patches(batch.images, keep, stream.grid), stream.view)
