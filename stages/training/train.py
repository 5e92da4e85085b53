"""Stage two: trains a token-pruned ViT on shards joined with their tickets.

Recipe: DeiT (Touvron et al. 2021), as Shen et al. 2023 use it, from timm's parts, with augmentation that tickets
follow: replayed or warped views, mixing on the patch grid, erasing of whole patches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ...artifacts_schema import DatalttError, DiskError, OptionError
from ..data.class_list import keep_class_list
from ..data.fetching import fetch_tickets
from ..data.layouts import Stretch
from ..data.loader import iterate
from ..data.student_stream import Batch, SampleStream, StreamPosition
from ..models.checkpoints import (
    CheckpointInfo,
    latest_checkpoint,
    load_training_state,
    save_checkpoint,
    save_weights,
)
from ..models.registry import load_weights, read_weights
from ..models.student import Student
from ..options import EvalProtocol, Group
from ..runtime.distributed import Process, process_group
from ..runtime.interrupts import StopRequest
from ..runtime.joint_stop import JointStop
from ..runtime.locks import written_by_one
from ..runtime.randomness import seed_of
from ..runtime.reporting import Reporter, SilentReporter
from .config import TrainConfig
from .elastic import layout_of, taken_before
from .evaluate import Metrics, center_of, evaluate_stream
from .inputs import network_inputs
from .losses import StudentLoss
from .mixing import pieces_of
from .optimization import clip_gradients, create_optimizer, create_schedule, scaled_lr
from .plan import RunPlan, out_of, plan_run, settled
from .record import LOCK_FILE, begin_run, new_record, resume_run, undo_run
from .room import check_room, check_run_folder
from .run_log import RunLog


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Result of a run. `validation` is the last one, `best_top1` the best, both by `protocol`.

    `num_skipped` counts bad images that were left out, as often as they were; `num_missing` the samples that have no
    ticket and so were no part of the run.
    """

    run: str
    step: int
    epoch: int
    protocol: EvalProtocol | None
    validation: Metrics | None
    best_top1: float | None
    num_skipped: int
    num_missing: int = 0


def train(
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    prepare: Callable[[Student], Student] | None = None,
    asked: Group | None = None,
    command: str = "train",
) -> TrainResult:
    """Runs stage two; under torchrun, this process's share of it.

    Args:
        prepare: gives the student to train instead of a fresh one: that one changed (masks, other weights), or wrapped.
            It is called before a checkpoint is loaded, also on resuming.
        asked: what to write down as asked for, if not `config`.
        command: the command whose run this is; another one does not go on with it.

    Raises:
        DatalttError: anything that the user can mend.
    """
    out = out_of(config)
    with (
        process_group(config.runtime.device, rank_timeout_s=config.runtime.rank_timeout_s) as process,
        ExitStack() as held,
    ):
        process.on_main(lambda: check_run_folder(out))
        writer = written_by_one(
            process, out / LOCK_FILE, f"dataltt {command}", place=out, timeout_s=config.run.lock_timeout_s
        )
        check_lock = held.enter_context(writer)
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        config = settled(config)
        process.barrier()  # all have looked whether there is a run, before one begins it
        plan = plan_run(config, process, quiet)
        for stream in (plan.stream, plan.val_stream):
            if stream is not None:
                fetch_tickets(stream, quiet)
        if prepare is not None:
            plan = replace(plan, student=prepare(plan.student))
        return _Trainer(plan, process, quiet, asked or plan.asked, command, check_lock).run()


