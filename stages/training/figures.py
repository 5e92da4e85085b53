"""Figures of a run's speed: images, patches, arithmetic, waiting for input, memory, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from ..models.cost import student_gmacs
from ..models.student import Student
from ..padding import PatchesShown
from ..runtime.peaks import peak_flops

_T = TypeVar("_T")
# Names under which figures are logged.
NAMES = frozenset({"images_per_s", "patches_per_s", "wait_share", "tflops_per_s", "peak_share", "memory_gb"})
# A backward pass costs about twice what a forward pass costs.
_PASSES = 3
_FLOPS_PER_GMAC = 2e9
# Above this share of time, input is what a run waits for.
MUCH_WAITING = 0.1


@dataclass(kw_only=True)
class _Span:
    """Time since `began`, and what was done in it."""

    began: float = field(default_factory=time.perf_counter)
    num_steps: int = 0
    work: float = 0.0  # its steps, one on all patches counted as what it computes more
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Work on an image in training: patches, and operations of a forward and a backward pass, where they are known."""

    num_patches: float
    flops: float | None

    @classmethod
    def of(cls, student: Student, num_keep: int | None, image_px: int | None) -> _Work:
        g = student.geometry
        whole = g.num_patches if image_px is None else (image_px // g.patch_px) ** 2
        shown = num_keep if student.saves_compute else None
        gmacs = student_gmacs(student, shown, image_px=image_px) if student.summary is None else None
        return cls(
            num_patches=whole if num_keep is None else num_keep,
            flops=None if gmacs is None else gmacs * _FLOPS_PER_GMAC * _PASSES,
        )


class _Padded:
    """Work on an image of those that keep different numbers of patches, on average over what was computed on.

    A forward pass costs a + b·n + c·n² on n patches: of three numbers of them it is counted.
    """

    def __init__(self, student: Student, shown: PatchesShown, expected: int) -> None:
        self._shown, self._expected = shown, _Work.of(student, expected, None)
        sizes = np.linspace(1, student.geometry.num_patches, 3).round().astype(int).tolist()
        costs = [_Work.of(student, size, None).flops for size in sizes]
        known = [cost for cost in costs if cost is not None]
        self._terms = np.linalg.solve(np.vander(sizes, 3), known) if len(known) == len(sizes) > 2 else None

    @property
    def work(self) -> _Work:
        """The work; before the first batch, that on the expected number."""
        s = self._shown
        if not s.num_images:
            return self._expected
        means = (s.padded_squares / s.num_images, s.mean_padded, 1)
        return _Work(num_patches=s.mean_padded, flops=None if self._terms is None else float(self._terms @ means))


class Figures:
    """Figures of a run under way, of one process of many that do the same.

    Args:
        student: on its device; one that drops patches by itself has no figures of arithmetic.
        num_keep: patches of each image that it is shown.
        image_px: side of the images that it is shown whole; None for its own.
        ends_dense: whether there are epochs on all patches too.
        padded: patches computed on, where images keep different numbers of them; `num_keep` is then about their mean.
        images_per_step: of all processes.
        precision: of its matrix products, fp32 with `tf32` where the device has it.
    """

    def __init__(
        self,
        student: Student,
        *,
        num_keep: int | None,
        image_px: int | None = None,
        ends_dense: bool = False,
        padded: PatchesShown | None = None,
        images_per_step: int,
        world_size: int,
        precision: str,
        tf32: bool,
    ) -> None:
        self.device = next(student.parameters()).device
        self.images_per_step, self.world_size = images_per_step, world_size
        self._usual = _Work.of(student, num_keep, image_px)
        self._padded = None if padded is None else _Padded(student, padded, num_keep or student.geometry.num_patches)
        self.whole = _Work.of(student, None, None) if padded is not None or ends_dense else self._usual
        self._is_dense = False
        self.peak = peak_flops(self.device, precision, tf32=tf32)
        self._run, self._logged, self._epoch = _Span(), _Span(), _Span()

    def waited(self, items: Iterable[_T]) -> Iterator[_T]:
        """Yields what it is given, and counts how long each took to come."""
        iterator = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            for span in (self._run, self._logged, self._epoch):
                span.waited_s += time.perf_counter() - began
            yield item

    def begin_epoch(self, *, is_dense: bool = False) -> None:
        """Counts an epoch's waiting from here, and its work as what an image costs now."""
        self._epoch = _Span()
        self._is_dense = is_dense

    @property
    def usual(self) -> _Work:
        """Work on an image, outside epochs on all patches."""
        return self._usual if self._padded is None else self._padded.work

    @property
    def work(self) -> _Work:
        """Work on an image in this epoch."""
        return self.whole if self._is_dense else self.usual

    def tflops_spent(self, num_usual: int, num_dense: int) -> float | None:
        """Arithmetic of so many steps, and of so many on all patches, in 10¹² operations of all processes."""
        if self.usual.flops is None or self.whole.flops is None:
            return None
        per_step = num_usual * self.usual.flops + num_dense * self.whole.flops
        return self.images_per_step * per_step / 1e12

    def stepped(self) -> None:
        """Counts a step."""
        for span in (self._run, self._logged, self._epoch):
            span.num_steps += 1
            span.work += self._dense_share if self._is_dense else 1.0

    def skip(self) -> None:
        """Leaves out what came since the figures were last asked for: a test, a checkpoint."""
        self._logged = _Span()

    def since_last(self) -> dict[str, float]:
        """Figures of the steps since this was last asked, by the names under which they are logged."""
        span, self._logged = self._logged, _Span()
        took = time.perf_counter() - span.began
        if not span.num_steps or took <= 0:
            return {}
        images_per_s = span.num_steps * self.images_per_step / took
        found = {
            "images_per_s": images_per_s,
            "patches_per_s": images_per_s * self.work.num_patches,
            "wait_share": min(1.0, span.waited_s / took),
        }
        if self.work.flops is not None:
            flops = images_per_s * self.work.flops
            found["tflops_per_s"] = flops / 1e12
            if self.peak is not None:
                found["peak_share"] = flops / self.world_size / self.peak
        if self.device.type == "cuda":
            found["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return found

    @property
    def epoch_wait_share(self) -> float:
        """Share of the epoch's time that went into waiting for input."""
        took = time.perf_counter() - self._epoch.began
        return min(1.0, self._epoch.waited_s / took) if took > 0 else 0.0

    def seconds_left(self, num_usual: int, num_dense: int) -> float | None:
        """Seconds that so many more steps will take, and so many on all patches, tests and checkpoints among them: they
        wait for input as those before, and compute as long as their arithmetic says. None before the first step.
        """
        run = self._run
        if not run.num_steps:
            return None
        waiting = (num_usual + num_dense) * run.waited_s / run.num_steps
        busy_s = time.perf_counter() - run.began - run.waited_s
        return waiting + (num_usual + num_dense * self._dense_share) * busy_s / run.work

    @property
    def _dense_share(self) -> float:
        """Arithmetic of a step on all patches, as a multiple of a usual one; 1 where it is not known."""
        usual, dense = self.usual.flops, self.whole.flops
        return 1.0 if usual is None or dense is None else dense / usual


def in_words(figures: dict[str, float]) -> str:
    """The figures that a person looks at, beside the loss."""
    words = []
    if "patches_per_s" in figures:
        words.append(f"{figures['patches_per_s']:,.0f} patches/s")
    if "tflops_per_s" in figures:
        share = f" ({figures['peak_share']:.0%} of peak)" if "peak_share" in figures else ""
        words.append(f"{figures['tflops_per_s']:.3g} TFLOP/s{share}")
    if figures.get("wait_share", 0.0) >= 0.01:
        words.append(f"{figures['wait_share']:.0%} waiting")
    if "memory_gb" in figures:
        words.append(f"{figures['memory_gb']:.1f} GB")
    return ", ".join(words)


def in_hours(seconds: float) -> str:
    """A duration as people say it: 2 h 05 min, 7 min, 12 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
