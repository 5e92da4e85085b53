"""Weights for images of another size: a ViT's position embeddings, resampled to its grid as timm resamples them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

_NAME = "pos_embed"


class _Sides(NamedTuple):
    """Sides of the grid that weights are for, and of the model's own, in patches; and tokens in front of these."""

    given: int
    own: int
    num_prefix: int


def resampled(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Weights whose position embeddings lie on the model's grid; whatever else they are, they stay. `model` may be
    `sketched`.
    """
    sides = _sides(model, weights)
    if sides is None:
        return weights
    given, own, num_prefix = sides
    there = resample_abs_pos_embed(weights[_NAME], [own, own], [given, given], num_prefix_tokens=num_prefix)
    return {**weights, _NAME: there}


def resampled_in_words(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """A phrase that says what `resampled` does; none if it does nothing."""
    sides = _sides(model, weights)
    if sides is None:
        return ""
    given, own, _ = sides
    return f"position embeddings resampled from {given}×{given} to {own}×{own} patches"


def _sides(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> _Sides | None:
    """The sides, where the two grids are other squares, and everything else fits."""
    given = weights.get(_NAME)
    if not isinstance(model, VisionTransformer) or model.pos_embed is None or given is None:
        return None
    own, num_prefix = model.pos_embed, 0 if model.no_embed_class else model.num_prefix_tokens
    num_given = given.shape[1] - num_prefix if given.ndim == 3 else 0
    height, width = model.patch_embed.grid_size
    side = math.isqrt(max(0, num_given))
    is_square = height == width and side > 0 and side * side == num_given
    if not is_square or side == height or (given.shape[0], given.shape[2]) != (1, own.shape[2]):
        return None
    return _Sides(given=side, own=height, num_prefix=num_prefix)
