"""Parts and the commit: whole or not at all, and nothing lost on the way."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataltt.artifacts_schema import (
    DatalttError,
    DuplicateKeyError,
    IncompletePartsError,
    Manifest,
    OutputExistsError,
    SkippedSample,
    TicketStore,
    parse_manifest,
)
from dataltt.artifacts_schema.files import write_atomically
from dataltt.artifacts_schema.strings import hash_strings, keys_digest
from dataltt.artifacts_schema.tickets import ranks_dtype
from dataltt.artifacts_schema.writing.commit import StoreSpec, commit, read_headers
from dataltt.artifacts_schema.writing.new_store import hash_objects
from dataltt.artifacts_schema.writing.parts import Part, begin_plan, part_path, read_header, read_part, write_part

from ...schema_helpers import digests_of, make_part, make_spec, make_store, read_everything, write_parts

SHARDS = ("a.tar", "b.tar", "c.tar")


class StoppedError(Exception):
    """Stands for whatever stops a commit half way."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """Parts that wait for their commit."""

    path: Path
    spec: StoreSpec
    parts: list[Part]
    directory: Path

    def rewrite(self, index: int, **changes: Any) -> None:
        write_part(self.directory, index, dataclasses.replace(self.parts[index], **changes))

    def assert_nothing_happened(self, before: dict[str, str]) -> None:
        """No store, nothing half made beside it, and the parts as they were."""
        assert [p.name for p in self.path.parent.iterdir()] == [self.directory.name]
        assert digests_of(self.directory) == before


@pytest.fixture
def ready(tmp_path: Path) -> Ready:
    spec = make_spec(shards=SHARDS, num_views=2)
    parts = [make_part(spec, index, n) for index, n in enumerate((3, 2, 4))]
    path = tmp_path / "store.zarr"
    return Ready(path, spec, parts, write_parts(path, parts))


def refused(ready: Ready, error: type[DatalttError] = IncompletePartsError, **changes: Any) -> str:
    """Commits, which must fail and leave all as it was; returns the message."""
    before = digests_of(ready.directory)
    with pytest.raises(error) as caught:
        commit(ready.path, dataclasses.replace(ready.spec, **changes))
    ready.assert_nothing_happened(before)
    return str(caught.value)


def read_back(directory: Path, spec: StoreSpec, index: int) -> Part:
    return read_part(
        read_header(part_path(directory, index)),
        num_views=spec.num_views,
        num_patches=spec.num_patches,
        ranks_dtype=ranks_dtype(spec.num_patches),
    )


# Parts


@pytest.mark.parametrize(
    ("num_views", "ranks", "grid", "num_rows"),
    [(1, True, (3, 5), 4), (3, False, (1, 1), 1), (2, True, (20, 15), 3), (1, True, (3, 5), 0)],
    ids=["one view", "one patch", "ranks of two bytes", "no rows"],
)
def test_a_part_comes_back_as_it_was(
    tmp_path: Path, num_views: int, ranks: bool, grid: tuple[int, int], num_rows: int
) -> None:
    spec = make_spec(grid=grid, num_keep=1, num_views=num_views, ranks=ranks)
    skipped = (SkippedSample(shard="a.tar", key="kaputt/é", reason="truncated"),)
    part = make_part(spec, 0, num_rows, skipped=skipped)
    write_part(tmp_path, 0, part)
    assert [p.name for p in tmp_path.iterdir()] == ["part-000000.parquet"]
    header = read_header(part_path(tmp_path, 0))
    assert (header.shard, header.num_rows, header.skipped) == ("a.tar", num_rows, skipped)
    back = read_back(tmp_path, spec, 0)
    assert back.keys.to_pylist() == part.keys.to_pylist()
    assert back.skipped == skipped
    for name in ("labels", "digests", "tickets", "ranks", "boxes", "flips"):
        want, got = getattr(part, name), getattr(back, name)
        if want is None:
            assert got is None
        else:
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first, and longer", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


def test_a_selection_goes_on_only_under_its_own_plan(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "s.zarr.parts"
    plan = {"model": "a", "grid": (3, 5), "shards": ["a.tar"]}
    begin_plan(directory, plan)
    (directory / "part-000000.parquet").write_bytes(b"made")
    begin_plan(directory, plan)
    before = digests_of(directory)
    with pytest.raises(IncompletePartsError, match=r"differs in extra, model\)"):
        begin_plan(directory, {**plan, "model": "b", "extra": 1})
    assert digests_of(directory) == before
    begin_plan(directory, {**plan, "model": "b"}, discard_others=True)
    assert [p.name for p in directory.iterdir()] == ["plan.json"]
    assert json.loads((directory / "plan.json").read_text())["model"] == "b"


def test_discarding_other_plans_keeps_parts_of_the_same_plan(tmp_path: Path) -> None:
    directory = tmp_path / "s.zarr.parts"
    begin_plan(directory, {"seed": 1})
    (directory / "part-000000.parquet").write_bytes(b"made")
    begin_plan(directory, {"seed": 1}, discard_others=True)
    assert (directory / "part-000000.parquet").read_bytes() == b"made"


# Commit


def test_a_commit_makes_a_store_of_its_parts_and_removes_them(ready: Ready, tmp_path: Path) -> None:
    skipped = SkippedSample(shard="b.tar", key="kaputt", reason="truncated")
    ready.rewrite(1, skipped=[skipped])
    (ready.directory / "part-000001.parquet.tmp-1").write_bytes(b"left by a process that was killed")
    seen: list[tuple[int, int]] = []
    manifest = commit(ready.path, ready.spec, on_progress=lambda done, total: seen.append((done, total)))
    assert [p.name for p in tmp_path.iterdir()] == ["store.zarr"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert manifest.num_images == 9
    assert manifest.dataset.shards == list(SHARDS)
    assert manifest.skipped == [skipped]
    assert TicketStore.open(str(ready.path)).manifest == manifest
    got = read_everything(ready.path)
    assert got["keys"] == [key for part in ready.parts for key in part.keys.to_pylist()]
    assert got["shard_rows"].tolist() == [0, 3, 5, 9]
    for name in ("tickets", "ranks", "labels", "digests", "boxes", "flips"):
        np.testing.assert_array_equal(got[name], np.concatenate([getattr(p, name) for p in ready.parts]))


def test_shards_without_images_are_part_of_the_store(tmp_path: Path) -> None:
    made = make_store(tmp_path, 4, (0, 2, 0, 1))
    got = read_everything(made.path)
    assert got["shard_rows"].tolist() == [0, 0, 2, 2, 3]
    assert got["keys"] == made.keys


def test_no_image_at_all_is_nothing_to_store(tmp_path: Path) -> None:
    spec = make_spec(shards=SHARDS[:2])
    write_parts(tmp_path / "s.zarr", [make_part(spec, index, 0) for index in range(2)])
    with pytest.raises(IncompletePartsError, match="no image in 2 shard"):
        commit(tmp_path / "s.zarr", spec)
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.usefixtures("fixed_time")
def test_the_same_parts_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (make_store(tmp_path / name, num_views=2) for name in ("one", "two"))
    assert one.manifest.created == "2023-11-14T22:13:20+00:00"
    assert digests_of(one.path) == digests_of(two.path)
    other = make_store(tmp_path / "three", num_views=2, seed=1)
    assert digests_of(other.path) != digests_of(one.path)


def test_the_manifest_says_when_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    created = datetime.datetime.fromisoformat(make_store(tmp_path).manifest.created)
    assert created.utcoffset() == datetime.timedelta(0)


def test_the_manifest_has_the_digest_of_every_object_but_itself(tmp_path: Path) -> None:
    made = make_store(tmp_path, num_views=2)
    found = digests_of(made.path)
    del found["zarr.json"]
    del found["local.json"]
    assert made.manifest.objects == found
    assert hash_objects(made.path) == found
    assert {"labels/zarr.json", "labels/c/0", "keys/zarr.json", "views/flips/c/0/0"} <= set(found)


def test_the_digest_of_the_keys_does_not_depend_on_the_sharding(tmp_path: Path) -> None:
    def digest(name: str, keys_of_shards: Sequence[Sequence[str]]) -> str:
        spec = make_spec(shards=SHARDS[: len(keys_of_shards)])
        parts = [
            make_part(spec, index, len(keys), keys=pa.array(keys, type=pa.large_string()))
            for index, keys in enumerate(keys_of_shards)
        ]
        write_parts(tmp_path / name, parts)
        return commit(tmp_path / name, spec).dataset.keys_sha256

    dealt = digest("a", [["k1", "é", "k3"], ["k4"]])
    assert dealt == digest("b", [["k4"], ["k3"], ["é", "k1"]])
    assert dealt != digest("c", [["k1", "é", "k3"], ["k5"]])
    assert dealt == keys_digest(np.sort(hash_strings(["k1", "é", "k3", "k4"])))


# What a commit refuses


@pytest.mark.parametrize(
    ("keys", "first", "second"),
    [(["x", "same", "same"], "b.tar", "b.tar"), (["x", "klasse_0/bild-é00001"], "a.tar", "b.tar")],
    ids=["within a shard", "across shards"],
)
def test_a_duplicate_key_is_named_with_its_shards(ready: Ready, keys: list[str], first: str, second: str) -> None:
    write_part(
        ready.directory,
        1,
        make_part(ready.spec, 1, len(keys), keys=pa.array(keys, type=pa.large_string())),
    )
    before = digests_of(ready.directory)
    with pytest.raises(DuplicateKeyError) as caught:
        commit(ready.path, ready.spec)
    assert (caught.value.key, caught.value.first_shard, caught.value.second_shard) == (keys[-1], first, second)
    ready.assert_nothing_happened(before)


def test_a_missing_part_is_named_by_its_shard(ready: Ready) -> None:
    part_path(ready.directory, 1).unlink()
    assert "no part for shard b.tar" in refused(ready)


def test_a_part_of_another_shard_is_refused(ready: Ready) -> None:
    shutil.copy(part_path(ready.directory, 0), part_path(ready.directory, 2))
    message = refused(ready)
    assert "part-000002.parquet is of shard a.tar, not c.tar" in message
    with pytest.raises(IncompletePartsError):
        read_headers(ready.path, SHARDS)


@pytest.mark.parametrize("keep", [0, 3, 200, -1])
def test_a_part_that_is_cut_off_is_refused(ready: Ready, keep: int) -> None:
    path = part_path(ready.directory, 1)
    path.write_bytes(path.read_bytes()[:keep])
    message = refused(ready)
    assert "part-000001.parquet is not a readable part" in message
    assert "delete it" in message


def test_a_flipped_bit_in_the_columns_of_a_part_is_refused(ready: Ready) -> None:
    path = part_path(ready.directory, 1)
    whole = path.read_bytes()
    groups = pq.read_metadata(path).row_group(0)
    for index in range(groups.num_columns):
        column = groups.column(index)
        damaged = bytearray(whole)
        damaged[column.data_page_offset + column.total_compressed_size - 1] ^= 0x10  # the page's last byte
        path.write_bytes(damaged)
        with pytest.raises(IncompletePartsError, match=r"part-000001\.parquet"):
            read_back(ready.directory, ready.spec, 1)
    assert "part-000001.parquet" in refused(ready)


@pytest.mark.parametrize("column", ["key", "label", "digest", "tickets", "ranks", "boxes", "flips"])
def test_a_part_without_one_of_its_columns_is_refused(ready: Ready, column: str) -> None:
    path = part_path(ready.directory, 1)
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    assert "part-000001.parquet" in refused(ready)


def test_a_part_of_another_program_is_refused(ready: Ready) -> None:
    pq.write_table(pa.table({"key": ["x"]}), part_path(ready.directory, 1))
    assert "part-000001.parquet is not a readable part" in refused(ready)


@pytest.mark.parametrize(
    "changes",
    [
        {"grid": (3, 6)},
        {"num_views": 3},
        {"num_keep": 5, "selector": make_spec(num_keep=5).selector},
        {"has_ranks": False},
        {"has_views": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_of_another_selection_are_refused(ready: Ready, changes: dict[str, Any]) -> None:
    message = refused(ready, **changes)
    assert "part-000000.parquet" in message
    assert "select" in message


@pytest.mark.parametrize("damage", ["another bit", "spare bit", "rank twice", "ranks of another ticket"])
def test_tickets_and_ranks_of_a_part_are_checked(ready: Ready, damage: str) -> None:
    tickets, ranks = ready.parts[1].tickets.copy(), ready.parts[1].ranks
    assert ranks is not None
    ranks = ranks.copy()
    if damage == "another bit":
        tickets[1, 0] = [0b0111_1111, 0]  # 7 bits, not 6
    elif damage == "spare bit":
        tickets[1, 0] = [0b0001_1111, 0b1000_0000]  # 6 bits, one of them patch 15 of 0 … 14
    elif damage == "rank twice":
        ranks[1, 1, 0] = ranks[1, 1, 1]
    else:
        ranks[1, 1] = ranks[1, 1].max() - ranks[1, 1]
    ready.rewrite(1, tickets=tickets, ranks=ranks)
    assert "part-000001.parquet" in refused(ready)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_px": 49},
        {"dataset_name": ""},
        {"selector": dataclasses.replace(make_spec().selector, keep_counts=[7])},
        {"view": dataclasses.replace(make_spec(num_views=2).view, std=[1.0])},
    ],
    ids=["image_px", "dataset_name", "keep_counts", "std"],
)
def test_parts_are_kept_where_the_manifest_would_not_be_valid(ready: Ready, changes: dict[str, Any]) -> None:
    # A store that no reader opens must not take the place of the parts.
    refused(ready, DatalttError, **changes)


def test_a_key_longer_than_readers_accept_is_refused(ready: Ready) -> None:
    keys = pa.array(["k", "x" * 5000], type=pa.large_string())
    ready.rewrite(1, keys=keys)
    refused(ready, DatalttError)


# StoppedError, and beside a store that is there


@pytest.mark.parametrize(("stop", "after"), [(StoppedError, 1), (KeyboardInterrupt, 3)])
def test_an_interrupted_commit_leaves_the_parts_and_can_be_repeated(
    ready: Ready, stop: type[BaseException], after: int
) -> None:
    half_made: list[str] = []

    def interrupt(done: int, total: int) -> None:
        if done == after:
            half_made.extend(p.name for p in ready.path.parent.iterdir() if p != ready.directory)
            raise stop

    before = digests_of(ready.directory)
    with pytest.raises(stop):
        commit(ready.path, ready.spec, on_progress=interrupt)
    assert half_made == [f"store.zarr.tmp-{os.getpid()}"]
    ready.assert_nothing_happened(before)
    manifest = commit(ready.path, ready.spec)
    assert manifest.num_images == 9
    assert len(read_everything(ready.path)["keys"]) == 9
    assert [p.name for p in ready.path.parent.iterdir()] == ["store.zarr"]


def test_a_store_that_is_there_is_not_touched_unless_it_may_be(tmp_path: Path) -> None:
    made = make_store(tmp_path, seed=1)
    directory = write_parts(made.path, [make_part(made.spec, i, 2) for i in range(3)])
    store, parts = digests_of(made.path), digests_of(directory)
    with pytest.raises(OutputExistsError, match="exists"):
        commit(made.path, made.spec)
    assert (digests_of(made.path), digests_of(directory)) == (store, parts)

    def interrupt(done: int, total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        commit(made.path, made.spec, overwrite=True, on_progress=interrupt)
    assert (digests_of(made.path), digests_of(directory)) == (store, parts)
    assert commit(made.path, made.spec, overwrite=True).num_images == 6
    assert TicketStore.open(str(made.path)).manifest.num_images == 6
    assert [p.name for p in tmp_path.iterdir()] == [made.path.name]


def test_a_committed_manifest_is_valid_json(tmp_path: Path) -> None:
    made = make_store(tmp_path)
    document = json.loads((made.path / "zarr.json").read_text())["attributes"]["dataltt"]
    assert parse_manifest(document, "x") == made.manifest
    assert isinstance(made.manifest, Manifest)


def test_a_plan_without_parts_stands_in_nobodys_way(tmp_path: Path) -> None:
    directory = tmp_path / "s.zarr.parts"
    begin_plan(directory, {"ratio": 0.5})
    begin_plan(directory, {"ratio": 0.7})
    assert json.loads((directory / "plan.json").read_text()) == {"ratio": 0.7}
    (directory / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(IncompletePartsError, match=r"differs in ratio.*`overwrite=True`"):
        begin_plan(directory, {"ratio": 0.5})
    begin_plan(directory, {"ratio": 0.5}, discard_others=True)
    assert [p.name for p in directory.iterdir()] == ["plan.json"]
