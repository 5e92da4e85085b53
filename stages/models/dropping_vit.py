"""A ViT that drops its own tokens while it is trained: EViT without token fusion, the whole pass, with gradients.

Source: Shen et al. 2023, section 3.2; Liang et al. 2022 (EViT), section 3 and appendix (keep rate on a cosine). The
selector (selector.py) computes the same tickets and nothing else.

Letters: B batch, P patches of the grid, K kept patches, N tokens now (prefix included), T prefix tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from ...artifacts_schema import ModelError
from ..options import CascadeOptions
from .cascade import drop_blocks_of, keep_counts
from .registry import geometry_of
from .selector import attend, cls_attention, project
from .student import Student


class DroppingViT(Student):
    """Wraps a plain timm ViT or an LV-ViT, `net`; it chooses its patches itself, so it is given all of them.

    Args:
        name: the ViT's, for error messages.
        cascade: where it drops patches, and how many it keeps in testing.
        shrink_epochs: in training, the share kept falls to that from 1 on a cosine over so many epochs.

    Attributes:
        keep_counts: patches kept at each drop block in testing, and in training once it has shrunk.
    """

    net: VisionTransformer

    def __init__(
        self,
        vit: VisionTransformer,
        name: str = "the ViT",
        *,
        cascade: CascadeOptions,
        shrink_epochs: float = 0,
    ) -> None:
        super().__init__(vit, geometry_of(vit, name))
        self.drop_blocks = drop_blocks_of(cascade, len(vit.blocks))
        check_drop_blocks(self.drop_blocks, len(vit.blocks), name)
        self.keep_counts = self._counts(cascade)
        self._cascade, self._shrink_epochs = cascade, shrink_epochs
        self._training_counts = self.counts_after(0)

    def begin_step(self, epochs: float) -> None:
        """Sets how many patches the next training step keeps."""
        self._training_counts = self.counts_after(epochs)

    def counts_after(self, epochs: float) -> tuple[int, ...]:
        """Patches kept at each drop block in training after so many epochs, in full and in part."""
        if epochs >= self._shrink_epochs:
            return self.keep_counts
        target = self._cascade
        ratio, keep_rate = (shrunk_share(s, epochs, self._shrink_epochs) for s in (target.ratio, target.keep_rate))
        return self._counts(CascadeOptions(ratio=ratio, keep_rate=keep_rate))

    def _counts(self, cascade: CascadeOptions) -> tuple[int, ...]:
        return keep_counts(self.geometry.num_patches, cascade, len(self.drop_blocks))

    def forward(self, images: Tensor, keep_indices: Tensor | None = None) -> Tensor:
        """Class logits float [B, classes] of normalised images float [B, channels, height, width].

        Raises:
            ModelError: `keep_indices` are given.
        """
        if keep_indices is not None:
            raise ModelError("a ViT that drops tokens chooses its patches itself; give it whole images (control dense)")
        logits: Tensor = self.net.forward_head(self.features(images)[0])
        return logits

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normed tokens that are left, float [B, T + K, C], and which patches these are, int64 [B, K]."""
        vit, num_prefix = self.net, self.net.num_prefix_tokens
        counts = self._training_counts if self.training else self.keep_counts
        keep_count_of = dict(zip(self.drop_blocks, counts, strict=True))
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        ids = torch.arange(self.geometry.num_patches, device=x.device).expand(len(x), -1)
        for index, block in enumerate(cast(list[Block], list(vit.blocks))):
            num_keep = keep_count_of.get(index, ids.shape[1])
            if num_keep == ids.shape[1]:
                x = block(x)
                continue
            x, kept = _dropping_block(block, x, num_keep, num_prefix)
            ids = ids.gather(1, kept)
        return vit.norm(x), ids


def check_drop_blocks(drop_blocks: Sequence[int], depth: int, name: str) -> None:
    """Refuses drop blocks that a ViT of `depth` blocks does not have.

    Raises:
        ModelError
    """
    listed = ",".join(str(b) for b in drop_blocks)
    if not drop_blocks or list(drop_blocks) != sorted(set(drop_blocks)):
        raise ModelError(f"drop blocks {listed!r} should be increasing block numbers, e.g. 3,6,9")
    if not 0 <= drop_blocks[0] <= drop_blocks[-1] < depth:
        raise ModelError(f"drop blocks {listed}: the blocks of {name} are 0 to {depth - 1}; give others")


def shrunk_share(target: float | None, epochs: float, shrink_epochs: float) -> float | None:
    """The share kept after `epochs`: EViT's cosine from 1 to `target` over `shrink_epochs`, then `target`."""
    if target is None or epochs >= shrink_epochs:
        return target
    # Never above 1, whatever the rounding.
    return 1 - (1 - target) * (1 - math.cos(math.pi * epochs / shrink_epochs)) / 2


def _dropping_block(block: Block, x: Tensor, num_keep: int, num_prefix: int) -> tuple[Tensor, Tensor]:
    """A block that drops patches between its attention and its MLP.

    Rows that are dropped take part as keys and values; their own output would be thrown away, so it is not computed.

    Returns:
        Tokens float [B, T + num_keep, C], and which of the patches now stay, int64 [B, num_keep], best first.
    """
    normed, attn = block.norm1(x), cast(Attention, block.attn)
    key = project(attn, normed, 1)
    with torch.no_grad():  # indices carry no gradient
        scores = cls_attention(attn, normed, key)[:, num_prefix:]
        kept = scores.argsort(dim=1, descending=True, stable=True)[:, :num_keep]
        prefix = torch.arange(num_prefix, device=x.device).expand(len(x), -1)
        rows = torch.cat([prefix, kept + num_prefix], dim=1)
        batch = torch.arange(len(x), device=x.device)[:, None]
    x = x[batch, rows] + block.drop_path1(block.ls1(attend(attn, normed[batch, rows], normed, key)))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), kept
