"""Artifacts that travel, ticket stores and baked folders: a root document, and the objects that it names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..access.location import Location
from ..access.objects import Objects, open_objects
from ..baked import BAKED_FILE, is_baked, parse_baked
from ..documents import MAX_DOCUMENT_BYTES
from ..errors import BakedError, SchemaError, StoreNotFoundError
from ..layout import ROOT_FILE
from ..manifest import MANIFEST_ATTRIBUTE, Manifest
from ..manifest_file import is_store, read_root
from ..manifest_parsing import parse_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Contents of an artifact, as its root document names them.

    Attributes:
        digest: the artifact's name for itself: of a store its ticket digest, of a baked folder the checksum of
            baked.json.
        ticket_digest: of the tickets that it is, or was baked of.
        objects, sizes: SHA-256 (hex) and, where known, bytes of objects, by name.
    """

    digest: str
    ticket_digest: str
    objects: Mapping[str, str]
    sizes: Mapping[str, int]

    @classmethod
    def of_store(cls, manifest: Manifest) -> Contents:
        """Contents of a ticket store."""
        digest = manifest.digest
        return cls(digest=digest, ticket_digest=digest, objects=manifest.objects, sizes=manifest.sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Kind of artifact.

    Attributes:
        name: for messages.
        root_file: name of the root document; without it, there is no such artifact.
        parse: reads that of a place. Raises SchemaError or BakedError.
        is_in: tells whether one, sound or not, stands in a folder.
    """

    name: str
    root_file: str
    parse: Callable[[bytes, str], Contents]
    is_in: Callable[[Path], bool]

    def contents(self, root: bytes, place: str) -> Contents | None:
        """Contents of a root document; None if it cannot be read."""
        try:
            return self.parse(root, place)
        except (ValueError, TypeError, KeyError, RecursionError, SchemaError, BakedError):
            return None


def _parse_store(root: bytes, place: str) -> Contents:
    return Contents.of_store(parse_manifest(json.loads(root)["attributes"][MANIFEST_ATTRIBUTE], place))


def _parse_baked(root: bytes, place: str) -> Contents:
    baked = parse_baked(root, f"{place.rstrip('/')}/{BAKED_FILE}")
    return Contents(
        digest=json.loads(root)["checksum"],
        ticket_digest=baked.tickets.digest,
        objects={file.path: file.sha256 for file in baked.files},
        sizes={file.path: file.num_bytes for file in baked.files},
    )


STORE = Kind(name="ticket store", root_file=ROOT_FILE, parse=_parse_store, is_in=lambda folder: is_store(str(folder)))
BAKED = Kind(name="baked folder", root_file=BAKED_FILE, parse=_parse_baked, is_in=is_baked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An artifact at a place: its root document, and the way to its objects."""

    kind: Kind
    location: Location
    root: bytes
    contents: Contents
    objects: Objects


def open_artifact(location: Location) -> Artifact:
    """Opens the ticket store or the baked folder at a place.

    Raises:
        StoreNotFoundError: there is neither.
        SchemaError, BakedError: it is damaged.
        RemoteError: it cannot be reached.
    """
    try:
        root = read_root(location)
    except StoreNotFoundError:
        baked = _open_baked(location)
        if baked is None:
            raise
        return baked
    contents = Contents.of_store(root.manifest)
    return Artifact(kind=STORE, location=location, root=root.content, contents=contents, objects=root.objects)


def _open_baked(location: Location) -> Artifact | None:
    try:
        objects = open_objects(location, BAKED_FILE)
        content = objects.read_root(MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BakedError(f"{BAKED_FILE} of {location} cannot be read ({error}); fetch it again") from None
    contents = _parse_baked(content, location.place)
    objects.expect(contents.objects, contents.sizes)
    return Artifact(kind=BAKED, location=location, root=content, contents=contents, objects=objects)
