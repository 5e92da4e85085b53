"""A run's optimiser and learning-rate schedule: timm's, with the recipe's numbers."""

from __future__ import annotations

from typing import cast

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn

from .config import TrainConfig

BASE_BATCH_SIZE = 512  # of the learning rate's linear scaling


def scaled_lr(config: TrainConfig, world_size: int) -> float:
    """The learning rate of the run's global batch."""
    return config.recipe.lr * config.recipe.batch_size * world_size / BASE_BATCH_SIZE


def create_optimizer(
    config: TrainConfig, net: nn.Module, world_size: int, device: torch.device | None = None
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; biases and norms are not decayed. On a GPU it is one fused kernel."""
    return create_optimizer_v2(
        net,
        opt=config.recipe.opt,
        lr=scaled_lr(config, world_size),
        weight_decay=config.recipe.weight_decay,
        momentum=config.recipe.momentum,
        fused=True if device is not None and device.type == "cuda" else None,
    )


def create_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, *, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """A linear warm-up, then a cosine over the epochs, both by step."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=cast(int, config.recipe.warmup_epochs),  # timm scales it by updates_per_epoch, so a part will do
        min_lr=config.recipe.min_lr,
        warmup_lr=config.recipe.warmup_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    assert scheduler is not None  # timm's answer to an unknown name
    return scheduler


def clip_gradients(config: TrainConfig, net: nn.Module) -> None:
    """Scales the gradients down to a joint norm of at most `config.recipe.clip_grad`, where that is asked for."""
    if config.recipe.clip_grad is not None:
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.recipe.clip_grad)
