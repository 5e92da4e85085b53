"""The student: a timm ViT that computes on the kept patches alone.

Letters: B batch, P patches of the grid, K kept patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..options import CascadeOptions
from .cascade import default_drop_blocks, keep_counts
from .prune import forward_kept, forward_resized
from .registry import check_plain_vit, entry_of, geometry_of
from .selector import TicketSelector
from .student import Family, PatchInput, Student


class TokenPrunedViT(Student):
    """Wraps a plain timm ViT, `net`.

    Args:
        name: the ViT's, for error messages and its own drop blocks.
    """

    chooses_patches = True
    takes_patches = True
    takes_smaller = True
    takes_counts = True
    net: VisionTransformer

    def __init__(self, vit: VisionTransformer, name: str = "the ViT") -> None:
        super().__init__(vit, geometry_of(vit, name))
        self._name = name

    def forward(
        self, images: Tensor, keep_indices: Tensor | None = None, counts: Sequence[int] | None = None
    ) -> Tensor:
        """Class logits from some patches of each image.

        Args:
            images: float [B, channels, height, width], normalised; or the kept patches alone, [B, K, channels, p, p].
            keep_indices: int64 [B, K], patches on the original grid, row-major, prefix tokens excluded; None for all
                patches, which is timm's own forward. Images are then of any size.
            counts: how many patches each image keeps, where that differs.

        Returns:
            float [B, classes]. With all P patches kept, in any order, equal to timm's logits up to rounding.
        """
        if keep_indices is None:
            is_own_size = tuple(images.shape[2:]) == tuple(self.net.patch_embed.img_size)
            return self.net(images) if is_own_size else forward_resized(self.net, images)
        return forward_kept(self.net, images, keep_indices, counts)

    def order_patches(self, images: Tensor, num_keep: int) -> Tensor:
        """The order that the student's own attention gives, by the cascade that leaves `num_keep`: int64 [B, P]."""
        return order_by_attention(self.net, self._name, images, num_keep)


def order_by_attention(vit: VisionTransformer, name: str, images: Tensor, num_keep: int) -> Tensor:
    """Patches of normalised images from most to least informative to a ViT's CLS token, int64 [B, P]."""
    known = name != "the ViT"
    blocks = (entry_of(name).drop_blocks if known else None) or default_drop_blocks(len(vit.blocks))
    num_patches = vit.patch_embed.num_patches
    counts = keep_counts(num_patches, CascadeOptions(ratio=num_keep / num_patches), len(blocks))
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


FAMILY = Family(
    name="ViT",
    modules=frozenset({"vision_transformer", "deit"}),
    wrap=_wrap,
    size_kwargs=lambda image_px: {"img_size": image_px},
)
