"""Digests of all keys of a store, put in order without holding them all: for the duplicate check, and the keys' digest.

Of a billion keys they would be 8 GB. They are sorted 8 MiB at a time; what is more waits in a nameless file and comes
back by leading byte.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from .files import writing
from .space import existing_folder

Hashes = npt.NDArray[np.uint64]

HELD = 1 << 20  # digests in memory
_EDGES = (np.arange(256, dtype=np.uint64) << np.uint64(56))[1:]  # of the runs of one leading byte
_MAX_REPEATED = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeySummary:
    """Facts about all keys.

    Attributes:
        sha256: `keys_sha256` of a manifest (hex).
        repeated: uint64, ascending, digests that came more than once, the first 65,536 of them.
    """

    sha256: str
    repeated: Hashes


class KeyHashes:
    """Collector of XXH3-64 digests of keys.

    Args:
        folder: on whose disk more than `held` of them wait; it need not be there yet.
        held: how many are kept in memory.
    """

    def __init__(self, folder: Path, *, held: int = HELD) -> None:
        self._folder = folder
        self._buffer = np.empty(held, dtype=np.uint64)
        self._filled = 0
        self._file: IO[bytes] | None = None
        self._runs: list[npt.NDArray[np.int64]] = []  # where in the file each leading byte of each run begins and ends

    def add(self, hashes: Hashes) -> None:
        """Takes digests, uint64 [n].

        Raises:
            DiskError: there is no room for those that wait.
        """
        taken = 0
        while taken < len(hashes):
            if self._filled == len(self._buffer):
                self._spill()
            n = min(len(hashes) - taken, len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + n] = hashes[taken : taken + n]
            self._filled += n
            taken += n

    def summary(self) -> KeySummary:
        """Facts about what was taken; afterwards there is nothing left."""
        digest = hashlib.sha256()
        repeated: list[Hashes] = []
        for block in self._sorted_blocks():
            digest.update(block.astype("<u8", copy=False).data)
            # Equal ones begin with the same byte, so they are in one block.
            repeated.append(np.unique(block[1:][block[1:] == block[:-1]])[:_MAX_REPEATED])
        found = np.concatenate(repeated) if repeated else np.empty(0, dtype=np.uint64)
        return KeySummary(sha256=digest.hexdigest(), repeated=found[:_MAX_REPEATED])

    def _spill(self) -> None:
        run = self._buffer[: self._filled]
        run.sort()
        bounds = np.concatenate([[0], np.searchsorted(run, _EDGES), [len(run)]]).astype(np.int64)
        with writing(self._folder, needs=run.nbytes):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=existing_folder(self._folder))  # noqa: SIM115
            self._runs.append(bounds + self._file.tell() // run.itemsize)
            self._file.write(run.data)
            self._file.flush()
        self._filled = 0

    def _sorted_blocks(self) -> Iterator[Hashes]:
        """Yields all digests, ascending, some at a time."""
        if self._file is None:
            block = self._buffer[: self._filled]
            block.sort()
            yield block
            return
        self._spill()
        with self._file:
            for byte in range(256):
                parts = [self._read(run[byte], run[byte + 1]) for run in self._runs]
                block = np.concatenate(parts)
                block.sort()
                yield block

    def _read(self, first: np.int64, stop: np.int64) -> Hashes:
        assert self._file is not None
        self._file.seek(int(first) * 8)
        return np.frombuffer(self._file.read(int(stop - first) * 8), dtype=np.uint64)
