"""Files that travel of a store or a baked folder: the objects that its root document names, that itself, its card."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ..access.location import Location
from ..access.objects import FolderObjects
from ..baked import BAKED_FILE
from ..documents import MAX_DOCUMENT_BYTES
from ..errors import BakedError, OptionError, Problem, SchemaError
from ..files import read_regular
from ..identity import version_of
from ..layout import ROOT_FILE
from ..manifest import MANIFEST_ATTRIBUTE, Manifest
from ..manifest_file import read_root
from ..writing.root import root_with
from .artifacts import BAKED, STORE, Contents, Kind

_BLOCK_BYTES = 1 << 20

# What is being done, units done, units in all. Units are bytes.
Progress = Callable[[str, int, int], None]


def no_progress(what: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A file that is to be sent: its name in the store, where its bytes are, and their digests (hex).

    `md5` and `git_sha1` are what S3, Google's storage and the hub say of a file, so that it need not be read back.
    """

    name: str
    source: Path | bytes
    size: int
    sha256: str
    md5: str
    git_sha1: str

    @classmethod
    def of(cls, name: str, source: Path | bytes) -> Outgoing:
        """Reads a file once, for all digests.

        Raises:
            FileNotFoundError
        """
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        git_sha1 = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with _opened(source) as file:
            while block := file.read(_BLOCK_BYTES):
                for digest in (sha256, md5, git_sha1):
                    digest.update(block)
        return cls(
            name=name,
            source=source,
            size=size,
            sha256=sha256.hexdigest(),
            md5=md5.hexdigest(),
            git_sha1=git_sha1.hexdigest(),
        )

    def open(self) -> IO[bytes]:
        """The file's bytes, seekable."""
        return _opened(self.source)


def _opened(source: Path | bytes) -> IO[bytes]:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """Everything that travels of an artifact: what its root will name there, and its files, the root last."""

    kind: Kind
    contents: Contents
    objects: tuple[Outgoing, ...]
    card: tuple[Outgoing, ...]
    root: Outgoing

    @property
    def files(self) -> tuple[Outgoing, ...]:
        """All files, in the order in which they are sent."""
        return (*self.objects, *self.card, self.root)

    @property
    def title(self) -> str:
        """One line about it."""
        return f"{'Tickets' if self.kind is STORE else 'Baked tickets'} {self.contents.ticket_digest[:12]}"

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def shipment_of(store: Path, card: Mapping[str, bytes], on_progress: Progress = no_progress) -> Shipment:
    """Reads a store or a baked folder, checks every object against its SHA-256, and says what travels.

    A store of before schema 1.2 travels as the same tickets under a manifest of this version, without the path of its
    shards. Nothing in the folder is changed.

    Args:
        card: files of the card, by name.

    Raises:
        StoreNotFoundError, SchemaError, BakedError: there is neither, or it is damaged.
        OptionError: it is not in a folder.
    """
    location = Location.of(store)
    if location.is_remote or location.is_zip:
        raise OptionError(f"{store} is not a folder; fetch it first: dataltt pull {store}")
    files = tuple(Outgoing.of(name, data) for name, data in sorted(card.items()))
    if BAKED.is_in(store):
        return _baked_shipment(store, files, on_progress)
    root = read_root(location)
    objects = _checked_objects(store, root.manifest.objects, on_progress)
    content, manifest = _travelling_root(root.content, root.manifest, {o.name: o.size for o in objects})
    return Shipment(
        kind=STORE,
        contents=Contents.of_store(manifest),
        objects=objects,
        card=files,
        root=Outgoing.of(ROOT_FILE, content),
    )


def _baked_shipment(folder: Path, card: tuple[Outgoing, ...], on_progress: Progress) -> Shipment:
    try:
        content = read_regular(folder / BAKED_FILE, MAX_DOCUMENT_BYTES)
    except OSError as error:
        raise BakedError(f"{folder / BAKED_FILE} cannot be read ({error}); bake it again") from None
    contents = BAKED.parse(content, str(folder))
    try:
        objects = _checked_objects(folder, contents.objects, on_progress)
    except SchemaError as error:
        raise BakedError(f"{folder} is damaged: {error.problems[0]}; copy or bake it again") from None
    return Shipment(kind=BAKED, contents=contents, objects=objects, card=card, root=Outgoing.of(BAKED_FILE, content))


def _checked_objects(store: Path, digests: Mapping[str, str], on_progress: Progress) -> tuple[Outgoing, ...]:
    """All objects of a folder, each with the SHA-256 that its root document says."""
    there = FolderObjects(store)
    paths, problems = {}, []
    for name in digests:
        try:
            paths[name] = there.find(name)
        except (FileNotFoundError, NotADirectoryError):
            problems.append(Problem(where=name, kind="missing", message="is missing"))
        except OSError as error:
            problems.append(Problem(where=name, kind="foreign", message=f"is no object of it ({error})"))
    total = sum(path.stat().st_size for path in paths.values())
    found, done = [], 0
    for name, path in paths.items():
        sha256, file = digests[name], Outgoing.of(name, path)
        done += file.size
        on_progress("checking the store", done, total)
        if file.sha256 != sha256:
            problems.append(Problem(where=name, kind="damaged", message="has another SHA-256 than the manifest says"))
        found.append(file)
    if problems:
        raise SchemaError(str(store), problems)
    return tuple(found)


def _travelling_root(content: bytes, manifest: Manifest, sizes: Mapping[str, int]) -> tuple[bytes, Manifest]:
    """The root document as it travels, and its manifest: as it is, unless it is of before 1.2 or names a path."""
    is_sealed = version_of({"schema_version": manifest.schema_version}) >= (1, 2)
    if is_sealed and not manifest.dataset.source:
        return content, manifest
    upgraded = manifest.upgraded(sizes)
    document = json.loads(root_with(content, upgraded))["attributes"][MANIFEST_ATTRIBUTE]
    sealed = replace(upgraded, ticket_digest=document["ticket_digest"], checksum=document["checksum"])
    return root_with(content, upgraded), sealed
