"""Cache of downloaded objects on local disk, by their SHA-256: shared by workers, ranks, runs and stores.

    FOLDER/objects/ab/abcdef…   an object, whose name is the SHA-256 of its bytes
    FOLDER/roots/…              by URL, the SHA-256 of the root document that was last read there
    FOLDER/indices/…            by shard, the keys and image digests of its samples (stages/data/shard_index.py)

Files appear whole, by a rename. What was not used for longest goes first when there is too much.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from filelock import FileLock

from ..errors import DiskError
from ..files import write_failure

# A download that a killed process left behind is nobody's after so long.
_ABANDONED_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """Number and bytes of the objects in a cache."""

    num_objects: int
    num_bytes: int


class ObjectCache:
    """Downloaded objects in `folder`, of `limit_bytes` at most (one that is larger stays alone)."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self._limit_bytes = folder, limit_bytes

    def open(self, sha256: str, fetch: Callable[[IO[bytes]], None]) -> IO[bytes]:
        """An object, fetched if it is not here.

        Args:
            fetch: writes the object into a file, or raises; the SHA-256 of what it wrote is its own business.
        """
        path = self._path(sha256)
        while True:
            with contextlib.suppress(FileNotFoundError):
                file = path.open("rb")
                with contextlib.suppress(PermissionError):  # a cache that another user filled
                    os.utime(file.fileno())  # used now
                return file
            self._add(path, fetch)

    def has(self, sha256: str) -> bool:
        """Tells whether an object is here."""
        return self._path(sha256).exists()

    def drop(self, sha256: str) -> None:
        """Forgets an object."""
        self._path(sha256).unlink(missing_ok=True)

    def put(self, content: bytes) -> str:
        """Adds an object; returns its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.has(sha256):
            self._add(self._path(sha256), lambda file: _write(file, content))
        return sha256

    def root_of(self, place: str) -> str | None:
        """The SHA-256 of the root document that was last read at a place, if it is here."""
        try:
            sha256 = self._root_path(place).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return sha256 if self.has(sha256) else None

    def note_root(self, place: str, sha256: str) -> None:
        """Notes which root document was read at a place."""
        if self.root_of(place) != sha256:
            self._write_whole(self._root_path(place), lambda file: _write(file, sha256.encode()))

    def usage(self) -> CacheUsage:
        """Counts the objects here, and their bytes."""
        sizes = [stat.st_size for _, stat in self._files()]
        return CacheUsage(num_objects=len(sizes), num_bytes=sum(sizes))

    def clear(self) -> CacheUsage:
        """Removes everything that dataltt put here; returns what it was."""
        usage = self.usage()
        for pattern in ("objects/*/*", "roots/*", "locks/*", "indices/*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        return usage

    def _path(self, sha256: str) -> Path:
        return self.folder / "objects" / sha256[:2] / sha256

    def _root_path(self, place: str) -> Path:
        return self.folder / "roots" / hashlib.sha256(place.encode()).hexdigest()

    def _add(self, path: Path, fetch: Callable[[IO[bytes]], None]) -> None:
        lock = FileLock(self.folder / "locks" / path.name)
        with self._named():
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()  # of all processes that want this object, one downloads it
        try:
            if not path.exists():
                self._write_whole(path, fetch)
        finally:
            lock.release()
        self._evict(keep=path)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("objects/*/*"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()

    def _write_whole(self, path: Path, write: Callable[[IO[bytes]], None]) -> None:
        with self._named():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f"{path.name}-", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "w+b", buffering=0) as file:
                write(cast("IO[bytes]", _WholeWrites(self, file)))
            with self._named():
                os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Raises errors of the disk as what they are: not the store's, and not the network's."""
        try:
            yield
        except OSError as error:
            found = write_failure(error, self.folder)
            reason = error.strerror or str(error) if found is None else found[0]
            raise DiskError(
                f"the cache {self.folder} cannot be written: {reason}; make room, or give another `cache_dir`"
            ) from error

    def _evict(self, keep: Path) -> None:
        """Removes what was not used for longest, until the rest is within the limit."""
        files = sorted(self._files(), key=lambda each: each[1].st_mtime)
        too_much = sum(stat.st_size for _, stat in files) - self._limit_bytes
        for path, stat in files:
            is_abandoned = path.suffix == ".tmp" and time.time() - stat.st_mtime > _ABANDONED_S
            if is_abandoned or (too_much > 0 and path != keep and path.suffix != ".tmp"):
                path.unlink(missing_ok=True)
                too_much -= stat.st_size


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)


class _WholeWrites:
    """File of a cache that writes all it is given, or says that it could not."""

    def __init__(self, cache: ObjectCache, file: io.FileIO) -> None:
        self._cache, self._file = cache, file

    def write(self, content: bytes) -> int:
        """Writes all of the content."""
        done = 0
        with self._cache._named():
            while done < len(content):
                done += self._file.write(content[done:])
        return done

    def seek(self, offset: int) -> int:
        """Goes to a byte."""
        return self._file.seek(offset)

    def truncate(self) -> int:
        """Ends the file where it stands."""
        return self._file.truncate()
