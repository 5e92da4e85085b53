"""LV-ViT as a student: tokens are mixed on the grid (MixToken) after the stem, then the kept ones are gathered.

The stem's convolutions overlap patches, so it runs on the whole image; only its last layer and all blocks are spared.

Letters: B batch, P patches of the grid, K kept patches, C classes.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..grid import Box, inside_box
from ..options import PatchInput
from .lvvit import LVViT
from .pruned_vit import order_by_attention
from .registry import check_plain_vit, geometry_of
from .student import Family, Student, TokenLogits


class LVViTStudent(Student):
    """Wraps an LV-ViT, `net`. In training its output is `TokenLogits`, in testing the published sum of both heads."""

    mixes_tokens = True
    chooses_patches = True
    no_smaller = "it learns a label at each patch of its grid, which a smaller picture has not, so train a plain ViT"
    net: LVViT

    def __init__(self, net: LVViT, name: str) -> None:
        super().__init__(net, geometry_of(net, name))
        self._name = name

    def forward(  # type: ignore[override]
        self, images: Tensor, keep_indices: Tensor | None = None, box: Box | None = None
    ) -> Tensor | TokenLogits:
        """Logits from some patches of each image.

        Args:
            images: float [B, channels, H, W], normalised.
            keep_indices: int64 [B, K] on the (mixed) token grid; None for all.
            box: tokens inside come from the batch in reverse order (MixToken).

        Returns:
            Logits float [B, C] in testing; in training those of the image and of each kept token.
        """
        net = self.net
        x = self._tokens(images, keep_indices, box)
        cls = cast(Tensor, net.cls_token) + cast(Tensor, net.pos_embed)[:, :1]
        x = net.blocks(net.pos_drop(torch.cat([cls.expand(len(x), -1, -1), x], dim=1)))
        x = net.norm(x)
        return TokenLogits(*net.both_heads(x)) if self.training else net.forward_head(x)

    def _tokens(self, images: Tensor, keep_indices: Tensor | None, box: Box | None) -> Tensor:
        """Kept patch tokens with the position embeddings of the grid, float [B, K, dim]."""
        stem, positions = self.net.patch_embed, cast(Tensor, self.net.pos_embed)[:, 1:]
        features = stem.features(images)
        if box is not None:
            # The last layer maps each patch alone, so mixing what it sees is mixing tokens.
            inside = inside_box(box, self.geometry.grid, images.device).view(self.geometry.grid)
            inside = inside.repeat_interleave(stem.proj.stride[0], 0).repeat_interleave(stem.proj.stride[1], 1)
            features = torch.where(inside, features.flip(0), features)
        if keep_indices is None:
            tokens: Tensor = stem.proj(features).flatten(2).transpose(1, 2)
            return tokens + positions
        height, width = self.geometry.grid
        batch = torch.arange(len(images), device=images.device)[:, None]
        tiles = features.unflatten(2, (height, -1)).unflatten(4, (width, -1)).permute(0, 2, 4, 1, 3, 5)
        kept = tiles[batch, keep_indices // width, keep_indices % width].flatten(2)  # [B, K, 64 · 8 · 8]
        return F.linear(kept, stem.proj.weight.flatten(1), stem.proj.bias) + F.embedding(keep_indices, positions[0])

    def order_patches(self, images: Tensor, num_keep: int) -> Tensor:
        """The order that the student's own attention gives: int64 [B, P]."""
        return order_by_attention(self.net, self._name, images, num_keep)


def _wrap(net: nn.Module, name: str, patch_input: PatchInput | None) -> LVViTStudent:
    check_plain_vit(net, name)
    return LVViTStudent(cast(LVViT, net), name)


FAMILY = Family(
    name="LV-ViT",
    modules=frozenset({"lvvit"}),
    wrap=_wrap,
    size_kwargs=lambda image_px: {"img_size": image_px},
    learns_token_labels=True,
)
