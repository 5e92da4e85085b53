"""Batches of a baked folder are those of replaying, for any rank, loader process and step to go on at."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from dataltt.artifacts_schema import TicketStore
from dataltt.stages.data.baked_stream import BakedSource, BakedWorker
from dataltt.stages.data.comparing import compare_shards
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.layouts import Layout, Stretch, left_after
from dataltt.stages.data.policies import replayed_policy
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import StreamWorker
from dataltt.stages.runtime.reporting import SilentReporter

from ...helpers import SmallStore
from .conftest import bake_of


@pytest.fixture(scope="module")
def streams(drawn: SmallStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[StreamConfig, StreamConfig]:
    """Replaying with erasing and scores, and the same baked."""
    m, join = drawn.manifest, JoinConfig(store=drawn.store, ranks=True)
    assert m.view.seed is not None
    folder = tmp_path_factory.mktemp("stream") / "baked"
    baked = bake_of(drawn, folder)
    shards = compare_shards(resolve_shards(drawn.shards), TicketStore.open(drawn.store), join, SilentReporter()).shards
    replayed = StreamConfig(
        shards=shards,
        view=m.view,
        image_px=m.image_px,
        mode=m.view.mode,
        grid=(m.grid[0], m.grid[1]),
        subset="ticket",
        num_keep=m.num_keep,
        batch_size=4,
        num_classes=10,
        seed=7,
        join=join,
        view_mode="replay",
        policy=replayed_policy(m.view, drawn.store),
        num_views=m.num_views,
        views_seed=m.view.seed,
        random_erasing=0.5,
        mixing=True,
        shuffle_buffer=10,
    )
    return replayed, replace(replayed, join=None, baked=BakedSource.of(folder, baked))


@pytest.mark.long
@pytest.mark.parametrize(("world_size", "num_workers", "first_step"), [(1, 1, 0), (1, 2, 3), (2, 2, 1), (3, 1, 0)])
@pytest.mark.parametrize(("steps_before", "repeats"), [(0, 1), (2, 1), (2, 2)])
def test_the_same_batches(
    streams: tuple[StreamConfig, StreamConfig],
    world_size: int,
    num_workers: int,
    first_step: int,
    steps_before: int,
    repeats: int,
) -> None:
    streams = (replace(streams[0], repeats=repeats), replace(streams[1], repeats=repeats))
    before = Stretch(layout=Layout(batch_size=6, world_size=1, num_workers=1), num_steps=steps_before)
    taken = (before,) if steps_before else ()
    num_seen = 0
    for epoch, rank, worker in itertools.product((1, 5), range(world_size), range(num_workers)):
        position = StreamPosition(epoch=epoch, taken=taken, first_step=first_step, rank=rank, world_size=world_size)
        shuffle = streams[0].shuffle(position)
        left = left_after(taken, 36, shuffle) if taken else None
        workers = [
            kind(config, position, worker, num_workers, left)
            for kind, config in zip((StreamWorker, BakedWorker), streams, strict=True)
        ]
        for drawn, read in itertools.zip_longest(*(w.batches() for w in workers)):
            assert drawn.keys == read.keys
            for name in ("images", "labels", "scores"):
                assert torch.equal(getattr(drawn, name), getattr(read, name))
            num_seen += len(drawn.keys)
    num_steps = (36 - 6 * steps_before) // (4 * world_size) - first_step
    assert num_seen == 2 * num_steps * world_size * 4


def test_a_shard_is_read_by_number(streams: tuple[StreamConfig, StreamConfig]) -> None:
    source = streams[1].baked
    assert source is not None
    tar = source.open("train-000001.tar", 2)
    assert tar.keys == [f"train/{n:05d}" for n in range(12, 24)]
    assert len(tar) == 12
    assert tar.read(11).key == "train/00023"
    assert tar.read(0).patches.shape == (49, 4, 4, 1)
