"""Kept patches for any plain timm ViT: the same network, with a forward pass that takes `keep_indices`.

Letters: B batch, P patches of the grid, K kept patches, T prefix tokens, C channels, p patch side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...artifacts_schema import ModelError
from ..padding import groups_of


class PrunedViT(VisionTransformer):
    """A timm ViT whose forward pass takes kept patches. Made by `prune`; everything else is timm's.

    Its state dict has timm's names, so that checkpoints go both ways. DistributedDataParallel and `torch.compile` take
    it as they take any ViT.
    """

    # timm's own second argument is an attention mask, which a ViT on some of its patches has no use for.
    def forward(  # type: ignore[override]
        self, images: Tensor, keep_indices: Tensor | None = None, counts: Sequence[int] | None = None
    ) -> Tensor:
        """Class logits from some patches of each image.

        Args:
            images: float [B, channels, height, width], normalised.
            keep_indices: int64 [B, K], patches of the grid, row-major, prefix tokens excluded, in any order; None for
                all patches, which is timm's own forward pass.
            counts: how many patches each image keeps, where that differs; what stands after them is passed over.

        Returns:
            float [B, classes].

        Raises:
            ModelError: shapes that do not fit the network or each other.
        """
        if keep_indices is None:
            return super().forward(images)
        wanted = tuple(self.patch_embed.img_size)
        if images.shape[2:] != wanted:
            raise ModelError(
                f"images are {list(images.shape)}, and this ViT takes [B, channels, {wanted[0]}, {wanted[1]}]"
            )
        if keep_indices.ndim != 2 or len(keep_indices) != len(images):
            raise ModelError(
                f"`keep_indices` are {list(keep_indices.shape)} and images {list(images.shape)}; give int64 [B, K], "
                "the kept patches of each image"
            )
        return forward_kept(self, images, keep_indices, counts)


def prune(vit: nn.Module) -> PrunedViT:
    """Gives a plain timm ViT a forward pass that takes kept patches: `net(images, keep_indices)`.

    The result shares its parameters with `vit`, which stays as it is: training one trains the other, and either may be
    dropped. Without `keep_indices` it computes what `vit` computes.

    Args:
        vit: from `timm.create_model`; of any width, depth, pooling, with registers or without a CLS token.

    Raises:
        ModelError: a network that is not a plain ViT, or whose patches cannot be left out.
    """
    check_prunable(vit)
    net: PrunedViT = PrunedViT.__new__(PrunedViT)
    # The tables of parameters, modules and hooks are copied, what stands in them is shared.
    shared: dict[str, Any] = {k: v.copy() if isinstance(v, dict | set) else v for k, v in vars(vit).items()}
    shared.pop("_compiled_call_impl", None)  # of vit.compile(), which compiled the other forward pass
    net.__dict__.update(shared)
    return net


def check_prunable(vit: nn.Module) -> None:
    """Refuses networks that cannot compute on some patches alone.

    Raises:
        ModelError
    """
    name = type(vit).__name__
    way_out = "give a plain ViT, such as timm.create_model('deit_small_patch16_224')"
    if type(vit) not in (VisionTransformer, PrunedViT):
        raise ModelError(f"{name} is not timm's plain VisionTransformer, and cannot be given kept patches; {way_out}")
    vit = cast(VisionTransformer, vit)
    if vit.pos_embed is None:
        raise ModelError(f"this {name} has no absolute position embeddings, which tell kept patches apart; {way_out}")
    embed = vit.patch_embed
    if type(embed) is not PatchEmbed or embed.proj.kernel_size != embed.proj.stride:
        raise ModelError(f"this {name} does not embed separate patches; {way_out}")
    if vit.dynamic_img_size or embed.img_size is None:
        raise ModelError(f"this {name} takes images of any size, so its patch grid is not fixed; {way_out}")


def forward_kept(
    vit: VisionTransformer, images: Tensor, keep_indices: Tensor, counts: Sequence[int] | None = None
) -> Tensor:
    """timm's forward pass on kept patches, int64 [B, K]; equal to it, up to rounding, with all of them.

    Args:
        images: float [B, channels, height, width], or just these patches, [B, K, channels, p, p].
        counts: how many of them each image keeps, where that differs: each gets the logits that it gets alone.

    Raises:
        ModelError: counts, for a ViT that cannot leave padding out.
    """
    if counts is None:
        return _forward_patches(vit, _embedded(vit, images, keep_indices))
    _check_pads(vit)
    groups = groups_of(counts)
    logits = []
    for images_of, num_patches, is_even in groups:
        index = torch.tensor(images_of, device=images.device)
        keep = keep_indices[index, :num_patches]
        pixels = images[index, :num_patches] if images.ndim == 5 else images[index]
        of_group = _embedded(vit, pixels, keep.clamp(min=0))
        is_kept = None if is_even else keep >= 0
        logits.append(_forward_patches(vit, of_group, is_kept))
    places = torch.tensor([i for group in groups for i in group.images]).argsort()
    return torch.cat(logits)[places.to(images.device)]


def _embedded(vit: VisionTransformer, images: Tensor, keep_indices: Tensor) -> Tensor:
    """Kept patches with their position embeddings, float [B, K, C]."""
    positions = F.embedding(keep_indices + _num_embedded(vit), cast(Tensor, vit.pos_embed)[0])
    return _embed_patches(vit, images, keep_indices) + positions


def _check_pads(vit: VisionTransformer) -> None:
    """Refuses a ViT that would pool over padding.

    Raises:
        ModelError
    """
    if vit.attn_pool is not None or vit.global_pool not in ("token", "avg") or type(vit.patch_drop) is not nn.Identity:
        raise ModelError(
            "images keeping different numbers of patches (adaptive tickets) need a ViT that pools by its CLS token or "
            "by the mean, and drops no patches at random; take another, or tickets of one `ratio`"
        )


def forward_resized(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Logits of whole images of another size than the network's, float [B, channels, H, W].

    Position embeddings are resampled by timm's function, as timm does when it loads weights for another size; the
    gradient reaches those of the network's own grid.
    """
    embed, prefix = vit.patch_embed, _num_embedded(vit)
    patches = embed.proj(images)
    grid = list(patches.shape[2:])
    patches = embed.norm(patches.flatten(2).transpose(1, 2))
    of_all = cast(Tensor, vit.pos_embed)
    positions = resample_abs_pos_embed(of_all, grid, list(embed.grid_size), num_prefix_tokens=prefix)
    return _forward_patches(vit, patches + positions[:, prefix:])


