"""Rows of stores, in any order, as the columns of a new one; read some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..key_hashes import KeyHashes, KeySummary
from ..layout import specs_of
from ..lookup import BLOCK_ROWS
from ..manifest import Manifest
from ..store import Rows, TicketStore
from ..strings import encode_strings, hash_strings

Columns = Mapping[str, npt.NDArray[Any]]

_BLOCK_BYTES = 32 << 20
_MAX_BLOCK_ROWS = 16_384  # a multiple of every array's chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """Rows of a new store: which store each comes from, and which row it is there. 10 bytes a row.

    Letters: R rows, S shards.
    """

    shards: list[str]
    num_rows: list[int]  # [S], rows of each shard
    sources: npt.NDArray[np.uint16]  # [R]
    rows: npt.NDArray[np.int64]  # [R]

    @property
    def num_images(self) -> int:
        """Number of rows, R."""
        return len(self.rows)

    def shard_of(self, row: int) -> str:
        """The shard that a row of the new store is of."""
        return self.shards[int(np.searchsorted(np.cumsum(self.num_rows), row, side="right"))]


def all_rows(store: TicketStore) -> RowPlan:
    """All rows of a store, as they stand in it."""
    return RowPlan(
        shards=list(store.shard_names),
        num_rows=np.diff(store.shard_rows).tolist(),
        sources=np.zeros(len(store), dtype=np.uint16),
        rows=np.arange(len(store), dtype=np.int64),
    )


def rows_per_block(manifest: Manifest) -> int:
    """Rows of a store that are read at a time, so that all their columns take 32 MiB or less: a power of two."""
    num_bytes = sum(spec.row_bytes for spec in specs_of(manifest).values() if spec.shape[0] is not None)
    return min(_MAX_BLOCK_ROWS, 1 << (max(1, _BLOCK_BYTES // num_bytes).bit_length() - 1))


def read_columns(store: TicketStore, rows: Rows, *, token_labels: bool = False) -> dict[str, npt.NDArray[Any]]:
    """Columns of rows in ascending order, by the paths of their arrays, each checked as the store's reader does."""
    columns: dict[str, npt.NDArray[Any]] = {
        "labels": store.read_labels(rows),
        "digests": store.read_digests(rows),
        "tickets": store.read_tickets(rows),
    }
    if store.manifest.adaptive is not None:
        columns["counts"] = store.read_counts(rows)
    if store.manifest.has_ranks:
        columns["ranks"] = store.read_ranks(rows)
    views = store.read_views(rows)
    if views is not None:
        columns["views/boxes"], columns["views/flips"] = views
    if token_labels:
        maps = store.read_token_labels(rows)
        columns["token_labels/ids"], columns["token_labels/scores"] = maps.ids, maps.scores
    return columns


def read_keys_of(store: TicketStore, rows: Rows) -> list[str]:
    """The keys of rows in ascending order."""
    if isinstance(rows, range):
        return store.read_keys(rows)
    keys: list[str] = []
    for part in np.split(rows, np.flatnonzero(np.diff(rows // BLOCK_ROWS)) + 1):
        if len(part):
            first = int(part[0])
            found = store.read_keys(range(first, int(part[-1]) + 1))
            keys += [found[row - first] for row in part.tolist()]
    return keys


def _as_run(rows: npt.NDArray[np.int64]) -> Rows:
    """Ascending rows as a range if they are one, which is one contiguous read."""
    first, last = int(rows[0]), int(rows[-1])
    return range(first, last + 1) if last - first + 1 == len(rows) else rows


def _pieces(plan: RowPlan, block: range) -> Iterator[tuple[int, Rows, npt.NDArray[np.int64]]]:
    """Source, ascending rows there, and places in the block, of all rows of a block of the new store."""
    sources, rows = plan.sources[block.start : block.stop], plan.rows[block.start : block.stop]
    for source in np.unique(sources):
        places = np.flatnonzero(sources == source)
        places = places[np.argsort(rows[places], kind="stable")]
        yield int(source), _as_run(rows[places]), places


def read_key_block(stores: Sequence[TicketStore], plan: RowPlan, block: range) -> list[str]:
    """Keys of a block of rows of the new store."""
    keys = [""] * len(block)
    for source, rows, places in _pieces(plan, block):
        for place, key in zip(places.tolist(), read_keys_of(stores[source], rows), strict=True):
            keys[place] = key
    return keys


def read_block(
    stores: Sequence[TicketStore], plan: RowPlan, block: range, *, token_labels: bool
) -> tuple[pa.Array, dict[str, npt.NDArray[Any]]]:
    """Keys and columns of a block of rows of the new store."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for source, rows, places in _pieces(plan, block):
        found = read_columns(stores[source], rows, token_labels=token_labels)
        if len(places) == len(block):  # all from one store
            columns = {path: values[np.argsort(places)] for path, values in found.items()}
            break
        for path, values in found.items():
            column = columns.setdefault(path, np.empty((len(block), *values.shape[1:]), dtype=values.dtype))
            column[places] = values
    return pa.array(read_key_block(stores, plan, block), type=pa.large_string()), columns


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyScan:
    """Facts about all keys of a new store: their bytes, and what their digests say."""

    num_bytes: int
    summary: KeySummary


def scan_keys(stores: Sequence[TicketStore], plan: RowPlan, folder: Path) -> KeyScan:
    """Reads all keys once, before the store is written. Digests that memory should not hold wait on `folder`'s disk."""
    hashes = KeyHashes(folder)
    num_bytes = 0
    for first in range(0, plan.num_images, _MAX_BLOCK_ROWS):
        block = range(first, min(first + _MAX_BLOCK_ROWS, plan.num_images))
        keys = read_key_block(stores, plan, block)
        hashes.add(hash_strings(keys))
        num_bytes += len(encode_strings(keys)[0])
    return KeyScan(num_bytes=num_bytes, summary=hashes.summary())


def keys_of_shards(stores: Sequence[TicketStore], plan: RowPlan) -> Iterator[tuple[str, list[str]]]:
    """Shards of a new store and keys of theirs, in row order, as many at a time as memory should hold."""
    first = 0
    for shard, count in zip(plan.shards, plan.num_rows, strict=True):
        for start in range(first, first + count, _MAX_BLOCK_ROWS):
            yield shard, read_key_block(stores, plan, range(start, min(start + _MAX_BLOCK_ROWS, first + count)))
        first += count
