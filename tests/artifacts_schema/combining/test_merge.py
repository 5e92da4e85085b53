"""Merged stores: the same rows as one selection, each image once, and every disagreement named."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import (
    DuplicateKeyError,
    OptionError,
    OutputExistsError,
    SchemaError,
    SkippedSample,
    TicketMismatchError,
    TicketStore,
    read_manifest,
)
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.interleave import UnknownOrderError, interleave
from dataltt.artifacts_schema.combining.merge import merge_stores
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing.commit import commit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...schema_helpers import Made, digests_of, make_part, make_spec, make_store, read_everything, write_parts
from .conftest import Cut

WHOLE = {0: range(4), 1: range(1), 2: range(6), 3: range(0), 4: range(3)}


def _assert_whole(path: Path, whole: Made) -> None:
    """The same rows in the same order, in the same bytes."""
    got, want = read_everything(path), read_everything(whole.path)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)
    assert read_manifest(str(path)).objects == whole.manifest.objects
    assert [c.name for c in verify_store(str(path)) if not c.ok] == []


def _refused(error: type[Exception], stores: list[Path], out: Path) -> str:
    """Merges, which must fail and leave nothing; returns the message."""
    before = {p.name for p in out.parent.iterdir()}
    with pytest.raises(error) as caught:
        merge_stores(stores, Target(path=out))
    assert {p.name for p in out.parent.iterdir()} == before
    return str(caught.value)


# What comes out


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({0: range(4), 1: range(1)}, {2: range(6), 3: range(0), 4: range(3)}),
        ({0: range(4), 1: range(1), 2: range(6)}, {1: range(1), 2: range(6), 3: range(0), 4: range(3)}),
        (WHOLE, {2: [1, 4], 3: range(0)}),
        ({0: [0, 3], 1: range(0)}, WHOLE),
        ({**WHOLE, 0: [0, 1, 3], 2: [0, 2, 3, 4, 5]}, {0: [1, 2, 3], 2: [0, 1, 2]}),
    ],
    ids=["disjoint shards", "overlapping shards", "a part of it", "a part before it", "interleaved rows"],
)
def test_it_is_one_selection_of_all_shards(
    whole: Made, cut: Cut, tmp_path: Path, first: dict[int, Any], second: dict[int, Any]
) -> None:
    merge_stores([cut("a.zarr", first), cut("b.zarr", second)], Target(path=tmp_path / "out.zarr"))
    _assert_whole(tmp_path / "out.zarr", whole)


def test_shards_stand_in_the_order_of_the_stores(whole: Made, cut: Cut, tmp_path: Path) -> None:
    stores = [cut("a.zarr", {4: range(3)}), cut("b.zarr", {2: range(6), 0: range(4)}), cut("c.zarr", {0: range(4)})]
    seen: list[tuple[int, int]] = []
    target = Target(path=tmp_path / "out.zarr", on_progress=lambda *done: seen.append(done), tool_version="9")
    found = merge_stores(stores, target)
    assert seen == [(13, 13)]
    got = read_everything(tmp_path / "out.zarr")
    order = [4, 2, 0]
    assert got["shard_names"] == [whole.spec.shards[s] for s in order]
    assert got["shard_rows"].tolist() == [0, 3, 9, 13]
    for name in ("tickets", "ranks", "labels", "digests", "boxes", "flips"):
        want = np.concatenate([getattr(whole.parts[s], name) for s in order])
        np.testing.assert_array_equal(got[name], want)
    assert found.notes == ()
    assert found.manifest.tool_version == "9"
    assert found.manifest.parent == [
        {"ticket_digest": TicketStore.open(str(s)).manifest.digest, "operation": "merge"} for s in stores
    ]
    assert len({p["ticket_digest"] for p in found.manifest.parent}) == 3


@pytest.mark.long
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["first", "second", "both"]), min_size=14, max_size=14))
def test_subsets_merge_to_the_whole_or_their_order_is_unknown(
    whole: Made, tmp_path_factory: pytest.TempPathFactory, dealt: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("dealt")
    keys = {name: [k for k, d in zip(whole.keys, dealt, strict=True) if d in (name, "both")] for name in _NAMES}
    if not all(keys.values()):
        return
    for name, listed in keys.items():
        (folder / f"{name}.txt").write_text("".join(f"{k}\n" for k in listed), encoding="utf-8")
        subset_store(whole.path, Wanted(keys=folder / f"{name}.txt"), Target(path=folder / name))
    of_shards = [[[k for k in part.keys.to_pylist() if k in keys[n]] for n in _NAMES] for part in whole.parts]
    try:
        for first, second in of_shards:
            interleave(first, second)
    except UnknownOrderError:
        _refused(OptionError, [folder / n for n in _NAMES], folder / "out")
        return
    merge_stores([folder / n for n in _NAMES], Target(path=folder / "out"))
    got, want = read_everything(folder / "out"), read_everything(whole.path)
    order = [got["keys"].index(k) for k in want["keys"]]  # shards in the order of the stores
    for name in ("tickets", "ranks", "labels", "digests", "boxes", "flips"):
        np.testing.assert_array_equal(got[name][order], want[name])


_NAMES = ("first", "second")


def test_samples_that_were_skipped_merge_and_one_that_has_a_ticket_is_none(
    whole: Made, cut: Cut, tmp_path: Path
) -> None:
    shard = whole.spec.shards[2]
    third = whole.parts[2].keys[3].as_py()
    lost = [SkippedSample(shard=shard, key=third, reason="truncated"), SkippedSample(shard=shard, key="x", reason="y")]
    other = SkippedSample(shard=whole.spec.shards[4], key="z", reason="empty")
    stores = [
        cut("a.zarr", {2: [0, 1, 2, 4, 5]}, skipped=lost),
        cut("b.zarr", {2: range(6)}),
        cut("c.zarr", {4: range(3)}, skipped=[other]),
    ]
    manifest = merge_stores(stores, Target(path=tmp_path / "out.zarr")).manifest
    assert manifest.skipped == [lost[1], other]
    assert read_everything(tmp_path / "out.zarr")["keys"][:6] == whole.parts[2].keys.to_pylist()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stores_of_earlier_versions(tmp_path: Path, version: str) -> None:
    old = Path(__file__).parents[2] / "data" / f"store-{version}.zarr"
    names = TicketStore.open(str(old)).shard_names
    for i, name in enumerate(names):
        subset_store(old, Wanted(shards=name), Target(path=tmp_path / f"{i}"))
    found = merge_stores([tmp_path / f"{i}" for i in range(len(names))], Target(path=tmp_path / "out.zarr"))
    got, want = read_everything(tmp_path / "out.zarr"), read_everything(old)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)
    assert [c.name for c in verify_store(str(tmp_path / "out.zarr")) if not c.ok] == []
    labeller = read_manifest(str(old)).token_labels
    assert found.manifest.token_labels == labeller
    if labeller is not None:
        rows = range(len(want["keys"]))
        stores = [TicketStore.open(str(p)) for p in (old, tmp_path / "out.zarr")]
        for of_old, of_new in zip(*(s.read_token_labels(rows) for s in stores), strict=True):
            np.testing.assert_array_equal(of_old, of_new)


def test_token_labels_that_not_all_have_are_left_out_with_a_word(tmp_path: Path) -> None:
    old = Path(__file__).parents[2] / "data" / "store-1.1.zarr"
    store = TicketStore.open(str(old))
    spec = make_spec(grid=store.manifest.grid, num_keep=store.manifest.num_keep, shards=["other.tar"], num_views=1)
    m = store.manifest
    spec = dataclasses.replace(
        spec,
        patch_px=m.patch_px,
        image_px=m.image_px,
        num_views=m.num_views,
        has_ranks=m.has_ranks,
        has_views=True,
        selector=m.selector,
        view=m.view,
    )
    write_parts(tmp_path / "b.zarr", [make_part(spec, 0, 2)])
    commit(tmp_path / "b.zarr", spec)
    found = merge_stores([old, tmp_path / "b.zarr"], Target(path=tmp_path / "out.zarr"))
    assert found.notes == (f"token labels are left out, since {tmp_path / 'b.zarr'} has none",)
    assert found.manifest.token_labels is None
    assert not any(name.startswith("token_labels") for name in found.manifest.objects)


# What is refused


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("digests", "is of other bytes"),
        ("labels", "has another label"),
        ("boxes", "has other views"),
        ("flips", "has other views"),
        ("tickets", "has another ticket"),
    ],
)
def test_an_image_that_they_disagree_on_is_named(whole: Made, cut: Cut, tmp_path: Path, column: str, said: str) -> None:
    part = whole.parts[2]
    other = getattr(part, column).copy()
    changes: dict[str, Any] = {column: other}
    if column == "tickets":
        ranks = part.ranks.copy()  # type: ignore[union-attr]
        ranks[4, 1] = np.roll(ranks[4, 1], 1)
        changes = {"ranks": ranks, "tickets": np.packbits(ranks < 6, axis=-1, bitorder="little")}
    elif column == "flips":
        other[4, 1] ^= 1
    elif column == "boxes":
        other[4, 1, 0] /= 2
    else:
        other[4] = 17
    stores = [cut("a.zarr", {0: range(4), 2: range(6)}), cut("b.zarr", {2: range(6)}, **changes)]
    message = _refused(TicketMismatchError, stores, tmp_path / "out.zarr")
    assert message.startswith(f"image {part.keys[4].as_py()!r} of shard {part.shard} {said} in {stores[1]} than in ")
    if column == "labels":
        assert f"(17, and {part.labels[4]} there)" in message


def test_other_ranks_alone_are_a_disagreement(whole: Made, cut: Cut, tmp_path: Path) -> None:
    ranks = whole.parts[1].ranks.copy()  # type: ignore[union-attr]
    ranks[0, 0] = np.where(ranks[0, 0] == 8, 9, np.where(ranks[0, 0] == 9, 8, ranks[0, 0]))  # both dropped
    stores = [cut("a.zarr", {1: range(1)}), cut("b.zarr", {1: range(1)}, ranks=ranks)]
    assert "has other ranks" in _refused(TicketMismatchError, stores, tmp_path / "out.zarr")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {"view": dataclasses.replace(s.view, resize_px=64)}, "view.resize_px is 48 in the first and 64"),
        (
            lambda s: {"selector": dataclasses.replace(s.selector, weights_sha256="a" * 64)},
            "selector.weights_sha256 is 000000000000… in the first and aaaaaaaaaaaa… in the second",
        ),
        (
            lambda s: {"selector": dataclasses.replace(s.selector, precision="bf16")},
            "selector.precision is fp32 in the first and bf16 in the second",
        ),
        (
            lambda s: {"view": dataclasses.replace(s.view, augment={**s.view.augment, "seed": 1})},
            "view.augment.seed is 0 in the first and 1 in the second",
        ),
    ],
)
def test_stores_of_other_kinds(whole: Made, cut: Cut, tmp_path: Path, change: Any, said: str) -> None:
    stores = [cut("a.zarr", {0: range(4)}), cut("b.zarr", {1: range(1)}, change(whole.spec))]
    message = _refused(OptionError, stores, tmp_path / "out.zarr")
    assert said in message
    assert message.startswith(f"{stores[0]} and {stores[1]} cannot be merged: ")


def test_views_of_other_libraries_with_the_same_pixels_are_the_same(whole: Made, cut: Cut, tmp_path: Path) -> None:
    drawn = {**(whole.spec.view.augment or {}), "libraries": {"pillow": "99"}}
    spec = {"view": dataclasses.replace(whole.spec.view, augment=drawn)}
    merge_stores([cut("a.zarr", {0: range(4)}), cut("b.zarr", {1: range(1)}, spec)], Target(path=tmp_path / "o"))
    assert len(TicketStore.open(str(tmp_path / "o"))) == 5


def test_ranks_in_one_alone_and_the_way_out(whole: Made, cut: Cut, tmp_path: Path) -> None:
    stores = [cut("a.zarr", {0: range(4)}), cut("b.zarr", {1: range(1)}, {"has_ranks": False}, ranks=None)]
    message = _refused(OptionError, stores, tmp_path / "out.zarr")
    assert "has_ranks is True in the first and False in the second" in message
    assert f"leave the ranks out with: dataltt store thin {stores[0]} --no-ranks" in message


def test_grids_and_numbers(tmp_path: Path) -> None:
    a = make_store(tmp_path, 1, (2,), name="a.zarr").path
    b = make_store(tmp_path, 1, (2,), grid=(5, 3), num_keep=7, num_views=2, name="b.zarr").path
    message = _refused(OptionError, [a, b], tmp_path / "out.zarr")
    for said in ("grid is (3, 5) in the first and (5, 3)", "num_keep is 6 in the first and 7", "num_views is 1 in"):
        assert said in message


@pytest.mark.parametrize("rows", [([0, 1], [2, 3]), ([0, 1, 3], [1, 0, 2])], ids=["unknown", "contradicting"])
def test_a_shard_whose_order_nothing_tells(cut: Cut, tmp_path: Path, rows: tuple[list[int], list[int]]) -> None:
    stores = [cut("a.zarr", {0: rows[0]}), cut("b.zarr", {0: rows[1]})]
    message = _refused(OptionError, stores, tmp_path / "out.zarr")
    assert "hold different images of shard shard-000.tar" in message
    assert "nothing says in which order" in message


def test_an_image_in_two_shards(whole: Made, cut: Cut, tmp_path: Path) -> None:
    stores = [cut("a.zarr", {0: range(4)}), cut("b.zarr", {1: range(1)}, keys=whole.parts[0].keys.slice(2, 1))]
    message = _refused(DuplicateKeyError, stores, tmp_path / "out.zarr")
    assert message.startswith("key 'klasse_0/bild-é00002' occurs in shard-000.tar and shard-001.tar")


def test_one_store_is_nothing_to_merge(whole: Made, tmp_path: Path) -> None:
    assert "two stores or more" in _refused(OptionError, [whole.path], tmp_path / "out.zarr")


def test_what_stands_there_stays(whole: Made, cut: Cut, tmp_path: Path) -> None:
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr" / "mine.txt").write_text("mine")
    a = cut("a.zarr", {0: range(4)})
    with pytest.raises(OutputExistsError, match="is not a ticket store"):
        merge_stores([a, whole.path], Target(path=tmp_path / "out.zarr", overwrite=True))
    with pytest.raises(OutputExistsError, match="`overwrite=True`"):
        merge_stores([a, whole.path], Target(path=a))
    assert (tmp_path / "out.zarr" / "mine.txt").read_text() == "mine"


def test_a_store_may_be_replaced_by_what_it_is_merged_into(whole: Made, cut: Cut, tmp_path: Path) -> None:
    a = cut("a.zarr", {0: range(4), 1: range(1), 2: [0, 5]})
    merge_stores([a, whole.path], Target(path=a, overwrite=True))
    _assert_whole(a, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_a_damaged_store_is_named_and_nothing_is_written(whole: Made, cut: Cut, tmp_path: Path) -> None:
    a, b = cut("a.zarr", {0: range(4)}), cut("b.zarr", {2: range(6)})
    chunk = b / "tickets" / "c" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 3] ^= 0x20
    chunk.write_bytes(content)
    message = _refused(SchemaError, [a, b], tmp_path / "out.zarr")
    assert message.startswith(f"{b} is not a valid ticket store: tickets")


class StoppedError(Exception):
    """Stands for whatever stops a merge half way."""


def test_stopped_in_mid_write_nothing_is_left(whole: Made, cut: Cut, tmp_path: Path) -> None:
    stores = [cut("a.zarr", {0: range(4)}), cut("b.zarr", {2: range(6)})]
    before = digests_of(tmp_path)

    def stop(*_: int) -> None:
        assert list(tmp_path.glob("out.zarr.tmp-*"))
        raise StoppedError

    with pytest.raises(StoppedError):
        merge_stores(stores, Target(path=tmp_path / "out.zarr", on_progress=stop))
    assert digests_of(tmp_path) == before


_KILL = """
import os, signal, sys
from pathlib import Path
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.merge import merge_stores

*stores, out = map(Path, sys.argv[1:])
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
merge_stores(stores, Target(path=out, overwrite=True, on_progress=kill))
"""


@pytest.mark.long
def test_killed_in_mid_write_the_store_before_stands(whole: Made, cut: Cut, tmp_path: Path) -> None:
    stores = [cut("a.zarr", {0: range(4)}), cut("b.zarr", {2: range(6)}), cut("out.zarr", {4: range(3)})]
    before = digests_of(stores[2])
    killed = subprocess.run([sys.executable, "-c", _KILL, *stores[:2], stores[2]], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert digests_of(stores[2]) == before
    merge_stores(stores[:2], Target(path=stores[2], overwrite=True))
    assert read_everything(stores[2])["shard_rows"].tolist() == [0, 4, 10]
