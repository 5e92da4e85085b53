"""The ticket selector: EViT's token dropping without fusion, in a plain timm ViT, computing only what tickets need.

Source: Shen et al. 2023, section 3.2; Liang et al. 2022 (EViT), section 3. What is left out, none of which can
change a ticket: attention outputs of patches that are dropped in the same block; at the last drop block everything but
the CLS query row; all blocks after it.

Letters: B batch, P patches of the grid, N tokens now (prefix included), T prefix tokens, C channels, H heads,
M rows whose attention is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ...artifacts_schema import ModelError


class Ordered(NamedTuple):
    """Patches of images in order, from most to least informative, and weights of the first n of them."""

    order: Tensor  # int64 [B, P]
    weights: Tensor  # float [B, n], from the highest to the lowest


class TicketSelector(nn.Module):
    """Orders the patches of images by how informative they are to a ViT's CLS token.

    Args:
        vit: a plain timm ViT with a CLS token (see registry.check_plain_vit).
        drop_blocks: zero-based, increasing.
        keep_counts: patches kept at each drop block, not increasing.
    """

    def __init__(self, vit: VisionTransformer, drop_blocks: Sequence[int], keep_counts: Sequence[int]) -> None:
        super().__init__()
        if not drop_blocks or len(drop_blocks) != len(keep_counts) or list(drop_blocks) != sorted(set(drop_blocks)):
            raise ModelError(f"drop blocks {list(drop_blocks)} and keep counts {list(keep_counts)} do not match")
        if not 0 <= drop_blocks[0] <= drop_blocks[-1] < len(vit.blocks):
            raise ModelError(f"drop blocks {list(drop_blocks)} lie outside the {len(vit.blocks)} blocks of the model")
        self.vit = vit.eval().requires_grad_(False)
        self.keep_count_of = dict(zip(drop_blocks, keep_counts, strict=True))
        self.last_drop_block = drop_blocks[-1]

    def forward(self, images: Tensor) -> Tensor:
        """The order alone, int64 [B, P]."""
        return self.ordered(images).order

    @torch.inference_mode()
    def ordered(self, images: Tensor) -> Ordered:
        """Orders the patches.

        Args:
            images: float [B, channels, height, width], normalised as the ViT wants.

        Returns:
            Patches from most to least informative: those that survive every drop block by the last one's attention,
            then those dropped at the last, the last but one, … The first K are the ticket. Weights are the last drop
            block's attention to the patches that come to it.

        Raises:
            ModelError: attention is not finite.
        """
        vit, num_prefix = self.vit, self.vit.num_prefix_tokens
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        batch = torch.arange(len(x), device=x.device)[:, None]
        ids = torch.arange(x.shape[1] - num_prefix, device=x.device).expand(len(x), -1)
        prefix = torch.arange(num_prefix, device=x.device).expand(len(x), -1)
        dropped: list[Tensor] = []
        finite = torch.ones((), dtype=torch.bool, device=x.device)
        blocks = cast(list[Block], list(vit.blocks)[: self.last_drop_block + 1])
        for index, block in enumerate(blocks):
            if index not in self.keep_count_of:
                x = block(x)
                continue
            normed, attn = block.norm1(x), cast(Attention, block.attn)
            key = project(attn, normed, 1)
            scores = cls_attention(attn, normed, key)[:, num_prefix:]
            finite &= scores.isfinite().all()
            order = scores.argsort(dim=1, descending=True, stable=True)
            kept, lost = order.tensor_split([self.keep_count_of[index]], dim=1)
            dropped.append(ids.gather(1, lost))
            ids = ids.gather(1, kept)
            if index < self.last_drop_block:
                rows = torch.cat([prefix, kept + num_prefix], dim=1)
                x = x[batch, rows] + block.ls1(attend(attn, normed[batch, rows], normed, key))
                x = x + block.ls2(block.mlp(block.norm2(x)))
        if not finite:
            raise ModelError("the selector's attention is not finite; its weights are damaged or not for this model")
        return Ordered(torch.cat([ids, *reversed(dropped)], dim=1), scores.gather(1, order))


def project(attn: Attention, x: Tensor, part: int) -> Tensor:
    """Queries (part 0), keys (1) or values (2) alone: [B, N, C] to [B, H, N, C / H]."""
    width = attn.num_heads * attn.head_dim
    rows = slice(part * width, (part + 1) * width)
    bias = None if attn.qkv.bias is None else attn.qkv.bias[rows]
    heads = F.linear(x, attn.qkv.weight[rows], bias).unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2)
    projected: Tensor = (attn.q_norm, attn.k_norm, nn.Identity())[part](heads)
    return projected


def cls_attention(attn: Attention, normed: Tensor, key: Tensor) -> Tensor:
    """Attention of the CLS query to all N tokens, after softmax over all of them, averaged over heads: [B, N]."""
    query = project(attn, normed[:, :1], 0) * attn.scale
    return (query @ key.transpose(-2, -1)).softmax(dim=-1, dtype=torch.float32).mean(dim=1)[:, 0]


def attend(attn: Attention, normed_rows: Tensor, normed: Tensor, key: Tensor) -> Tensor:
    """timm's attention for some rows only, in training too: queries of [B, M, C], keys and values of all [B, N, C]."""
    query, value = project(attn, normed_rows, 0), project(attn, normed, 2)
    dropout = attn.attn_drop.p if attn.training else 0.0
    out = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=attn.scale)
    projected: Tensor = attn.proj_drop(attn.proj(attn.norm(out.transpose(1, 2).flatten(2))))
    return projected


def is_supported_block(block: nn.Module) -> bool:
    """Tells whether a block is timm's plain pre-norm one with ungated attention, which `TicketSelector` takes apart."""
    return type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None
