"""Finding the store's rows of samples: by key, and where keys do not match by the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...artifacts_schema import TicketStore
from ...artifacts_schema.lookup import MISSING, DigestLookup, KeyLookup
from ..options import ErrorOrAllow

# Instead of a row, beside the lookups' MISSING and AMBIGUOUS.
CHANGED = -3  # the key is there, and was of another image


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundRows:
    """Rows that a store has of n samples.

    Attributes:
        rows: int64 [n]; MISSING, AMBIGUOUS or CHANGED where there is no ticket.
        by_digest: bool [n], whether the store knows the image by another key.
        of_key: int64 [n], the row of the sample's key whatever its image; MISSING where there is none.
    """

    rows: npt.NDArray[np.int64]
    by_digest: npt.NDArray[np.bool_]
    of_key: npt.NDArray[np.int64]


class RowFinder:
    """Finder of rows, with all keys and digests of a store in memory: 40 bytes per row."""

    def __init__(self, store: TicketStore, on_changed_image: ErrorOrAllow) -> None:
        self._store, self._allows_changes = store, on_changed_image == "allow"

    @cached_property
    def _keys(self) -> KeyLookup:
        return KeyLookup(self._store)

    @cached_property
    def _images(self) -> DigestLookup:
        return DigestLookup(self._store)

    @cached_property
    def _digests(self) -> npt.NDArray[np.uint64]:
        return self._store.read_digests(range(self._store.manifest.num_images))

    def find(self, keys: Sequence[str], digests: npt.NDArray[np.uint64]) -> FoundRows:
        """Finds samples by key and XXH3-64 digest of the encoded image, uint64 [n].

        A key counts where its image is the stored one. Else the image counts, whatever its key; else, if re-encoded
        copies are allowed, the key.
        """
        of_key = self._keys.find(keys)
        has_key = of_key >= 0
        is_same = has_key & (self._digests[np.where(has_key, of_key, 0)] == digests)
        rows = np.where(is_same, of_key, MISSING)
        by_digest = np.zeros(len(rows), dtype=np.bool_)
        others = np.flatnonzero(~is_same)
        if len(others):
            rows[others] = self._images.find(digests[others])
            by_digest = ~is_same & (rows >= 0)
            is_left = has_key & (rows < 0)
            rows = np.where(is_left, of_key if self._allows_changes else CHANGED, rows)
        return FoundRows(rows=rows, by_digest=by_digest, of_key=of_key)
