"""The loss of a training step: plain, on mixed images, or with token labels, as the student and the recipe ask for."""

from __future__ import annotations

from dataclasses import replace

import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ..data.student_stream import Batch, StreamConfig
from ..runtime.precision import autocast
from .config import MixingOptions, TrainConfig
from .mixing import Mixed, draw_mix, mix_batch
from .patch_mixing import mix_patches
from .token_loss import TokenTargets, both_losses, image_targets, shown_targets


class StudentLoss:
    """The loss of one rank's batches.

    Args:
        mixes_tokens: whether the student has an auxiliary head and does CutMix on its tokens (LV-ViT).
    """

    def __init__(self, config: TrainConfig, stream: StreamConfig, rank: int, *, mixes_tokens: bool) -> None:
        self.config, self.stream, self.rank, self.mixes_tokens = config, stream, rank, mixes_tokens
        smoothing = config.recipe.smoothing
        self.criterion = LabelSmoothingCrossEntropy(smoothing) if smoothing > 0 else nn.CrossEntropyLoss()
        self.soft_criterion = SoftTargetCrossEntropy()

    def __call__(self, model: nn.Module, batch: Batch, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """The loss, a scalar, of normalised images float [B, channels, H, W] with labels int64 [B]."""
        c, s = self.config, self.stream
        if self.mixes_tokens:
            return self._with_token_labels(model, batch, images, labels, step)
        if not s.mixing:
            with autocast(images.device, c.runtime.precision):
                plain_loss: Tensor = self.criterion(model(images, _kept(batch, images.device)), labels)
            return plain_loss
        mixed = self._mix(batch, images, c.mixing, step)
        targets = mixed.targets(labels, s.num_classes, c.recipe.smoothing)
        with autocast(images.device, c.runtime.precision):
            mixed_loss: Tensor = self.soft_criterion(model(mixed.images, mixed.keep_indices), targets)
        return mixed_loss

    def _mix(self, batch: Batch, images: Tensor, config: MixingOptions, step: int, *, on_tokens: bool = False) -> Mixed:
        """The batch mixed as (seed, step, rank) say."""
        s = self.stream
        scores = None if batch.scores is None else batch.scores.to(images.device, non_blocking=True)
        mix = draw_mix(config, s.grid, self.config.run.seed, step, self.rank)
        if batch.positions is not None and scores is not None:
            positions = batch.positions.to(images.device, non_blocking=True)
            return mix_patches(images, positions, scores, mix, grid=s.grid, num_keep=s.num_keep)
        return mix_batch(images, scores, mix, grid=s.grid, num_keep=s.num_keep, on_tokens=on_tokens)

    def _with_token_labels(self, model: nn.Module, batch: Batch, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Image and token loss; CutMix, where asked for, on tokens, and no Mixup."""
        c, s, device = self.config, self.stream, images.device
        if s.mixing:
            mixed = self._mix(batch, images, replace(c.mixing, mixup=0.0), step, on_tokens=True)
        else:
            weights = torch.ones(len(images), device=device)
            mixed = Mixed(images=images, keep_indices=_kept(batch, device), weights=weights)
        if batch.token_labels is None:
            targets = image_targets(labels, s.grid[0] * s.grid[1])
        else:
            targets = TokenTargets(*(t.to(device, non_blocking=True) for t in batch.token_labels))
        with autocast(device, c.runtime.precision):
            logits = model(mixed.images, mixed.keep_indices, mixed.box)
        of_image = mixed.targets(labels, s.num_classes, c.recipe.smoothing)
        return both_losses(logits, of_image, shown_targets(targets, mixed, s.grid), c.recipe.smoothing)


def _kept(batch: Batch, device: torch.device) -> Tensor | None:
    return None if batch.keep_indices is None else batch.keep_indices.to(device, non_blocking=True)
