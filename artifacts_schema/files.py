"""Files: there whole or not at all, read only if regular, and failures of writing as one sentence each.

Every place that writes does it inside `writing(path)`: Python, Arrow, Zarr, safetensors and torch each say in their own
way that a disk is full.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DatalttError, DiskError
from .space import existing_folder, free_bytes, shown_bytes

_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # a pipe that nobody writes to
_ELSEWHERE = "write to another place"
_ROOM = "make room, or write to another disk, and run it again"
# Only writing fails by these.
OF_WRITING = {
    errno.ENOSPC: ("too little room on its disk", _ROOM),
    errno.EDQUOT: ("your quota on its disk is used up", _ROOM),
    errno.EFBIG: ("files may not be that large there", f"raise the limit (ulimit -f), or {_ELSEWHERE}"),
    errno.EROFS: ("its file system is read-only", _ELSEWHERE),
}
# By these reading fails as well, so they count where they name the path that is written, or none.
_OF_ANYTHING = {
    errno.EACCES: ("permission denied", f"have it permitted, or {_ELSEWHERE}"),
    errno.EPERM: ("not permitted", f"have it permitted, or {_ELSEWHERE}"),
    errno.EIO: ("its disk fails", _ELSEWHERE),
    errno.ENOTDIR: ("a part of the path is a file", _ELSEWHERE),
    errno.EEXIST: ("a file is in its way", _ELSEWHERE),
    errno.EISDIR: ("a folder is in its way", _ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is too long", _ELSEWHERE),
    errno.ENOENT: ("its folder is gone", "run it again"),
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as Rust's libraries (safetensors) say it
# torch's writer of archives forgets why it could not write.
_TORCH = re.compile(r"unexpected pos \d+ vs \d+|PytorchStreamWriter failed")
_LEFT_BEHIND = re.compile(r"(?:labels\.|lock\.)?(?P<kind>tmp|old)-(?P<pid>\d{1,9})")
_UNFINISHED = re.compile(r".+\.tmp-(?P<pid>\d{1,9})")
_TRIES, _WAIT_S = 20, 0.05
_FULL_BYTES = 1 << 20  # a disk with less than this free is what torch has met


@contextmanager
def writing(path: Path, *, needs: int | None = None) -> Iterator[None]:
    """Turns a failure to write into a sentence. The block writes `path`, or files in it, or beside it under its name.

    Args:
        needs: bytes that are to be written, where that is known.

    Raises:
        DiskError: the disk is full or read-only, or the place may not be written.
    """
    try:
        yield
    except DatalttError:
        raise
    except Exception as error:
        failure = disk_error(error, path, needs=needs)
        if failure is None:
            raise
        raise failure from error


def disk_error(error: BaseException, path: Path, *, needs: int | None = None) -> DiskError | None:
    """The failure to write a path that an exception means, whichever library raised it; None if it means none."""
    found = write_failure(error, path, needs=needs)
    return None if found is None else DiskError(f"{path} cannot be written: {found[0]}; {found[1]}")


def write_failure(error: BaseException, path: Path, *, needs: int | None = None) -> tuple[str, str] | None:
    """The reason why a path cannot be written, and the way out, if that is what an exception means."""
    chain = list(_chain(error))
    for each, number in [*((e, _number(e)) for e in chain), *((e, _number_of_torch(e, path)) for e in chain)]:
        if number in OF_WRITING or (number in _OF_ANYTHING and _may_be_of(each, path, number)):
            reason, way_out = {**OF_WRITING, **_OF_ANYTHING}[number]
            room = _room(path, needs) if number in (errno.ENOSPC, errno.EDQUOT) else ""
            return reason + room, way_out
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, those that it groups, and those that it comes from."""
    left: list[BaseException | None] = [error]
    for _ in range(32):
        each = left.pop(0) if left else None
        if each is not None:
            yield each
            left += [*getattr(each, "exceptions", ()), each.__cause__, each.__context__]
        elif not left:
            return


def _number(error: BaseException) -> int:
    """The operating system's number of an error; 0 if it has none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else 0


def _number_of_torch(error: BaseException, path: Path) -> int:
    if not isinstance(error, RuntimeError) or not _TORCH.search(str(error)):
        return 0
    free = free_bytes(path)
    return errno.EIO if free is not None and free > _FULL_BYTES else errno.ENOSPC


def _may_be_of(error: BaseException, path: Path, number: int) -> bool:
    """Tells whether an error is of the path that is written, rather than of one that is read meanwhile."""
    name = getattr(error, "filename", None)
    if not isinstance(name, str | bytes):
        return number != errno.ENOENT
    found, wanted = os.path.abspath(os.fsdecode(name)), os.path.abspath(path)
    # In it, or beside it by a temporary name; a folder above it, or itself.
    return found.startswith((f"{wanted}/", f"{wanted}.")) or f"{wanted}/".startswith(found.rstrip("/") + "/")


def _room(path: Path, needs: int | None) -> str:
    free = free_bytes(path)
    known = [] if free is None else [f"{shown_bytes(free)} free"]
    known += [] if needs is None else [f"{shown_bytes(needs)} to write"]
    return f" ({', '.join(known)})" if known else ""


def check_writable(path: Path) -> None:
    """Tries whether a file can be written, or whether files can be written in a folder, which need not be there yet.

    Raises:
        DiskError: they cannot.
    """
    with writing(path):
        if path.is_file():
            path.open("ab").close()
            return
        folder = existing_folder(path)
        above = path.absolute()
        while not above.exists() and above != folder.absolute():
            above = above.parent
        if above.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:  # it names the temporary file
            raise OSError(error.errno, error.strerror) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    with writing(path, needs=len(content)), replacing(path) as temporary, temporary.open("xb") as file:
        file.write(content)


@contextmanager
def removing(folder: Path) -> Iterator[None]:
    """Removes a folder when the block is done, if it is still there.

    After a failure Zarr's threads may be writing for a moment, and would make it again.
    """
    try:
        yield
    except BaseException:
        for _ in range(_TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(_WAIT_S)
            if not folder.exists():
                break
        raise
    shutil.rmtree(folder, ignore_errors=True)


def clear_left_behind(path: Path) -> None:
    """Removes what killed processes left of writing a path: NAME.tmp-PID, NAME.….tmp-PID and NAME.old-PID beside it.

    Where the kill came between the two renames of an exchange, what stood there before is put back.
    """
    for left in sorted(path.parent.glob(f"{glob.escape(path.name)}.*-*")):
        match = _LEFT_BEHIND.fullmatch(left.name.removeprefix(f"{path.name}."))
        if match is None or is_alive(int(match["pid"])):
            continue
        if match["kind"] == "old" and not path.exists():
            os.rename(left, path)
        elif left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def clear_unfinished(folder: Path) -> None:
    """Removes what killed processes left unfinished in a folder and below it, NAME.tmp-PID, files or folders."""
    for left in sorted(folder.rglob("*.tmp-*"), reverse=True):
        match = _UNFINISHED.fullmatch(left.name)
        if match is None or is_alive(int(match["pid"])):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Tells whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name for the block to write a file by, which takes the place of `path` at its end, or goes if it fails."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)  # in somebody else's folder it may be a link to any file
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
