"""Lists of strings as the two buffers of an Arrow large_string array: uint8 data and int64 offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

MAX_STRING_BYTES = 4096

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


def encode_strings(strings: pa.Array | Iterable[str]) -> tuple[Bytes, Offsets]:
    """Data uint8 [bytes] and offsets int64 [n + 1], starting at 0, of n strings."""
    array = strings if isinstance(strings, pa.Array) else pa.array(strings, type=pa.large_string())
    array = array.cast(pa.large_string())
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    first, last = (int(offsets[0]), int(offsets[-1])) if len(array) else (0, 0)
    data = np.frombuffer(data_buffer, dtype=np.uint8)[first:last] if last > first else np.zeros(0, np.uint8)
    return data, (offsets - first if len(array) else np.zeros(1, np.int64))


def decode_strings(data: Bytes, offsets: Offsets) -> list[str]:
    """The strings of `encode_strings`.

    Raises:
        ValueError: offsets that do not start at 0, decrease, or do not end with the data; bytes that are not UTF-8.
    """
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != len(data) or (lengths < 0).any():
        raise ValueError("offsets do not divide the data")
    if (lengths > MAX_STRING_BYTES).any():
        raise ValueError(f"a string is longer than {MAX_STRING_BYTES} bytes")
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets)), pa.py_buffer(np.ascontiguousarray(data))]
    array = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
    array.validate(full=True)
    strings: list[str] = array.to_pylist()
    return strings


def hash_string(text: str) -> int:
    """XXH3-64 of the UTF-8 bytes."""
    return xxhash.xxh3_64_intdigest(text.encode())


def hash_strings(strings: Iterable[str]) -> npt.NDArray[np.uint64]:
    """`hash_string` of each, uint64 [n]."""
    return np.fromiter((hash_string(s) for s in strings), dtype=np.uint64)


def keys_digest(sorted_hashes: npt.NDArray[np.uint64]) -> str:
    """SHA-256 (hex) of the keys' XXH3-64 digests, sorted, as little-endian uint64: the same for any sharding."""
    return hashlib.sha256(sorted_hashes.astype("<u8", copy=False).data).hexdigest()
