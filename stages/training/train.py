"""Stage two: trains a token-pruned ViT on shards joined with their tickets.

Recipe: DeiT (Touvron et al. 2021), as Shen et al. 2023 use it, from timm's parts, with augmentation that tickets
follow: replayed or warped views, mixing on the patch grid, erasing of whole patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...artifacts_schema import DatalttError
from ..data.batches import Batch
from ..data.class_list import keep_class_list
from ..data.fetching import fetch_tickets
from ..data.layouts import Stretch
from ..data.loader import iterate
from ..data.stream_config import StreamConfig, StreamPosition
from ..data.student_stream import SampleStream
from ..models.checkpoints import (
    latest_checkpoint,
    load_training_state,
)
from ..models.student import Student
from ..options import EvalProtocol, Group
from ..runtime.distributed import Process, process_group
from ..runtime.interrupts import StopRequest
from ..runtime.joint_stop import JointStop
from ..runtime.locks import written_by_one
from ..runtime.moving import on_device
from ..runtime.precision import tf32
from ..runtime.reporting import Reporter, SilentReporter
from .announcements import dealt_anew_in_words, padding_in_words, run_in_words, waiting_in_words
from .config import TrainConfig
from .defaults import out_of, settled
from .elastic import layout_of, taken_before
from .eval_loop import Metrics
from .figures import MUCH_WAITING, Figures, in_hours, in_words
from .plan import RunPlan, plan_run
from .record import LOCK_FILE, begin_run, new_record, resume_run, undo_run
from .room import check_room, check_run_folder
from .run_log import Logger, RunLog, create_logger
from .run_state import Progress, load_state, save_state
from .updates import Updates
from .validation import Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Result of a run. `validation` is the last one, `ema_validation` that of the averaged weights, `best_top1` the
    best of either, all by `protocol`.

    `tflops` is the arithmetic of the whole run so far in 10¹² operations, counted: three forward passes a step; None of
    a student that drops patches by itself.
    `num_skipped` counts bad images that were left out, as often as they were; `num_missing` the samples that have no
    ticket and so were no part of the run.
    `patches_kept` and `patches_padded` are of runs on adaptive tickets: patches of an image on average, as it keeps
    them and as they were computed on, padding among them (`tflops` counts these); of rank 0.
    """

    run: str
    step: int
    epoch: int
    protocol: EvalProtocol | None
    validation: Metrics | None
    ema_validation: Metrics | None
    best_top1: float | None
    num_skipped: int
    num_missing: int = 0
    tflops: float | None = None
    patches_kept: float | None = None
    patches_padded: float | None = None


