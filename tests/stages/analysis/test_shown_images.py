"""Which images of a store are shown, and that shards are read no further than they must."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema import OptionError, ShardError
from dataltt.stages.analysis.sample_tickets import sample_tickets, spread_sample_tickets
from dataltt.stages.analysis.shown_images import ShownImages, class_names, spread_rows
from dataltt.stages.data.shards import resolve_shards
from hypothesis import given
from hypothesis import strategies as st

from ...helpers import SmallStore, make_shards


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=60).filter(lambda counts: sum(counts) > 0),
    count=st.integers(1, 200),
    seed=st.integers(0, 3),
    every=st.integers(1, 3),
)
def test_a_spread_choice(counts: list[int], count: int, seed: int, every: int) -> None:
    shard_rows = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.arange(0, shard_rows[-1], every)
    chosen = spread_rows(rows, shard_rows, count, seed)
    assert len(chosen) == min(count, len(rows))
    assert (np.diff(chosen) > 0).all()
    assert np.isin(chosen, rows).all()
    assert np.array_equal(chosen, spread_rows(rows, shard_rows, count, seed))
    if len(counts) <= 16:  # one of each of `count` equal runs
        edges = np.arange(len(chosen) + 1) * len(rows) // len(chosen)
        places = np.searchsorted(rows, chosen)
        assert ((edges[:-1] <= places) & (places < edges[1:])).all()


def test_few_shards_are_read_where_they_hold_enough() -> None:
    shard_rows = np.arange(101, dtype=np.int64) * 50
    chosen = spread_rows(np.arange(5000), shard_rows, 200, 0)
    shards = np.unique(chosen // 50)
    assert len(shards) == 16
    edges = np.arange(17) * 100 // 16  # one shard of each sixteenth
    assert ((edges[:-1] <= shards) & (shards < edges[1:])).all()
    assert len(np.unique(spread_rows(np.arange(0, 5000, 50), shard_rows, 60, 0) // 50)) == 60


def test_the_seed_says_which(small: SmallStore) -> None:
    images = ShownImages(small.store, None)
    chosen = {seed: images.choose(6, seed=seed).tolist() for seed in (0, 1)}
    assert chosen[0] != chosen[1]
    assert all([row // 6 for row in rows] == [0, 1, 2, 3, 4, 5] for rows in chosen.values())


def test_only_images_of_the_given_shards_are_chosen(small: SmallStore) -> None:
    one = str(Path(small.shards).parent / "train-000001.tar")
    images = ShownImages(small.store, one)
    rows = images.choose(100)
    assert rows.tolist() == list(range(12, 24))
    assert [shown.key for shown in images.read(rows)] == [s.key for s in small.samples[12:24]]


def test_shards_of_other_names_are_searched_by_key(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (20, 10), small.samples[:30], name="repacked")
    images = ShownImages(small.store, shards)
    found = list(images.read(images.choose(100)))
    assert [shown.row for shown in found] == list(range(30))
    assert [shown.key for shown in found] == [s.key for s in small.samples[:30]]
    assert {shown.shard for shown in found} == {"repacked-000000.tar", "repacked-000001.tar"}


def test_a_shard_is_read_no_further_than_its_last_chosen_image(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path, (12,), small.samples[:12])
    path = tmp_path / "train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    images = ShownImages(small.store, shards)
    assert [shown.key for shown in images.read(np.array([0, 2]))] == [small.samples[0].key, small.samples[2].key]
    with pytest.raises(ShardError, match="cannot be read to its end"):
        list(images.read(np.array([0, 11])))


def test_class_names(small: SmallStore, tmp_path: Path) -> None:
    shards = resolve_shards(make_shards(tmp_path, (1,), small.samples[:1]))
    assert class_names(shards)[1] == "Trouser"
    path = tmp_path / "classes.json"
    path.write_text('["a", "b"]')
    assert class_names(shards) == {0: "a", 1: "b"}
    for text in ("7", '{"a": "x"}', "{", "null"):
        path.write_text(text)
        with pytest.raises(OptionError, match=r"classes\.json does not list classes"):
            class_names(shards)
    path.unlink()
    assert class_names(shards) == {}


def test_spread_samples_are_the_stores(small: SmallStore) -> None:
    masks = small.masks()
    spread, first = spread_sample_tickets(small.store, None, 6), sample_tickets(small.store, small.shards, 6)
    assert [s.key for s in first] == [s.key for s in small.samples[:6]]
    numbers = [[x.key for x in small.samples].index(s.key) // 6 for s in spread]
    assert numbers == [0, 1, 2, 3, 4, 5]
    for sample in (*spread, *first):
        assert np.array_equal(sample.mask.ravel(), masks[sample.key])
        assert sample.label == small.label_of[sample.key]
