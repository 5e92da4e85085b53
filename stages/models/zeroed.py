"""Networks that take whole images: all patches but the kept ones are set to zero. This saves no compute.

Letters: B batch, P patches of the grid, K kept patches.
"""

from __future__ import annotations

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ...artifacts_schema import ModelError
from ..options import PatchInput
from .student import Family, Geometry, Student

PATCH_PX = 16  # of the selectors whose tickets such networks are given


class ZeroedStudent(Student):
    """Wraps an image classifier, given images with every other patch zero (after normalising: the mean colour)."""

    saves_compute = False

    def forward(self, images: Tensor, keep_indices: Tensor | None = None) -> Tensor:
        """Class logits float [B, classes] of normalised images float [B, channels, H, W] with all but `keep_indices`
        zero: int64 [B, K]; None for images as they are.
        """
        if keep_indices is not None:
            images = zero_patches(images, keep_indices, self.geometry.grid)
        logits: Tensor = self.net(images)
        return logits


class ConvolutionalStudent(ZeroedStudent):
    """Wraps a network of convolutions."""

    channels_last = True
    takes_smaller = True


def zero_patches(images: Tensor, keep_indices: Tensor, grid: tuple[int, int]) -> Tensor:
    """Images float [B, channels, H, W] with all patches zero but `keep_indices`, int64 [B, K]."""
    height, width = grid
    mask = torch.zeros(len(images), height * width, dtype=images.dtype, device=images.device)
    mask = mask.scatter_(1, keep_indices, 1.0).view(-1, 1, height, 1, width, 1)
    tiles = images.unflatten(3, (width, -1)).unflatten(2, (height, -1))  # [B, channels, height, p, width, p]
    return (tiles * mask).view_as(images)


def pixel_geometry(net: nn.Module, name: str) -> Geometry:
    """The geometry of tickets of 16-px patches for a network that takes square images.

    Raises:
        ModelError: images that 16-px patches do not divide.
    """
    channels, height, width = resolve_model_data_config(net)["input_size"]
    if height != width or height % PATCH_PX or channels not in (1, 3):
        raise ModelError(
            f"{name} takes images of {channels}×{height}×{width}; tickets of {PATCH_PX}-px patches need squares of a "
            f"multiple of {PATCH_PX} px, grey or RGB"
        )
    grid = (height // PATCH_PX, width // PATCH_PX)
    return Geometry(grid=grid, patch_px=PATCH_PX, image_px=height, mode="L" if channels == 1 else "RGB")


def _wrap(net: nn.Module, name: str, patch_input: PatchInput | None) -> ConvolutionalStudent:
    return ConvolutionalStudent(net, pixel_geometry(net, name))


FAMILY = Family(
    name="ResNet",
    modules=frozenset({"resnet"}),
    wrap=_wrap,
    # Convolutions take any size; timm's record says which it is.
    size_kwargs=lambda image_px: {"pretrained_cfg_overlay": {"input_size": (3, image_px, image_px)}},
    inputs=("zero",),
    epochs=90,
)
