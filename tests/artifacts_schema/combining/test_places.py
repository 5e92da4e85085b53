"""Stores to combine behind URLs and in zip files, and what a new store notes of where its shards are."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema import RemoteError, read_manifest
from dataltt.artifacts_schema.access import trying
from dataltt.artifacts_schema.access.location import Access, Location
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.merge import merge_stores
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.artifacts_schema.local_notes import noted_shards

from ...far.http_server import FileServer
from ...schema_helpers import Made, read_everything
from .conftest import Cut


@pytest.fixture
def access(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Access:
    """Access with an empty cache, and short waits."""
    monkeypatch.setattr(trying, "_FIRST_WAIT_S", 0.002)
    return Access(cache_dir=tmp_path_factory.mktemp("cache"))


def _zipped(store: Path) -> Path:
    with zipfile.ZipFile(store.with_suffix(".zip"), "w") as file:
        for path in sorted(p for p in store.rglob("*") if p.is_file()):
            file.write(path, path.relative_to(store))
    return store.with_suffix(".zip")


def _noted(store: Path) -> str | None:
    return noted_shards(str(store), read_manifest(store))


@pytest.mark.usefixtures("no_credentials")
def test_a_store_on_the_web_and_one_in_a_zip_file(whole: Made, cut: Cut, tmp_path: Path, access: Access) -> None:
    first = cut("a.zarr", {0: range(4), 1: range(1), 2: range(6)})
    second = _zipped(cut("b.zarr", {1: range(1), 3: range(0), 4: range(3)}))
    loaded: list[tuple[int, int]] = []
    with FileServer(first.parent) as web:
        far = Location.of(f"{web.url}/a.zarr", access)
        merge_stores([far, second], Target(path=tmp_path / "out.zarr", on_download=lambda *done: loaded.append(done)))
        asked = [r.path for r in web.requests]
    assert len(asked) == len(set(asked))
    assert loaded
    assert loaded[-1][0] == loaded[-1][1] > 0
    got, want = read_everything(tmp_path / "out.zarr"), read_everything(whole.path)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values)
    assert not (tmp_path / "out.zarr" / "local.json").exists()


@pytest.mark.usefixtures("no_credentials")
def test_a_subset_of_a_far_store_is_the_same_as_of_the_near_one(whole: Made, tmp_path: Path, access: Access) -> None:
    with FileServer(whole.path.parent) as web:
        far = Location.of(f"{web.url}/{whole.path.name}", access)
        subset_store(far, Wanted(shards="shard-002.tar"), Target(path=tmp_path / "far"))
    subset_store(whole.path, Wanted(shards="shard-002.tar"), Target(path=tmp_path / "near"))
    assert read_manifest(tmp_path / "far").objects == read_manifest(tmp_path / "near").objects


@pytest.mark.usefixtures("no_credentials")
def test_a_connection_that_breaks_leaves_nothing(whole: Made, tmp_path: Path, access: Access) -> None:
    with FileServer(whole.path.parent) as web:
        web.fail("*/tickets/c/*", drop_after_bytes=10)
        far = Location.of(f"{web.url}/{whole.path.name}", access)
        with pytest.raises(RemoteError, match=r"tickets/c/0/0/0"):
            thin_store(far, Target(path=tmp_path / "out.zarr"), ratio=0.2)
    assert not list(tmp_path.iterdir())


def test_where_the_shards_are_is_noted_beside_the_new_store(whole: Made, cut: Cut, tmp_path: Path) -> None:
    a = cut("a.zarr", {0: range(4)}, {"source": "/x/a-*.tar"})
    b = cut("b.zarr", {1: range(1)}, {"source": "/y/b-{0..3}.tar"})
    same = cut("c.zarr", {2: range(6)}, {"source": "/x/a-*.tar"})
    again = cut("d.zarr", {0: range(4), 1: range(1)}, {"source": "/z/*.tar"})
    for name, stores in (("ab", [a, b]), ("ac", [a, same]), ("ad", [a, again])):
        merge_stores(stores, Target(path=tmp_path / name))
    assert _noted(tmp_path / "ab") == "{/x/a-*.tar,/y/b-{0..3}.tar}"
    assert _noted(tmp_path / "ac") == "/x/a-*.tar"
    assert _noted(tmp_path / "ad") is None  # they name some shards both
    thin_store(a, Target(path=tmp_path / "thin"), ratio=0.2)
    assert json.loads((tmp_path / "thin" / "local.json").read_text()) == {"shards": "/x/a-*.tar"}
    for name in ("ab", "ac", "ad", "thin"):
        assert "/x/" not in json.dumps(read_manifest(tmp_path / name).to_json())


def test_where_the_shards_of_a_store_of_before_1_2_are(tmp_path: Path) -> None:
    old = Path(__file__).parents[2] / "data" / "store-1.1.zarr"
    source = read_manifest(old).dataset.source
    assert source
    thin_store(old, Target(path=tmp_path / "thin"), ranks=False)
    assert _noted(tmp_path / "thin") == source
    assert read_manifest(tmp_path / "thin").dataset.source == ""
