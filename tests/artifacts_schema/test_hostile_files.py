"""Files of a store that lead elsewhere: links, pipes, devices, members of zip files. None is read or published."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dataltt.artifacts_schema import SchemaError, TicketStore, read_manifest
from dataltt.artifacts_schema.access.location import Location
from dataltt.artifacts_schema.errors import DatalttError
from dataltt.artifacts_schema.files import read_regular, write_atomically
from dataltt.artifacts_schema.local_notes import noted_shards
from dataltt.artifacts_schema.publishing.outgoing import shipment_of
from dataltt.artifacts_schema.publishing.pull import pull
from dataltt.artifacts_schema.verify import verify_store

from ..schema_helpers import Made, copy_store, make_store, read_everything

SECRET = b"XQZJ7WV93KPLM"
NAMES = ["tickets/c/0/0/0", "tickets/zarr.json", "zarr.json"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def store(sound: Made, tmp_path: Path) -> Path:
    return copy_store(sound, tmp_path)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_bytes(SECRET)
    return path


# Each puts something else in the place of a file; the second path is that of the secret.
KINDS: dict[str, Callable[[Path, Path], None]] = {
    "another file": lambda path, secret: path.symlink_to(secret),
    "/dev/zero": lambda path, _: path.symlink_to("/dev/zero"),
    "a pipe": lambda path, _: os.mkfifo(path),
}


def refusals(store: Path, out: Path) -> list[str]:
    """What opening, verifying, sending and fetching the store say."""
    said = [check.detail for check in verify_store(str(store)) if not check.ok]
    actions: list[Callable[[], object]] = [
        lambda: TicketStore.open(store),
        lambda: shipment_of(store, {}),
        lambda: pull(Location.of(store), out),
    ]
    for action in actions:
        with pytest.raises(DatalttError) as caught:
            action()
        said.append(str(caught.value))
    return said


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_the_store_is_refused_unread(
    store: Path, secret: Path, tmp_path: Path, kind: str, name: str
) -> None:
    (store / name).unlink()
    KINDS[kind](store / name, secret)
    for text in refusals(store, tmp_path / "copy.zarr"):
        assert str(store) in text or name in text
        assert "leads out of the store" in text or "not a regular file" in text
        assert not any(SECRET[i : i + 3].decode() in text for i in range(len(SECRET) - 2))
    assert not (tmp_path / "copy.zarr").exists()


def test_a_folder_of_the_store_that_lies_elsewhere_is_refused(store: Path, tmp_path: Path) -> None:
    os.rename(store / "tickets", tmp_path / "elsewhere")
    (store / "tickets").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SchemaError, match=r"tickets/c/0/0/0 is a link that leads out of the store; copy .* cp -rL"):
        TicketStore.open(store)


def test_links_within_the_store_and_to_the_store_are_read(sound: Made, store: Path, tmp_path: Path) -> None:
    os.rename(store / "tickets", store / "t")
    (store / "tickets").symlink_to("t")
    (tmp_path / "by-link.zarr").symlink_to(store)
    assert read_everything(tmp_path / "by-link.zarr")["keys"] == sound.keys


def test_a_link_or_pipe_that_no_manifest_names_is_a_stranger(store: Path) -> None:
    (store / "tickets/c/1").symlink_to("/dev/zero")
    os.mkfifo(store / "pipe")
    (failed,) = [check for check in verify_store(str(store)) if not check.ok]
    assert failed.detail == "pipe is not in the manifest; tickets/c/1 is not in the manifest"


@pytest.mark.parametrize("kind", KINDS)
def test_notes_that_are_no_file_of_the_store_are_none(store: Path, secret: Path, kind: str) -> None:
    secret.write_bytes(b'{"shards": "/root/x.tar"}')
    (store / "local.json").unlink(missing_ok=True)
    KINDS[kind](store / "local.json", secret)
    assert noted_shards(str(store), read_manifest(store)) is None


def test_notes_of_endless_brackets_are_none(store: Path) -> None:
    (store / "local.json").write_bytes(b"[" * 100_000)
    assert noted_shards(str(store), read_manifest(store)) is None


def test_a_file_that_is_written_does_not_follow_a_link(tmp_path: Path, secret: Path) -> None:
    (tmp_path / f"local.json.tmp-{os.getpid()}").symlink_to(secret)
    (tmp_path / "local.json").symlink_to(secret)
    write_atomically(tmp_path / "local.json", b"notes")
    assert secret.read_bytes() == SECRET
    assert read_regular(tmp_path / "local.json", 5) == b"notes"
    with pytest.raises(OSError, match="is larger than 4 bytes"):
        read_regular(tmp_path / "local.json", 4)


def zipped(store: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in store.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(store).as_posix())
    return path


def test_a_member_that_is_a_link_is_no_object(store: Path, secret: Path, tmp_path: Path) -> None:
    (store / NAMES[0]).unlink()
    path = zipped(store, tmp_path / "store.zip")
    link = zipfile.ZipInfo(NAMES[0])
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, str(secret))
    with pytest.raises(SchemaError, match=f"{NAMES[0]}: is missing from the store"):
        TicketStore.open(path)


def test_members_whose_names_lead_out_stay_in_the_zip_file(sound: Made, tmp_path: Path) -> None:
    path = zipped(sound.path, tmp_path / "store.zip")
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../out.txt", "/tmp/dataltt-out.txt", "tickets/../../out.txt"):
            archive.writestr(name, SECRET)
    pull(Location.of(path), tmp_path / "a" / "copy.zarr")
    assert {p.name for p in tmp_path.iterdir()} == {"store.zip", "a"}
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"copy.zarr"}
    assert not Path("/tmp/dataltt-out.txt").exists()
    (failed,) = [check for check in verify_store(str(path)) if not check.ok]
    assert "../out.txt is not in the manifest" in failed.detail


def test_a_zip_file_that_unpacks_to_far_more_is_refused(sound: Made, tmp_path: Path) -> None:
    path = zipped(sound.path, tmp_path / "store.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("digests/c/9", bytes(16 << 20))
    with pytest.raises(SchemaError, match="unpacks to more than 100 times its bytes"):
        TicketStore.open(path)


def test_a_zip_file_of_a_huge_directory_is_refused(sound: Made, tmp_path: Path) -> None:
    path = zipped(sound.path, tmp_path / "store.zip")
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    first = struct.unpack_from("<I", content, end + 16)[0]
    entry = content[first : first + 46] + b"x"
    entry = entry[:28] + struct.pack("<HHH", 1, 0, 0) + entry[34:]
    directory = entry * (17_000_000 // len(entry))
    tail = bytearray(content[end:])
    tail[8:20] = struct.pack("<HHII", 65_535, 65_535, len(directory), first)
    path.write_bytes(content[:first] + directory + bytes(tail))
    with pytest.raises(SchemaError, match="its directory has more than 16777216 bytes"):
        TicketStore.open(path)
