"""The loss of a training step: plain, on mixed images, or with token labels, as the student and the recipe ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ..data.batches import Batch
from ..data.images import normalize
from ..data.stream_config import StreamConfig
from ..models.resizing import resize_images
from ..models.student import Student
from ..padding import PatchesShown
from ..runtime.precision import autocast
from .config import TrainConfig
from .groups import MixingOptions
from .inputs import kept_inputs, network_inputs
from .mixing import Mixed, draw_mix, mix_batch, mix_kept
from .patch_mixing import mix_patches
from .token_loss import TokenTargets, both_losses, image_targets, shown_targets


class StudentLoss:
    """The loss of one rank's batches.

    Args:
        student: that is trained; of those that take kept patches alone, nothing else is normalised.

    Attributes:
        shown: patches that were computed on so far, where images keep different numbers of them.
    """

    def __init__(self, config: TrainConfig, stream: StreamConfig, rank: int, student: Student) -> None:
        self.config, self.stream, self.rank, self.student = config, stream, rank, student
        smoothing = config.recipe.smoothing
        self.criterion = LabelSmoothingCrossEntropy(smoothing) if smoothing > 0 else nn.CrossEntropyLoss()
        self.soft_criterion = SoftTargetCrossEntropy()
        self.shown = PatchesShown()

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Tensor:
        """The loss, a scalar, of a batch that is on the device."""
        c, s = self.config, self.stream
        if self.student.mixes_tokens:
            return self._with_token_labels(model, batch, step)
        device = batch.images.device
        if not s.mixing:
            images = kept_inputs(batch, s, self.student)
            with autocast(device, c.runtime.precision):
                shown = resize_images(images, s.student_px)
                logits = self._logits(model, shown, batch.keep_indices, batch.counts)
            plain_loss: Tensor = self.criterion(logits.float(), batch.labels)
            return plain_loss
        mixed = self._mix(batch, c.mixing, step)
        targets = mixed.targets(batch.labels, s.num_classes, c.recipe.smoothing)
        with autocast(device, c.runtime.precision):
            shown = resize_images(mixed.images, s.student_px)
            logits = self._logits(model, shown, mixed.keep_indices, mixed.counts)
        mixed_loss: Tensor = self.soft_criterion(logits.float(), targets)
        return mixed_loss

    def _logits(
        self, model: nn.Module, images: Tensor, keep_indices: Tensor | None, counts: tuple[int, ...] | None
    ) -> Tensor:
        """Logits float [B, classes]; counts what is computed on where images keep different numbers of patches."""
        if counts is None:
            plain: Tensor = model(images, keep_indices)
            return plain
        self.shown.add(counts)
        logits: Tensor = model(images, keep_indices, counts)
        return logits

    def _mix(self, batch: Batch, config: MixingOptions, step: int, *, on_tokens: bool = False) -> Mixed:
        """The batch mixed as (seed, step, rank) say."""
        s = self.stream
        mix = draw_mix(config, s.grid, self.config.run.seed, step, self.rank)
        sizes: dict[str, Any] = {"grid": s.grid, "num_keep": batch.counts or s.num_keep}
        if batch.positions is not None and batch.scores is not None:
            return mix_patches(network_inputs(batch, s, self.student), batch.positions, batch.scores, mix, **sizes)
        if batch.scores is not None and self.student.takes_patches:
            return mix_kept(batch.images, batch.scores, mix, normalize=lambda p: normalize(p, s.view), **sizes)
        return mix_batch(network_inputs(batch, s, self.student), batch.scores, mix, on_tokens=on_tokens, **sizes)

    def _with_token_labels(self, model: nn.Module, batch: Batch, step: int) -> Tensor:
        """Image and token loss; CutMix, where asked for, on tokens, and no Mixup."""
        c, s, device, labels = self.config, self.stream, batch.images.device, batch.labels
        if s.mixing:
            mixed = self._mix(batch, replace(c.mixing, mixup=0.0), step, on_tokens=True)
        else:
            weights = torch.ones(len(labels), device=device)
            images = network_inputs(batch, s, self.student)
            mixed = Mixed(images=images, keep_indices=batch.keep_indices, weights=weights)
        if batch.token_labels is None:
            targets = image_targets(labels, s.grid[0] * s.grid[1])
        else:
            targets = TokenTargets(*batch.token_labels)
        with autocast(device, c.runtime.precision):
            logits = model(mixed.images, mixed.keep_indices, mixed.box)
        of_image = mixed.targets(labels, s.num_classes, c.recipe.smoothing)
        return both_losses(logits, of_image, shown_targets(targets, mixed, s.grid), c.recipe.smoothing)
