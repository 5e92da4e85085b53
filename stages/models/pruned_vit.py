"""The student: a timm ViT that computes on the kept patches alone.

Letters: B batch, P patches of the grid, K kept patches, T prefix tokens, C channels, p patch side in pixels.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .cascade import default_drop_blocks, keep_counts
from .registry import check_plain_vit, entry_of, geometry_of
from .selector import TicketSelector
from .student import Family, PatchInput, Student


class TokenPrunedViT(Student):
    """Wraps a plain timm ViT, `net`.

    Args:
        name: the ViT's, for error messages and its own drop blocks.
    """

    chooses_patches = True
    net: VisionTransformer

    def __init__(self, vit: VisionTransformer, name: str = "the ViT") -> None:
        super().__init__(vit, geometry_of(vit, name))
        self._name = name

    def forward(self, images: Tensor, keep_indices: Tensor | None = None) -> Tensor:
        """Class logits from some patches of each image.

        Args:
            images: float [B, channels, height, width], normalised.
            keep_indices: int64 [B, K], patches on the original grid, row-major, prefix tokens excluded; None for all
                patches, which is timm's own forward.

        Returns:
            float [B, classes]. With all P patches kept, in any order, equal to timm's logits up to rounding.
        """
        if keep_indices is None:
            return self.net(images)
        vit = self.net
        x = self._add_prefix(self._embed_patches(images, keep_indices), keep_indices)
        x = vit.blocks(vit.norm_pre(vit.pos_drop(x)))
        logits: Tensor = vit.forward_head(vit.norm(x))
        return logits

    def order_patches(self, images: Tensor, num_keep: int) -> Tensor:
        """The order that the student's own attention gives, by the cascade that leaves `num_keep`: int64 [B, P]."""
        return order_by_attention(self.net, self._name, images, num_keep)

    def _embed_patches(self, images: Tensor, keep_indices: Tensor) -> Tensor:
        """Patch embeddings of the kept patches, [B, K, C]: pixels are gathered first, the rest is never embedded."""
        embed = self.net.patch_embed
        height, width = embed.grid_size
        batch = torch.arange(len(images), device=images.device)[:, None]
        # [B, channels, height, p, width, p] with the grid dimensions moved to the front, still a view.
        tiles = images.unflatten(2, (height, -1)).unflatten(4, (width, -1)).permute(0, 2, 4, 1, 3, 5)
        pixels = tiles[batch, keep_indices // width, keep_indices % width]  # [B, K, channels, p, p]
        # A convolution whose stride is its kernel is a linear map of each patch.
        embedded: Tensor = embed.norm(F.linear(pixels.flatten(2), embed.proj.weight.flatten(1), embed.proj.bias))
        return embedded

    def _add_prefix(self, patches: Tensor, keep_indices: Tensor) -> Tensor:
        """Position embeddings of the original grid positions, and prefix tokens in front: [B, T + K, C]."""
        vit = self.net
        prefix = torch.cat([t for t in (vit.cls_token, vit.reg_token) if t is not None], dim=1)
        # Older ViTs have position embeddings for prefix tokens too; DeiT III and later do not.
        positions = cast(Tensor, vit.pos_embed)  # [1, T + P, C] or [1, P, C]
        num_embedded = 0 if vit.no_embed_class else vit.num_prefix_tokens
        if num_embedded:
            prefix = prefix + positions[:, :num_embedded]
        patches = patches + F.embedding(keep_indices + num_embedded, positions[0])
        return torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1)


def order_by_attention(vit: VisionTransformer, name: str, images: Tensor, num_keep: int) -> Tensor:
    """Patches of normalised images from most to least informative to a ViT's CLS token, int64 [B, P]."""
    known = name != "the ViT"
    blocks = (entry_of(name).drop_blocks if known else None) or default_drop_blocks(len(vit.blocks))
    num_patches = vit.patch_embed.num_patches
    counts = keep_counts(num_patches, ratio=num_keep / num_patches, keep_rate=None, num_stages=len(blocks))
    gradients = [p.requires_grad for p in vit.parameters()]
    was_training = vit.training
    order: Tensor = TicketSelector(vit, blocks, counts)(images)
    # The selector freezes what it wraps; a student goes on training.
    vit.train(was_training)
    for parameter, wanted in zip(vit.parameters(), gradients, strict=True):
        parameter.requires_grad_(wanted)
    return order


def _wrap(net: nn.Module, name: str, patch_input: PatchInput | None) -> TokenPrunedViT:
    check_plain_vit(net, name)
    return TokenPrunedViT(cast(VisionTransformer, net), name)


FAMILY = Family(name="ViT", modules=frozenset({"vision_transformer", "deit"}), wrap=_wrap)
