"""Selectors that score all patches of an image once; the K best are its ticket. The cascade, which scores as it drops,
stands in models/selector.py.

A selector is a class: `Scorer` says what it gives. Its keyword-only arguments are its settings, each with a default
whose type (bool, int, float, str) is that of what `selector_option` may give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import ModelError
from ..data.patches import center_scores
from ..models.attention_maps import gradient_relevance, last_cls_attention, rollout
from ..models.registry import geometry_of
from ..runtime.randomness import generator_of


class Scorer(Protocol):
    """Scores of patches, made with a ViT: its weights, or only its grid.

    It may also have `needs_weights = False`, where the ViT's weights play no part (they are then random, and the store
    names no model), `uses_labels = True`, where it wants the images' labels (it gets none else), and `gives_weights =
    True`, where scores are non-negative weights, so that a share of their sum means something (`budget`).
    """

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Scores the patches; the `num_keep` highest of each image are kept, of equals the first.

        Args:
            images: float32 [B, channels, H, W], normalised as the ViT wants.
            labels: int64 [B], where it uses labels.
            names: of each image, its key and the number of its view: what draws are to be seeded by.

        Returns:
            float [B, P], finite; row-major on the grid.
        """
        ...


class Random:
    """Any K patches, by the seed and the image's name."""

    needs_weights: ClassVar[bool] = False

    def __init__(self, vit: VisionTransformer, *, seed: int = 0) -> None:
        self.num_patches, self.seed = _num_patches(vit), seed

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Draws."""
        drawn = [generator_of(self.seed, "random selector", name).random(self.num_patches) for name in names]
        return torch.from_numpy(np.array(drawn))


class Center:
    """The patches nearest to the centre, the same of every image."""

    needs_weights: ClassVar[bool] = False

    def __init__(self, vit: VisionTransformer) -> None:
        self.of_one = torch.from_numpy(center_scores(geometry_of(vit, "the ViT").grid))

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Repeats the grid's."""
        return self.of_one.expand(len(images), -1)


class Variance:
    """Patches whose pixels vary most: the mean over channels of the variance of normalised values."""

    needs_weights: ClassVar[bool] = False

    def __init__(self, vit: VisionTransformer) -> None:
        self.patch_px = geometry_of(vit, "the ViT").patch_px

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Measures, in float64, so that the order does not hang on rounding."""
        side = self.patch_px
        patches = images.double().unfold(2, side, side).unfold(3, side, side)  # [B, channels, rows, columns, px, px]
        return patches.var(dim=(-2, -1), correction=0).mean(dim=1).flatten(1)


class LastAttention:
    """Attention of the CLS token in the last block, in one pass over all patches."""

    gives_weights: ClassVar[bool] = True

    def __init__(self, vit: VisionTransformer) -> None:
        self.vit = vit

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Runs the ViT up to its last attention."""
        return last_cls_attention(self.vit, images)


class Rollout:
    """Attention rollout (Abnar & Zuidema 2020)."""

    gives_weights: ClassVar[bool] = True

    def __init__(self, vit: VisionTransformer) -> None:
        self.vit = vit

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Runs the ViT."""
        return rollout(self.vit, images)


class Gradient:
    """Attention × gradient of a class (Chefer, Gur & Wolf 2021): of the predicted one, or with `labels` the true one.

    Raises:
        ModelError: the ViT has no head, so predicts nothing.
    """

    gives_weights: ClassVar[bool] = True

    def __init__(self, vit: VisionTransformer, *, labels: bool = False) -> None:
        if vit.num_classes == 0:
            raise ModelError(
                "the selector 'gradient' needs a ViT with a head, and these weights have none; take 'attention' or "
                "'rollout'"
            )
        self.vit, self.uses_labels = vit, labels

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Runs the ViT forwards and backwards.

        Raises:
            ModelError: a label that the head has no class for.
        """
        if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < self.vit.num_classes:
            raise ModelError(
                f"the selector's head has {self.vit.num_classes} classes, and the images' labels are from "
                f"{int(labels.min())} to {int(labels.max())}; leave `selector_option='labels=true'` out"
            )
        return gradient_relevance(self.vit, images, labels)


SHIPPED: dict[str, type[Scorer]] = {
    "random": Random,
    "center": Center,
    "variance": Variance,
    "attention": LastAttention,
    "rollout": Rollout,
    "gradient": Gradient,
}


def _num_patches(vit: VisionTransformer) -> int:
    return geometry_of(vit, "the ViT").num_patches
