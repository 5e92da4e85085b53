"""Validation of a run under way: its weights and their average are tested, and the best are kept."""

from __future__ import annotations

from dataclasses import asdict, replace

from torch import nn

from ..models.checkpoints import save_weights
from ..runtime.distributed import Process
from ..runtime.reporting import Reporter
from .eval_loop import Metrics, evaluate_stream
from .plan import RunPlan
from .run_log import RunLog
from .run_state import info_of
from .updates import Updates


class Validation:
    """Tests of a run, by its own protocol.

    Attributes:
        last: what the weights came to in the latest test; None before the first of this call.
        last_of_average: the same of averaged weights, where there are some.
        best_top1: best of either in the whole run, in per cent.
    """

    def __init__(self, plan: RunPlan, updates: Updates, process: Process, reporter: Reporter) -> None:
        self.plan, self.updates, self.process, self.reporter = plan, updates, process, reporter
        self.last: Metrics | None = None
        self.last_of_average: Metrics | None = None
        self.best_top1: float | None = None

    def run(self, step: int, epoch: int, log: RunLog | None) -> None:
        """Tests after `step` steps, at the end of `epoch`, counted from 0; writes it down, and the best weights."""
        if self.plan.val_stream is None:
            return
        shown = self.last = self._tested("testing")
        said = f"epoch {epoch + 1}: top-1 {shown.top1:.2f}, loss {shown.loss:.3f}"
        values = {f"val_{k}": v for k, v in asdict(shown).items()}
        is_ema = False
        if self.updates.ema is not None:
            with self.updates.averaged():
                averaged = self.last_of_average = self._tested("testing averaged weights")
            said += f"; averaged weights {averaged.top1:.2f}, {averaged.loss:.3f}"
            values |= {f"val_ema_{k}": v for k, v in asdict(averaged).items()}
            if averaged.top1 > shown.top1:
                shown, is_ema = averaged, True
        is_best = self.best_top1 is None or shown.top1 > self.best_top1
        if log is not None:
            log.write(step, epoch, {**values, "val_protocol": self.plan.protocol})
        if is_best:
            self.best_top1 = shown.top1
            self._save_best(step, shown, is_ema=is_ema)
        self.reporter.message(f"{said} on {self.plan.protocol}" + (" (best so far)" if is_best else ""))

    def _tested(self, name: str) -> Metrics:
        c, stream = self.plan.config, self.plan.val_stream
        assert stream is not None
        assert c.runtime.workers is not None
        return evaluate_stream(
            self.plan.student,
            stream,
            self.process,
            num_workers=c.runtime.workers,
            precision=c.runtime.precision,
            stall_timeout_s=c.runtime.stall_timeout_s,
            reporter=self.reporter,
            own_patches=self.plan.protocol == "own",
            same_size=c.student.compile,
            name=name,
        )

    def _save_best(self, step: int, tested: Metrics, *, is_ema: bool) -> None:
        if not self.process.is_main:
            return
        net: nn.Module = self.plan.student.net
        if is_ema:
            assert self.updates.ema is not None
            net = self.updates.ema.module
        info = replace(info_of(self.plan, step, top1=tested.top1), is_ema=is_ema)
        save_weights(self.plan.out / "best.safetensors", net.state_dict(), info)
