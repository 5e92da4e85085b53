"""Lookup of rows by any key or image, for images that another lab packed otherwise. 16 bytes of memory per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .geometry import Box
from .manifest import Manifest
from .strings import hash_strings
from .tickets import Packed, Ranks

BLOCK_ROWS = 65_536
_VIEW_BLOCK_ROWS = 16_384
_VIEW_BLOCK_PATCHES = 64 << 20  # a byte each, once tickets are unpacked
# What a lookup gives instead of a row.
MISSING = -1
AMBIGUOUS = -2  # the image is there more than once, and its tickets differ


def iter_row_blocks(num_images: int, block_rows: int = BLOCK_ROWS) -> list[range]:
    """Runs of rows that together are all rows."""
    return [range(i, min(i + block_rows, num_images)) for i in range(0, num_images, block_rows)]


def iter_view_blocks(m: Manifest) -> list[range]:
    """Runs of rows that together are all rows, fewer at a time where a row has many views."""
    rows = max(1, _VIEW_BLOCK_PATCHES // (m.num_views * m.num_patches))
    return iter_row_blocks(m.num_images, min(_VIEW_BLOCK_ROWS, 1 << (rows.bit_length() - 1)))


class _Rows(Protocol):
    """Columns of a store that a lookup reads."""

    @property
    def manifest(self) -> Manifest: ...

    def read_keys(self, rows: range) -> list[str]: ...

    def read_digests(self, rows: range) -> npt.NDArray[np.uint64]: ...

    def read_tickets(self, rows: npt.NDArray[np.int64]) -> Packed: ...

    def read_ranks(self, rows: npt.NDArray[np.int64]) -> Ranks: ...

    def read_views(self, rows: npt.NDArray[np.int64]) -> tuple[Box, npt.NDArray[np.uint8]] | None: ...


def keys_at(store: _Rows, rows: npt.NDArray[np.int64]) -> list[str]:
    """The keys of rows int64 [n], ascending, which may lie far from each other."""
    keys: list[str] = []
    for block in np.split(rows, np.flatnonzero(np.diff(rows // BLOCK_ROWS)) + 1):
        if len(block):
            known = store.read_keys(range(int(block[0]), int(block[-1]) + 1))
            keys += [known[row - block[0]] for row in block]
    return keys


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
        """Rows of the keys, int64 [n]; MISSING where the store has no such key."""
        return self._index.find(hash_strings(keys))


class DigestLookup:
    """Lookup of images by the XXH3-64 digest of their encoded bytes.

    Of images that the store has more than once it is the first, if their tickets, ranks and views are the same.
    """

    def __init__(self, store: _Rows) -> None:
        self._store = store
        self._index = _SortedHashes(store.read_digests(range(store.manifest.num_images)))

    def find(self, digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Rows of the images, int64 [n]; MISSING where the store has no such image, or AMBIGUOUS."""
        found = self._index.find(digests)
        repeated = list(self._index.repeated(np.unique(digests[found >= 0])))
        differing = [rows[0] for rows, agree in zip(repeated, self._agree(repeated), strict=True) if not agree]
        return np.where(np.isin(found, differing), AMBIGUOUS, found) if differing else found

    def _agree(self, groups: Sequence[npt.NDArray[np.int64]]) -> list[bool]:
        """Tells of each group of rows whether all have the same tickets, ranks and views."""
        if not groups:
            return []
        rows = np.unique(np.concatenate(groups))
        columns: list[npt.NDArray[Any]] = [self._store.read_tickets(rows), *(self._store.read_views(rows) or ())]
        if self._store.manifest.has_ranks:
            columns.append(self._store.read_ranks(rows))
        places = [np.searchsorted(rows, group) for group in groups]
        return [all(bool((c[place] == c[place[:1]]).all()) for c in columns) for place in places]


class _SortedHashes:
    """Hashes uint64 [n] and the rows that they stand at."""

    def __init__(self, hashes: npt.NDArray[np.uint64]) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        position = np.searchsorted(self._hashes, wanted).clip(max=len(self._hashes) - 1)
        return np.where(self._hashes[position] == wanted, self._order[position], MISSING)

    def repeated(self, wanted: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.int64]]:
        """Yields the rows, ascending, of each wanted hash that stands at more than one."""
        first, stop = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        for i in np.flatnonzero(stop - first > 1):
            yield self._order[first[i] : stop[i]]
