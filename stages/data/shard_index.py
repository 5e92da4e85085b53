"""Index of a shard: the keys, image digests and labels of its samples, read once and kept in the cache folder.

An entry is bound to what it was made of: a local shard's path, size and time of change; of any other its URL.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from ...artifacts_schema import DiskError
from ...artifacts_schema.files import write_atomically, writing
from ...artifacts_schema.strings import decode_strings, encode_strings
from .shards import Shard, is_url, iter_samples

_VERSION = 1
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardIndex:
    """The n samples of a shard, in its order.

    Attributes:
        keys: n of them.
        digests: uint64 [n], XXH3-64 of the encoded images.
        labels: int32 [n], -1 where there is none.
        num_bytes: bytes of all images.
    """

    keys: list[str]
    digests: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int32]
    num_bytes: int


def index_shard(shard: Shard, advance: Callable[[int], None] | None = None) -> ShardIndex:
    """Reads a shard to its end.

    Args:
        advance: is called with 1 after every sample.

    Raises:
        ShardError, SampleError, DuplicateKeyError: as `iter_samples`.
    """
    keys: list[str] = []
    digests: list[int] = []
    labels: list[int] = []
    num_bytes = 0
    for sample in iter_samples(shard):
        keys.append(sample.key)
        digests.append(xxhash.xxh3_64_intdigest(sample.image))
        labels.append(sample.label)
        num_bytes += len(sample.image)
        if advance is not None:
            advance(1)
    return ShardIndex(
        keys=keys,
        digests=np.array(digests, dtype=np.uint64),
        labels=np.array(labels, dtype=np.int32),
        num_bytes=num_bytes,
    )


class IndexCache:
    """Indices of shards in a folder of the cache. What cannot be kept or read there is made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "indices"

    def get_or_make(self, shard: Shard, *, anew: bool = False) -> tuple[ShardIndex, bool]:
        """The index of a shard, and whether the shard had to be read for it.

        Args:
            anew: do not ask whether one is kept.

        Raises:
            ShardError, SampleError, DuplicateKeyError: as `iter_samples`.
        """
        path = self.folder / f"{_identity(shard)}.npz"
        kept = None if anew else _load(path)
        if kept is not None:
            return kept, False
        index = index_shard(shard)
        if path.stem == _identity(shard):  # else it changed while it was read
            _save(path, index)
        return index, True


def _identity(shard: Shard) -> str:
    of_file: tuple[object, ...] = ()
    place = shard.url
    if not is_url(place):
        place = os.path.realpath(place)
        found = os.stat(place) if os.path.exists(place) else None
        of_file = (found.st_size, found.st_mtime_ns) if found else ()
    return xxhash.xxh3_128_hexdigest("\0".join(map(str, (_VERSION, place, *of_file))).encode())


def _save(path: Path, index: ShardIndex) -> None:
    data, offsets = encode_strings(index.keys)
    content = io.BytesIO()
    np.savez(
        content,
        key_data=data,
        key_offsets=offsets,
        digests=index.digests,
        labels=index.labels,
        num_bytes=np.int64(index.num_bytes),
    )
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
    except DiskError:
        return  # a full or read-only disk: it is made again next time


def _load(path: Path) -> ShardIndex | None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            keys = decode_strings(arrays["key_data"], arrays["key_offsets"])
            digests, labels, num_bytes = arrays["digests"], arrays["labels"], int(arrays["num_bytes"])
    except _UNREADABLE:
        return None
    if digests.shape != (len(keys),) or labels.shape != (len(keys),) or digests.dtype != np.uint64:
        return None
    return ShardIndex(keys=keys, digests=digests, labels=labels.astype(np.int32, copy=False), num_bytes=num_bytes)