def train(
    config: TrainConfig,
    reporter: Reporter | None = None,
    *,
    prepare: Callable[[Student], Student] | None = None,
    asked: Group | None = None,
    command: str = "train",
    logger: Logger | None = None,
) -> TrainResult:
    """Runs stage two; under torchrun, this process's share of it.

    Args:
        prepare: gives the student to train instead of a fresh one: that one changed (masks, other weights), or wrapped.
            It is called before a checkpoint is loaded, also on resuming.
        asked: what to write down as asked for, if not `config`.
        command: the command whose run this is; another one does not go on with it.
        logger: is told the metrics too, on rank 0.

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
        held.enter_context(tf32(process.device, is_on=plan.config.runtime.tf32))
        return _Trainer(plan, process, quiet, asked or plan.asked, command, check_lock, logger).run()


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
        logger: Logger | None,
    ) -> None:
        self.plan, self.process, self.reporter, self.check_lock = plan, process, reporter, check_lock
        self.record = new_record(
            asked,
            plan.config,
            command=command,
            world_size=process.world_size,
            ticket_store=plan.ticket_store,
            samples=plan.samples,
        )
        self.out, self.config, self.stream, self.logger = plan.out, plan.config, plan.stream, logger
        self.epochs, self.steps_per_epoch = plan.epochs, plan.steps_per_epoch
        self.updates = Updates(plan.config, plan.student, plan.stream, process, steps_per_epoch=plan.steps_per_epoch)
        self.validation = Validation(plan, self.updates, process, reporter)
        self.layout = layout_of(plan.config, process.world_size)
        self.taken: tuple[Stretch, ...] = ()  # of the epoch under way, by other layouts
        self.step, self.num_skipped = 0, 0
        self.stop = StopRequest(is_shared=process.world_size > 1)
        self.joint_stop = JointStop(process, self.stop)

    def run(self) -> TrainResult:
        """Trains from the start, or from the newest checkpoint, to the end or to `max_steps`."""
        c = self.config
        if self.process.is_main:
            check_room(self.out, self.plan.student.net, c, self.reporter)
        if c.run.resume:
            self._go_on()
        else:
            self.process.on_main(self._begin)
        self.process.barrier()
        self.log = self._opened_log() if self.process.is_main else None
        self.reporter.message(run_in_words(self.plan, self.layout, self.updates.lr))
        self.figures = Figures(
            self.plan.student,
            num_keep=None if self.stream.subset == "dense" else self.stream.num_keep,
            image_px=self.stream.student_px,
            ends_dense=c.dense_epochs > 0,
            padded=self.updates.loss.shown if self.stream.own_counts else None,
            images_per_step=self.layout.global_batch,
            world_size=self.process.world_size,
            precision=c.runtime.precision,
            tf32=c.runtime.tf32,
        )
        self.updates.begin()
        self.first_epoch = self.step // self.steps_per_epoch
        try:
            with self.stop.watched():
                self._run_epochs()
        finally:
            if self.log is not None:
                self.log.close()
            if self.step == 0 and not c.run.resume and self.process.is_main:
                undo_run(self.out)  # ended by an error before it began: the corrected command starts afresh
        return self._result()

    def _result(self) -> TrainResult:
        shown, num_dense = self.updates.loss.shown, self._num_dense_steps
        return TrainResult(
            run=str(self.out),
            step=self.step,
            epoch=self.step // self.steps_per_epoch,
            protocol=self.plan.protocol,
            validation=self.validation.last,
            ema_validation=self.validation.last_of_average,
            best_top1=self.validation.best_top1,
            num_skipped=self.num_skipped,
            num_missing=self.stream.num_missing,
            tflops=self.figures.tflops_spent(self.step - num_dense, num_dense),
            patches_kept=shown.mean_kept if shown.num_images else None,
            patches_padded=shown.mean_padded if shown.num_images else None,
        )

    @property
    def _num_dense_steps(self) -> int:
        """Steps so far on all patches, in the run's dense end."""
        return max(0, self.step - (self.epochs - self.config.dense_epochs) * self.steps_per_epoch)

    def _begin(self) -> None:
        begin_run(self.out, self.record)
        keep_class_list(self.out, self.plan.classes)

    def _opened_log(self) -> RunLog:
        try:
            loggers = [self.logger, create_logger(self.config.logging.log, self.out, asdict(self.record))]
            return RunLog(self.out, first_step=self.step, loggers=[each for each in loggers if each is not None])
        except DatalttError:
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
        self._say_padding()
        self.joint_stop.settle()

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
        per_step = self.layout.global_batch
        self.reporter.start(f"epoch {epoch + 1}/{self.epochs}", self.steps_per_epoch * per_step, "images")
        self.reporter.advance(first * per_step)
        self.figures.begin_epoch(is_dense=epoch >= self.epochs - c.dense_epochs)
        stream = self.plan.stream_of(epoch)
        self.updates.show(stream)
        for batch in self._batches(stream, position):
            self._train_step(batch)
            if self._is_to_stop():
                break
            if c.logging.checkpoint_steps and self.step % c.logging.checkpoint_steps == 0 and self.step < end:
                self._save()
                self.figures.skip()
        self.reporter.finish()
        self._say_waiting(epoch)
        self.updates.check(self.step)
        if self.step == end:
            self.taken = ()
            if (epoch + 1) % c.logging.val_interval == 0 or epoch + 1 == self.epochs:
                self.validation.run(self.step, epoch, self.log)
        elif self._is_to_stop():
            what = "interrupted" if self.joint_stop.is_agreed else "stopped by `max_steps`"
            self.reporter.message(f"{what} at step {self.step}, inside epoch {epoch + 1}: saved, not validated")
        else:
            raise DatalttError(f"epoch {epoch + 1} ended at step {self.step}, not {end}: its shards changed meanwhile")
        self._save()
        self.figures.skip()

    def _batches(self, stream: StreamConfig, position: StreamPosition) -> Iterator[Batch]:
        c, device = self.config, self.process.device
        assert c.runtime.workers is not None
        batches: Iterator[Batch] = iterate(
            SampleStream(stream, position),
            c.runtime.workers,
            pin_memory=device.type == "cuda",
            stall_timeout_s=c.runtime.stall_timeout_s,
            reporter=self.reporter,
        )
        return on_device(self.figures.waited(batches), device)

    def _train_step(self, batch: Batch) -> None:
        loss = self.updates.update(batch, self.step)
        self.step += 1
        self.num_skipped += batch.num_skipped
        self.figures.stepped()
        note = self._log_step(loss) if self.step % self.config.logging.log_steps == 0 else ""
        self.reporter.advance(self.layout.global_batch, note)
        self.joint_stop.after_step()

    def _log_step(self, loss: Tensor) -> str:
        """Writes a line of metrics; returns what to show of them. All ranks come here at the same steps."""
        mean = float(self.process.sum(loss.float().reshape(1))) / self.process.world_size
        self.updates.check(self.step)
        figures = self.figures.since_last()
        if self.log is not None:
            lr = self.updates.optimizer.param_groups[0]["lr"]
            self.log.write(self.step, (self.step - 1) // self.steps_per_epoch, {"loss": mean, "lr": lr, **figures})
        num_left = self.epochs * self.steps_per_epoch - self.step
        num_dense = min(num_left, self.config.dense_epochs * self.steps_per_epoch)
        left = self.figures.seconds_left(num_left - num_dense, num_dense)
        words = [f"loss {mean:.3f}", in_words(figures), f"{in_hours(left)} left of the run" if left else ""]
        return ", ".join(word for word in words if word)

    def _say_padding(self) -> None:
        shown = self.updates.loss.shown
        if self.stream.own_counts and shown.num_images:
            num_patches = self.plan.student.geometry.num_patches
            ends_dense = self.config.dense_epochs > 0
            self.reporter.message(padding_in_words(shown, self.figures, num_patches, ends_dense=ends_dense))

    def _say_waiting(self, epoch: int) -> None:
        share = self.figures.epoch_wait_share
        if self.process.device.type != "cpu" and share > MUCH_WAITING and epoch == self.first_epoch:
            can_bake = self.stream.view_mode == "replay" and self.stream.baked is None
            self.reporter.message(waiting_in_words(share, can_bake=can_bake))

    def _save(self) -> None:
        """Writes a checkpoint, on rank 0; the others wait."""
        self.updates.check(self.step)
        self.check_lock()
        num_skipped = self.process.sum(torch.tensor([float(self.num_skipped)]))
        if self.process.is_main:
            progress = Progress(
                step=self.step,
                best_top1=self.validation.best_top1,
                num_skipped=int(num_skipped),
                layout=self.layout,
                taken=self.taken,
            )
            last = self.validation.last
            save_state(self.plan, self.updates, progress, top1=None if last is None else last.top1)
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

    def _load(self, checkpoint: Path, state: dict[str, Any]) -> None:
        load_state(self.plan, self.updates, checkpoint, state)
        self.step, self.validation.best_top1 = state["step"], state["best_top1"]
        self.num_skipped = state["num_skipped"] if self.process.is_main else 0  # it is that of all ranks
        self.reporter.message(f"resumed at step {self.step}")
        self.taken = taken_before(state, self.layout, self.steps_per_epoch)
        if len(self.taken) > len(state.get("taken", ())):
            epoch = self.step // self.steps_per_epoch
            self.reporter.message(dealt_anew_in_words(self.taken[-1], self.layout, epoch, state["num_skipped"]))
