"""Objects of a store by name, from a folder, a zip file, or (remote.py) a URL. Nothing is listed."""

from __future__ import annotations

import io
import os
import stat
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from ..errors import SchemaError
from ..files import open_regular
from ..layout import ROOT_FILE
from .location import Location

# A zip's directory is read whole by zipfile; a store has a few hundred objects.
_MAX_DIRECTORY_BYTES = 16 << 20
# What dataltt stores in a zip file is compressed already, and another zip makes little of it but of metadata.
_MAX_ZIP_INFLATION = 100
# What zipfile raises on bytes that are not what they should be; RuntimeError where they are encrypted.
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


class Objects(Protocol):
    """Objects of one store."""

    def read_root(self, max_bytes: int) -> bytes:
        """The root's metadata, or one byte more than `max_bytes` of it.

        Raises:
            FileNotFoundError: it is not there.
        """
        ...

    def open(self, name: str) -> IO[bytes]:
        """An object, seekable.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it leads out of the store, or is no file.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if it is not there.

        Raises:
            OSError: it leads out of the store, or is no file.
        """
        ...

    def expect(self, digests: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        """Takes note of the SHA-256 and, where known, the bytes that objects should have."""
        ...

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Names of what else is there, where that can be told."""
        ...


class FolderObjects:
    """Objects of a store in a folder."""

    def __init__(self, folder: Path, root_file: str = ROOT_FILE) -> None:
        self.folder, self._root_file = folder, root_file
        self._real_folder = os.path.realpath(folder)

    def find(self, name: str) -> Path:
        """The path of an object, which is a regular file below the folder.

        Raises:
            FileNotFoundError: it is not there.
            OSError: it leads out of the folder, or is no file.
        """
        path = os.path.realpath(self.folder / name)
        if not path.startswith(self._real_folder.rstrip(os.sep) + os.sep):
            raise OSError(f"{name} is a link that leads out of the store; copy the store with its files: cp -rL")
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise FileNotFoundError(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{name} is not a regular file")
        return Path(path)

    def read_root(self, max_bytes: int) -> bytes:
        """The root's metadata, or one byte more than `max_bytes` of it."""
        with self.open(self._root_file) as file:
            return file.read(max_bytes + 1)

    def open(self, name: str) -> IO[bytes]:
        """An object, seekable."""
        try:
            return open_regular(self.find(name))
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(str(error)) from None

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if it is not there."""
        try:
            return self.find(name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def expect(self, digests: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        """Does nothing: what is in a folder is read as it is."""

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Names of what else is in the folder."""
        files = {
            p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_symlink() or not p.is_dir()
        }
        return sorted(files - set(names))


class ZipObjects:
    """Objects of a store in a zip file, at its top or in one folder of it."""

    def __init__(self, path: Path, root_file: str = ROOT_FILE) -> None:
        self._root_file = root_file
        file = _Archive(open_regular(path))
        weakref.finalize(self, file.close)  # zipfile closes only what it has opened
        try:
            self._zip = zipfile.ZipFile(file)
        except (*_ZIP_DAMAGE, OSError) as error:
            raise _no_zip(path, f"is not a zip file that can be read ({error}); fetch it again") from None
        file.limit = None
        members = [m for m in self._zip.infolist() if stat.S_IFMT(m.external_attr >> 16) in (0, stat.S_IFREG)]
        if sum(m.file_size for m in members) > _MAX_ZIP_INFLATION * path.stat().st_size:
            raise _no_zip(path, f"unpacks to more than {_MAX_ZIP_INFLATION} times its bytes, which no store does")
        names = [m.filename for m in members]
        roots = sorted((n for n in names if PurePosixPath(n).name == root_file), key=lambda n: n.count("/"))
        if not roots:
            raise FileNotFoundError(f"{path} has no {root_file}")
        self._prefix = roots[0][: -len(root_file)]
        self._members = {n[len(self._prefix) :]: n for n in names if n.startswith(self._prefix) and n[-1] != "/"}

    def read_root(self, max_bytes: int) -> bytes:
        """The root's metadata, or one byte more than `max_bytes` of it."""
        with self.open(self._root_file) as file:
            return file.read(max_bytes + 1)

    def open(self, name: str) -> IO[bytes]:
        """An object, seekable."""
        if name not in self._members:
            raise FileNotFoundError(name)
        try:
            return io.BufferedReader(_Member(self._zip.open(self._members[name]), self))
        except _ZIP_DAMAGE as error:
            raise OSError(f"damaged zip file: {error}") from None

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if it is not there."""
        return self._zip.getinfo(self._members[name]).file_size if name in self._members else None

    def expect(self, digests: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        """Does nothing: what is in a zip file is read as it is."""

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Names of what else is in the zip file."""
        return sorted(set(self._members) - set(names))


class _Archive(io.BufferedReader):
    """A zip file, of which no more than `limit` bytes are read at once: zipfile reads its directory so."""

    limit: int | None = _MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is None:
            return super().read(size)
        content = super().read(self.limit + 1 if size is None or size < 0 else min(size, self.limit + 1))
        if len(content) > self.limit:
            raise zipfile.BadZipFile(f"its directory has more than {self.limit} bytes")
        return content


class _Member(io.RawIOBase):
    """A member of a zip file; damage of it is an OSError, as of any file."""

    def __init__(self, member: IO[bytes], owner: ZipObjects) -> None:
        self._member = member
        self._owner = owner  # which closes the zip file when nobody has it any more

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._member.read(len(buffer))
        except _ZIP_DAMAGE as error:
            raise OSError(f"damaged zip file: {error}") from None
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._member.seek(offset, whence)
        except _ZIP_DAMAGE as error:
            raise OSError(f"damaged zip file: {error}") from None

    def tell(self) -> int:
        return self._member.tell()

    def close(self) -> None:
        if not self.closed:
            self._member.close()
        super().close()


def _no_zip(path: Path, message: str) -> SchemaError:
    from ..errors import Problem

    return SchemaError(str(path), [Problem(where="zip", kind="zip", message=message)])


def open_objects(location: Location, root_file: str = ROOT_FILE) -> Objects:
    """The objects of the store at a location; whether there is one shows when its root is read.

    Args:
        root_file: name of the root document.

    Raises:
        FileNotFoundError: a zip file without a store.
        SchemaError: a damaged zip file.
        RemoteError: a scheme that nothing opens.
    """
    if location.is_remote:
        from .remote import RemoteObjects  # imports fsspec

        return RemoteObjects(location, root_file)
    path = Path(location.place)
    return ZipObjects(path, root_file) if location.is_zip else FolderObjects(path, root_file)
