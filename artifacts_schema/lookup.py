"""Lookup of rows by any key or image, for images that another lab packed otherwise. 16 bytes of memory per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .manifest import Manifest
from .strings import hash_strings

BLOCK_ROWS = 65_536


def iter_row_blocks(num_images: int, block_rows: int = BLOCK_ROWS) -> list[range]:
    """Runs of rows that together are all rows."""
    return [range(i, min(i + block_rows, num_images)) for i in range(0, num_images, block_rows)]


class _Rows(Protocol):
    """Columns of a store that a lookup reads."""

    @property
    def manifest(self) -> Manifest: ...

    def read_keys(self, rows: range) -> list[str]: ...

    def read_digests(self, rows: range) -> npt.NDArray[np.uint64]: ...


class KeyLookup:
    """Lookup of a store's keys by XXH3-64 digest. A store has no two keys of one digest (commit refuses them); a
    foreign key is mistaken for one of n stored keys with probability n / 2^64."""

    def __init__(self, store: _Rows) -> None:
        num_images = store.manifest.num_images
        hashes = np.empty(num_images, dtype=np.uint64)
        for block in iter_row_blocks(num_images):
            hashes[block.start : block.stop] = hash_strings(store.read_keys(block))
        self._index = _SortedHashes(hashes)

    def find(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of the keys, int64 [n]; -1 where the store has no such key."""
        return self._index.find(hash_strings(keys))


class DigestLookup:
    """Lookup of images by the XXH3-64 digest of their encoded bytes; of images that are the same, the first."""

    def __init__(self, store: _Rows) -> None:
        self._index = _SortedHashes(store.read_digests(range(store.manifest.num_images)))

    def find(self, digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Rows of the images, int64 [n]; -1 where the store has no such image."""
        return self._index.find(digests)


class _SortedHashes:
    """Hashes uint64 [n] and the rows that they stand at."""

    def __init__(self, hashes: npt.NDArray[np.uint64]) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        position = np.searchsorted(self._hashes, wanted).clip(max=len(self._hashes) - 1)
        return np.where(self._hashes[position] == wanted, self._order[position], -1)