class _Trainer:
    """Run under way."""

    def __init__(
        self,
        plan: RunPlan,
        process: Process,
        reporter: Reporter,
        asked: Group,
        command: str,
        check_lock: Callable[[], None],
    ) -> None:
        self.process, self.reporter, self.out, self.check_lock = process, reporter, plan.out, check_lock
        self.record = new_record(
            asked,
            plan.config,
            command=command,
            world_size=process.world_size,
            ticket_store=plan.ticket_store,
            samples=plan.samples,
        )
        self.config, self.student, self.steps_per_epoch = plan.config, plan.student, plan.steps_per_epoch
        self.stream, self.val_stream, self.protocol = plan.stream, plan.val_stream, plan.protocol
        self.epochs, self.classes = plan.epochs, plan.classes
        self._build()

    def _build(self) -> None:
        """Optimiser, schedule, loss, average: timm's parts, with the recipe's numbers."""
        c, device = self.config, self.process.device
        self.student.to(device)
        self.ema = ModelEmaV3(self.student.net, decay=c.recipe.ema_decay) if c.recipe.ema_decay > 0 else None
        self.lr = scaled_lr(c, self.process.world_size)
        self.optimizer = create_optimizer(c, self.student.net, self.process.world_size)
        self.scheduler = create_schedule(c, self.optimizer, epochs=self.epochs, steps_per_epoch=self.steps_per_epoch)
        self.loss = StudentLoss(c, self.stream, self.process.rank, mixes_tokens=self.student.mixes_tokens)
        self.layout = layout_of(c, self.process.world_size)
        self.taken: tuple[Stretch, ...] = ()  # of the epoch under way, by other layouts
        self.step = 0
        self.best_top1: float | None = None
        self.validation: Metrics | None = None
        self.num_skipped = 0
        self._loss_is_finite = torch.ones((), dtype=torch.bool, device=device)
        self.stop = StopRequest(is_shared=self.process.world_size > 1)
        self.joint_stop = JointStop(self.process, self.stop)
        self._last_logged: tuple[int, float] | None = None

    def run(self) -> TrainResult:
        """Trains from the start, or from the newest checkpoint, to the end or to `max_steps`."""
        c = self.config
        if self.process.is_main:
            check_room(self.out, self.student.net, c, self.reporter)
        if c.run.resume:
            self._go_on()
        else:
            self.process.on_main(self._begin)
        self.process.barrier()
        self.log = self._opened_log() if self.process.is_main else None
        self._announce()
        if c.student.compile:
            self.student.compile()
        self.model: torch.nn.Module = self.student
        if self.process.world_size > 1:
            ids = [self.process.device.index] if self.process.device.type == "cuda" else None
            self.model = DistributedDataParallel(self.student, device_ids=ids)
        try:
            with self.stop.watched():
                self._run_epochs()
        finally:
            if self.log is not None:
                self.log.close()
            if self.step == 0 and not c.run.resume and self.process.is_main:
                undo_run(self.out)  # ended by an error before it began: the corrected command starts afresh
        return TrainResult(
            run=str(self.out),
            step=self.step,
            epoch=self.step // self.steps_per_epoch,
            protocol=self.protocol,
            validation=self.validation,
            best_top1=self.best_top1,
            num_skipped=self.num_skipped,
            num_missing=self.stream.num_missing,
        )

    def _begin(self) -> None:
        begin_run(self.out, self.record)
        keep_class_list(self.out, self.classes)

    def _opened_log(self) -> RunLog:
        try:
            return RunLog(self.out, first_step=self.step)
        except DiskError:
            if not self.config.run.resume:
                undo_run(self.out)  # the corrected command starts afresh
            raise

    def _run_epochs(self) -> None:
        if self._is_to_stop():
            is_at_end = self.step >= self.epochs * self.steps_per_epoch
            why = f"all {self.epochs} epoch(s) are done" if is_at_end else "raise `max_steps`"
            self.reporter.message(f"nothing left to do at step {self.step}: {why}")
        for epoch in range(self.step // self.steps_per_epoch, self.epochs):
            if self._is_to_stop():
                break
            self._epoch(epoch)
        self.joint_stop.settle()

    def _announce(self) -> None:
        c, s = self.config, self.stream
        kept = "all patches" if c.control == "dense" else f"{s.num_keep} of {s.grid[0] * s.grid[1]} patches"
        if c.control != "dense" and not self.student.saves_compute:
            kept += " (the others are set to zero, which saves no compute)"
        tested = "while dropping" if self.student.summary else f"on {self.protocol}"
        what = self.student.summary or f"{c.control}: {kept}"
        left_out = s.num_samples - self.steps_per_epoch * c.recipe.batch_size * self.process.world_size
        self.reporter.message(
            f"{c.student.model}, {what}; {s.num_samples} images, {self.steps_per_epoch} steps per epoch"
            + (f" (each epoch leaves out another {left_out}, less than a batch)" if left_out else "")
            + f", learning rate {self.lr:.3g}"
            + (f"; best kept by testing {tested}" if self.protocol else "; no `val_shards`: no best is kept")
        )

    def _is_to_stop(self) -> bool:
        at_end = self.step >= self.epochs * self.steps_per_epoch
        at_max_steps = self.config.run.max_steps is not None and self.step >= self.config.run.max_steps
        return at_end or at_max_steps or self.joint_stop.is_agreed

    def _epoch(self, epoch: int) -> None:
        """Trains one epoch, or what is left of it, or up to `max_steps`; tests if it came to its end; saves."""
        c = self.config
        first, end = self.step - epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch
        position = StreamPosition(
            epoch=epoch,
            taken=self.taken,
            first_step=first - sum(stretch.num_steps for stretch in self.taken),
            rank=self.process.rank,
            world_size=self.process.world_size,
        )
        per_step = c.recipe.batch_size * self.process.world_size
        self.reporter.start(f"epoch {epoch + 1}/{self.epochs}", self.steps_per_epoch * per_step, "images")
        self.reporter.advance(first * per_step)
        for batch in self._batches(position):
            self._train_step(batch)
            if self._is_to_stop():
                break
            if c.logging.checkpoint_steps and self.step % c.logging.checkpoint_steps == 0 and self.step < end:
                self._save()
        self.reporter.finish()
        self._check_loss()
        if self.step == end:
            self.taken = ()
            self._validate(epoch)
        elif self._is_to_stop():
            what = "interrupted" if self.joint_stop.is_agreed else "stopped by `max_steps`"
            self.reporter.message(f"{what} at step {self.step}, inside epoch {epoch + 1}: saved, not validated")
        else:
            raise DatalttError(f"epoch {epoch + 1} ended at step {self.step}, not {end}: its shards changed meanwhile")
        self._save()

    def _batches(self, position: StreamPosition) -> Iterator[Batch]:
        assert self.config.runtime.workers is not None
        pin = self.process.device.type == "cuda"
        return iterate(
            SampleStream(self.stream, position),
            self.config.runtime.workers,
            pin_memory=pin,
            stall_timeout_s=self.config.runtime.stall_timeout_s,
            reporter=self.reporter,
        )

    def _train_step(self, batch: Batch) -> None:
        c = self.config
        # Stochastic depth and mixing are drawn anew by (seed, step, rank), so that a resumed run draws the same.
        step_seed = seed_of(c.run.seed, "step", self.step, self.process.rank)
        random.seed(step_seed)
        torch.manual_seed(step_seed)
        self.scheduler.step_update(self.step)
        self.student.begin_step(self.step / self.steps_per_epoch)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(batch)
        clip_gradients(c, self.student.net)
        self.optimizer.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.student.net, step=self.step)
        self.num_skipped += batch.num_skipped
        self._loss_is_finite &= loss.isfinite()
        note = self._log_step(loss, len(batch.labels)) if self.step % c.logging.log_steps == 0 else ""
        self.reporter.advance(len(batch.labels) * self.process.world_size, note)
        self.joint_stop.after_step()

    def _backward(self, batch: Batch) -> Tensor:
        """Adds up a batch's gradients, in as many passes as asked for; returns its loss, a scalar without gradient."""
        device = self.process.device
        pieces = pieces_of(batch, self.config.recipe.grad_accum)
        loss = torch.zeros((), device=device)
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            with (
                nullcontext()
                if is_last or not isinstance(self.model, DistributedDataParallel)
                else self.model.no_sync()
            ):
                images = network_inputs(piece, self.stream.view, device)
                labels = piece.labels.to(device, non_blocking=True)
                of_piece = self.loss(self.model, piece, images, labels, self.step) * (len(labels) / len(batch.labels))
                of_piece.backward()
            loss += of_piece.detach()
        return loss

    def _joint_gradients(self, is_last: bool) -> AbstractContextManager[None]:
        """Averages gradients over processes with the last pass alone."""
        if is_last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        no_sync: AbstractContextManager[None] = self.model.no_sync()
        return no_sync

    def _log_step(self, loss: Tensor, batch_size: int) -> str:
        """Writes a line of metrics; returns the figure to show. All ranks come here at the same steps."""
        mean = float(self.process.sum(loss.float().reshape(1))) / self.process.world_size
        self._check_loss()
        now = time.perf_counter()
        values: dict[str, Any] = {"loss": mean, "lr": self.optimizer.param_groups[0]["lr"]}
        if self._last_logged is not None:
            last_step, last_time = self._last_logged
            seen = (self.step - last_step) * batch_size * self.process.world_size
            values["images_per_s"] = seen / (now - last_time)
        self._last_logged = (self.step, now)
        if self.log is not None:
            self.log.write(self.step, (self.step - 1) // self.steps_per_epoch, values)
        return f"loss {mean:.3f}"

    def _check_loss(self) -> None:
        """Raises if any loss so far was not finite; not asked at every step, since a GPU would have to wait."""
        if not self._loss_is_finite:
            raise DatalttError(
                f"the loss is not finite at step {self.step} or before; lower `lr`, or use `precision='fp32'`"
            )

    def _validate(self, epoch: int) -> None:
        if self.val_stream is None:
            return
        c = self.config
        assert c.runtime.workers is not None
        metrics = evaluate_stream(
            self.student,
            self.val_stream,
            self.process,
            num_workers=c.runtime.workers,
            precision=c.runtime.precision,
            stall_timeout_s=c.runtime.stall_timeout_s,
            reporter=self.reporter,
            own_patches=self.protocol == "own",
        )
        self.validation = metrics
        best = self.best_top1 is None or metrics.top1 > self.best_top1
        if best:
            self.best_top1 = metrics.top1
        if self.log is not None:
            values = {f"val_{k}": v for k, v in asdict(metrics).items()}
            self.log.write(self.step, epoch, {**values, "val_protocol": self.protocol})
        if best and self.process.is_main:
            save_weights(self.out / "best.safetensors", self.student.net.state_dict(), self._info())
        self.reporter.message(
            f"epoch {epoch + 1}: top-1 {metrics.top1:.2f}, loss {metrics.loss:.3f} on {self.protocol}"
            + (" (best so far)" if best else "")
        )
        self._last_logged = (self.step, time.perf_counter())

    def _info(self) -> CheckpointInfo:
        c, s = self.config, self.stream
        assert c.student.model is not None
        return CheckpointInfo(
            model=c.student.model,
            num_classes=s.num_classes,
            image_px=s.image_px,
            view=center_of(s.view),
            control=c.control,
            num_keep=self.student.fixed_num_keep or s.num_keep,
            swin_input=c.student.swin_input,
            step=self.step,
            epoch=self.step // self.steps_per_epoch,
            protocol=self.protocol,
            top1=self.validation.top1 if self.validation else None,
        )

    def _save(self) -> None:
        """Writes a checkpoint, on rank 0; the others wait."""
        self._check_loss()
        self.check_lock()
        num_skipped = self.process.sum(torch.tensor([float(self.num_skipped)]))
        if self.process.is_main:
            training = {
                "step": self.step,
                "steps_per_epoch": self.steps_per_epoch,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "best_top1": self.best_top1,
                "num_skipped": int(num_skipped),
                "layout": asdict(self.layout),
                "taken": [asdict(stretch) for stretch in self.taken],
            }
            ema = self.ema.module.state_dict() if self.ema is not None else None
            save_checkpoint(self.out, self._info(), self.student.net.state_dict(), ema, training)
        self.process.barrier()

    def _go_on(self) -> None:
        """Checks that the run in the folder is this one, says what was changed, and loads its newest checkpoint."""
        checkpoint = latest_checkpoint(self.out)
        state = None if checkpoint is None else load_training_state(checkpoint, self.process.device)
        step, num_skipped = (0, 0) if state is None else (state["step"], state["num_skipped"])
        if self.process.is_main:
            options, any_skipped = type(self.config), num_skipped > 0
            for change in resume_run(self.out, self.record, options, step=step, any_skipped=any_skipped):
                self.reporter.message(f"changed from step {step} on: {change}")
        if checkpoint is None or state is None:
            self.reporter.message(f"there is no checkpoint in {self.out} yet; starting at step 0")
            return
        self._load(checkpoint, state)

    def _say_dealt_anew(self, num_skipped: int) -> None:
        last = self.taken[-1]
        said = f"the rest of epoch {self.step // self.steps_per_epoch + 1} is dealt to {self.layout}, in another order "
        said += f"than to {last.layout}: each of its samples once"
        if num_skipped:  # others took their places, and which ones cannot be told without reading all again
            said += f", but up to {num_skipped} that stood in for bad images, which may be seen again"
        self.reporter.message(said)

    def _load(self, checkpoint: Path, state: dict[str, Any]) -> None:
        assert self.config.student.model is not None
        source = checkpoint / "model.safetensors"
        load_weights(self.student.net, read_weights(source), str(source), self.config.student.model)
        if self.ema is not None:
            source = checkpoint / "ema.safetensors"
            load_weights(self.ema.module, read_weights(source), str(source), self.config.student.model)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.best_top1 = state["step"], state["best_top1"]
        self.num_skipped = state["num_skipped"] if self.process.is_main else 0  # it is that of all ranks
        if state["steps_per_epoch"] != self.steps_per_epoch:
            raise OptionError(
                f"the shards held {state['steps_per_epoch']} steps per epoch and now hold "
                f"{self.steps_per_epoch}; give the same shards"
            )
        self.reporter.message(f"resumed at step {self.step}")
        self.taken = taken_before(state, self.layout, self.steps_per_epoch)
        if len(self.taken) > len(state.get("taken", ())):
            self._say_dealt_anew(state["num_skipped"])
