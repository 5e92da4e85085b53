"""CutMix and Mixup on the patch grid, for tickets, random subsets and all patches alike.

Images of a batch are mixed with those of the batch in reverse order, as timm does. CutMix's box lies on grid lines, and
takes each position's pixels *and* score from one of the two images; Mixup adds pixels and scores by λ. The K patches of
highest score are kept, so K stays what it was. Labels are weighted by what the kept patches show: under CutMix the
share of kept patches that come from either image (not the box's area: a box in which nothing is kept shows nothing),
under Mixup λ, since every kept patch shows both. Sources: Yun et al. 2019 (CutMix), Zhang et al. 2018 (Mixup).

Letters: B batch, P patches of the grid, K kept patches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from timm.data.mixup import mixup_target, rand_bbox
from torch import Tensor

from ..data.batches import Batch
from ..grid import Box, inside_box
from ..models.prune import gather_patches
from ..padding import NO_PATCH
from ..runtime.randomness import isolated_rng
from .groups import MixingOptions


class Mix(NamedTuple):
    """Draw of how a batch is mixed: pixels keep `lam` of themselves (Mixup), or give up `box` (CutMix). λ in [0, 1]."""

    lam: float = 1.0
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """A mixed batch. `weights` is each image's own label's weight; its partner's is 1 - that."""

    images: Tensor  # float [B, channels, H, W], or of the kept patches alone [B, K, channels, p, p]
    keep_indices: Tensor | None  # int64 [B, K], ascending; None for all patches
    weights: Tensor  # float32 [B]
    box: Box | None = None  # CutMix that the model is left to do on its tokens; `images` are then as they were
    counts: tuple[int, ...] | None = None  # B, patches that each image keeps, where that differs

    def targets(self, labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
        """Soft labels float [B, classes], each summing to 1."""
        soft: Tensor = mixup_target(labels, num_classes, lam=self.weights[:, None], smoothing=smoothing)
        return soft


def pieces_of(batch: Batch, num_pieces: int) -> list[Batch]:
    """A batch in pieces, in each of which images are mixed with the same ones as in the whole batch."""
    if num_pieces == 1:
        return [batch]
    last = len(batch.labels) - 1
    halves = torch.arange(last // 2 + 1, device=batch.labels.device).tensor_split(num_pieces)
    return [_part_of(batch, torch.cat([half, (last - half)[half < last - half].flip(0)])) for half in halves]


def _part_of(batch: Batch, index: Tensor) -> Batch:
    def of(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[index]

    labels = batch.token_labels
    return batch._replace(
        images=batch.images[index],
        labels=batch.labels[index],
        keep_indices=of(batch.keep_indices),
        scores=of(batch.scores),
        positions=of(batch.positions),
        token_labels=None if labels is None else type(labels)(*(tensor[index] for tensor in labels)),
        keys=tuple(batch.keys[i] for i in index.tolist()),
        counts=None if batch.counts is None else tuple(batch.counts[i] for i in index.tolist()),
    )


def draw_mix(config: MixingOptions, grid: tuple[int, int], *names: object) -> Mix:
    """Draws how a batch is mixed; the same names give the same mix."""
    with isolated_rng(*names, "mix"):
        if not config.is_on or random.random() >= config.mix_prob:
            return Mix()
        cut = config.cutmix > 0 and (config.mixup <= 0 or random.random() < config.mix_switch)
        alpha = config.cutmix if cut else config.mixup
        lam = float(np.random.beta(alpha, alpha))
        if not cut:
            return Mix(lam=lam)
        top, bottom, left, right = (int(v) for v in rand_bbox(grid, lam))
        return Mix(box=Box(top, bottom, left, right))


def mixed_counts(counts: tuple[int, ...], mix: Mix, grid: tuple[int, int]) -> tuple[int, ...]:
    """Patches that mixed images keep: the mean of its two images' numbers, weighted by how much it has of either."""
    part = mix.lam
    if mix.box is not None:
        part = 1 - (mix.box.bottom - mix.box.top) * (mix.box.right - mix.box.left) / (grid[0] * grid[1])
    return tuple(round(part * ours + (1 - part) * theirs) for ours, theirs in zip(counts, counts[::-1], strict=True))


def mix_batch(
    images: Tensor,
    scores: Tensor | None,
    mix: Mix,
    *,
    grid: tuple[int, int],
    num_keep: int | tuple[int, ...],
    on_tokens: bool = False,
) -> Mixed:
    """Mixes a batch with itself in reverse order.

    Args:
        images: float [B, channels, H, W].
        scores: float32 [B, P], more is more informative; None to keep all patches.
        num_keep: K, or of each image its own.
        on_tokens: leave CutMix's pixels to the model, which mixes tokens (MixToken).
    """
    kept = _shown(scores, mix, grid, num_keep, images)
    if mix.box is None:
        return kept.of(_blend(images, images.flip(0), mix.lam))
    pixels = images if on_tokens else _cut_in(images, mix.box, grid)
    return kept.of(pixels, box=mix.box if on_tokens else None)


def mix_kept(
    pixels: Tensor,
    scores: Tensor,
    mix: Mix,
    *,
    grid: tuple[int, int],
    num_keep: int | tuple[int, ...],
    normalize: Callable[[Tensor], Tensor],
) -> Mixed:
    """`mix_batch`, bit for bit, of the kept patches alone: they are gathered first, and nothing else is normalised.

    Args:
        pixels: uint8 [B, channels, H, W].
        scores: float32 [B, P].
        normalize: makes patches uint8 [B, K, channels, p, p] what a network takes.

    Returns:
        With `images` float [B, K, channels, p, p].
    """
    kept = _shown(scores, mix, grid, num_keep, pixels)
    keep = kept.keep_indices
    assert keep is not None
    ours = gather_patches(pixels, keep, grid)
    if mix.box is None and mix.lam == 1:
        return kept.of(normalize(ours))
    theirs = gather_patches(pixels.flip(0), keep, grid)
    if mix.box is None:
        return kept.of(_blend(normalize(ours), normalize(theirs), mix.lam))
    inside = inside_box(mix.box, grid, pixels.device)[keep][..., None, None, None]
    return kept.of(normalize(torch.where(inside, theirs, ours)))


class _Kept(NamedTuple):
    """Patches kept of a mixed batch, and the weights of labels: fields of `Mixed`."""

    keep_indices: Tensor | None
    weights: Tensor
    counts: tuple[int, ...] | None = None

    def of(self, images: Tensor, box: Box | None = None) -> Mixed:
        """The mixed batch, with its pixels."""
        return Mixed(images=images, box=box, **self._asdict())


def _shown(
    scores: Tensor | None, mix: Mix, grid: tuple[int, int], num_keep: int | tuple[int, ...], images: Tensor
) -> _Kept:
    inside = None if mix.box is None else inside_box(mix.box, grid, images.device)
    if scores is None:
        share = torch.tensor(mix.lam, device=images.device) if inside is None else (~inside).float().mean()
        return _Kept(None, share.expand(len(images)))
    blended = _blend(scores, scores.flip(0), mix.lam) if inside is None else torch.where(inside, scores.flip(0), scores)
    counts = None if isinstance(num_keep, int) else mixed_counts(num_keep, mix, grid)
    keep = top_patches(blended, num_keep) if isinstance(num_keep, int) else own_top_patches(blended, counts or ())
    if inside is None:
        return _Kept(keep, torch.full((len(images),), mix.lam, device=images.device), counts)
    is_ours = (~inside)[keep].float()
    if counts is None:
        return _Kept(keep, is_ours.mean(dim=1))
    is_kept = keep != NO_PATCH
    return _Kept(keep, (is_ours * is_kept).sum(dim=1) / is_kept.sum(dim=1), counts)


def _blend(ours: Tensor, theirs: Tensor, lam: float) -> Tensor:
    return ours if lam == 1 else lam * ours + (1 - lam) * theirs


def _cut_in(images: Tensor, box: Box, grid: tuple[int, int]) -> Tensor:
    patch_px = images.shape[-1] // grid[1]
    y = slice(box.top * patch_px, box.bottom * patch_px)
    x = slice(box.left * patch_px, box.right * patch_px)
    mixed = images.clone()
    mixed[..., y, x] = images.flip(0)[..., y, x]
    return mixed


def top_patches(scores: Tensor, num_keep: int) -> Tensor:
    """The K patches of highest score, of equals the first, ascending: int64 [B, K]."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, :num_keep].sort(dim=1).values


def own_top_patches(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Of each image as many patches of highest score as its count, ascending, then `NO_PATCH`: int64 [B, K]."""
    num_patches = scores.shape[1]
    order = scores.argsort(dim=1, descending=True, stable=True)[:, : max(counts)]
    places = torch.arange(order.shape[1], device=order.device)
    is_kept = places < torch.tensor(counts, device=order.device)[:, None]
    kept = order.where(is_kept, num_patches).sort(dim=1).values
    return kept.where(is_kept, NO_PATCH)
