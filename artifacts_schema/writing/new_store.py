"""New stores: written beside their place, their manifest last, and renamed into place when whole."""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import zarr

from ..errors import OutputExistsError
from ..files import check_writable, clear_left_behind, removing, writing
from ..layout import is_beside_objects
from ..local_notes import write_local_notes
from ..manifest import MANIFEST_ATTRIBUTE, Manifest
from ..manifest_file import is_store
from ..manifest_parsing import parse_manifest


def check_destination(store_path: Path, *, overwrite: bool) -> None:
    """Refuses to write where something stands, but for a ticket store that is to be overwritten, or where nobody may.

    Raises:
        OutputExistsError
        DiskError: nothing can be written beside it, where stores are made.
    """
    if not store_path.exists():
        check_writable(store_path)
        return
    if not is_store(str(store_path)):
        raise OutputExistsError(f"{store_path} exists and is not a ticket store; choose another `out`")
    if not overwrite:
        raise OutputExistsError(f"{store_path} exists; pass `overwrite=True` to replace it, or choose another `out`")
    check_writable(store_path.parent)


def write_new_store(store_path: Path, write: Callable[[Path], Manifest], *, shards: str | None) -> Manifest:
    """Writes a store whole or not at all; what stands at `store_path` is replaced.

    Args:
        write: writes the arrays into a folder that is not there yet, and returns the manifest without `objects`.
        shards: where the images are, for the notes beside the store.

    Returns:
        The manifest as it was written.

    Raises:
        DiskError: it cannot be written.
    """
    with writing(store_path):
        return _write_new_store(store_path, write, shards=shards)


def _write_new_store(store_path: Path, write: Callable[[Path], Manifest], *, shards: str | None) -> Manifest:
    temporary = store_path.with_name(f"{store_path.name}.tmp-{os.getpid()}")
    clear_left_behind(store_path)
    shutil.rmtree(temporary, ignore_errors=True)
    with removing(temporary):
        # One chunk at a time: each that is encoded beside it would take its own buffers.
        with zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1}):
            unsealed = write(temporary)
        objects = hash_objects(temporary)
        document = replace(unsealed, objects=objects, sizes=object_sizes(temporary, objects)).to_json()
        manifest = parse_manifest(document, str(store_path))
        if shards is not None:
            write_local_notes(temporary, shards=shards)
        # The attributes, in the group's own metadata object, are the last thing written.
        zarr.open_group(temporary, mode="r+").update_attributes({MANIFEST_ATTRIBUTE: document})
        _put_in_place(temporary, store_path)
    return manifest


def _put_in_place(temporary: Path, store_path: Path) -> None:
    """Renames the finished directory; whatever stood there goes aside first and is removed last."""
    aside = store_path.with_name(f"{store_path.name}.old-{os.getpid()}")
    if store_path.exists():
        os.rename(store_path, aside)
    os.rename(temporary, store_path)
    shutil.rmtree(aside, ignore_errors=True)


def hash_objects(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root` but the root group's metadata (which carries the manifest), notes and card."""
    digests = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if not is_beside_objects(name):
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def object_sizes(root: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of each of these objects of the store at `root`."""
    return {name: (root / name).stat().st_size for name in names}


def creation_time() -> str:
    """The time now, or SOURCE_DATE_EPOCH, as a manifest's `created` has it: it is the one field that is a time."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")  # reproducible-builds.org
    now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="seconds")
