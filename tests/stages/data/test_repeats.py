"""Repetition: each picture of an epoch in several views, decoded once, and over a cycle all views that epochs show."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import OptionError, TicketStore
from dataltt.stages.data import student_stream
from dataltt.stages.data.comparing import compare_or_count
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.layouts import Layout, Stretch, left_after
from dataltt.stages.data.policies import replayed_policy
from dataltt.stages.data.repeats import Repeats
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream, StreamWorker
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.train import train
from hypothesis import given
from hypothesis import strategies as st

from ...helpers import SmallStore, make_store

_NUM_VIEWS = 6


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=5), number=st.integers(1, 4), cycle=st.integers(0, 5))
def test_every_picture_has_one_turn_in_a_cycle(counts: list[int], number: int, cycle: int) -> None:
    epochs = range(cycle * number, (cycle + 1) * number)
    turns = [Repeats(number=number, seed=3, epoch=epoch).pictures(counts) for epoch in epochs]
    for turn in turns:
        assert sum(map(len, turn)) == sum(counts) // number
        assert all((np.diff(places) > 0).all() for places in turn)
    seen = Counter((shard, int(place)) for turn in turns for shard, places in enumerate(turn) for place in places)
    assert set(seen.values()) <= {1}
    assert len(seen) == sum(counts) // number * number
    assert all(0 <= place < counts[shard] for shard, place in seen)
    views = [[Repeats(number=number, seed=3, epoch=epoch).view(r) for r in range(number)] for epoch in epochs]
    assert views == [list(epochs)] * number


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("drawn"), keep_rate=0.7, augment="deit", num_views=_NUM_VIEWS, seed=5)


def _stream(of: SmallStore, **changes: Any) -> StreamConfig:
    store, join = TicketStore.open(of.store), JoinConfig(store=of.store)
    plain = StreamConfig(
        shards=compare_or_count(resolve_shards(of.shards), store, join, SilentReporter(), recount=False).shards,
        view=of.manifest.view,
        image_px=28,
        mode="L",
        grid=(7, 7),
        subset="ticket",
        num_keep=of.manifest.num_keep,
        batch_size=6,
        num_classes=10,
        seed=0,
        join=join,
        view_mode="replay",
        policy=replayed_policy(of.manifest.view, of.store, allow_other_pixels=False),
        num_views=_NUM_VIEWS,
        views_seed=5,
        shuffle_buffer=9,
    )
    return replace(plain, **changes)


def _samples(config: StreamConfig, epoch: int, **position: Any) -> list[tuple[str, bytes, bytes]]:
    """Key, pixels and kept patches of all that an epoch shows."""
    found = []
    for batch in SampleStream(config, StreamPosition(epoch=epoch, **position)):
        assert isinstance(batch, student_stream.Batch)
        assert batch.keep_indices is not None
        for key, image, kept in zip(batch.keys, batch.images, batch.keep_indices, strict=True):
            found.append((key, image.numpy().tobytes(), kept.numpy().tobytes()))
    return found


@pytest.mark.long
@pytest.mark.parametrize("number", [2, 3, 4])
def test_cycles_show_what_epochs_show(drawn: SmallStore, number: int) -> None:
    """Of 4 repeats of 6 views, one turn takes views 4, 5, 0 and 1: those of epochs 4 to 7."""
    plain, repeated = _stream(drawn), _stream(drawn, repeats=number)
    for cycle in range(2):
        epochs = range(cycle * number, (cycle + 1) * number)
        shown = Counter(sample for epoch in epochs for sample in _samples(repeated, epoch))
        assert shown == Counter(sample for epoch in epochs for sample in _samples(plain, epoch))


def test_an_epoch_shows_each_of_its_pictures_as_often_and_apart(drawn: SmallStore) -> None:
    keys = [key for key, *_ in _samples(_stream(drawn, repeats=3), 1)]
    assert set(Counter(keys).values()) == {3}
    assert len(keys) == 36
    assert keys != sorted(keys)
    assert sum(a == b for a, b in itertools.pairwise(keys)) < 12  # not all side by side
    assert {key for key, *_ in _samples(_stream(drawn, repeats=3), 2)}.isdisjoint(keys)


def test_each_picture_is_decoded_once(drawn: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[str] = Counter()
    decode = student_stream.decode_image

    def counted(sample: Any, *args: Any) -> Any:
        decoded[sample.key] += 1
        return decode(sample, *args)

    monkeypatch.setattr(student_stream, "decode_image", counted)
    _samples(_stream(drawn, repeats=3), 0)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 12


@pytest.mark.parametrize("first_step", [1, 4])
def test_a_pass_goes_on_within_an_epoch(drawn: SmallStore, first_step: int) -> None:
    config = _stream(drawn, repeats=3)
    assert _samples(config, 1, first_step=first_step) == _samples(config, 1)[6 * first_step :]


def test_others_go_on_with_the_rest(drawn: SmallStore) -> None:
    config = _stream(drawn, repeats=3)
    taken = (Stretch(layout=Layout(batch_size=6, world_size=1, num_workers=1), num_steps=2),)
    left = left_after(taken, config.num_shown, config.shuffle(StreamPosition(epoch=1)))
    rest = []
    for rank in range(2):
        position = StreamPosition(epoch=1, taken=taken, rank=rank, world_size=2)
        rest += list(StreamWorker(replace(config, batch_size=3), position, 0, 1, left).batches())
    seen = [key for key, *_ in _samples(config, 1)[:12]] + [key for batch in rest for key in batch.keys]
    assert Counter(seen) == Counter(key for key, *_ in _samples(config, 1))


@pytest.mark.long
def test_a_run_says_that_it_repeats(drawn: SmallStore, tmp_path: Path) -> None:
    config = TrainConfig.of(
        tickets=drawn.store, out=tmp_path / "run", repeats=2, epochs=2, batch_size=6, workers=0, device="cpu"
    )
    assert train(config).step == 12
    with pytest.raises(OptionError, match=r"`repeats=7` of 6 view\(s\) would show one twice.*give at most 6"):
        train(config.but(out=tmp_path / "other", repeats=7))
