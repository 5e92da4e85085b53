"""Arrays of a store, with their shapes, dtypes, chunks and codecs: one table for the writer and the readers.

Letters: R images (rows), V views, P patches, W ticket bytes, S shards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .manifest import Manifest
from .tickets import num_ticket_bytes, ranks_dtype
from .token_labels import TOP_K

CHUNK_ROWS = 4096
CHUNK_ROWS_BYTES = 4 << 20  # at most: with many views a chunk has fewer rows, so that reading a shard stays cheap
CHUNK_BYTES = 1 << 18  # of the key bytes, which are one long array
# Shard objects are a few MB each. Larger ones would not read faster (readers fetch inner chunks), and a commit holds
# one of each array, and Zarr's copy of it, in memory.
SHARD_ROWS = 1 << 17
SHARD_BYTES = 16 << 20
KEY_SHARD_BYTES = 4 << 20

# Files of a store's folder that its manifest does not list among `objects`.
ROOT_FILE = "zarr.json"  # carries the manifest
LOCAL_FILE = "local.json"  # what stays with whoever made the store
CARD_FILE = "README.md"
_CARD_PICTURE = re.compile(r"card[a-z-]*\.png")

# Only codecs of the Zarr v3 core registry: what any Zarr v3 reader has, and none that can run code.
ALLOWED_CODECS = frozenset({"sharding_indexed", "bytes", "zstd", "crc32c", "blosc", "gzip", "transpose"})
# How codecs may follow each other: what is decompressed has the bytes of the chunk, which are known before.
CODEC_CHAIN = re.compile(r"(transpose )*bytes( (zstd|blosc|gzip))?( crc32c)?")
INDEX_CODEC_CHAIN = re.compile(r"bytes( crc32c)?")
# Far more than what dataltt writes or wrote: reading a row takes a chunk's bytes, and ten chunks are read at a time.
MAX_CHUNK_BYTES = 1 << 26
MAX_OBJECT_BYTES = 1 << 28
MAX_CHUNKS_PER_OBJECT = 1 << 16


def is_card_file(name: str) -> bool:
    """Tells whether a file of a store's folder belongs to its card."""
    return name == CARD_FILE or _CARD_PICTURE.fullmatch(name) is not None


def is_beside_objects(name: str) -> bool:
    """Tells whether a file of a store's folder is none of the objects that the manifest lists."""
    return name in (ROOT_FILE, LOCAL_FILE) or is_card_file(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """Array of the store. `shape[0]` is None where only the array itself knows its length (key bytes)."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry along the first axis."""
        return int(np.prod([n for n in self.shape[1:] if n is not None], dtype=np.int64)) * self.dtype.itemsize

    @property
    def chunk_len(self) -> int:
        """Inner chunk length along the first axis."""
        if self.shape[0] is None:
            return CHUNK_BYTES
        return min(CHUNK_ROWS, 1 << (max(1, CHUNK_ROWS_BYTES // self.row_bytes).bit_length() - 1))

    def shard_len(self, length: int) -> int:
        """Length of one shard object along the first axis: whole chunks, no longer than needed."""
        num_chunks = -(-length // self.chunk_len)
        most = KEY_SHARD_BYTES if self.shape[0] is None else min(SHARD_ROWS, SHARD_BYTES // self.row_bytes)
        return max(1, min(num_chunks, most // self.chunk_len)) * self.chunk_len


def array_specs(
    *,
    num_images: int,
    num_views: int,
    num_patches: int,
    num_shards: int,
    num_shard_name_bytes: int,
    has_ranks: bool,
    has_views: bool,
    has_token_labels: bool = False,
    has_counts: bool = False,
) -> dict[str, ArraySpec]:
    """Returns all arrays of a store with these numbers, by path."""
    rows, views = num_images, num_views
    shapes: dict[str, tuple[Any, tuple[int | None, ...]]] = {
        "tickets": (np.uint8, (rows, views, num_ticket_bytes(num_patches))),
        "keys/data": (np.uint8, (None,)),
        "keys/offsets": (np.int64, (rows + 1,)),
        "labels": (np.int32, (rows,)),
        "digests": (np.uint64, (rows,)),
        "shards/data": (np.uint8, (num_shard_name_bytes,)),
        "shards/offsets": (np.int64, (num_shards + 1,)),
        "shards/rows": (np.int64, (num_shards + 1,)),
    }
    if has_counts:
        shapes["counts"] = (np.uint16, (rows, views))
    if has_ranks:
        shapes["ranks"] = (ranks_dtype(num_patches), (rows, views, num_patches))
    if has_views:
        shapes["views/boxes"] = (np.float32, (rows, views, 4))
        shapes["views/flips"] = (np.uint8, (rows, views))
    if has_token_labels:
        shapes["token_labels/ids"] = (np.uint16, (rows, views, num_patches, TOP_K))
        shapes["token_labels/scores"] = (np.float16, (rows, views, num_patches, TOP_K))
    return {p: ArraySpec(path=p, dtype=np.dtype(d), shape=s) for p, (d, s) in shapes.items()}


def specs_of(manifest: Manifest) -> dict[str, ArraySpec]:
    """Returns all arrays of the store that a manifest describes, by path."""
    return array_specs(
        num_images=manifest.num_images,
        num_views=manifest.num_views,
        num_patches=manifest.num_patches,
        num_shards=len(manifest.dataset.shards),
        num_shard_name_bytes=sum(len(s.encode()) for s in manifest.dataset.shards),
        has_ranks=manifest.has_ranks,
        has_views=manifest.num_views > 1 or manifest.view.kind == "replay",
        has_token_labels=manifest.token_labels is not None,
        has_counts=manifest.adaptive is not None,
    )
