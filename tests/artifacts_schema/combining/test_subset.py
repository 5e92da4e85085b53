"""Subsets: the rows asked for, as they were, in their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import OptionError, OutputExistsError, SkippedSample, TicketStore, read_manifest
from dataltt.artifacts_schema.combining import rows as rows_module
from dataltt.artifacts_schema.combining.assembly import Combined, Target
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.lookup import KeyLookup
from dataltt.artifacts_schema.strings import hash_strings, keys_digest
from dataltt.artifacts_schema.verify import verify_store

from ...schema_helpers import Made, make_store, read_everything
from .conftest import Cut

_COLUMNS = ("tickets", "ranks", "labels", "digests", "boxes", "flips")


def _subset(store: Path, out: Path, **wanted: Any) -> Combined:
    return subset_store(store, Wanted(**wanted), Target(path=out))


def _key_file(folder: Path, keys: list[str]) -> Path:
    (folder / "keys.txt").write_text("".join(f"{k}\n" for k in keys), encoding="utf-8")
    return folder / "keys.txt"


def _assert_rows(out: Path, whole: Made, rows: list[int], shards: dict[str, int]) -> None:
    got, want = read_everything(out), read_everything(whole.path)
    assert got["keys"] == [want["keys"][r] for r in rows]
    for name in _COLUMNS:
        np.testing.assert_array_equal(got[name], want[name][rows])
    assert got["shard_names"] == list(shards)
    assert np.diff(got["shard_rows"]).tolist() == list(shards.values())
    assert read_manifest(str(out)).dataset.keys_sha256 == keys_digest(np.sort(hash_strings(got["keys"])))
    assert [c.name for c in verify_store(str(out)) if not c.ok] == []


@pytest.mark.parametrize(
    ("pattern", "rows", "shards"),
    [
        ("shard-00[12].tar", list(range(4, 11)), {"shard-001.tar": 1, "shard-002.tar": 6}),
        ("shard-{003,000}.tar", list(range(4)), {"shard-000.tar": 4, "shard-003.tar": 0}),
        (
            "shard-{001..004}.*",
            list(range(4, 14)),
            {f"shard-00{s}.tar": n for s, n in ((1, 1), (2, 6), (3, 0), (4, 3))},
        ),
    ],
)
def test_whole_shards(whole: Made, tmp_path: Path, pattern: str, rows: list[int], shards: dict[str, int]) -> None:
    found = _subset(whole.path, tmp_path / "out.zarr", shards=pattern)
    _assert_rows(tmp_path / "out.zarr", whole, rows, shards)
    digest = TicketStore.open(str(whole.path)).manifest.digest
    assert found.manifest.parent == [{"ticket_digest": digest, "operation": "subset", "shards": pattern}]


@pytest.mark.parametrize("block_rows", [1, 2, 16_384])
def test_keys_of_a_file(whole: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr(rows_module, "_MAX_BLOCK_ROWS", block_rows)
    rows = [1, 4, 5, 9, 13]
    file = _key_file(tmp_path, [whole.keys[r] for r in reversed(rows)] + ["", whole.keys[1]])
    found = _subset(whole.path, tmp_path / "out.zarr", keys=file)
    shards = {"shard-000.tar": 1, "shard-001.tar": 1, "shard-002.tar": 2, "shard-004.tar": 1}
    _assert_rows(tmp_path / "out.zarr", whole, rows, shards)
    assert str(tmp_path) not in str(found.manifest.parent)
    assert found.manifest.parent is not None
    assert found.manifest.parent[0]["by_keys"] is True


def test_classes(whole: Made, tmp_path: Path) -> None:
    labels = whole.column("labels")
    classes = (int(labels[0]), int(labels[7]))
    rows = np.flatnonzero(np.isin(labels, classes)).tolist()
    found = _subset(whole.path, tmp_path / "out.zarr", classes=classes)
    assert read_everything(tmp_path / "out.zarr")["keys"] == [whole.keys[r] for r in rows]
    assert found.manifest.parent is not None
    assert found.manifest.parent[0]["classes"] == list(classes)


def test_of_several_conditions_all_hold(whole: Made, tmp_path: Path) -> None:
    labels = whole.column("labels")
    file = _key_file(tmp_path, [whole.keys[r] for r in (1, 5, 6, 12)])
    classes = tuple({int(labels[r]) for r in (0, 1, 5, 12)})
    _subset(whole.path, tmp_path / "out.zarr", shards="shard-00[02].tar", keys=file, classes=classes)
    _assert_rows(tmp_path / "out.zarr", whole, [1, 5], {"shard-000.tar": 1, "shard-002.tar": 1})


def test_skipped_samples_go_with_their_shards(whole: Made, cut: Cut, tmp_path: Path) -> None:
    lost = [SkippedSample(shard=whole.spec.shards[0], key=k, reason="cut off") for k in ("x", "y")]
    a = cut("a.zarr", {0: range(4)}, skipped=lost)
    assert _subset(a, tmp_path / "1", shards="*").manifest.skipped == lost
    file = _key_file(tmp_path, [whole.keys[2], "y"])
    assert _subset(a, tmp_path / "2", keys=file).manifest.skipped == lost[1:]


def test_a_store_without_ranks_and_views(tmp_path: Path) -> None:
    made = make_store(tmp_path, 2, (5, 3), ranks=False)
    _subset(made.path, tmp_path / "out.zarr", shards="shard-001.tar")
    got = read_everything(tmp_path / "out.zarr")
    np.testing.assert_array_equal(got["tickets"], made.parts[1].tickets)
    assert (got["ranks"], got["boxes"]) == (None, None)


def test_a_subset_is_looked_up_as_any_store(whole: Made, tmp_path: Path) -> None:
    _subset(whole.path, tmp_path / "out.zarr", shards="shard-00[24].tar")
    found = KeyLookup(TicketStore.open(str(tmp_path / "out.zarr"))).find(whole.keys)
    assert found.tolist() == [-1] * 5 + list(range(9))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "a subset of what? give `shards`, `keys` or `classes`"),
        (
            {"shards": "none-*.tar"},
            "has no shard 'none-*.tar' (from `shards='none-*.tar'`); the first of its 5 is shard-0",
        ),
        ({"shards": "shard-{000..009}.tar"}, "has no shard 'shard-005.tar'"),
        ({"shards": "shard-{000"}, "braces that do not match"),
        ({"classes": (5000,)}, "has no image of class 5000"),
        ({"shards": "shard-003.tar"}, "no image of"),
        ({"keys": Path("/nowhere/keys.txt")}, "cannot be read"),
    ],
)
def test_what_cannot_be_meant(whole: Made, tmp_path: Path, wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        _subset(whole.path, tmp_path / "out.zarr", **wanted)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_key_that_the_store_lacks_is_named(whole: Made, tmp_path: Path) -> None:
    file = _key_file(tmp_path, [whole.keys[0], "foreign", "other", whole.keys[3]])
    with pytest.raises(OptionError, match=r"key 'foreign' has no ticket in .*, nor have 1 more"):
        _subset(whole.path, tmp_path / "out.zarr", keys=file)


def test_what_stands_there_is_not_replaced(whole: Made, tmp_path: Path) -> None:
    _subset(whole.path, tmp_path / "out.zarr", shards="shard-000.tar")
    with pytest.raises(OutputExistsError):
        _subset(whole.path, tmp_path / "out.zarr", shards="shard-001.tar")
    assert len(TicketStore.open(str(tmp_path / "out.zarr"))) == 4
