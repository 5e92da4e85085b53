"""Attention of all blocks of a plain ViT in one pass over all tokens, and what three papers make of it.

Letters: B batch, N tokens (prefix included), T prefix tokens, P patches, H heads.
"""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from .selector import cls_attention, project


def last_cls_attention(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Attention of the CLS query in the last block, averaged over heads: float32 [B, P].

    Args:
        images: float [B, channels, height, width], normalised.
    """
    x = _tokens(vit, images)
    *earlier, last = cast(list[Block], list(vit.blocks))
    for block in earlier:
        x = block(x)
    normed, attn = last.norm1(x), cast(Attention, last.attn)
    return cls_attention(attn, normed, project(attn, normed, 1))[:, vit.num_prefix_tokens :]


def rollout(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Attention rollout from the CLS token to the patches, float32 [B, P].

    Source: Abnar & Zuidema 2020, section 3: A = (mean over heads + I) / 2 in each block, multiplied over blocks. Its
    rows sum to one as they are.
    """
    _, maps = _with_attention(vit, images)
    rolled = _identity(maps[0])
    for attention in maps:
        mean = attention.mean(dim=1)
        rolled = _product((mean + _identity(attention)) / 2, rolled)
    return rolled[:, 0, vit.num_prefix_tokens :]


@torch.enable_grad()
def gradient_relevance(vit: VisionTransformer, images: Tensor, classes: Tensor | None = None) -> Tensor:
    """Relevance of the patches to a class, by attention and its gradient: float32 [B, P].

    Source: Chefer, Gur & Wolf 2021 (Generic Attention-model Explainability), equations 5 and 6 for self-attention:
    R ← R + Ā·R from R = I, where Ā is the mean over heads of (∇A ⊙ A)⁺, ∇A the gradient of the class's logit.

    Args:
        classes: int64 [B]; None for those that the ViT predicts.
    """
    # Something has to ask for gradients: all weights are frozen.
    logits, maps = _with_attention(vit, images.detach().requires_grad_())
    chosen = logits.argmax(dim=1) if classes is None else classes
    gradients = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), maps)
    relevance = _identity(maps[0])
    for attention, gradient in zip(maps, gradients, strict=True):
        positive = (gradient * attention.detach()).clamp(min=0).mean(dim=1)
        relevance = relevance + _product(positive, relevance)
    return relevance[:, 0, vit.num_prefix_tokens :]


def _tokens(vit: VisionTransformer, images: Tensor) -> Tensor:
    embedded: Tensor = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    return embedded


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in fp32, whatever precision the ViT runs in."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _identity(attention: Tensor) -> Tensor:
    """Ones on the diagonal, float32 [B, N, N], for attention of [B, H, N, N]."""
    size = attention.shape[-1]
    return torch.eye(size, device=attention.device).expand(len(attention), size, size)


def _with_attention(vit: VisionTransformer, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits float [B, classes], and each block's attention after softmax, float32 [B, H, N, N]."""
    x, maps = _tokens(vit, images), []
    for block in cast(list[Block], list(vit.blocks)):
        attn, normed = cast(Attention, block.attn), block.norm1(x)
        query, key, value = (project(attn, normed, part) for part in range(3))
        maps.append((query * attn.scale @ key.transpose(-2, -1)).softmax(dim=-1, dtype=torch.float32))
        out = (maps[-1].to(value.dtype) @ value).transpose(1, 2).flatten(2)
        x = x + block.ls1(attn.proj(attn.norm(out)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    logits: Tensor = vit.forward_head(vit.norm(x))
    return logits, maps
