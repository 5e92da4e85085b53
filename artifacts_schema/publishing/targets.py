"""Places that a store is sent to, and the comparison of what is there with what should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..access.filesystem import scheme_of
from ..access.location import Location
from ..errors import OptionError
from .outgoing import Outgoing, Progress, Shipment

_AT_ONCE = 16
ACCEPTED = "a folder, a file x.zip, s3://BUCKET/…, gs://BUCKET/… and hf://datasets/OWNER/NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class FarFile:
    """A file at the far end: its bytes, and what the place itself says of its content.

    Attributes:
        digests: by kind (`sha256`, `md5`, `git_sha1`), in hex; none where the place does not say.
        is_sure: whether another digest means other content; else the file is read back before it is called different.
    """

    size: int
    digests: Mapping[str, str] = field(default_factory=dict)
    is_sure: bool = False


class Target(Protocol):
    """A place that a store can be sent to."""

    def look(self, names: Sequence[str]) -> dict[str, FarFile]:
        """Looks files up; those that are not there are left out."""
        ...

    def read(self, name: str) -> bytes:
        """A small file that is there.

        Raises:
            FileNotFoundError: it is not there.
        """
        ...

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a file that is there, read back.

        Raises:
            FileNotFoundError: it is not there.
        """
        ...

    def refuse(self, names: Sequence[str], *, has_store: bool) -> None:
        """Refuses to write there, for a reason that can be told beforehand.

        Args:
            names: files that are to be written.
            has_store: whether a store (or a baked folder, if one is sent) is there, which may be replaced.

        Raises:
            OptionError, OutputExistsError
        """
        ...

    def publish(
        self, shipment: Shipment, missing: Sequence[Outgoing], stale: Sequence[str], on_progress: Progress
    ) -> None:
        """Sends files so that there is no store before all of it is there.

        Args:
            missing: those files of the shipment that are not there, or differ.
            stale: files that an earlier store at this place named, and this one does not.
        """
        ...


def open_target(location: Location, *, private: bool = False) -> Target:
    """The target at a place.

    Args:
        private: whether a repository of the hub that must be made is a private one.

    Raises:
        OptionError: nothing can be sent there.
        RemoteError: what sends there is not installed.
    """
    scheme = scheme_of(location.place) if location.is_remote else ""
    if private and scheme != "hf":
        raise OptionError(
            f"`private=True` is for repositories of the hub, and {location} is none; set the rights where it lies"
        )
    if scheme == "hf":
        from .hub_target import HubTarget

        return HubTarget(location, private=private)
    if scheme in ("s3", "s3a", "gs", "gcs"):
        from .bucket_target import BucketTarget

        return BucketTarget(location)
    if scheme:
        raise OptionError(f"nothing can be sent to {location}; dataltt push takes {ACCEPTED}")
    if location.place.lower().endswith(".zip"):
        from .zip_target import ZipTarget

        return ZipTarget(Path(location.place))
    from .folder_target import FolderTarget

    return FolderTarget(Path(location.place))


def differing(target: Target, files: Sequence[Outgoing], on_progress: Progress, what: str) -> list[Outgoing]:
    """Those files that are not at the far end, or have other content there, in their order.

    Args:
        on_progress: called with `what`, bytes compared, bytes in all.
    """
    there = target.look([file.name for file in files])
    total, done = sum(file.size for file in files), 0
    found: list[Outgoing] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for file, same in zip(files, pool.map(lambda f: _is_same(target, f, there.get(f.name)), files), strict=True):
            done += file.size
            on_progress(what, done, total)
            if not same:
                found.append(file)
    return found


def _is_same(target: Target, file: Outgoing, far: FarFile | None) -> bool:
    if far is None or far.size != file.size:
        return False
    if any(getattr(file, kind) == digest for kind, digest in far.digests.items()):
        return True
    if far.is_sure:
        return False
    try:
        return target.sha256(file.name) == file.sha256
    except FileNotFoundError:
        return False
