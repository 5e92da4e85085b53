"""Dealing samples to ranks and workers so that all take equal numbers of steps, whatever the shards hold.

An epoch is a sequence: its shards in some order, their samples one after the other. Every rank gets a run of it of the
same length, every worker a run of its rank's. A run may begin and end inside a shard; who reads it passes over the
samples before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .shards import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedShard:
    """A shard and how many samples it holds."""

    shard: Shard
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpan:
    """Samples first up to stop (zero-based, in the shard's order) of a shard."""

    counted: CountedShard
    first: int
    stop: int


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
