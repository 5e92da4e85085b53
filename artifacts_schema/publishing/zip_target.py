"""A store sent into one zip file, uncompressed (its chunks are compressed already), which is there whole or not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ..errors import OutputExistsError
from ..files import check_writable, writing
from ..space import check_space
from .outgoing import Outgoing, Progress, Shipment
from .targets import FarFile

_BLOCK_BYTES = 1 << 20


class ZipTarget:
    """A zip file with the store's files at its top, the root document as the last member."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look(self, names: Sequence[str]) -> dict[str, FarFile]:
        """Looks files up."""
        sizes = {m.filename: m.file_size for m in self._members()}
        return {name: FarFile(size=sizes[name]) for name in names if name in sizes}

    def read(self, name: str) -> bytes:
        """A small file that is there."""
        with self._opened(name) as file:
            return file.read()

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a file that is there."""
        with self._opened(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    def refuse(self, names: Sequence[str], *, has_store: bool) -> None:
        """Refuses what is no store's zip file."""
        if self.path.exists() and not has_store:
            raise OutputExistsError(f"{self.path} exists and holds something else; choose another name")
        check_writable(self.path)

    def publish(
        self, shipment: Shipment, missing: Sequence[Outgoing], stale: Sequence[str], on_progress: Progress
    ) -> None:
        """Writes the whole file anew under another name, and renames it.

        Raises:
            DiskError: there is no room for it, or it cannot be written.
        """
        check_space(self.path, shipment.num_bytes)
        with writing(self.path, needs=shipment.num_bytes):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(shipment, on_progress)

    def _write(self, shipment: Shipment, on_progress: Progress) -> None:
        temporary = self.path.with_name(f"{self.path.name}.sending")
        done = 0
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for file in shipment.files:
                    member = zipfile.ZipInfo(file.name)  # of 1980: the same store gives the same bytes
                    member.external_attr = 0o644 << 16
                    member.file_size = file.size
                    with file.open() as source, archive.open(member, "w") as copy:
                        shutil.copyfileobj(source, copy, _BLOCK_BYTES)
                    done += file.size
                    on_progress("sending", done, shipment.num_bytes)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(name) as file:
                yield file
        except (KeyError, zipfile.BadZipFile) as error:  # not there, or damaged
            raise FileNotFoundError(name) from error

    def _members(self) -> list[zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.infolist()
        except (FileNotFoundError, IsADirectoryError, zipfile.BadZipFile):
            return []
