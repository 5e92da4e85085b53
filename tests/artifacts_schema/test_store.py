"""Reading a store: what was written comes back, and whatever is damaged is an error."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import xxhash
import zarr
from dataltt.artifacts_schema import (
    SchemaError,
    StoreNotFoundError,
    TicketMismatchError,
    TicketStore,
    UnsupportedVersionError,
)
from dataltt.artifacts_schema.lookup import KeyLookup
from hypothesis import given, settings
from hypothesis import strategies as st

from ..schema_helpers import Made, edit_json, edit_manifest, edit_metadata, make_store, put, read_everything

ARRAYS = {
    "tickets": np.uint8,
    "ranks": np.uint8,
    "views/boxes": np.float32,
    "views/flips": np.uint8,
    "keys/data": np.uint8,
    "keys/offsets": np.int64,
    "labels": np.int32,
    "digests": np.uint64,
    "shards/data": np.uint8,
    "shards/offsets": np.int64,
    "shards/rows": np.int64,
}
# The codecs of the Zarr v3 core specification, and Blosc, which came with Zarr.
CORE_CODECS = {"bytes", "transpose", "sharding_indexed", "crc32c", "gzip", "blosc", "zstd"}


def assert_is_what_was_written(path: Path, made: Made) -> None:
    got = read_everything(path)
    assert got["shard_names"] == list(made.spec.shards)
    assert got["shard_rows"].tolist() == np.cumsum([0, *(p.num_rows for p in made.parts)]).tolist()
    assert got["keys"] == made.keys
    for name in ("tickets", "ranks", "labels", "digests", "boxes", "flips"):
        if getattr(made.parts[0], name) is None:
            assert got[name] is None
        else:
            assert got[name].dtype == getattr(made.parts[0], name).dtype
            np.testing.assert_array_equal(got[name], made.column(name))


def refused(path: Path) -> SchemaError:
    """The error that stops a reader of the whole store."""
    with pytest.raises(SchemaError) as caught:
        read_everything(path)
    assert str(path) in str(caught.value)
    return caught.value


def places_of(error: SchemaError) -> set[tuple[str, str]]:
    return {(problem.where, problem.kind) for problem in error.problems}


def object_of(store: Path, array: str) -> Path:
    """The one object that holds the values of an array of these small stores."""
    (found,) = [p for p in (store / array / "c").rglob("*") if p.is_file()]
    return found


# What comes back


def test_a_store_comes_back_as_it_was_written(made: Made) -> None:
    assert_is_what_was_written(made.path, made)


@pytest.mark.long
@settings(max_examples=6, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 18), st.integers(1, 18)),
    rows=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    num_views=st.integers(1, 3),
    ranks=st.booleans(),
    data=st.data(),
)
def test_stores_of_any_shape_come_back(
    grid: tuple[int, int], rows: list[int], num_views: int, ranks: bool, data: st.DataObject
) -> None:
    num_keep = data.draw(st.integers(1, grid[0] * grid[1]))
    with tempfile.TemporaryDirectory() as directory:
        made = make_store(
            Path(directory), len(rows), rows, num_views, ranks, grid=grid, num_keep=num_keep, seed=sum(rows)
        )
        assert_is_what_was_written(made.path, made)


@pytest.mark.long
def test_rows_that_cross_chunks_and_objects_come_back(tmp_path: Path) -> None:
    made = make_store(tmp_path, 2, (70_000, 61_200), ranks=False, grid=(2, 2), num_keep=2)
    assert (made.path / "labels" / "c" / "1").exists()  # rows from 131,072 on
    store = TicketStore.open(str(made.path))
    keys = made.keys
    for rows in (range(4090, 4100), range(69_998, 70_002), range(131_070, 131_074), range(131_198, 131_200)):
        part = slice(rows.start, rows.stop)
        assert store.read_keys(rows) == keys[part]
        np.testing.assert_array_equal(store.read_tickets(rows), made.column("tickets")[part])
        np.testing.assert_array_equal(store.read_labels(rows), made.column("labels")[part])
        np.testing.assert_array_equal(store.read_digests(rows), made.column("digests")[part])
    picked = np.array([131_199, 4095, 4096, 131_071, 131_072, 0])
    np.testing.assert_array_equal(store.read_labels(picked), made.column("labels")[picked])
    assert KeyLookup(store).find([keys[i] for i in picked]).tolist() == picked.tolist()


def test_a_plain_zarr_reader_finds_what_the_format_says(made: Made) -> None:
    """Follows the format page with Zarr and NumPy alone."""
    group = zarr.open_group(made.path, mode="r", zarr_format=3)
    manifest: Any = group.attrs["dataltt"]
    arrays: dict[str, Any] = {name: group[name] for name in ARRAYS}
    values = {name: array[...] for name, array in arrays.items()}
    assert {name: array.dtype for name, array in arrays.items()} == ARRAYS
    num_rows, num_views, num_patches = manifest["num_images"], manifest["num_views"], manifest["num_patches"]
    assert (num_rows, num_views, num_patches) == (11, 2, 15)
    assert values["tickets"].shape == (11, 2, 2)
    for r, v in np.ndindex(num_rows, num_views):
        bits = [values["tickets"][r, v, p // 8] >> p % 8 & 1 for p in range(16)]
        assert sum(bits) == manifest["num_keep"] == 6
        assert bits[15] == 0
        ranks = values["ranks"][r, v].tolist()
        assert sorted(ranks) == list(range(num_patches))
        assert [rank < 6 for rank in ranks] == bits[:15]
    keys = strings_of(values["keys/data"], values["keys/offsets"])
    shards = strings_of(values["shards/data"], values["shards/offsets"])
    assert keys == made.keys
    assert shards == manifest["dataset"]["shards"] == ["shard-000.tar", "shard-001.tar", "shard-002.tar"]
    assert values["shards/rows"].tolist() == [0, 4, 5, 11]
    assert [k.split("/")[0] for k in keys] == ["klasse_0"] * 4 + ["klasse_1"] + ["klasse_2"] * 6
    for name, column in [("labels", "labels"), ("digests", "digests"), ("tickets", "tickets"), ("ranks", "ranks")]:
        np.testing.assert_array_equal(values[name], made.column(column))
    np.testing.assert_array_equal(values["views/boxes"], made.column("boxes"))
    np.testing.assert_array_equal(values["views/flips"], made.column("flips"))
    for name, digest in manifest["objects"].items():
        assert hashlib.sha256((made.path / name).read_bytes()).hexdigest() == digest
    hashes = np.sort(np.array([xxhash.xxh3_64_intdigest(k.encode()) for k in keys], dtype="<u8"))
    assert hashlib.sha256(hashes.tobytes()).hexdigest() == manifest["dataset"]["keys_sha256"]


def strings_of(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[str]:
    return [bytes(data[offsets[i] : offsets[i + 1]]).decode() for i in range(len(offsets) - 1)]


def test_the_key_buffers_are_an_arrow_array_without_a_copy(made: Made) -> None:
    group: Any = zarr.open_group(made.path, mode="r")
    data, offsets = group["keys/data"][...], group["keys/offsets"][...]
    array = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    array.validate(full=True)
    assert array.to_pylist() == made.keys


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_sharded_with_checksums_inside_and_core_codecs_alone(made: Made, name: str) -> None:
    document = json.loads((made.path / name / "zarr.json").read_text())
    assert document["zarr_format"] == 3
    assert document["fill_value"] == 0
    (sharding,) = document["codecs"]
    assert sharding["name"] == "sharding_indexed"
    inner = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    index = [codec["name"] for codec in sharding["configuration"]["index_codecs"]]
    assert inner[-1] == index[-1] == "crc32c"
    assert {*inner, *index} <= CORE_CODECS
    (compressor,) = [c for c in sharding["configuration"]["codecs"] if c["name"] not in {"bytes", "crc32c"}]
    assert "zstd" in (compressor["name"], compressor["configuration"].get("cname"))


def test_optional_arrays_are_there_only_where_they_are_meant(tmp_path: Path) -> None:
    made = make_store(tmp_path, ranks=False)
    assert {p.name for p in made.path.iterdir()} == {
        "zarr.json",
        "local.json",
        "tickets",
        "keys",
        "labels",
        "digests",
        "shards",
    }
    store = TicketStore.open(str(made.path))
    assert store.read_views(range(3)) is None
    assert not store.manifest.has_ranks


def test_a_shard_is_one_run_of_rows(made: Made) -> None:
    store = TicketStore.open(str(made.path))
    assert [store.rows_of_shard(name) for name in made.spec.shards] == [range(4), range(4, 5), range(5, 11)]
    assert store.rows_of_shard("of-another-lab.tar") is None
    for part in made.parts:
        rows = store.rows_of_shard(part.shard)
        assert rows is not None
        assert store.read_keys(rows) == part.keys.to_pylist()
        np.testing.assert_array_equal(store.read_tickets(rows), part.tickets)
        views = store.read_views(rows)
        assert views is not None
        np.testing.assert_array_equal(views[0], part.boxes)


def test_rows_may_be_picked_in_any_order_and_more_than_once(made: Made) -> None:
    store = TicketStore.open(str(made.path))
    picked = np.array([7, 0, 10, 7])
    np.testing.assert_array_equal(store.read_tickets(picked), made.column("tickets")[picked])
    np.testing.assert_array_equal(store.read_ranks(picked), made.column("ranks")[picked])
    np.testing.assert_array_equal(store.read_labels(picked), made.column("labels")[picked])
    np.testing.assert_array_equal(store.read_digests(picked), made.column("digests")[picked])
    assert store.read_tickets(np.array([], dtype=np.int64)).shape == (0, 2, 2)


def test_no_rows_are_no_keys_and_no_tickets(made: Made) -> None:
    store = TicketStore.open(str(made.path))
    for rows in (range(0), range(5, 5), range(11, 11)):
        assert store.read_keys(rows) == []
        assert store.read_tickets(rows).shape == (0, 2, 2)
        assert store.read_ranks(rows).shape == (0, 2, 15)


def test_bytes_on_disk_are_counted_for_each_array(made: Made) -> None:
    sizes = TicketStore.open(str(made.path)).num_stored_bytes()
    assert sizes == {
        name: sum(p.stat().st_size for p in (made.path / name).rglob("*") if p.is_file()) for name in ARRAYS
    }


@pytest.fixture
def in_memory(made: Made) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    fs.put(str(made.path), "/tickets-in-memory.zarr", recursive=True)
    yield "memory://tickets-in-memory.zarr"
    fs.rm("/tickets-in-memory.zarr", recursive=True)


def test_a_store_opens_by_path_and_by_url(made: Made, in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.path.parent)
    for path in (str(made.path), f"{made.path}/", made.path.name, f"file://{made.path}", in_memory):
        store = TicketStore.open(path)
        assert store.read_keys(range(11)) == made.keys
        assert store.read_labels(range(11)).tolist() == made.column("labels").tolist()


# What is missing or damaged


@pytest.mark.parametrize("array", ARRAYS)
def test_an_object_that_is_missing_is_named(store: Path, array: str) -> None:
    missing = object_of(store, array)
    missing.unlink()
    with pytest.raises(SchemaError) as caught:
        TicketStore.open(str(store))
    assert places_of(caught.value) == {(missing.relative_to(store).as_posix(), "missing")}


def test_all_objects_that_are_missing_are_named(store: Path) -> None:
    gone = ["labels/c/0", "keys/offsets/zarr.json", "tickets/c/0/0/0"]
    for name in gone:
        (store / name).unlink()
    with pytest.raises(SchemaError) as caught:
        TicketStore.open(str(store))
    assert {(name, "missing") for name in gone} <= places_of(caught.value)
    assert ("keys/offsets", "zarr") in places_of(caught.value)


@pytest.mark.parametrize("array", ARRAYS)
def test_an_object_that_the_manifest_does_not_list_is_missed_too(store: Path, array: str) -> None:
    missing = object_of(store, array)
    missing.unlink()
    edit_manifest(store, lambda m: m["objects"].pop(missing.relative_to(store).as_posix()))
    refused(store)


@pytest.mark.parametrize("array", ["labels", "digests", "views/boxes", "keys/data", "keys/offsets"])
def test_an_object_that_vanishes_after_opening_is_not_read_as_zeros(store: Path, array: str) -> None:
    opened = TicketStore.open(str(store))
    object_of(store, array).unlink()
    read: Callable[[range], object] = {
        "labels": opened.read_labels,
        "digests": opened.read_digests,
        "views/boxes": opened.read_views,
        "keys/data": opened.read_keys,
        "keys/offsets": opened.read_keys,
    }[array]
    with pytest.raises(SchemaError):
        read(range(11))


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("kept", ["all but a byte", "half", "nothing"])
def test_an_object_that_is_cut_off_is_an_error(store: Path, array: str, kept: str) -> None:
    path = object_of(store, array)
    whole = path.read_bytes()
    path.write_bytes(whole[: {"all but a byte": -1, "half": len(whole) // 2, "nothing": 0}[kept]])
    error = refused(store)
    assert array.split("/")[0] in str(error).removeprefix(str(store))


@pytest.mark.parametrize("array", ARRAYS)
def test_a_flipped_bit_in_an_object_is_an_error(store: Path, array: str) -> None:
    path = object_of(store, array)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    # The last 20 bytes are the shard's index: offset, length, checksum.
    for place in {0, len(whole) // 2, len(whole) - 1, len(whole) - 20}:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        error = refused(store)
        assert {problem.kind for problem in error.problems} == {"damaged"}, place
        assert {problem.where for problem in error.problems} == {array}, place


def test_damage_in_one_array_leaves_the_others_readable(made: Made, store: Path) -> None:
    object_of(store, "labels").write_bytes(b"nonsense")
    opened = TicketStore.open(str(store))
    np.testing.assert_array_equal(opened.read_tickets(range(11)), made.column("tickets"))
    with pytest.raises(SchemaError, match="labels: cannot be read"):
        opened.read_labels(range(11))


# What is whole, but says what it must not


def test_a_ticket_of_another_count_is_named_by_its_row(store: Path) -> None:
    ticket = TicketStore.open(str(store)).read_tickets(range(11))[8, 1]
    bit = next(p for p in range(15) if not ticket[p // 8] >> p % 8 & 1)
    ticket[bit // 8] |= 1 << bit % 8
    put(store, "tickets", (8, 1), ticket)
    opened = TicketStore.open(str(store))
    for rows in (range(11), range(6, 10), np.array([2, 8]), range(8, 9)):
        with pytest.raises(SchemaError, match="is not 6 patches") as caught:
            opened.read_tickets(rows)
        assert places_of(caught.value) == {("tickets[8]", "damaged")}
    assert opened.read_tickets(range(8)).shape == (8, 2, 2)


def test_a_spare_bit_is_refused_even_where_the_count_is_right(store: Path) -> None:
    put(store, "tickets", (3, 0), np.array([0b0001_1111, 0b1000_0000], dtype=np.uint8))
    assert places_of(refused(store)) == {("tickets[3]", "damaged")}


def test_ranks_that_are_no_permutation_are_refused(store: Path) -> None:
    ranks = TicketStore.open(str(store)).read_ranks(range(11))[4, 0]
    put(store, "ranks", (4, 0, int(np.argmax(ranks))), 0)
    assert places_of(refused(store)) == {("ranks[4]", "damaged")}


@pytest.mark.parametrize(
    "offsets",
    [{3: 0}, {3: -1}, {11: 1 << 40}, {0: -5}, {4: 1 << 40}],
    ids=["decreasing", "negative", "after the data", "starts before", "far and back"],
)
def test_offsets_that_do_not_divide_the_keys_are_refused(store: Path, offsets: dict[int, int]) -> None:
    for index, offset in offsets.items():
        put(store, "keys/offsets", index, offset)
    error = refused(store)
    assert all(problem.where.startswith("keys") for problem in error.problems)


def test_keys_that_are_not_utf8_are_refused(store: Path) -> None:
    put(store, "keys/data", 2, 0xFF)
    assert places_of(refused(store)) == {("keys[0:11]", "strings")}


@pytest.mark.parametrize(
    ("array", "index", "value", "place"),
    [
        ("shards/rows", 0, 1, ("shards/rows", "inconsistent")),
        ("shards/rows", 3, 12, ("shards/rows", "inconsistent")),
        ("shards/rows", 1, 9, ("shards/rows", "inconsistent")),
        ("shards/rows", 1, -1, ("shards/rows", "inconsistent")),
        ("shards/offsets", 1, 0, ("shards", "inconsistent")),
        ("shards/offsets", 3, 1 << 40, ("shards", "strings")),
        ("shards/data", 0, ord("S"), ("shards", "inconsistent")),
        ("shards/data", 0, 0xC3, ("shards", "strings")),
    ],
)
def test_shards_that_do_not_divide_the_rows_or_are_not_the_manifests_are_refused(
    store: Path, array: str, index: int, value: int, place: tuple[str, str]
) -> None:
    put(store, array, index, value)
    assert places_of(refused(store)) == {place}


@pytest.mark.parametrize(
    "box",
    [(-0.1, 0, 0.5, 0.5), (0, 0, 0.5, 1.5), (0.6, 0, 0.5, 0.5), (0, 0, 0, 0.5), (0, np.nan, 0.5, 0.5)],
    ids=["begins outside", "larger", "ends outside", "empty", "not a number"],
)
def test_a_box_outside_its_image_is_refused(store: Path, box: tuple[float, ...]) -> None:
    put(store, "views/boxes", (2, 1), np.array(box, dtype=np.float32))
    refused(store)


def test_a_flip_that_is_neither_yes_nor_no_is_refused(store: Path) -> None:
    put(store, "views/flips", (2, 1), 2)
    refused(store)


# Array metadata that was edited


def edit_array(store: Path, array: str, change: Callable[[Any], object]) -> None:
    edit_metadata(store, array, change)


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        ("labels", [12]),
        ("labels", [10]),
        ("tickets", [11, 2, 3]),
        ("tickets", [11, 1, 2]),
        ("ranks", [11, 2, 16]),
        ("views/boxes", [11, 2, 3]),
        ("keys/offsets", [11]),
        ("shards/rows", [3]),
    ],
)
def test_a_shape_that_is_not_the_manifests_is_refused(store: Path, array: str, shape: list[int]) -> None:
    edit_array(store, array, lambda d: d.update(shape=shape))
    with pytest.raises(SchemaError, match=r"has shape \[") as caught:
        TicketStore.open(str(store))
    assert places_of(caught.value) == {(array, "shape")}


@pytest.mark.parametrize(
    ("array", "dtype"),
    [("labels", "uint32"), ("digests", "int64"), ("tickets", "int8"), ("ranks", "uint16"), ("labels", "float32")],
)
def test_a_dtype_that_is_not_the_formats_is_refused(store: Path, array: str, dtype: str) -> None:
    edit_array(store, array, lambda d: d.update(data_type=dtype))
    with pytest.raises(SchemaError) as caught:
        TicketStore.open(str(store))
    assert (array, "dtype") in places_of(caught.value)
    assert {where for where, _ in places_of(caught.value)} == {array}


def test_problems_of_several_arrays_are_reported_together(store: Path) -> None:
    edit_array(store, "labels", lambda d: d.update(data_type="uint32", shape=[7]))
    edit_array(store, "tickets", lambda d: d.update(shape=[11, 2]))
    shutil.rmtree(store / "digests")
    with pytest.raises(SchemaError) as caught:
        TicketStore.open(str(store))
    assert places_of(caught.value) >= {
        ("labels", "dtype"),
        ("labels", "shape"),
        ("digests", "zarr"),
        ("digests/zarr.json", "missing"),
        ("digests/c/0", "missing"),
    }
    assert any(where == "tickets" for where, _ in places_of(caught.value))


def inner_codecs(document: Any) -> list[Any]:
    codecs: list[Any] = document["codecs"][0]["configuration"]["codecs"]
    return codecs


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification")
@pytest.mark.parametrize("name", ["numcodecs.lzma", "numcodecs.pickle", "private.codec"])
def test_a_codec_that_is_not_on_the_list_is_refused(store: Path, name: str) -> None:
    edit_array(store, "labels", lambda d: inner_codecs(d)[1].update(name=name, configuration={}))
    with pytest.raises(SchemaError) as caught:
        TicketStore.open(str(store))
    assert places_of(caught.value) <= {("labels", "codec"), ("labels", "zarr")}
    assert name in str(caught.value)


def test_a_codec_of_the_shard_index_is_looked_at_too(store: Path) -> None:
    def change(document: Any) -> None:
        document["codecs"][0]["configuration"]["index_codecs"][0] = {"name": "vlen-bytes"}

    edit_array(store, "labels", change)
    with pytest.raises(SchemaError, match="vlen-bytes") as caught:
        TicketStore.open(str(store))
    assert places_of(caught.value) == {("labels", "codec")}


def test_chunks_too_large_to_hold_are_refused_before_they_are_read(store: Path) -> None:
    def enlarge(document: Any) -> None:
        document["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 30]
        document["codecs"][0]["configuration"]["chunk_shape"] = [1 << 30]

    edit_array(store, "labels", enlarge)
    with pytest.raises(SchemaError) as caught:
        TicketStore.open(str(store))
    assert places_of(caught.value) == {("labels", "chunk_size")}


@pytest.mark.parametrize("array", ["shards/data", "keys/data"])
def test_a_length_that_no_memory_holds_is_refused_before_it_is_allocated(store: Path, array: str) -> None:
    edit_array(store, array, lambda d: d.update(shape=[1 << 50]))
    if array == "keys/data":  # as long as the keys of all rows, says the store
        put(store, "keys/offsets", 11, 1 << 50)
    refused(store)


def chunk_of_zero(document: Any) -> None:
    document["chunk_grid"]["configuration"]["chunk_shape"] = [0]


def inner_chunk_of_zero(document: Any) -> None:
    document["codecs"][0]["configuration"]["chunk_shape"] = [0]


@pytest.mark.parametrize(
    "change",
    [
        chunk_of_zero,
        inner_chunk_of_zero,
        lambda d: d.update(fill_value=1 << 40),
        lambda d: d.update(fill_value=None),
        lambda d: d.update(shape=None),
        lambda d: d.update(shape=[-11]),
        lambda d: d.update(data_type="object"),
        lambda d: d.update(codecs=[]),
        lambda d: d.update(codecs="zstd"),
        lambda d: d.update(node_type="group"),
        lambda d: d.update(zarr_format=2),
        lambda d: d.clear(),
    ],
    ids=[
        "chunk of zero",
        "inner chunk of zero",
        "fill value too large",
        "no fill value",
        "no shape",
        "negative shape",
        "objects",
        "no codecs",
        "codecs of another type",
        "a group",
        "Zarr 2",
        "nothing",
    ],
)
def test_array_metadata_that_cannot_be_meant_is_a_schema_error(store: Path, change: Callable[[Any], object]) -> None:
    edit_array(store, "labels", change)
    error = refused(store)
    assert {problem.where for problem in error.problems} == {"labels"}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"], ids=["empty", "cut off", "a list", "not UTF-8"])
def test_array_metadata_that_is_no_json_object_is_a_schema_error(store: Path, text: bytes) -> None:
    (store / "labels" / "zarr.json").write_bytes(text)
    assert places_of(refused(store)) == {("labels", "zarr")}


# The group and its manifest


def test_a_directory_that_is_no_store_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        TicketStore.open(str(tmp_path))


def test_the_group_must_be_a_group(store: Path) -> None:
    edit_json(store / "zarr.json", lambda d: d.update(node_type="array"))
    assert places_of(refused(store)) == {("zarr.json", "zarr")}


def test_a_store_of_another_major_version_is_refused_and_unknown_fields_are_not(made: Made, store: Path) -> None:
    edit_manifest(store, lambda m: m.update(schema_version="1.9", licence="CC0"))
    assert_is_what_was_written(store, made)
    edit_manifest(store, lambda m: m.update(schema_version="3.0"))
    with pytest.raises(UnsupportedVersionError):
        TicketStore.open(str(store))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: m.update(num_images=12), "labels"),
        (lambda m: m.update(num_views=3), "tickets"),
        (lambda m: m.update(grid=[3, 6], num_patches=18), "tickets"),
        (lambda m: m["dataset"]["shards"].append("d.tar"), "shards/rows"),
    ],
    ids=["images", "views", "grid", "shards"],
)
def test_a_manifest_that_does_not_fit_the_arrays_is_refused(
    store: Path, change: Callable[[Any], object], where: str
) -> None:
    edit_manifest(store, change)
    assert (where, "shape") in places_of(refused(store))


def test_ranks_that_the_manifest_promises_must_be_there(tmp_path: Path) -> None:
    made = make_store(tmp_path, ranks=False)
    edit_manifest(made.path, lambda m: m.update(has_ranks=True))
    assert places_of(refused(made.path)) == {("ranks", "zarr")}


def test_reading_does_not_change_a_store(made: Made, store: Path) -> None:
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    manifest = copy.deepcopy(TicketStore.open(str(store)).manifest)
    read_everything(store)
    assert {p: p.read_bytes() for p in store.rglob("*") if p.is_file()} == before
    assert manifest == made.manifest


# A store that is replaced while it is open


def test_other_tickets_at_the_place_of_an_open_store_are_refused(made: Made, store: Path, tmp_path: Path) -> None:
    opened = TicketStore.open(store)
    opened.read_tickets(range(1))
    other = make_store(tmp_path / "other", num_views=2, seed=1)
    store.rename(tmp_path / "aside")
    other.path.rename(store)
    with pytest.raises(TicketMismatchError, match=r"store\.zarr was replaced by other tickets while it was in use"):
        opened.read_tickets(range(1))
    with pytest.raises(TicketMismatchError, match=rf"was {made.manifest.digest}, and is {other.manifest.digest}\)"):
        TicketStore.open(opened.location)
    shutil.rmtree(store)
    (tmp_path / "aside").rename(store)
    assert np.array_equal(opened.read_tickets(range(1)), made.column("tickets")[:1])


def test_the_same_tickets_may_be_put_there_again_and_given_a_card(made: Made, store: Path) -> None:
    opened = TicketStore.open(store)
    shutil.rmtree(store)
    shutil.copytree(made.path, store)
    assert np.array_equal(opened.read_tickets(range(11)), made.column("tickets"))
    edit_manifest(store, lambda m: m.update(publication={"license": "CC0-1.0"}))
    assert np.array_equal(opened.read_tickets(range(11)), made.column("tickets"))
