"""A disk that is really full, or read-only: a small tmpfs where mounts are allowed, else limits of this process."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

DISK_BYTES = 32 << 20
PAGE = 4096  # tmpfs deals in these
FULL = r"(too little room on its disk \(.* free.*\)|files may not be that large there)"
READ_ONLY = r"(its file system is read-only|permission denied)"


class Disk:
    """A disk of 32 MiB at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        self.is_mounted = shutil.which("mount") is not None and _succeeds(command)

    @contextlib.contextmanager
    def with_room_for(self, num_bytes: int) -> Iterator[None]:
        """Leaves so few bytes free while the block runs; without a mount, lets no file grow beyond them."""
        if not self.is_mounted:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            return
        ballast = self.folder / ".ballast"
        free = shutil.disk_usage(self.folder).free
        ballast.write_bytes(bytes(max(0, free - num_bytes) // PAGE * PAGE))
        try:
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Makes it read-only while the block runs."""
        if self.is_mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)
            try:
                yield
            finally:
                subprocess.run(["mount", "-o", "remount,rw", str(self.folder)], check=True)
        elif os.geteuid() == 0:
            pytest.skip("root may write everywhere, and mounts are not allowed here")
        else:
            folders = [self.folder, *(p for p in self.folder.rglob("*") if p.is_dir())]
            for each in folders:
                each.chmod(0o555)
            try:
                yield
            finally:
                for each in folders:
                    each.chmod(0o755)

    def close(self) -> None:
        """Takes it away."""
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk of a test's own."""
    made = Disk(tmp_path / "disk")
    yield made
    made.close()
