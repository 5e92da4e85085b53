"""Sending a store: to a folder and a zip file; whole or not at all; again; over others; without what is private."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dataltt.artifacts_schema import (
    Location,
    OptionError,
    OutputExistsError,
    SchemaError,
    StoreNotFoundError,
    TicketStore,
    read_manifest,
)
from dataltt.artifacts_schema.publishing.outgoing import Outgoing, shipment_of
from dataltt.artifacts_schema.publishing.push import PushResult, push
from dataltt.artifacts_schema.verify import verify_store

from ...schema_helpers import Made, digests_of, edit_manifest, make_store, read_everything

CARD = {"README.md": b"# tickets\n", "card.png": b"a picture"}
OLD_STORES = [Path(__file__).parents[2] / "data" / f"store-{version}.zarr" for version in ("1.0", "1.1")]


class Stop(BaseException):
    """Ends a push as Ctrl-C would."""


def stop_after(num_steps: int) -> Callable[[str, int, int], None]:
    """Lets so many files be sent, and then ends the push."""
    steps = iter(range(num_steps))

    def progress(what: str, done: int, total: int) -> None:
        if what == "sending" and next(steps, None) is None:
            raise Stop

    return progress


def send(store: Path, place: Path | str, **options: bool) -> PushResult:
    """Sends a store with a card."""
    return push(store, Location.of(place), CARD, **options)


@pytest.fixture(params=["far.zarr", "far.zip"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder or a zip file that is not there yet, in a folder that is not there yet."""
    return tmp_path / "deep" / request.param


def test_what_arrives_is_the_store(made: Made, place: Path) -> None:
    before = digests_of(made.path)
    result = send(made.path, place)
    assert digests_of(made.path) == before
    assert result.num_sent == len(made.manifest.objects) + 1 + len(CARD)
    assert (result.num_skipped, result.bytes_skipped) == (0, 0)
    assert result.ticket_digest == made.manifest.digest == read_manifest(str(place)).digest
    assert result.root_sha256 == before["zarr.json"]
    assert [c.name for c in verify_store(str(place)) if not c.ok] == []
    sent, kept = TicketStore.open(str(place)), TicketStore.open(str(made.path))
    assert list(sent) == list(kept)
    assert (sent.read_tickets(range(11)) == kept.read_tickets(range(11))).all()


def test_again_nothing_is_sent(made: Made, place: Path) -> None:
    first = send(made.path, place)
    before = place.stat().st_mtime_ns
    again = send(made.path, place)
    assert (again.num_sent, again.bytes_sent) == (0, 0)
    assert (again.num_skipped, again.bytes_skipped) == (first.num_sent, first.bytes_sent)
    assert again.root_sha256 == first.root_sha256
    assert place.stat().st_mtime_ns == before


