"""A store sent to a folder: objects first, each by a rename, the root document last."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputExistsError
from ..files import check_writable, writing
from ..layout import is_beside_objects
from ..space import check_space
from .outgoing import Outgoing, Progress, Shipment
from .targets import FarFile

_BLOCK_BYTES = 1 << 20


class FolderTarget:
    """A folder on this machine, or on a disk that is mounted here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def look(self, names: Sequence[str]) -> dict[str, FarFile]:
        """Looks files up."""
        paths = {name: self.folder / name for name in names}
        return {name: FarFile(size=path.stat().st_size) for name, path in paths.items() if path.is_file()}

    def read(self, name: str) -> bytes:
        """A small file that is there."""
        return (self.folder / name).read_bytes()

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a file that is there."""
        with (self.folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def refuse(self, names: Sequence[str], *, has_store: bool) -> None:
        """Refuses a folder that holds something else than a store or a part of this one, or that may not be written."""
        if self.folder.is_file():
            raise OutputExistsError(f"{self.folder} is a file; choose another folder, or a name that ends in .zip")
        check_writable(self.folder)
        if has_store:
            return
        known = set(names)
        for path in (p for p in self.folder.rglob("*") if p.is_file()):
            name = path.relative_to(self.folder).as_posix()
            if name not in known and not is_beside_objects(name) and ".sending" not in path.suffixes:
                raise OutputExistsError(f"{self.folder} exists and holds something else; choose another folder")

    def publish(
        self, shipment: Shipment, missing: Sequence[Outgoing], stale: Sequence[str], on_progress: Progress
    ) -> None:
        """Sends files so that there is no store before all of it is there.

        Raises:
            DiskError: there is no room for them, or they cannot be written.
        """
        check_space(self.folder, sum(file.size for file in missing))
        objects = {file.name for file in shipment.objects}
        root = self.folder / shipment.root.name
        if any(file.name in objects for file in missing):
            root.unlink(missing_ok=True)
        total, done = sum(file.size for file in missing), 0
        for file in missing:  # the root is the last of them
            self._put(file)
            done += file.size
            on_progress("sending", done, total)
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)

    def _put(self, file: Outgoing) -> None:
        path = self.folder / file.name
        temporary = path.with_name(f"{path.name}.sending")
        with writing(path, needs=file.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with file.open() as source, temporary.open("wb") as copy:
                    shutil.copyfileobj(source, copy, _BLOCK_BYTES)
                    copy.flush()
                    os.fsync(copy.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
