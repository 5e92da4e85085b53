"""Writing all arrays of a new store at once, rows after rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zarr

from ..errors import DuplicateKeyError, IncompletePartsError
from ..key_hashes import KeyHashes, KeySummary
from ..layout import ArraySpec
from ..strings import encode_strings, hash_strings
from .array_writer import ArrayWriter

# Arrays that are not written row by row.
_NO_COLUMNS = ("keys/", "shards/")


class StoreArrays:
    """Arrays of a store in a folder that is not there yet.

    Memory: one unwritten block of each array, and 8 MiB of keys' digests.

    Args:
        specs: of all arrays, by path (`array_specs`).
        num_key_bytes: of all keys, since an array's length is fixed when it is made.
    """

    def __init__(self, folder: Path, specs: Mapping[str, ArraySpec], *, num_images: int, num_key_bytes: int) -> None:
        self._specs = specs
        self._group = zarr.open_group(folder, mode="w-", zarr_format=3)
        columns = [path for path in specs if not path.startswith(_NO_COLUMNS)]
        self._columns = {path: ArrayWriter(self._group, specs[path], num_images) for path in columns}
        self._offsets = ArrayWriter(self._group, specs["keys/offsets"], num_images + 1)
        self._offsets.append(np.zeros(1, np.int64))
        self._keys = ArrayWriter(self._group, specs["keys/data"], num_key_bytes)
        self._hashes = KeyHashes(folder.parent)
        self._num_key_bytes = 0

    def append(self, keys: pa.Array, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Appends rows: their keys, and n entries of every other array of rows, by its path."""
        data, offsets = encode_strings(keys)
        self._keys.append(data)
        self._offsets.append(offsets[1:] + self._num_key_bytes)
        self._num_key_bytes += len(data)
        self._hashes.add(hash_strings(keys.to_pylist()))
        for path, writer in self._columns.items():
            writer.append(columns[path])

    def close(self, shards: Sequence[str], num_rows: Sequence[int]) -> KeySummary:
        """Writes what is left, and the shards with the number of rows of each.

        Returns:
            Facts about all keys.

        Raises:
            IncompletePartsError: fewer rows came than the arrays were made for.
        """
        for each in (*self._columns.values(), self._offsets, self._keys):
            each.close()
        data, offsets = encode_strings(list(shards))
        rows = np.cumsum([0, *num_rows], dtype=np.int64)
        for path, values in (("shards/data", data), ("shards/offsets", offsets), ("shards/rows", rows)):
            writer = ArrayWriter(self._group, self._specs[path], len(values))
            writer.append(values)
            writer.close()
        return self._hashes.summary()


def refuse_duplicates(summary: KeySummary, keys_of_shards: Iterable[tuple[str, list[str]]]) -> None:
    """Refuses keys that occur twice.

    Args:
        summary: of all keys.
        keys_of_shards: some shard and some of its keys, in turn, until all keys came; read only where there is need.

    Raises:
        DuplicateKeyError: naming the key and its shards.
        IncompletePartsError: two keys differ and have one digest.
    """
    if not len(summary.repeated):
        return
    # Equal digests are all but surely equal keys; one more pass over the keys alone finds the names.
    wanted, seen = set(summary.repeated.tolist()), dict[str, str]()
    for shard, keys in keys_of_shards:
        for key, digest in zip(keys, hash_strings(keys).tolist(), strict=True):
            if digest in wanted:
                if key in seen:
                    raise DuplicateKeyError(key, seen[key], shard)
                seen[key] = shard
    raise IncompletePartsError(
        f"keys {sorted(seen)[:2]} differ but have one XXH3-64 digest; rename one of them, since lookups go by digest"
    )
