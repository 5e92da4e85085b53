"""Files that are there whole or not at all, and files that may be read at all."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody writes to


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)  # in somebody else's folder it may be a link to any file
    with temporary.open("xb") as file:
        file.write(content)
    os.replace(temporary, path)


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a regular file for reading.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it is a pipe, a device or a folder, or cannot be opened.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAITING))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(f"{path} is not a regular file")
    return file


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file of at most `max_bytes`.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it is no regular file, is larger, or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"{path} is larger than {max_bytes} bytes")
    return content