def _forward_patches(vit: VisionTransformer, patches: Tensor, is_kept: Tensor | None = None) -> Tensor:
    """Logits from patches with their position embeddings, float [B, K, C].

    Args:
        is_kept: bool [B, K], false for padding; None where there is none.
    """
    x = _add_prefix(vit, patches)
    x = vit.norm_pre(vit.patch_drop(vit.pos_drop(x)))
    if is_kept is not None:
        return _forward_masked(vit, x, F.pad(is_kept, (x.shape[1] - is_kept.shape[1], 0), value=True))
    x = checkpoint_seq(vit.blocks, x) if vit.grad_checkpointing else vit.blocks(x)
    logits: Tensor = vit.forward_head(vit.norm(x))
    return logits


def _forward_masked(vit: VisionTransformer, x: Tensor, is_token: Tensor) -> Tensor:
    """Logits from tokens float [B, N, C]; padding (False in bool [B, N]) is neither looked at nor pooled."""
    mask = is_token[:, None, None]
    for block in vit.blocks:
        x = checkpoint(block, x, mask, use_reentrant=False) if vit.grad_checkpointing else block(x, attn_mask=mask)
    x = vit.norm(x)
    if vit.global_pool == "token":
        logits: Tensor = vit.forward_head(x)
        return logits
    first = 0 if vit.pool_include_prefix else vit.num_prefix_tokens
    weights = is_token[:, first:, None].to(x.dtype)
    mean = (x[:, first:] * weights).sum(dim=1) / weights.sum(dim=1)
    pooled: Tensor = vit.head(vit.head_drop(vit.fc_norm(mean)))
    return pooled


def _embed_patches(vit: VisionTransformer, images: Tensor, keep_indices: Tensor) -> Tensor:
    """Patch embeddings of the kept patches, [B, K, C]: pixels are gathered first, the rest is never embedded."""
    embed = vit.patch_embed
    pixels = images if images.ndim == 5 else gather_patches(images, keep_indices, embed.grid_size)
    # A convolution whose stride is its kernel is a linear map of each patch.
    embedded: Tensor = embed.norm(F.linear(pixels.flatten(2), embed.proj.weight.flatten(1), embed.proj.bias))
    return embedded


def gather_patches(images: Tensor, keep_indices: Tensor, grid: tuple[int, int]) -> Tensor:
    """The kept patches' pixels, [B, K, channels, p, p], of images [B, channels, H, W] of any dtype.

    Args:
        keep_indices: int64 [B, K].
    """
    height, width = grid
    batch = torch.arange(len(images), device=images.device)[:, None]
    # [B, channels, height, p, width, p] with the grid dimensions moved to the front, still a view.
    tiles = images.unflatten(2, (height, -1)).unflatten(4, (width, -1)).permute(0, 2, 4, 1, 3, 5)
    return tiles[batch, keep_indices // width, keep_indices % width]


def _num_embedded(vit: VisionTransformer) -> int:
    """Prefix tokens that have position embeddings: those of older ViTs do, those of DeiT III and later do not."""
    return 0 if vit.no_embed_class else vit.num_prefix_tokens


def _add_prefix(vit: VisionTransformer, patches: Tensor) -> Tensor:
    """Prefix tokens in front: [B, T + K, C]."""
    tokens: list[Tensor] = [t for t in (vit.cls_token, vit.reg_token) if t is not None]
    if not tokens:
        return patches
    prefix = torch.cat(tokens, dim=1)
    if num_embedded := _num_embedded(vit):
        prefix = prefix + cast(Tensor, vit.pos_embed)[:, :num_embedded]  # [1, T + P, C]
    return torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1)
