"""The selector's cascade once more, as plainly as it can be written: the yardstick for the fast one.

Nothing is skipped, fused or shared with the package. Every block computes its whole softmax attention matrix,
all blocks run to the end, and the head runs too. Only the modules of timm's `VisionTransformer` are used, by
name, so that an error in the package's own reading of the method cannot hide here.

Letters: B images, N tokens (prefix tokens and patches), P patches of the full grid, H heads, D channels per
head, C = H·D.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import VisionTransformer


def reference_keep_counts(num_patches: int, keep_rate: float) -> tuple[int, int, int]:
    """Upstream's chain: each of three stages keeps ceil(keep_rate · what reached it), in floating point."""
    first = math.ceil(keep_rate * num_patches)
    second = math.ceil(keep_rate * first)
    third = math.ceil(keep_rate * second)
    return first, second, third


def reference_order(
    vit: VisionTransformer,
    images: torch.Tensor,
    drop_blocks: Sequence[int],
    keep_counts: Sequence[int],
) -> torch.Tensor:
    """Sort the patches of every image from most to least informative.

    Args:
        vit: A timm `VisionTransformer` with a CLS token and a fixed image size, in eval mode.
        images: float [B, channels, height, width], normalised as the model expects.
        drop_blocks: The blocks that drop patches, zero-based and ascending.
        keep_counts: Patches left after each of them.

    Returns:
        int64 [B, P]: patch numbers on the input grid (row-major, prefix tokens not counted). The first
        `keep_counts[-1]` are the ticket, by the last stage's attention; then come those dropped at the last
        stage, by that stage's attention, then the one before's, and so on.
    """
    order, _ = reference_order_and_logits(vit, images, drop_blocks, keep_counts)
    return order


@torch.no_grad()
def reference_order_and_logits(
    vit: VisionTransformer,
    images: torch.Tensor,
    drop_blocks: Sequence[int],
    keep_counts: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The order of `reference_order`, and the class scores [B, classes] of the pruned forward pass."""
    if len(drop_blocks) != len(keep_counts):
        raise ValueError(f"{len(drop_blocks)} dropping blocks, but {len(keep_counts)} counts")
    blocks: list[Any] = list(vit.blocks)
    if [index for index in range(len(blocks)) if index in drop_blocks] != list(drop_blocks):
        raise ValueError(f"not ascending blocks of a model with {len(blocks)}: {list(drop_blocks)}")

    x = _embed(vit, images)  # [B, N, C]
    num_prefix_tokens = vit.num_prefix_tokens
    batch_size, num_patches = x.shape[0], x.shape[1] - num_prefix_tokens

    # Which patch of the full grid each current patch token is; changes with every stage.
    patch_of_token = torch.arange(num_patches, device=x.device).repeat(batch_size, 1)
    dropped_by_stage: list[torch.Tensor] = []

    for index, block in enumerate(blocks):
        attended, attention = _attend(block.attn, block.norm1(x))  # [B, N, C], [B, H, N, N]
        x = x + block.ls1(attended)
        if index in drop_blocks:
            num_kept = keep_counts[list(drop_blocks).index(index)]
            informativeness = attention[:, :, 0, num_prefix_tokens:].mean(dim=1)  # [B, current patches]
            kept, dropped = _split_by_score(informativeness, num_kept)
            prefix, patches = x[:, :num_prefix_tokens], x[:, num_prefix_tokens:]
            kept_channels = kept.unsqueeze(-1).expand(-1, -1, x.shape[-1])
            x = torch.cat([prefix, torch.gather(patches, 1, kept_channels)], dim=1)
            dropped_by_stage.append(torch.gather(patch_of_token, 1, dropped))
            patch_of_token = torch.gather(patch_of_token, 1, kept)
        x = x + block.ls2(block.mlp(block.norm2(x)))

    logits = vit.forward_head(vit.norm(x))
    order = torch.cat([patch_of_token, *reversed(dropped_by_stage)], dim=1)
    return order, logits


def _embed(vit: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """Patch and prefix tokens with their position embeddings [B, N, C], prefix tokens first."""
    patches = vit.patch_embed(images)
    if patches.ndim != 3:
        raise ValueError("the reference wants a model of fixed image size (patch_embed gives [B, P, C])")
    if vit.cls_token is None or vit.pos_embed is None:
        raise ValueError("the reference wants a CLS token and position embeddings")
    prefix = [vit.cls_token.expand(len(images), -1, -1)]
    if vit.reg_token is not None:
        prefix.append(vit.reg_token.expand(len(images), -1, -1))
    if vit.no_embed_class:  # positions belong to patches alone
        x = torch.cat([*prefix, patches + vit.pos_embed], dim=1)
    else:
        x = torch.cat([*prefix, patches], dim=1) + vit.pos_embed
    return vit.norm_pre(x)


def _attend(attn: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Self-attention of x [B, N, C]: its projected output [B, N, C] and its matrices [B, H, N, N]."""
    if getattr(attn, "gate", None) is not None:
        raise ValueError("the reference knows no gated attention")
    batch_size, num_tokens, _ = x.shape
    qkv = attn.qkv(x).reshape(batch_size, num_tokens, 3, attn.num_heads, attn.head_dim)
    query, key, value = (qkv[:, :, part].transpose(1, 2) for part in range(3))  # each [B, H, N, D]
    query, key = attn.q_norm(query), attn.k_norm(key)
    attention = torch.softmax(query @ key.transpose(-2, -1) / math.sqrt(attn.head_dim), dim=-1)
    mixed = (attention @ value).transpose(1, 2).reshape(batch_size, num_tokens, -1)
    return attn.proj(attn.norm(mixed)), attention


def _split_by_score(scores: torch.Tensor, num_kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers of the `num_kept` highest scores [B, num_kept] and of the others, by falling score."""
    kept = torch.topk(scores, num_kept, dim=1, largest=True, sorted=True).indices
    is_dropped = torch.ones_like(scores, dtype=torch.bool).scatter(1, kept, False)
    dropped_rows = []
    for row_scores, row_is_dropped in zip(scores, is_dropped, strict=True):
        candidates = row_is_dropped.nonzero().squeeze(1)
        dropped_rows.append(candidates[torch.argsort(row_scores[candidates], descending=True)])
    return kept, torch.stack(dropped_rows)
