"""Dealing an epoch to ranks and workers: equal numbers of steps, nothing twice, nothing lost."""

from __future__ import annotations

from dataltt.stages.data.shards import Shard
from dataltt.stages.data.spans import (
    CountedShard,
    eval_run,
    num_train_steps,
    spans_of,
    train_run,
    worker_steps,
)
from hypothesis import given
from hypothesis import strategies as st

_counts = st.lists(st.integers(0, 40), min_size=1, max_size=8)
_batch_sizes = st.integers(1, 9)
_world_sizes = st.integers(1, 5)
_num_workers = st.integers(1, 5)


def _counted(counts: list[int]) -> list[CountedShard]:
    return [CountedShard(shard=Shard(url=f"{i}.tar", name=f"{i}.tar"), num_samples=n) for i, n in enumerate(counts)]


def _sequence(counts: list[int]) -> list[tuple[str, int]]:
    """Shard and place of every sample of an epoch, one after the other."""
    return [(f"{i}.tar", place) for i, n in enumerate(counts) for place in range(n)]


def _samples_of(counts: list[int], start: int, stop: int) -> list[tuple[str, int]]:
    """The samples that the spans of a run name."""
    spans = spans_of(_counted(counts), start, stop)
    for span in spans:
        assert 0 <= span.first < span.stop <= span.counted.num_samples
    return [(s.counted.shard.name, place) for s in spans for place in range(s.first, s.stop)]


@given(counts=_counts, data=st.data())
def test_spans_are_the_pieces_of_a_run(counts: list[int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, sum(counts)))
    stop = data.draw(st.integers(start, sum(counts)))
    assert _samples_of(counts, start, stop) == _sequence(counts)[start:stop]


@given(counts=_counts, batch_size=_batch_sizes, world_size=_world_sizes, num_workers=_num_workers)
def test_training_runs(counts: list[int], batch_size: int, world_size: int, num_workers: int) -> None:
    num_samples = sum(counts)
    num_steps = num_train_steps(num_samples, batch_size, world_size)
    assert num_steps == num_samples // (batch_size * world_size)
    seen: list[tuple[str, int]] = []
    for rank in range(world_size):
        of_rank: list[tuple[str, int]] = []
        for worker in range(num_workers):
            start, stop = train_run(
                num_samples=num_samples,
                batch_size=batch_size,
                rank=rank,
                world_size=world_size,
                worker=worker,
                num_workers=num_workers,
            )
            assert 0 <= start <= stop <= num_samples
            found = _samples_of(counts, start, stop)
            assert len(found) == len(worker_steps(num_steps, worker, num_workers)) * batch_size
            of_rank += found
        assert len(of_rank) == num_steps * batch_size
        seen += of_rank
    assert len(set(seen)) == len(seen) == num_steps * batch_size * world_size
    assert set(seen) <= set(_sequence(counts))
    assert num_samples - len(seen) < batch_size * world_size


@given(counts=_counts, world_size=_world_sizes, num_workers=_num_workers)
def test_testing_runs(counts: list[int], world_size: int, num_workers: int) -> None:
    num_parts = world_size * num_workers
    runs = [eval_run(num_samples=sum(counts), part=part, num_parts=num_parts) for part in range(num_parts)]
    assert [s for start, stop in runs for s in _samples_of(counts, start, stop)] == _sequence(counts)
    lengths = [stop - start for start, stop in runs]
    assert max(lengths) - min(lengths) <= 1


@given(num_steps=st.integers(0, 50), num_workers=_num_workers)
def test_the_steps_of_workers_are_taken_in_turn(num_steps: int, num_workers: int) -> None:
    steps = [list(worker_steps(num_steps, w, num_workers)) for w in range(num_workers)]
    assert sorted(s for each in steps for s in each) == list(range(num_steps))
    assert all(step % num_workers == worker for worker, each in enumerate(steps) for step in each)
