"""Room on disks: how much is free, and whether it will do, asked before work begins."""

from __future__ import annotations

import shutil
from pathlib import Path

from .errors import DiskError

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def shown_bytes(count: float) -> str:
    """A number of bytes for people: `1 byte`, `996 bytes`, `7.1 MB`, `38 GB`."""
    if count == 1:
        return "1 byte"
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit and count < 9.95 else f"{count:.0f} {_UNITS[unit]}"


def existing_folder(path: Path) -> Path:
    """The folder that a path is, or would be made in: the nearest above it that is there."""
    for folder in (path, *path.absolute().parents):
        if folder.is_dir():
            return folder
    return Path("/")


def free_bytes(path: Path) -> int | None:
    """Bytes that this user may still write on the disk of a path, which need not be there; None if it does not say."""
    try:
        usage = shutil.disk_usage(existing_folder(path))
    except OSError:
        return None
    return usage.free if usage.total else None  # some network file systems give zeros


def check_space(path: Path, needed: float, *, least: float | None = None) -> str | None:
    """Compares what will be written with what is free.

    Args:
        path: what will be written, a file or folder.
        needed: bytes that it will take, as a guess.
        least: bytes without which there is no use in beginning. Default: `needed`, which is no guess then.

    Returns:
        A warning where the guess is more than is free; None where there is room, or nobody knows.

    Raises:
        DiskError: less than `least` is free.
    """
    free = free_bytes(path)
    if free is None or needed <= free:
        return None
    about = "" if least is None else "about "
    sentence = (
        f"{path} will take {about}{shown_bytes(needed)}, and its disk has {shown_bytes(free)} free; make room, or "
        "write to another disk"
    )
    if free < (needed if least is None else least):
        raise DiskError(sentence)
    return sentence
