"""From any key to its row, for images that another lab packed into other shards. 16 bytes of memory per row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .store import TicketStore
from .strings import hash_strings

BLOCK_ROWS = 65_536


def iter_row_blocks(num_images: int, block_rows: int = BLOCK_ROWS) -> list[range]:
    """Runs of rows that together are all rows."""
    return [range(i, min(i + block_rows, num_images)) for i in range(0, num_images, block_rows)]


class KeyLookup:
    """All keys of a store, by XXH3-64 digest. A store has no two keys of one digest (commit refuses them); a
    foreign key is mistaken for one of n stored keys with probability n / 2^64."""

    def __init__(self, store: TicketStore) -> None:
        num_images = store.manifest.num_images
        hashes = np.empty(num_images, dtype=np.uint64)
        for block in iter_row_blocks(num_images):
            hashes[block.start : block.stop] = hash_strings(store.read_keys(block))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of the keys, int64 [n]; -1 where the store has no such key."""
        wanted = hash_strings(keys)
        position = np.searchsorted(self._hashes, wanted).clip(max=len(self._hashes) - 1)
        return np.where(self._hashes[position] == wanted, self._order[position], -1)
