"""Streams of remote files that are read once from front to back, as shards are; nothing of them is kept."""

from __future__ import annotations

import importlib.util
import io
from typing import IO, Any

from ..errors import DatalttError, RemoteError
from .failures import failure_of
from .filesystem import EXTRAS, file_system, scheme_of
from .location import Location

_BLOCK_BYTES = 8 << 20


def is_openable(url: str) -> bool:
    """Tells whether what opens URLs of this scheme is installed, of those that an extra of dataltt brings."""
    _, module = EXTRAS.get(scheme_of(url), ("", ""))
    return bool(module) and importlib.util.find_spec(module) is not None


def open_stream(location: Location) -> IO[bytes]:
    """The bytes of a remote file.

    Raises:
        FileNotFoundError: it is not there.
        RemoteError: it cannot be reached, or breaks off; as reading does.
    """
    fs, path = file_system(location)

    def start() -> Any:
        if scheme_of(path) in ("http", "https"):
            return fs.open(path, "rb", block_size=0, size=1)  # a size spares a HEAD request
        return fs.open(path, "rb", block_size=_BLOCK_BYTES)

    return io.BufferedReader(_Stream(location, _translated(location, start)), _BLOCK_BYTES)


def read_small(location: Location, max_bytes: int) -> bytes | None:
    """The bytes of a remote file; None if it is not there, or may not be read, which many servers say instead.

    Raises:
        RemoteError: the place cannot be reached, or the file is larger than `max_bytes`.
    """

    try:
        with open_stream(location) as stream:
            content = stream.read(max_bytes + 1)
    except FileNotFoundError:
        return None
    except RemoteError as error:
        if error.is_withheld:
            return None
        raise
    if len(content) > max_bytes:
        raise RemoteError(f"{location} is larger than the {max_bytes} bytes that are read of it; check what it is")
    return content


class _Stream(io.RawIOBase):
    """A file system's stream, its errors in our words."""

    def __init__(self, location: Location, stream: Any) -> None:
        self._location, self._stream = location, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content: bytes = _translated(self._location, lambda: self._stream.read(len(buffer)))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def _translated(location: Location, call: Any) -> Any:
    try:
        return call()
    except DatalttError:
        raise
    except Exception as error:  # the file systems' own, of many libraries; bugs of ours are raised as they are
        failure = failure_of(error, location.place, location)
        if failure is None:
            raise
        raise (FileNotFoundError(location.place) if failure is FileNotFoundError else failure) from error
