"""A store's manifest, read from its file alone: no array is opened."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from .access.location import Access, Location
from .access.objects import FolderObjects, Objects, open_objects
from .baked import is_baked
from .documents import MAX_DOCUMENT_BYTES, too_large
from .errors import Problem, SchemaError, StoreNotFoundError, TicketMismatchError
from .layout import ROOT_FILE
from .manifest import MANIFEST_ATTRIBUTE, Manifest
from .manifest_parsing import parse_manifest


def read_manifest(place: str | Path | Location, access: Access | None = None) -> Manifest:
    """Reads and validates a store's manifest without opening its arrays (no Zarr, so no thread is started).

    Args:
        place: a folder, a zip file, or a URL (http, https, s3, gs, hf).
        access: how a URL is reached.

    Raises:
        StoreNotFoundError: there is no store at `place`.
        SchemaError, UnsupportedVersionError: there is one, but it is not valid.
        TicketMismatchError: the location asks for other tickets.
        RemoteError: a URL cannot be reached, or refuses.
    """
    return read_root(Location.of(place, access)).manifest


class Root:
    """Root document of a store, and the way to its objects.

    Attributes:
        location: where it was read, with the digest of its tickets, and of this document if that is behind a URL.
        content: the bytes of `zarr.json`.
        mark: of that file in a folder, which changes when it is replaced.
    """

    def __init__(
        self, location: Location, objects: Objects, content: bytes, mark: tuple[int, ...] | None = None
    ) -> None:
        self.objects, self.content, self.mark = objects, content, mark
        self.manifest = _parsed(content, location.place)
        digest = self.manifest.digest
        if location.ticket_digest not in (None, digest):
            raise TicketMismatchError(
                f"{location} was replaced by other tickets while it was in use (its ticket digest was "
                f"{location.ticket_digest}, and is {digest}); start again, or put the first one back"
            )
        sha256 = getattr(objects, "root_sha256", None)
        self.location = replace(location, root_sha256=sha256, ticket_digest=digest)
        objects.expect(self.manifest.objects, self.manifest.sizes)


def read_root(location: Location) -> Root:
    """Reads the root document of a store.

    Raises:
        StoreNotFoundError, SchemaError, UnsupportedVersionError, RemoteError
    """
    mark = root_mark(location)
    try:
        objects = open_objects(location)
        content = objects.read_root(MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        raise StoreNotFoundError(_not_found(location)) from None
    except OSError as error:
        raise invalid_store(location.place, "zarr.json", "damaged", f"cannot be read ({error})") from None
    return Root(location, objects, content, mark)


def root_mark(location: Location) -> tuple[int, ...] | None:
    """A mark of the root document in a folder, which changes when that is replaced; None of other places."""
    if location.is_remote or location.is_zip:
        return None
    try:
        stat = (Path(location.place) / ROOT_FILE).stat()
    except OSError:
        return (0,)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _parsed(content: bytes, place: str) -> Manifest:
    problem = too_large(content)
    if problem is not None:
        raise invalid_store(place, "zarr.json", "too_large", problem)
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise invalid_store(place, "zarr.json", "json_invalid", f"is not JSON ({error})") from None
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or MANIFEST_ATTRIBUTE not in attributes:
        raise invalid_store(place, "zarr.json", "missing", f"has no attribute {MANIFEST_ATTRIBUTE!r}")
    return parse_manifest(attributes[MANIFEST_ATTRIBUTE], place)


def is_store(path: str) -> bool:
    """Tells whether a ticket store, sound or not, stands in this folder: all that `overwrite` may replace."""
    if not Path(path).is_dir():
        return False
    try:
        read_manifest(path)
    except StoreNotFoundError:
        return False
    except SchemaError as error:
        return not any(p.where == "zarr.json" for p in error.problems)
    return True


def _not_found(location: Location) -> str:
    place = location.place
    if location.is_remote:
        from .access.remote import RemoteObjects  # imports fsspec

        if RemoteObjects(location).is_there("tickets/zarr.json"):
            return f"{place} is not finished: its zarr.json is missing; push it again to finish it"
        if place.rstrip("/").endswith(".zip"):
            return f"{place} is a zip file on another machine; download it, and give its path"
        return f"there is no ticket store at {place} (it has no zarr.json); check the URL, or ask who published it"
    if location.is_zip:
        return f"{place} has no ticket store in it; give the zip file that dataltt push wrote, or a folder"
    if is_baked(Path(place)):
        return (
            f"{place} is a baked folder, not a ticket store: it is for dataltt train --baked {place}; give the store "
            "that it was baked of"
        )
    if FolderObjects(Path(place)).folder.exists():
        return f"{place} is not a ticket store; give the folder that dataltt select wrote"
    if Path(f"{place}.parts").exists():
        return (
            f"{place} is not finished (only {place}.parts is there); run the same select again to finish it, or to "
            "read what stops it"
        )
    return f"there is no ticket store at {place}; make one with: dataltt select --out {place}"


def invalid_store(path: str, where: str, kind: str, message: str) -> SchemaError:
    """A `SchemaError` of one problem."""
    return SchemaError(str(path), [Problem(where=where, kind=kind, message=message)])