def test_half_of_it_is_no_store_and_goes_on(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "far.zarr"
    with pytest.raises(Stop):
        push(made.path, Location.of(place), CARD, on_progress=stop_after(4))
    assert len([p for p in place.rglob("*") if p.is_file()]) == 5
    with pytest.raises(StoreNotFoundError):
        read_manifest(str(place))
    result = send(made.path, place)
    assert result.num_skipped == 5
    card = {name: hashlib.sha256(content).hexdigest() for name, content in CARD.items()}
    assert {**digests_of(place), "local.json": ""} == {**digests_of(made.path), **card, "local.json": ""}


_KILLED = """
import os, signal, sys
from pathlib import Path
from dataltt.artifacts_schema import Location
from dataltt.artifacts_schema.publishing.push import push

left = int(sys.argv[3])
def progress(what, done, total):
    global left
    left -= what == "sending"
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

push(Path(sys.argv[1]), Location.of(sys.argv[2]), {"README.md": b"# tickets"}, on_progress=progress)
"""


@pytest.mark.long
@pytest.mark.parametrize("num_sent", [1, 12])
def test_killed_half_way_it_is_no_store_and_goes_on(made: Made, place: Path, num_sent: int) -> None:
    command = [sys.executable, "-c", _KILLED, str(made.path), str(place), str(num_sent)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with pytest.raises(StoreNotFoundError):
        read_manifest(str(place))
    result = send(made.path, place)
    assert result.num_skipped == (0 if place.suffix == ".zip" else num_sent)
    assert [c.name for c in verify_store(str(place)) if not c.ok] == []
    assert not [p for p in place.parent.rglob("*") if "sending" in p.name]


@pytest.mark.parametrize("inside", ["", "copy.zip", "deep/copy.zarr"])
def test_the_store_itself_is_no_place_to_send_it_to(store: Path, inside: str) -> None:
    before = digests_of(store)
    with pytest.raises(OptionError, match="is the store itself, or in it"):
        send(store, store / inside)
    assert digests_of(store) == before


def test_half_a_zip_file_is_not_there(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "far.zip"
    with pytest.raises(Stop):
        push(made.path, Location.of(place), CARD, on_progress=stop_after(4))
    assert list(tmp_path.iterdir()) == []


def test_half_of_another_store_is_none_either(made: Made, tmp_path: Path) -> None:
    """An object of the old store is replaced before its root would be: the root goes first."""
    place = tmp_path / "far.zarr"
    send(make_store(tmp_path, seed=1).path, place)
    with pytest.raises(Stop):
        push(made.path, Location.of(place), CARD, overwrite=True, on_progress=stop_after(1))
    with pytest.raises(StoreNotFoundError):
        read_manifest(str(place))
    send(made.path, place)
    assert read_manifest(str(place)).digest == made.manifest.digest


def test_a_zip_file_is_stored_plain_the_root_last_and_the_same_each_time(made: Made, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        send(made.path, tmp_path / name)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        members = archive.infolist()
        assert archive.testzip() is None
    assert {m.compress_type for m in members} == {zipfile.ZIP_STORED}
    assert members[-1].filename == "zarr.json"
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_what_was_damaged_there_is_sent_again(made: Made, tmp_path: Path) -> None:
    place = tmp_path / "far.zarr"
    send(made.path, place)
    victim = place / "tickets/c/0/0/0"
    content = bytearray(victim.read_bytes())
    content[5] ^= 1
    victim.write_bytes(content)  # of the same size
    (place / "labels/zarr.json").unlink()
    result = send(made.path, place)
    assert result.num_sent == 3  # and the root, which is away while the others are replaced
    assert [c.name for c in verify_store(str(place)) if not c.ok] == []


def test_other_tickets_are_replaced_only_when_asked(made: Made, place: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path, num_shards=1, rows_per_shard=(3,), ranks=False, seed=1)
    send(other.path, place)
    with pytest.raises(OutputExistsError, match=r"store of other tickets .*overwrite=True"):
        send(made.path, place)
    assert read_manifest(str(place)).digest == other.manifest.digest
    send(made.path, place, overwrite=True)
    assert read_manifest(str(place)).digest == made.manifest.digest
    send(other.path, place, overwrite=True)  # whose manifest names no ranks and no views: these go
    assert [c.name for c in verify_store(str(place)) if not c.ok] == []


def test_the_same_tickets_under_another_licence_need_no_leave(made: Made, place: Path, tmp_path: Path) -> None:
    from dataltt.artifacts_schema.manifest import Publication
    from dataltt.artifacts_schema.publishing.publication import publish_as

    store = Path(shutil.copytree(made.path, tmp_path / "copy.zarr"))
    send(store, place)
    publish_as(store, Publication(license="CC-BY-4.0"))
    result = send(store, place)
    assert result.num_sent == 1
    publication = read_manifest(str(place)).publication
    assert publication is not None
    assert publication.license == "CC-BY-4.0"


def test_what_is_no_store_is_left_alone(made: Made, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years of work")
    (tmp_path / "other.zip").write_bytes(b"not a zip file")
    (tmp_path / "file").write_bytes(b"")
    for name in ("thesis", "other.zip", "file"):
        with pytest.raises(OutputExistsError, match=name):
            send(made.path, tmp_path / name, overwrite=True)
    assert digests_of(tmp_path).keys() == {"thesis/chapter.tex", "other.zip", "file"}


def test_a_damaged_store_is_not_sent(store: Path, place: Path) -> None:
    victim = store / "ranks/c/0/0/0"
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    (store / "labels/c/0").unlink()
    with pytest.raises(SchemaError) as caught:
        send(store, place)
    assert {(p.where, p.kind) for p in caught.value.problems} == {
        ("ranks/c/0/0/0", "damaged"),
        ("labels/c/0", "missing"),
    }
    assert not place.parent.exists()


def test_what_is_private_stays(store: Path, place: Path) -> None:
    (store / "local.json").write_text(json.dumps({"shards": "/home/ada/private/train-*.tar"}))
    (store / "notes.txt").write_text("nobody's")
    send(store, place)
    if place.suffix == ".zip":
        with zipfile.ZipFile(place) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    else:
        files = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert files.keys() == {*read_manifest(str(store)).objects, *CARD, "zarr.json"}
    assert not any(b"/home/ada" in content for content in files.values())


@pytest.mark.parametrize("old", OLD_STORES, ids=lambda p: p.name)
def test_an_old_store_travels_without_its_path_in_this_version(old: Path, place: Path) -> None:
    before = digests_of(old)
    was = read_manifest(str(old))
    assert was.dataset.source
    result = send(old, place)
    found = read_manifest(str(place))
    assert digests_of(old) == before
    assert (found.schema_version, found.dataset.source) == ("1.2", "")
    assert found.digest == found.ticket_digest == result.ticket_digest == was.digest
    assert found.sizes == {name: (old / name).stat().st_size for name in was.objects}
    assert [c.name for c in verify_store(str(place)) if not c.ok] == []
    assert send(old, place).num_sent == 0
    for name, array in read_everything(old).items():
        assert repr(read_everything(place)[name]) == repr(array) if place.suffix != ".zip" else True


def test_a_store_of_a_later_minor_version_travels_byte_for_byte(store: Path, tmp_path: Path) -> None:
    edit_manifest(store, lambda m: m.update(schema_version="1.9", blessing="of a later version"))
    send(store, tmp_path / "far.zarr")
    assert (tmp_path / "far.zarr/zarr.json").read_bytes() == (store / "zarr.json").read_bytes()


@pytest.mark.parametrize("url", ["http://lab.org/a", "https://lab.org/a.zip", "ftp://lab.org/a"])
def test_some_urls_take_nothing(made: Made, url: str) -> None:
    with pytest.raises(OptionError, match=r"nothing can be sent to .*x\.zip, s3://.*gs://.*hf://"):
        send(made.path, url)


def test_private_is_for_the_hub(made: Made, place: Path) -> None:
    with pytest.raises(OptionError, match=r"`private=True` is for repositories of the hub"):
        send(made.path, place, private=True)


def test_a_zip_file_is_no_source(made: Made, tmp_path: Path) -> None:
    send(made.path, tmp_path / "far.zip")
    with pytest.raises(OptionError, match=r"is not a folder; fetch it first: dataltt pull"):
        send(tmp_path / "far.zip", tmp_path / "other.zarr")
    with pytest.raises(StoreNotFoundError):
        send(tmp_path / "absent.zarr", tmp_path / "other.zarr")


def test_digests_are_those_that_services_give(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    for source in (b"hello\n", tmp_path / "file"):
        file = Outgoing.of("a", source)
        assert file.size == 6
        assert file.md5 == "b1946ac92492d2347c6235b4d2611184"
        assert file.git_sha1 == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
        assert file.sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


def test_the_root_is_the_last_of_a_shipment(made: Made) -> None:
    names = [file.name for file in shipment_of(made.path, CARD).files]
    assert names == [*made.manifest.objects, "README.md", "card.png", "zarr.json"]
