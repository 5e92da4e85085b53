"""Pixels of a batch as a network takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...artifacts_schema import View
from ..data.images import normalize
from ..data.patch_pixels import normalize_patches
from ..data.student_stream import Batch


def network_inputs(batch: Batch, view: View, device: torch.device) -> Tensor:
    """Normalised images float [B, channels, H, W] on a device; of baked patches [B, M, channels, p, p]."""
    pixels = batch.images.to(device, non_blocking=True)
    return normalize_patches(pixels, view) if pixels.ndim == 5 else normalize(pixels, view)
