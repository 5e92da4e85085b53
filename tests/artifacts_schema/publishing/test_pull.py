"""Fetching a store: whole or not at all, checked, going on, and from anywhere that it can be read from."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dataltt.artifacts_schema import Location, OptionError, OutputExistsError, SchemaError, StoreNotFoundError
from dataltt.artifacts_schema.publishing.pull import PullResult, default_store, pull
from dataltt.artifacts_schema.publishing.push import push
from dataltt.artifacts_schema.verify import verify_store

from ...schema_helpers import Made, digests_of, edit_manifest, make_store

CARD = {"README.md": b"# tickets\n", "card.png": b"a picture"}


class Stop(BaseException):
    """Ends a pull as Ctrl-C would."""


@pytest.fixture
def far(made: Made, tmp_path: Path) -> Path:
    """A published copy in a folder."""
    place = tmp_path / "far.zarr"
    push(made.path, Location.of(place), CARD)
    return place


def fetch(place: Path | str, out: Path, **options: bool) -> PullResult:
    """Fetches a store."""
    return pull(Location.of(place), out, **options)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_fetched_is_the_store(made: Made, far: Path, tmp_path: Path, kind: str) -> None:
    place, out = far, tmp_path / "near.zarr"
    if kind == "zip":
        place = tmp_path / "far.zip"
        push(made.path, Location.of(place), CARD)
    result = fetch(place, out)
    assert digests_of(out) == digests_of(far)
    assert (result.num_fetched, result.num_skipped) == (len(made.manifest.objects), 0)
    assert result.bytes_fetched == sum(made.manifest.sizes.values())
    assert (result.ticket_digest, result.card) == (made.manifest.digest, ("README.md", "card.png"))
    assert [c.name for c in verify_store(str(out)) if not c.ok] == []
    assert not list(tmp_path.glob("*.pulling"))


def test_again_it_is_checked_and_mended(made: Made, far: Path, tmp_path: Path) -> None:
    out = tmp_path / "near.zarr"
    fetch(far, out)
    (out / "local.json").write_text('{"shards": "mine"}')
    again = fetch(far, out)
    assert (again.num_fetched, again.num_skipped) == (0, len(made.manifest.objects))
    (out / "tickets/c/0/0/0").write_bytes(b"damaged")
    (out / "labels/c/0").unlink()
    assert fetch(far, out).num_fetched == 2
    assert digests_of(out).keys() == {*digests_of(far), "local.json"}
    assert [c.name for c in verify_store(str(out)) if not c.ok] == []


def stop_after(num_steps: int) -> Callable[[str, int, int], None]:
    """Lets so many objects be fetched, and then ends the pull."""
    steps = iter(range(num_steps))

    def progress(what: str, done: int, total: int) -> None:
        if next(steps, None) is None:
            raise Stop

    return progress


def test_half_of_it_is_kept_aside_and_gone_on_from(made: Made, far: Path, tmp_path: Path) -> None:
    out = tmp_path / "near.zarr"
    with pytest.raises(Stop):
        pull(Location.of(far), out, on_progress=stop_after(2))
    assert not out.exists()
    pulling = tmp_path / "near.zarr.pulling"
    whole = [p for p in pulling.rglob("*") if p.is_file() and p.suffix != ".fetching"]
    assert len(whole) >= 3
    whole[0].write_bytes(b"damaged meanwhile")
    (pulling / "stranger").write_bytes(b"of an earlier state of the store")
    result = fetch(far, out)
    assert (result.num_fetched, result.num_skipped) == (len(made.manifest.objects) - len(whole) + 1, len(whole) - 1)
    assert digests_of(out) == digests_of(far)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_store_is_not_fetched(far: Path, tmp_path: Path, damage: str) -> None:
    victim = far / "ranks/c/0/0/0"
    content = victim.read_bytes()
    victim.unlink()
    if damage == "changed":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    out = tmp_path / "near.zarr"
    with pytest.raises(SchemaError, match=r"far\.zarr is not a valid ticket store: ranks/c/0/0/0: "):
        fetch(far, out)
    assert not out.exists()
    victim.write_bytes(content)
    result = fetch(far, out)
    assert result.num_fetched < result.num_fetched + result.num_skipped
    assert digests_of(out) == digests_of(far)


def test_a_damaged_zip_file(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "far.zip"
    push(made.path, Location.of(place), CARD)
    with zipfile.ZipFile(place) as archive:
        header = archive.getinfo("ranks/c/0/0/0").header_offset
    content = bytearray(place.read_bytes())
    content[header + 30 + len("ranks/c/0/0/0") + 9] ^= 1
    place.write_bytes(content)
    with pytest.raises(SchemaError, match=r"ranks/c/0/0/0: cannot be read"):
        fetch(place, tmp_path / "near.zarr")


def test_what_is_there_is_replaced_only_when_asked(made: Made, far: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path, num_shards=1, rows_per_shard=(3,), seed=1, name="near.zarr").path
    before = digests_of(other)
    with pytest.raises(OutputExistsError, match=r"another state .*overwrite=True"):
        fetch(far, other)
    assert digests_of(other) == before
    fetch(far, other, overwrite=True)
    assert digests_of(other) == digests_of(far)
    (tmp_path / "thesis").mkdir()
    with pytest.raises(OutputExistsError, match="is not a ticket store"):
        fetch(far, tmp_path / "thesis", overwrite=True)


@pytest.mark.parametrize("name", ["local.json", "README.md", "zarr.json", "labels"])
def test_names_that_would_pass_for_something_else(far: Path, tmp_path: Path, name: str) -> None:
    """A hostile manifest: an object that is the note of where shards lie, or both a file and a folder."""
    digest = "0" * 64
    edit_manifest(far, lambda m: (m["objects"].update({name: digest}), m["sizes"].update({name: 1})))
    with pytest.raises(SchemaError, match=f"{name}: is no name of an object"):
        fetch(far, tmp_path / "near.zarr")
    assert not (tmp_path / "near.zarr.pulling").exists()


def test_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        fetch(tmp_path / "far.zarr", tmp_path / "near.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_a_card(far: Path, tmp_path: Path) -> None:
    for name in CARD:
        (far / name).unlink()
    assert fetch(far, tmp_path / "near.zarr").card == ()
    (far / "card.png").write_bytes(b"a picture of no page")
    assert fetch(far, tmp_path / "other.zarr").card == ()


def test_a_zip_file_is_no_folder(far: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a store is fetched into a folder"):
        fetch(far, tmp_path / "near.zip")


@pytest.mark.parametrize(
    ("place", "store"),
    [
        ("https://lab.org/tickets/train.zarr", "train.zarr"),
        ("https://lab.org/train.zarr/", "train.zarr"),
        ("s3://bucket/train", "train.zarr"),
        ("hf://datasets/lab/cats@v1", "cats.zarr"),
        ("hf://datasets/lab/cats@v1/train.zarr", "train.zarr"),
        ("deep/train.zip", "train.zarr"),
        ("https://lab.org/train.zarr?download=1", "train.zarr"),
    ],
)
def test_the_folder_that_is_meant(place: str, store: str) -> None:
    assert default_store(place) == Path(store)


def test_an_old_store_arrives_as_it_is(tmp_path: Path) -> None:
    old = Path(__file__).parent.parent.parent / "data" / "store-1.0.zarr"
    fetch(old, tmp_path / "near.zarr")
    assert digests_of(tmp_path / "near.zarr") == digests_of(old)


def test_a_copy_of_a_copy_is_the_same(far: Path, tmp_path: Path) -> None:
    fetch(far, tmp_path / "a.zarr")
    push(tmp_path / "a.zarr", Location.of(tmp_path / "b.zip"), CARD)
    fetch(tmp_path / "b.zip", tmp_path / "c.zarr")
    assert digests_of(tmp_path / "c.zarr") == digests_of(far)
    shutil.rmtree(tmp_path / "a.zarr")
    document = json.loads((tmp_path / "c.zarr/zarr.json").read_text())
    assert document["attributes"]["dataltt"]["dataset"]["source"] == ""
