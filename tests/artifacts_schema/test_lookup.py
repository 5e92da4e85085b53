"""From any key to its row."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dataltt.artifacts_schema import SchemaError, TicketStore
from dataltt.artifacts_schema.lookup import KeyLookup, iter_row_blocks, iter_view_blocks
from dataltt.artifacts_schema.writing.commit import commit
from hypothesis import given, settings
from hypothesis import strategies as st

from ..schema_helpers import Made, copy_store, make_part, make_spec, make_store, put, write_parts


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("whole"), 3, (5, 1, 20), ranks=False)


@pytest.fixture(scope="module")
def lookup(made: Made) -> KeyLookup:
    return KeyLookup(TicketStore.open(str(made.path)))


@given(st.integers(1, 500), st.integers(1, 100))
def test_blocks_are_all_rows_in_order(num_images: int, block_rows: int) -> None:
    blocks = iter_row_blocks(num_images, block_rows)
    assert [row for block in blocks for row in block] == list(range(num_images))
    assert all(0 < len(block) <= block_rows for block in blocks)
    assert len(blocks) == -(-num_images // block_rows)


def test_every_key_is_found_at_its_row(made: Made, lookup: KeyLookup) -> None:
    rows = lookup.find(made.keys)
    assert rows.dtype == np.int64
    assert rows.tolist() == list(range(26))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 25), max_size=40))
def test_keys_are_found_in_any_order_and_more_than_once(made: Made, lookup: KeyLookup, rows: list[int]) -> None:
    assert lookup.find([made.keys[row] for row in rows]).tolist() == rows


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_key_of_another_store_is_not_found(made: Made, lookup: KeyLookup, key: str) -> None:
    expected = made.keys.index(key) if key in made.keys else -1
    assert lookup.find([key, made.keys[3], key]).tolist() == [expected, 3, expected]


def test_keys_are_compared_as_they_are_written(made: Made, lookup: KeyLookup) -> None:
    composed = made.keys[0]
    assert "é" in composed
    decomposed = composed.replace("é", "e\u0301")
    changed = [decomposed, composed.upper(), f" {composed}", composed[:-1], ""]
    assert lookup.find([*changed, composed]).tolist() == [-1, -1, -1, -1, -1, 0]


def test_no_keys_are_no_rows(lookup: KeyLookup) -> None:
    rows = lookup.find([])
    assert rows.shape == (0,)
    assert rows.dtype == np.int64


def test_keys_dealt_to_other_shards_are_joined_to_the_same_tickets(tmp_path: Path, made: Made) -> None:
    lookup = KeyLookup(TicketStore.open(str(made.path)))
    spec = make_spec(shards=["mixed.tar"], ranks=False)
    order = np.random.default_rng(1).permutation(26)
    keys = pa.array([made.keys[i] for i in order], type=pa.large_string())
    part = make_part(spec, 0, 26, keys=keys, tickets=made.column("tickets")[order])
    write_parts(tmp_path / "mixed.zarr", [part])
    commit(tmp_path / "mixed.zarr", spec)
    mixed = TicketStore.open(str(tmp_path / "mixed.zarr"))
    rows = lookup.find(mixed.read_keys(range(26)))
    assert rows.tolist() == order.tolist()
    original = TicketStore.open(str(made.path))
    np.testing.assert_array_equal(original.read_tickets(rows), mixed.read_tickets(range(26)))
    assert mixed.manifest.dataset.keys_sha256 == original.manifest.dataset.keys_sha256


def test_the_first_and_last_of_one_row(tmp_path: Path) -> None:
    made = make_store(tmp_path, 1, 1, ranks=False)
    lookup = KeyLookup(TicketStore.open(str(made.path)))
    assert lookup.find([*made.keys, "another", "x" * 5000]).tolist() == [0, -1, -1]


def test_damaged_keys_are_an_error_not_a_lookup_that_misses(made: Made, tmp_path: Path) -> None:
    store = copy_store(made, tmp_path)
    put(store, "keys/data", 2, 0xFF)
    with pytest.raises(SchemaError, match="keys"):
        KeyLookup(TicketStore.open(str(store)))


@pytest.mark.parametrize(
    ("views", "grid", "rows"), [(1, 14, 16_384), (16, 14, 16_384), (300, 14, 1024), (4096, 32, 16)]
)
def test_rows_of_many_views_are_read_fewer_at_a_time(made: Made, views: int, grid: int, rows: int) -> None:
    m = dataclasses.replace(made.manifest, num_views=views, num_patches=grid * grid, num_images=40_000)
    blocks = iter_view_blocks(m)
    assert (blocks[0], blocks[-1].stop) == (range(rows), 40_000)
    assert sum(map(len, blocks)) == 40_000
