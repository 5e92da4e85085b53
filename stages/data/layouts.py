"""Samples of an epoch that were trained on, from how they were dealt and how many steps were taken.

Processes, loader processes and batches decide the order of an epoch's samples. A run that goes on in the middle of an
epoch with other numbers of them deals anew what is left of it: the epoch's sequence without what earlier layouts took.
The order in which a loader process gives its samples is drawn over their places alone, so no shard is read for this.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import webdataset as wds

from ..runtime.randomness import seed_of
from .spans import num_train_steps, train_run, worker_steps

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Dealing of samples: batches of `batch_size` to each of `world_size` processes, by its loader processes.

    Attributes:
        num_workers: loader processes of each process, at least 1: where there is none, the process is its own.
    """

    batch_size: int
    world_size: int
    num_workers: int

    @property
    def global_batch(self) -> int:
        """Samples of a step."""
        return self.batch_size * self.world_size

    def __str__(self) -> str:
        return (
            f"{self.world_size} process(es) with {self.num_workers} loader process(es) each and batches of "
            f"{self.batch_size}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Steps of an epoch that were taken in one layout."""

    layout: Layout
    num_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffle:
    """Draw of the order in which samples are given, in one epoch.

    Attributes:
        buffer: samples that wait to be drawn from.
    """

    seed: int
    epoch: int
    buffer: int

    def shuffled(self, items: Iterable[_T], run: tuple[int, int], num_before: int = 0) -> Iterator[_T]:
        """The items of a run in its order: the same for samples and for their places.

        Args:
            num_before: layouts that took a part of the epoch before this one.
        """
        names = (self.epoch, *run, *([f"after {num_before}"] if num_before else []))
        rng = random.Random(seed_of(self.seed, "shuffle", *names))
        size = max(1, self.buffer)
        given: Iterator[_T] = wds.shuffle(size, initial=size, rng=rng)(iter(items))
        return given


def left_after(taken: Sequence[Stretch], num_samples: int, shuffle: Shuffle) -> npt.NDArray[np.int64]:
    """Positions of an epoch's sequence that are left, ascending: int64, num_samples less a batch for every step."""
    left = np.arange(num_samples)
    for number, stretch in enumerate(taken):
        is_left = np.ones(len(left), dtype=np.bool_)
        for places in _taken_places(stretch, len(left), shuffle, number):
            is_left[places] = False
        left = left[is_left]
    return left


def _taken_places(stretch: Stretch, num_samples: int, shuffle: Shuffle, number: int) -> Iterator[npt.NDArray[np.int64]]:
    """Places that each loader process of a stretch took, of the `num_samples` that it dealt out."""
    layout = stretch.layout
    num_steps = num_train_steps(num_samples, layout.batch_size, layout.world_size)
    for rank, worker in itertools.product(range(layout.world_size), range(layout.num_workers)):
        run = train_run(
            num_samples=num_samples,
            batch_size=layout.batch_size,
            rank=rank,
            world_size=layout.world_size,
            worker=worker,
            num_workers=layout.num_workers,
        )
        done = sum(1 for step in worker_steps(num_steps, worker, layout.num_workers) if step < stretch.num_steps)
        order = itertools.islice(shuffle.shuffled(range(*run), run, number), done * layout.batch_size)
        yield np.fromiter(order, dtype=np.int64)
