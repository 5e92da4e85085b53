"""Recipes that studies share."""

from __future__ import annotations

from ...stages.training.config import TrainConfig
from ...stages.training.optimization import BASE_BATCH_SIZE
from .inputs import StudyInputs


def short_recipe(inputs: StudyInputs, *, model: str, epochs: int, batch_size: int, peak_lr: float) -> TrainConfig:
    """Centre views, mirrored, without colours, and nothing that mixes, erases or drops: short runs learn with it.

    Args:
        batch_size: where `inputs` ask for no other.
        peak_lr: of a step, whatever the batch.
    """
    batch_size = inputs.batch_size or batch_size
    return TrainConfig.of(
        out=inputs.folder,
        shards=inputs.shards,
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        lr=peak_lr * BASE_BATCH_SIZE / batch_size,
        warmup_epochs=epochs / 8,
        drop_path=0.0,
        view_mode="static",
        augment="crop",
        random_erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        ema_decay=0.0,
        shuffle_buffer=10_000,
        log_steps=20,
        **inputs.runtime.flat(),
    )
