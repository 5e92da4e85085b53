"""Dealing samples to ranks and workers so that all take equal numbers of steps, whatever the shards hold.

An epoch is a sequence: its shards in some order, their samples one after the other. Every rank gets a run of it of the
same length, every worker a run of its rank's. A run may begin and end inside a shard; who reads it passes over the
samples before. Samples that have no ticket, where they need one, are no part of the sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .shards import Shard


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleRows:
    """The store's row of each of a shard's n samples, in the shard's order.

    Attributes:
        rows: int64 [n], negative where a sample is passed over.
        by_digest: bool [n], whether the store knows the image by another key.
    """

    rows: npt.NDArray[np.int64]
    by_digest: npt.NDArray[np.bool_]

    def of_given(self, wanted: slice | npt.NDArray[np.int64]) -> SampleRows:
        """Those of some of the given samples: samples that are passed over do not count."""
        places = np.flatnonzero(self.rows >= 0)[wanted]
        return SampleRows(rows=self.rows[places], by_digest=self.by_digest[places])


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedShard:
    """A shard and how many samples it gives.

    Attributes:
        num_missing: samples that it holds besides, which have no ticket and are passed over.
        rows: None where its samples are those that the store knows it by, or where no store is asked.
    """

    shard: Shard
    num_samples: int
    num_missing: int = 0
    rows: SampleRows | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardSpan:
    """Samples first up to stop (zero-based, in the shard's order) of those that a shard gives.

    Attributes:
        chosen: int64, ascending: only these of them. None: all.
    """

    counted: CountedShard
    first: int
    stop: int
    chosen: npt.NDArray[np.int64] | None = None

    @property
    def wanted(self) -> slice | npt.NDArray[np.int64]:
        """Places of its samples among those that the shard gives."""
        return slice(self.first, self.stop) if self.chosen is None else self.chosen

    def has(self, position: int) -> bool:
        """Tells whether a sample of the shard is one of the span's."""
        if not self.first <= position < self.stop:
            return False
        if self.chosen is None:
            return True
        place = int(np.searchsorted(self.chosen, position))
        return place < len(self.chosen) and int(self.chosen[place]) == position


def spans_of(shards: Sequence[CountedShard], start: int, stop: int) -> list[ShardSpan]:
    """The pieces of shards that make up positions start up to stop of the sequence."""
    spans = []
    position = 0
    for counted in shards:
        first = max(start - position, 0)
        last = min(stop - position, counted.num_samples)
        if first < last:
            spans.append(ShardSpan(counted=counted, first=first, stop=last))
        position += counted.num_samples
    return spans


def spans_at(shards: Sequence[CountedShard], positions: npt.NDArray[np.int64]) -> list[ShardSpan]:
    """The pieces of shards that make up some positions of the sequence (int64, ascending)."""
    spans = []
    before = 0
    for counted in shards:
        first, stop = np.searchsorted(positions, [before, before + counted.num_samples])
        if first < stop:
            chosen = positions[first:stop] - before
            spans.append(ShardSpan(counted=counted, first=int(chosen[0]), stop=int(chosen[-1]) + 1, chosen=chosen))
        before += counted.num_samples
    return spans


def num_train_steps(num_samples: int, batch_size: int, world_size: int) -> int:
    """Steps of a training epoch: full batches on every rank. What is left over differs from epoch to epoch."""
    return num_samples // (batch_size * world_size)


def worker_steps(num_steps: int, worker: int, num_workers: int) -> range:
    """The steps whose batches a worker makes, of a loader that takes batches from its workers in turn."""
    return range(worker, num_steps, num_workers)


def train_run(
    *, num_samples: int, batch_size: int, rank: int, world_size: int, worker: int, num_workers: int
) -> tuple[int, int]:
    """Start and stop, in the epoch's sequence, of the samples that a worker of a rank makes its batches from."""
    num_steps = num_train_steps(num_samples, batch_size, world_size)
    before = sum(len(worker_steps(num_steps, w, num_workers)) for w in range(worker))
    start = (rank * num_steps + before) * batch_size
    return start, start + len(worker_steps(num_steps, worker, num_workers)) * batch_size


def eval_run(*, num_samples: int, part: int, num_parts: int) -> tuple[int, int]:
    """Start and stop of part `part` of the sequence cut into `num_parts` nearly equal runs: every sample once."""
    return num_samples * part // num_parts, num_samples * (part + 1) // num_parts
