"""Swin as a student: no CLS token, so another model's tickets, on 16-px patches, reach it through its input.

`zero` sets the other patches to zero and saves nothing. `small-dense` packs the kept patches row-major into a smaller
square image. Source: Shen et al. 2023, section 4.

Letters: B batch, P patches of the grid, K kept patches, n = √K, p patch side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...artifacts_schema import ModelError, OptionError
from ...artifacts_schema.thinning import ratio_of
from ..options import PatchInput
from .student import Family, Geometry, Student
from .zeroed import PATCH_PX, ZeroedStudent, pixel_geometry

_FULL_SIDE = 14  # patches of 16 px along a side of 224 px
_LAST_STRIDE_TO_WINDOW = 2  # Swin's last stage has n / 2 tokens along a side, which is one window


class ZeroedSwin(ZeroedStudent):
    """A Swin that is given images with all other patches zero; its windows fit images of one size alone."""

    no_smaller = "one that is trained with `swin_input='small-dense'` is built for smaller ones"


class SmallDenseSwin(Student):
    """A Swin for images of n·16 px into which the K = n² kept patches of larger images are packed."""

    takes_smaller = True

    def __init__(self, net: nn.Module, geometry: Geometry, num_keep: int) -> None:
        super().__init__(net, geometry)
        self.fixed_num_keep = num_keep

    def forward(self, images: Tensor, keep_indices: Tensor | None = None) -> Tensor:
        """Class logits float [B, classes] of normalised images float [B, channels, H, W], from their kept patches.

        Args:
            keep_indices: int64 [B, K], the kept patches; None for all of images that have K.

        Raises:
            ModelError: K is not the number that the network is built for.
        """
        shown = (images.shape[2] // PATCH_PX) * (images.shape[3] // PATCH_PX)
        num_keep = shown if keep_indices is None else keep_indices.shape[1]
        if num_keep != self.fixed_num_keep:
            raise ModelError(f"this Swin is built for {self.fixed_num_keep} packed patches, not {num_keep}")
        if keep_indices is not None:
            images = pack_patches(images, keep_indices, self.geometry.grid)
        logits: Tensor = self.net(images)
        return logits


def pack_patches(images: Tensor, keep_indices: Tensor, grid: tuple[int, int]) -> Tensor:
    """Packs kept patches, in ascending order, row-major into a square image.

    Args:
        images: float [B, channels, H, W].
        keep_indices: int64 [B, K], K a square, in any order.

    Returns:
        float [B, channels, n·p, n·p].
    """
    height, width = grid
    side = math.isqrt(keep_indices.shape[1])
    keep = keep_indices.sort(dim=1).values
    batch = torch.arange(len(images), device=images.device)[:, None]
    tiles = images.unflatten(2, (height, -1)).unflatten(4, (width, -1)).permute(0, 2, 4, 1, 3, 5)
    kept = tiles[batch, keep // width, keep % width]  # [B, K, channels, p, p]
    rows = kept.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5)  # [B, channels, n, p, n, p]
    return rows.flatten(4, 5).flatten(2, 3)


def check_square(num_keep: int, num_patches: int) -> int:
    """The side of a square of K patches.

    Raises:
        OptionError: K is no square; names the nearest ones and ratios that give them.
    """
    side = math.isqrt(num_keep)
    if side * side == num_keep:
        return side
    near = [n * n for n in (side, side + 1) if 0 < n * n <= num_patches]
    listed = " or ".join(f"{k} (`ratio={ratio_of(k, num_patches)}`)" for k in near)
    raise OptionError(
        f"`swin_input='small-dense'` packs patches into a square, and {num_keep} is no square; select {listed}, or "
        "train with `swin_input='zero'`, which smaller pictures and adaptive tickets do not go with"
    )


def _network_kwargs(patch_input: PatchInput | None, num_keep: int | None) -> Mapping[str, Any]:
    if patch_input != "small-dense":
        return {}
    side = _FULL_SIDE if num_keep is None else check_square(num_keep, _FULL_SIDE**2)
    window = max(1, math.ceil(side / _LAST_STRIDE_TO_WINDOW))
    return {"img_size": side * PATCH_PX, "window_size": window}


def _wrap(net: nn.Module, name: str, patch_input: PatchInput | None) -> Student:
    if patch_input != "small-dense":
        return ZeroedSwin(net, pixel_geometry(net, name))
    embed = cast(Any, net).patch_embed
    side = int(embed.img_size[0]) // PATCH_PX
    mode = "L" if embed.proj.in_channels == 1 else "RGB"
    image_px = _FULL_SIDE * PATCH_PX
    geometry = Geometry(grid=(_FULL_SIDE, _FULL_SIDE), patch_px=PATCH_PX, image_px=image_px, mode=mode)
    return SmallDenseSwin(net, geometry, side * side)


FAMILY = Family(
    name="Swin",
    modules=frozenset({"swin_transformer"}),
    wrap=_wrap,
    network_kwargs=_network_kwargs,
    inputs=("zero", "small-dense"),
)
