"""Updates of a student's weights, one a step: loss, gradients, optimiser, schedule, average. Parts are timm's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...artifacts_schema import DatalttError
from ..data.batches import Batch
from ..data.stream_config import StreamConfig
from ..models.student import Student
from ..runtime.distributed import Process
from ..runtime.randomness import seed_of
from .config import TrainConfig
from .losses import StudentLoss
from .mixing import pieces_of
from .optimization import clip_gradients, create_optimizer, create_schedule, scaled_lr

# What a checkpoint has of it, beside the weights.
_STATES = ("optimizer", "scheduler", "scaler")


class Updates:
    """Updates of a student under way.

    Attributes:
        model: the student, or what runs it on many processes.
        ema: average of its weights, if there is one.
        lr: learning rate of the run's global batch.
    """

    def __init__(
        self, config: TrainConfig, student: Student, stream: StreamConfig, process: Process, *, steps_per_epoch: int
    ) -> None:
        self.config, self.student, self.stream, self.process = config, student, stream, process
        self.steps_per_epoch = steps_per_epoch
        assert config.recipe.epochs is not None  # a default that is filled in
        device, decay = process.device, config.recipe.ema_decay
        student.to(device)
        if student.channels_last:
            student.to(memory_format=torch.channels_last)
        self.model: nn.Module = student
        self.ema = ModelEmaV3(student.net, decay=decay) if decay > 0 else None
        self.lr = scaled_lr(config, process.world_size)
        self.optimizer = create_optimizer(config, student.net, process.world_size, device)
        self.scheduler = create_schedule(
            config, self.optimizer, epochs=config.recipe.epochs, steps_per_epoch=steps_per_epoch
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.runtime.precision == "fp16")
        self.loss = StudentLoss(config, stream, process.rank, student)
        self._is_finite = torch.ones((), dtype=torch.bool, device=device)

    def show(self, stream: StreamConfig) -> None:
        """Goes on with batches of another stream of the same views."""
        self.stream = self.loss.stream = stream

    def begin(self) -> None:
        """Compiles the student and joins the processes, once its weights are those that it begins with."""
        if self.config.student.compile:
            self.student.compile()
        if self.process.world_size > 1:
            ids = [self.process.device.index] if self.process.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.student, device_ids=ids)

    def update(self, batch: Batch, step: int) -> Tensor:
        """Makes step `step`, from 0 on, with a batch on this device; returns its loss, a scalar without gradient."""
        # Stochastic depth and mixing are drawn anew by (seed, step, rank), so that a resumed run draws the same.
        step_seed = seed_of(self.config.run.seed, "step", step, self.process.rank)
        random.seed(step_seed)
        torch.manual_seed(step_seed)
        self.scheduler.step_update(step)
        self.student.begin_step(step / self.steps_per_epoch)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch, step)
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.config, self.student.net)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.student.net, step=step + 1)
        self._is_finite &= loss.isfinite()
        return loss

    def _backward(self, batch: Batch, step: int) -> Tensor:
        """Adds up a batch's gradients, in as many passes as asked for."""
        pieces = pieces_of(batch, self.config.recipe.grad_accum)
        total = torch.zeros((), device=self.process.device)
        for number, piece in enumerate(pieces):
            with self._joint_gradients(number == len(pieces) - 1):
                loss = self.loss(self.model, piece, step)
                loss = loss * (len(piece.labels) / len(batch.labels))
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _joint_gradients(self, is_last: bool) -> AbstractContextManager[None]:
        """Averages gradients over processes with the last pass alone."""
        if is_last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        no_sync: AbstractContextManager[None] = self.model.no_sync()
        return no_sync

    def check(self, step: int) -> None:
        """Raises if any loss so far was not finite; not asked at every step, since a GPU would have to wait."""
        if not self._is_finite:
            raise DatalttError(
                f"the loss is not finite at step {step} or before; lower `lr`, or use `precision='fp32'`"
            )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives the student its averaged weights while the block runs."""
        assert self.ema is not None
        ours, theirs = self.student.net.state_dict(), self.ema.module.state_dict()
        try:
            _exchange(ours, theirs)
            yield
        finally:
            _exchange(ours, theirs)

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint needs, beside the weights, to go on from here."""
        return {name: getattr(self, name).state_dict() for name in _STATES}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; one of an earlier version has no loss scale."""
        for name in _STATES:
            if state.get(name):
                getattr(self, name).load_state_dict(state[name])


@torch.no_grad()
def _exchange(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Swaps values in place, so that nothing that was compiled is compiled again."""
    for name, tensor in ours.items():
        before = tensor.clone()
        tensor.copy_(theirs[name])
        theirs[name].copy_(before)
