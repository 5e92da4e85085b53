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

from ...artifacts_schema import DatalttError, OptionError
from ..data.batches import Batch
from ..data.class_list import keep_class_list
from ..data.fetching import fetch_tickets
from ..data.layouts import Stretch
from ..data.loader import iterate
from ..data.stream_config import StreamConfig, StreamPosition
from ..data.student_stream import SampleStream
from ..models.checkpoints import (
    CheckpointInfo,
    latest_checkpoint,
    load_training_state,
    save_checkpoint,
    save_weights,
)
from ..models.resizing import resized_in_words
from ..models.student import Student
from ..models.weights import load_weights, read_weights
from ..options import EvalProtocol, Group
from ..runtime.distributed import Process, process_group
from ..runtime.interrupts import StopRequest
from ..runtime.joint_stop import JointStop
from ..runtime.locks import written_by_one
from ..runtime.moving import on_device
from ..runtime.precision import tf32
from ..runtime.reporting import Reporter, SilentReporter
from .config import TrainConfig
from .defaults import out_of, settled
from .elastic import layout_of, taken_before
from .eval_loop import Metrics, evaluate_stream
from .eval_stream import center_of
from .figures import MUCH_WAITING, Figures, in_hours, in_words, said_of_waiting
from .plan import RunPlan, plan_run
from .record import LOCK_FILE, begin_run, new_record, resume_run, undo_run
from .room import check_room, check_run_folder
from .run_log import Logger, RunLog, create_logger
from .updates import Updates


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
        self.stream_of = plan.stream_of
        self.epochs, self.classes, self.logger = plan.epochs, plan.classes, logger
        self.updates = Updates(plan.config, plan.student, plan.stream, process, steps_per_epoch=plan.steps_per_epoch)
        self.layout = layout_of(plan.config, process.world_size)
        self.taken: tuple[Stretch, ...] = ()  # of the epoch under way, by other layouts
        self.step, self.num_skipped = 0, 0
        self.best_top1: float | None = None
        self.validation: Metrics | None = None
        self.ema_validation: Metrics | None = None
        self.stop = StopRequest(is_shared=process.world_size > 1)
        self.joint_stop = JointStop(process, self.stop)

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
        self.figures = Figures(
            self.student,
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
        shown = self.updates.loss.shown
        return TrainResult(
            run=str(self.out),
            step=self.step,
            epoch=self.step // self.steps_per_epoch,
            protocol=self.protocol,
            validation=self.validation,
            ema_validation=self.ema_validation,
            best_top1=self.best_top1,
            num_skipped=self.num_skipped,
            num_missing=self.stream.num_missing,
            tflops=self.figures.tflops_spent(self.step - self._num_dense_steps, self._num_dense_steps),
            patches_kept=shown.mean_kept if shown.num_images else None,
            patches_padded=shown.mean_padded if shown.num_images else None,
        )

    @property
    def _num_dense_steps(self) -> int:
        """Steps so far on all patches, in the run's dense end."""
        return max(0, self.step - (self.epochs - self.config.dense_epochs) * self.steps_per_epoch)

    def _begin(self) -> None:
        begin_run(self.out, self.record)
        keep_class_list(self.out, self.classes)

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

    def _announce(self) -> None:
        c, s = self.config, self.stream
        kept = self._shown_in_words()
        tested = "while dropping" if self.student.summary else f"on {self.protocol}"
        what = self.student.summary or f"{c.control}: {kept}"
        left_out = s.num_shown - self.steps_per_epoch * self.layout.global_batch
        repeated = f" (1 in {s.repeats} each epoch, in {s.repeats} views)" if s.repeats > 1 else ""
        self.reporter.message(
            f"{c.student.model}, {what}; {s.num_samples} images{repeated}, {self.steps_per_epoch} steps per epoch"
            + (f" (each epoch leaves out another {left_out}, less than a batch)" if left_out else "")
            + f", learning rate {self.updates.lr:.3g}"
            + (f"; the last {c.dense_epochs} epoch(s) on all patches" if c.dense_epochs else "")
            + (f"; best kept by testing {tested}" if self.protocol else "; no `val_shards`: no best is kept")
        )

    def _shown_in_words(self) -> str:
        s, num_patches = self.stream, self.student.geometry.num_patches
        if s.student_px is not None:
            return resized_in_words(self.student.geometry, s.student_px, s.num_keep)
        if s.subset == "dense":
            return "all patches"
        if s.own_counts:
            return f"as many patches as an image needs, about {s.num_keep} of {num_patches} on average"
        zeroed = "" if self.student.saves_compute else " (the others are set to zero, which saves no compute)"
        return f"{s.num_keep} of {num_patches} patches{zeroed}"

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
        stream = self.stream_of(epoch)
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
                self._validate(epoch)
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
        """Says what padding leaves of the arithmetic that adaptive tickets save."""
        shown = self.updates.loss.shown
        if not self.stream.own_counts or not shown.num_images:
            return
        num_patches, whole = self.student.geometry.num_patches, self.figures.whole.flops
        flops = self.figures.usual.flops
        share = f"; {flops / whole:.1%} of the arithmetic of all {num_patches}" if flops and whole else ""
        self.reporter.message(
            f"{shown.mean_kept:.1f} patches of an image on average, {shown.mean_padded:.1f} with padding{share}"
        )

    def _say_waiting(self, epoch: int) -> None:
        """Says what to do where a GPU waits for its input."""
        share = self.figures.epoch_wait_share
        if self.process.device.type != "cpu" and share > MUCH_WAITING and epoch == self.first_epoch:
            can_bake = self.stream.view_mode == "replay" and self.stream.baked is None
            self.reporter.message(said_of_waiting(share, can_bake=can_bake))

    def _validate(self, epoch: int) -> None:
        if self.val_stream is None:
            return
        shown = self.validation = self._tested("testing")
        said = f"epoch {epoch + 1}: top-1 {shown.top1:.2f}, loss {shown.loss:.3f}"
        values = {f"val_{k}": v for k, v in asdict(shown).items()}
        is_ema = False
        if self.updates.ema is not None:
            with self.updates.averaged():
                averaged = self.ema_validation = self._tested("testing averaged weights")
            said += f"; averaged weights {averaged.top1:.2f}, {averaged.loss:.3f}"
            values |= {f"val_ema_{k}": v for k, v in asdict(averaged).items()}
            if averaged.top1 > shown.top1:
                shown, is_ema = averaged, True
        is_best = self.best_top1 is None or shown.top1 > self.best_top1
        if self.log is not None:
            self.log.write(self.step, epoch, {**values, "val_protocol": self.protocol})
        if is_best:
            self.best_top1 = shown.top1
            self._save_best(shown, is_ema=is_ema)
        self.reporter.message(f"{said} on {self.protocol}" + (" (best so far)" if is_best else ""))

    def _tested(self, name: str) -> Metrics:
        c = self.config
        assert self.val_stream is not None
        assert c.runtime.workers is not None
        return evaluate_stream(
            self.student,
            self.val_stream,
            self.process,
            num_workers=c.runtime.workers,
            precision=c.runtime.precision,
            stall_timeout_s=c.runtime.stall_timeout_s,
            reporter=self.reporter,
            own_patches=self.protocol == "own",
            same_size=c.student.compile,
            name=name,
        )

    def _save_best(self, tested: Metrics, *, is_ema: bool) -> None:
        if not self.process.is_main:
            return
        assert not is_ema or self.updates.ema is not None
        net = self.updates.ema.module if is_ema and self.updates.ema is not None else self.student.net
        info = replace(self._info(), top1=tested.top1, is_ema=is_ema)
        save_weights(self.out / "best.safetensors", net.state_dict(), info)

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
        self.updates.check(self.step)
        self.check_lock()
        num_skipped = self.process.sum(torch.tensor([float(self.num_skipped)]))
        if self.process.is_main:
            training = {
                "step": self.step,
                "steps_per_epoch": self.steps_per_epoch,
                **self.updates.state_dict(),
                "best_top1": self.best_top1,
                "num_skipped": int(num_skipped),
                "layout": asdict(self.layout),
                "taken": [asdict(stretch) for stretch in self.taken],
                "shown": asdict(self.updates.loss.shown),
            }
            ema = self.updates.ema.module.state_dict() if self.updates.ema is not None else None
            keep = self.config.logging.keep_checkpoints
            save_checkpoint(self.out, self._info(), self.student.net.state_dict(), ema, training, keep=keep)
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
        if self.updates.ema is not None:
            source = checkpoint / "ema.safetensors"
            load_weights(self.updates.ema.module, read_weights(source), str(source), self.config.student.model)
        self.updates.load_state_dict(state)
        self.step, self.best_top1 = state["step"], state["best_top1"]
        self.updates.loss.shown.go_on(**state.get("shown", {}))
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
