"""Writing one Zarr array of a store from front to back, each of its objects once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from ..errors import IncompletePartsError
from ..layout import ArraySpec


def _compressor(spec: ArraySpec) -> Any:
    """Bit-shuffled Blosc halves the integer columns (offsets, labels), byte-shuffled takes a seventh off the scores of
    token labels; plain zstd does best on text and bits."""
    kind, num_bytes = spec.dtype.kind, spec.dtype.itemsize
    if num_bytes > 1 and kind in "iu":
        return BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle", typesize=num_bytes)
    if spec.dtype == np.float16:
        return BloscCodec(cname="zstd", clevel=5, shuffle="shuffle", typesize=num_bytes)
    return ZstdCodec(level=19 if spec.shape[0] is None else 9)


class ArrayWriter:
    """Appends along the first axis, writing whole shard objects only, so that each is written once."""

    def __init__(self, group: zarr.Group, spec: ArraySpec, length: int) -> None:
        trailing = tuple(n for n in spec.shape[1:] if n is not None)
        self._block_len = spec.shard_len(length)
        self._block = np.empty((min(self._block_len, length), *trailing), dtype=spec.dtype)
        self._filled = 0
        self._written = 0
        self._length = length
        compressor = _compressor(spec)
        self._array = group.create_array(
            spec.path,
            shape=(length, *trailing),
            dtype=spec.dtype,
            chunks=(spec.chunk_len, *trailing),
            shards=(self._block_len, *trailing),
            compressors=[compressor, Crc32cCodec()],
            filters=None,
            fill_value=0,
            # A chunk of zeros is written like any other: a chunk that is not there is damage.
            config={"write_empty_chunks": True},
        )

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Appends rows, [n, ...] of the array's dtype."""
        taken = 0
        while taken < len(rows):
            n = min(len(rows) - taken, len(self._block) - self._filled)
            self._block[self._filled : self._filled + n] = rows[taken : taken + n]
            self._filled += n
            taken += n
            if self._filled == self._block_len:
                self._flush()

    def _flush(self) -> None:
        self._array[self._written : self._written + self._filled] = self._block[: self._filled]
        self._written += self._filled
        self._filled = 0

    def close(self) -> None:
        """Writes what is left.

        Raises:
            IncompletePartsError: fewer rows came than the array was made for.
        """
        if self._filled:
            self._flush()
        if self._written != self._length:
            raise IncompletePartsError(f"{self._array.path}: {self._written} of {self._length} entries written")
