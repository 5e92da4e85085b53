"""CutMix and Mixup where only some patches of each image are at hand: those that were baked.

CutMix's box says, for each position, which of the two images it is taken from; where that image's patch is not there,
the other's stays or comes in its place, after all that are as the box says. Under Mixup, a patch that is not there
counts as the mean colour (zero after normalising) and as the lowest score. Labels are weighted by what the kept patches
show of either image. With all patches at hand both are what stages/training/mixing.py makes of whole images.

Letters: B batch, P patches of the grid, M patches at hand, K kept patches, p patch side in pixels, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import inside_box
from .mixing import Mix, Mixed, top_patches

# Below all scores of patches that are as the box says, and in their own order: scores lie in [0, P).
_SECOND_CHOICE = 1 << 17


def mix_patches(
    patches: Tensor, positions: Tensor, scores: Tensor, mix: Mix, *, grid: tuple[int, int], num_keep: int
) -> Mixed:
    """Mixes a batch with itself in reverse order.

    Args:
        patches: float [B, M, C, p, p], normalised.
        positions: int64 [B, M], where they stand.
        scores: float32 [B, P], more is more informative; -inf where there is no patch.
        num_keep: K.

    Returns:
        The batch with `images` float [B, K, C, p, p].
    """
    shares = _shares(scores, mix, grid)
    keep = top_patches(_mixed_scores(scores, mix, grid, shares), num_keep)
    slots = torch.zeros_like(scores, dtype=torch.int64)
    slots.scatter_(1, positions, torch.arange(positions.shape[1], device=scores.device).expand_as(positions))
    own, other = (share.gather(1, keep) for share in shares)  # [B, K]
    pixels = _weighted(patches, slots.gather(1, keep), own)
    if not (mix.box is None and mix.lam == 1):
        pixels = pixels + _weighted(patches.flip(0), slots.flip(0).gather(1, keep), other)
    weights = own.sum(dim=1) / (own + other).sum(dim=1)
    return Mixed(images=pixels, keep_indices=keep, weights=weights)


def _shares(scores: Tensor, mix: Mix, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares that each position's pixels have of its own image's patch and of its partner's, float32 [B, P] each."""
    is_own, is_other = scores.isfinite(), scores.flip(0).isfinite()
    if mix.box is None:
        return mix.lam * is_own.float(), (1 - mix.lam) * is_other.float()
    inside = inside_box(mix.box, grid, scores.device)
    takes_other = is_other & (inside | ~is_own)
    return (is_own & ~takes_other).float(), takes_other.float()


def _mixed_scores(scores: Tensor, mix: Mix, grid: tuple[int, int], shares: tuple[Tensor, Tensor]) -> Tensor:
    partner = scores.flip(0)
    if mix.box is None:
        own, other = (each.nan_to_num(neginf=0.0) for each in (scores, partner))
        mixed = own if mix.lam == 1 else mix.lam * own + (1 - mix.lam) * other
        return mixed.masked_fill(shares[0] + shares[1] == 0, -torch.inf)
    inside = inside_box(mix.box, grid, scores.device)
    taken = torch.where(shares[1] > 0, partner, scores)
    is_as_said = torch.where(inside, partner, scores).isfinite()
    return torch.where(is_as_said, taken, taken - _SECOND_CHOICE)


def _weighted(patches: Tensor, slots: Tensor, shares: Tensor) -> Tensor:
    """Patches at some slots, int64 [B, K], times their shares: float [B, K, C, p, p]."""
    batch = torch.arange(len(patches), device=patches.device)[:, None]
    return patches[batch, slots] * shares[:, :, None, None, None]
