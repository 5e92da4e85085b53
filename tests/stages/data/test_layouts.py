"""What is left of an epoch when other numbers of processes, loader processes and images per batch go on with it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.stages.data.comparing import compare_or_count
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.layouts import Layout, Shuffle, Stretch, left_after
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import StreamWorker
from dataltt.stages.runtime.reporting import SilentReporter
from hypothesis import given, settings
from hypothesis import strategies as st

from ...helpers import SmallStore

_Keys = Callable[..., list[str]]


@pytest.fixture(scope="module", params=[False, True], ids=["by name", "by rows"])
def keys_of(small: SmallStore, request: pytest.FixtureRequest) -> _Keys:
    """Keys of the samples that all processes of a layout are given after what others took."""
    found, store, join = resolve_shards(small.shards), TicketStore.open(small.store), JoinConfig(store=small.store)
    plain = StreamConfig(
        shards=compare_or_count(found, store, join, SilentReporter(), recount=request.param).shards,
        view=small.manifest.view,
        image_px=28,
        mode="L",
        grid=(7, 7),
        subset="ticket",
        num_keep=small.manifest.num_keep,
        batch_size=1,
        num_classes=10,
        seed=5,
        join=join,
        shuffle_buffer=7,
    )

    def given_keys(layout: Layout, taken: tuple[Stretch, ...], num_steps: int | None = None) -> list[str]:
        config = replace(plain, batch_size=layout.batch_size)
        keys = []
        for rank in range(layout.world_size):
            position = StreamPosition(epoch=3, taken=taken, rank=rank, world_size=layout.world_size)
            left = left_after(taken, config.num_samples, config.shuffle(position)) if taken else None
            shares = [StreamWorker(config, position, w, layout.num_workers, left) for w in range(layout.num_workers)]
            in_turn = itertools.zip_longest(*(share.batches() for share in shares))
            batches = [batch for batch in itertools.chain.from_iterable(in_turn) if batch is not None]
            keys += [key for batch in batches[:num_steps] for key in batch.keys]
        return keys

    return given_keys


@st.composite
def _layouts(draw: st.DrawFn) -> list[tuple[Layout, int]]:
    """Some layouts of one global batch, and the steps that each takes, of 36 samples."""
    total = draw(st.sampled_from([2, 4, 6, 12]))
    left, found = 36 // total, []
    for _ in range(draw(st.integers(1, 3))):
        world_size = draw(st.sampled_from([n for n in (1, 2, 3, 6) if total % n == 0]))
        layout = Layout(batch_size=total // world_size, world_size=world_size, num_workers=draw(st.integers(1, 3)))
        num_steps = draw(st.integers(0, left))
        left -= num_steps
        found.append((layout, num_steps))
    return found


@pytest.mark.long
@settings(max_examples=10)
@given(layouts=_layouts(), last=st.integers(1, 3))
def test_every_sample_of_an_epoch_comes_once(keys_of: _Keys, layouts: list[tuple[Layout, int]], last: int) -> None:
    taken: tuple[Stretch, ...] = ()
    seen: Counter[str] = Counter()
    for layout, num_steps in layouts:
        seen.update(keys_of(layout, taken, num_steps))
        taken = (*taken, Stretch(layout=layout, num_steps=num_steps))
    rest = Layout(batch_size=layout.global_batch, world_size=1, num_workers=last)
    seen.update(keys_of(rest, taken))
    assert set(seen.values()) == {1}
    assert len(seen) == 36  # a multiple of each global batch


def test_nothing_taken_leaves_all() -> None:
    shuffle, layout = Shuffle(seed=0, epoch=0, buffer=10), Layout(batch_size=4, world_size=2, num_workers=3)
    np.testing.assert_array_equal(left_after([], 50, shuffle), np.arange(50))
    np.testing.assert_array_equal(left_after([Stretch(layout=layout, num_steps=0)], 50, shuffle), np.arange(50))


@pytest.mark.parametrize("num_steps", [1, 4, 6])
def test_each_step_takes_a_global_batch(num_steps: int) -> None:
    layout = Layout(batch_size=4, world_size=2, num_workers=3)
    left = left_after([Stretch(layout=layout, num_steps=num_steps)], 50, Shuffle(seed=0, epoch=1, buffer=10))
    assert len(left) == 50 - 8 * num_steps
    assert (np.diff(left) > 0).all()
