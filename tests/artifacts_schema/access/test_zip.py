"""Stores in a zip file, by its path."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.errors import SchemaError, StoreNotFoundError
from dataltt.artifacts_schema.verify import verify_store

from ...schema_helpers import Made
from .helpers import FIRST_TICKETS, everything, everything_in

DATA = Path(__file__).parents[2] / "data"


def _zip(folder: Path, path: Path, prefix: str = "", *, leave_out: str = "", method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = file.relative_to(folder).as_posix()
            if name != leave_out:
                archive.write(file, prefix + name)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("prefix", ["", "store.zarr/"])
def test_a_store_is_the_same_and_passes_every_check(made: Made, tmp_path: Path, prefix: str, method: int) -> None:
    path = _zip(made.path, tmp_path / "store.zip", prefix, method=method)
    assert everything(TicketStore.open(path)) == everything_in(made.path)
    assert [c.name for c in verify_store(str(path)) if not c.ok] == []


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stores_of_old_versions(version: str, tmp_path: Path) -> None:
    folder = DATA / f"store-{version}.zarr"
    assert everything(TicketStore.open(_zip(folder, tmp_path / "old.zip"))) == everything_in(folder)


def test_what_is_missing_or_cut_off_is_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=f"{FIRST_TICKETS}: is missing from the store"):
        TicketStore.open(_zip(made.path, tmp_path / "less.zip", leave_out=FIRST_TICKETS))
    whole = _zip(made.path, tmp_path / "whole.zip").read_bytes()
    half = tmp_path / "half.zip"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SchemaError, match=r"half\.zip.*is not a zip file that can be read"):
        TicketStore.open(half)
    with pytest.raises(StoreNotFoundError, match="has no ticket store in it"):
        TicketStore.open(_zip(made.path / "tickets", tmp_path / "other.zip", "a/", leave_out="zarr.json"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        (FIRST_TICKETS, r"tickets: cannot be read \(.*\); fetch it again"),
        ("tickets/zarr.json", r"tickets: cannot be opened \(.*\)"),
        ("zarr.json", r"zarr\.json: cannot be read \(damaged zip file: .*\)"),
    ],
)
def test_a_flipped_bit_is_found(made: Made, tmp_path: Path, method: int, name: str, says: str) -> None:
    path = _zip(made.path, tmp_path / "store.zip", method=method)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
    first = member.header_offset + 30 + len(name)  # past the member's own header
    data = bytearray(path.read_bytes())
    data[first + member.compress_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SchemaError, match=says):
        TicketStore.open(path).read_tickets(range(2))
    assert [c.name for c in verify_store(str(path)) if not c.ok] != []
