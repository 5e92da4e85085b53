"""Objects of a store behind a URL: each is downloaded once, checked against its SHA-256, and kept in the cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import IO, Any, TypeVar

from ..errors import OptionError, RemoteError
from ..layout import ROOT_FILE
from .cache import ObjectCache
from .filesystem import file_system, iter_content, scheme_of
from .location import Location
from .trying import TRIES, tried

T = TypeVar("T")

_log = logging.getLogger("dataltt")
_AT_ONCE = 8
# Of stores of before 1.2, whose manifests give no sizes: far more than any object that dataltt wrote.
_MAX_UNSIZED_BYTES = 256 << 20


class RemoteObjects:
    """Objects of the store at a URL, through the cache.

    Args:
        root_file: name of the root document.

    Attributes:
        root_sha256: SHA-256 (hex) of the root document that was read.
    """

    def __init__(self, location: Location, root_file: str = ROOT_FILE) -> None:
        _refuse_password(location.place)
        self._location, self._root_file = location, root_file
        self.cache = ObjectCache(location.access.cache_folder, location.access.cache_bytes)
        self.root_sha256 = location.root_sha256
        self._digests: Mapping[str, str] = {}
        self._sizes: Mapping[str, int] = {}
        self._files: tuple[Any, str] | None = None

    def read_root(self, max_bytes: int) -> bytes:
        """The root's metadata, or one byte more than `max_bytes` of it; the cache's where nothing answers.

        Raises:
            FileNotFoundError: it is not there.
            RemoteError: the place cannot be reached, or has another root than the location asks for.
        """
        pinned = self._location.root_sha256
        if pinned is not None and self.cache.has(pinned):
            return self._cached(pinned)
        kept = self.cache.root_of(self._place)
        try:
            content = self._download_root(max_bytes, tries=1 if kept else TRIES)
        except RemoteError as error:
            if kept is None or not error.is_unreachable or pinned is not None:
                raise
            _log.warning("dataltt: %s; going on with the copy in %s", error, self.cache.folder)
            self.root_sha256 = kept
            return self._cached(kept)
        if len(content) > max_bytes:
            return content
        found = self.cache.put(content)
        if pinned not in (None, found):
            raise RemoteError(f"the store at {self._location} was replaced while it was being read; start again")
        self.cache.note_root(self._place, found)
        self.root_sha256 = found
        return content

    def open(self, name: str) -> IO[bytes]:
        """An object that `expect` knows, seekable, downloaded if it is not in the cache.

        Raises:
            FileNotFoundError: the manifest does not name it.
            RemoteError: it cannot be had, or is not what the manifest says.
        """
        if name == self._root_file and self.root_sha256 is not None:
            return self.cache.open(self.root_sha256, _refuse_to_fetch)
        if name not in self._digests:
            raise FileNotFoundError(name)
        return self.cache.open(self._digests[name], lambda file: self._download(name, file))

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if it is not there. Asks where the manifest does not say."""
        if name in self._sizes:
            return self._sizes[name]
        if name in self._digests and self.cache.has(self._digests[name]):
            with self.open(name) as file:
                return file.seek(0, 2)
        try:
            return self._tried(name, lambda: self._ask_size(name))
        except FileNotFoundError:
            return None

    def is_there(self, name: str) -> bool:
        """Tells whether an object is there, by a byte of it: for a size, some file systems list."""
        try:
            self._tried(name, lambda: next(self._content(name, 1, 1), None))
        except FileNotFoundError:
            return False
        return True

    def expect(self, digests: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        """Takes note of the SHA-256 and, where known, the bytes that objects should have."""
        self._digests, self._sizes = digests, sizes

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Nothing: a URL is not listed."""
        return []

    def known_size(self, name: str) -> int:
        """Bytes of an object as the manifest says; 0 where it does not."""
        return self._sizes.get(name, 0)

    def is_here(self, name: str) -> bool:
        """Tells whether an object is in the cache."""
        return self.cache.has(self._digests[name])

    def drop(self, name: str) -> None:
        """Forgets the cache's copy of an object."""
        self.cache.drop(self._digests[name])

    @property
    def _place(self) -> str:
        """Name of the place in the cache: the URL and what changes its meaning."""
        options = [f"{key}={value}" for key, value in self._location.access.storage_options if "endpoint" in key]
        other = [] if self._root_file == ROOT_FILE else [self._root_file]
        return "\n".join([self._location.place.rstrip("/"), *options, *other])

    @property
    def _root(self) -> tuple[Any, str]:
        """The file system, and the store's path in it."""
        if self._files is None:
            self._files = file_system(self._location)
        return self._files

    @property
    def _streams(self) -> bool:
        """Tells whether objects are read to their end without asking for their size."""
        return scheme_of(self._root[1]) in ("http", "https")

    def _shown(self, name: str) -> str:
        return f"{self._location.place.rstrip('/')}/{name}"

    def _content(self, name: str, size: int | None, max_bytes: int) -> Iterator[bytes]:
        fs, root = self._root
        return iter_content(fs, f"{root.rstrip('/')}/{name}", size, max_bytes)

    def _ask_size(self, name: str) -> int:
        fs, root = self._root
        return int(fs.info(f"{root.rstrip('/')}/{name}")["size"])

    def _cached(self, sha256: str) -> bytes:
        with self.cache.open(sha256, _refuse_to_fetch) as file:
            return file.read()

    def _download_root(self, max_bytes: int, tries: int) -> bytes:
        def read() -> bytes:
            return b"".join(self._content(self._root_file, None, max_bytes + 1))

        return self._tried(self._root_file, read, tries=tries)

    def _download(self, name: str, file: IO[bytes]) -> None:
        """Writes an object into a file.

        Raises:
            RemoteError: it cannot be had, or is not what the manifest says.
        """
        size = self._sizes.get(name)
        if size is None and not self._streams:
            size = self.size(name)
            if size is None:
                raise self._wrong(name, "is missing", "the upload is not complete")

        def write() -> str:
            file.seek(0)
            file.truncate()
            digest = hashlib.sha256()
            for block in self._bounded(name, size):
                digest.update(block)
                file.write(block)
            return digest.hexdigest()

        try:
            found = self._tried(name, write)
        except FileNotFoundError:
            raise self._wrong(name, "is missing", "the upload is not complete") from None
        if found != self._digests[name]:
            raise self._wrong(name, "has another SHA-256 than the manifest says", "it was damaged or replaced")

    def _bounded(self, name: str, size: int | None) -> Iterator[bytes]:
        most = _MAX_UNSIZED_BYTES if size is None else size
        read = 0
        for block in self._content(name, size, most + 1):
            read += len(block)
            yield block
        if size is not None and read < size:
            raise ConnectionError(f"{read} of {size} bytes came")
        if read > most:
            raise self._wrong(name, f"has more than {most} bytes", "it was damaged or replaced")

    def _wrong(self, name: str, what: str, why: str) -> RemoteError:
        way_out = "push it again, or ask who published it"
        return RemoteError(f"{self._shown(name)} {what}: {why}; {way_out}")

    def _tried(self, name: str, attempt: Callable[[], T], tries: int = TRIES) -> T:
        return tried(attempt, self._shown(name), self._location, tries=tries)


def _refuse_password(place: str) -> None:
    scheme, _, rest = place.partition("://")
    user, at, host = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise OptionError(
            f"{scheme}://…@{host}/… has a password in it, which would stand in messages and in the run's record; put "
            "it into ~/.netrc, or give `storage_option='token=…'`"
        )


def fetch_objects(
    objects: RemoteObjects, names: Sequence[str], on_progress: Callable[[int, int], None] | None = None
) -> int:
    """Downloads those of these objects that are not in the cache, some at a time; returns how many bytes that were.

    Args:
        on_progress: called with (bytes downloaded, bytes to download).

    Raises:
        RemoteError: one of them cannot be had.
    """
    wanted = [name for name in names if not objects.is_here(name)]
    total = sum(objects.known_size(name) for name in wanted)
    done = 0

    def fetch(name: str) -> int:
        with objects.open(name) as file:
            return file.seek(0, 2)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        futures = [pool.submit(fetch, name) for name in wanted]
        try:
            for future in as_completed(futures):
                done += future.result()
                if on_progress is not None:
                    on_progress(done, total)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return done


def _refuse_to_fetch(_: IO[bytes]) -> None:
    raise RemoteError("the cache was cleared while a store was read from it; start again")
