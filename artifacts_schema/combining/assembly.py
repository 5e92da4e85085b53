"""Writing of a new store from rows of others: whole or not at all, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..access.location import Location
from ..layout import specs_of
from ..local_notes import noted_shards
from ..locking import LOCK_TIMEOUT_S, held, lock_of
from ..manifest import Manifest, needed_version
from ..manifest_parsing import parse_manifest
from ..space import check_space
from ..store import TicketStore
from ..token_labels import FOLDER
from ..writing.new_store import check_destination, creation_time, write_new_store
from ..writing.store_arrays import StoreArrays, refuse_duplicates
from .rows import RowPlan, keys_of_shards, read_block, rows_per_block, scan_keys

_SURE = 0.9  # the share of such a guess without which there is surely no room
Columns = dict[str, npt.NDArray[Any]]
Place = str | Path | Location  # of a store that is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Place of a new store.

    Attributes:
        path: a local folder to be.
        overwrite: whether a store that stands there is replaced.
        tool_version: the dataltt that writes it.
        on_progress: called with (rows written, rows in all).
        on_download: called with (bytes downloaded, bytes to download) where stores are behind URLs.
        lock_timeout_s: whoever writes there on another machine is gone after so many seconds without a sign of life.
    """

    path: Path
    overwrite: bool = False
    tool_version: str = "unknown"
    on_progress: Callable[[int, int], None] | None = None
    on_download: Callable[[int, int], None] | None = None
    lock_timeout_s: float = LOCK_TIMEOUT_S

    def check(self) -> None:
        """Refuses to write where something stands.

        Raises:
            OutputExistsError
        """
        check_destination(self.path, overwrite=self.overwrite)

    @contextmanager
    def held(self, work: str) -> Iterator[None]:
        """Keeps others from writing there while the block runs.

        Args:
            work: what writes there, for those whom it keeps out.

        Raises:
            OutputExistsError: something stands there.
            LockedError: another process writes there.
        """
        self.check()
        with held(lock_of(self.path), work, place=self.path, timeout_s=self.lock_timeout_s):
            self.check()  # once more: nobody else can make it now
            yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """A new store's manifest, and sentences about what it does not have of those that it came from."""

    manifest: Manifest
    notes: tuple[str, ...] = ()


def parent_entry(store: TicketStore, operation: str, **details: object) -> dict[str, Any]:
    """Entry in `parent` of a store that came from this one."""
    return {"ticket_digest": store.manifest.digest, "operation": operation, **details}


def write_store(
    target: Target,
    stores: Sequence[TicketStore],
    plan: RowPlan,
    manifest: Manifest,
    *,
    shards: str | None,
    change: Callable[[Columns], Columns] = lambda columns: columns,
) -> Manifest:
    """Writes the planned rows as a new store.

    Args:
        manifest: what the new store says, but for what follows from its rows, time and objects.
        shards: where the images are, for the notes beside the store.
        change: makes columns of what was read; it is given a block of rows at a time.

    Returns:
        The manifest as it was written.

    Raises:
        OutputExistsError: something stands there.
        DuplicateKeyError: two rows have one key.
        DiskError: there is no room for it, or it cannot be written.
        SchemaError: a store is damaged.
        RemoteError: one behind a URL cannot be had.
    """
    target.check()
    token_labels = manifest.token_labels is not None
    _fetch_rows(stores, plan, target.on_download, token_labels=token_labels)
    keys = scan_keys(stores, plan, target.path.parent)
    refuse_duplicates(keys.summary, keys_of_shards(stores, plan))
    final = _described(manifest, plan, keys.summary.sha256, target)
    # What no reader would open is refused before anything is written.
    parse_manifest(final.to_json(), str(target.path))
    needed = _needed_bytes(stores, plan, final)
    check_space(target.path, needed, least=_SURE * needed)
    block_rows = min(rows_per_block(store.manifest) for store in stores)

    def write(folder: Path) -> Manifest:
        arrays = StoreArrays(folder, specs_of(final), num_images=plan.num_images, num_key_bytes=keys.num_bytes)
        for first in range(0, plan.num_images, block_rows):
            block = range(first, min(first + block_rows, plan.num_images))
            names, columns = read_block(stores, plan, block, token_labels=token_labels)
            arrays.append(names, change(columns))
            if target.on_progress is not None:
                target.on_progress(block.stop, plan.num_images)
        arrays.close(plan.shards, plan.num_rows)
        return final

    return write_new_store(target.path, write, shards=shards)


def _needed_bytes(stores: Sequence[TicketStore], plan: RowPlan, final: Manifest) -> float:
    """A guess of the new store's bytes: of each store the share of its arrays that its rows are."""
    arrays, total = specs_of(final), 0.0
    for source, store in enumerate(stores):
        stored = sum(size for path, size in store.num_stored_bytes().items() if path in arrays)
        total += stored * np.count_nonzero(plan.sources == source) / len(store)
    return total


def _fetch_rows(
    stores: Sequence[TicketStore], plan: RowPlan, on_download: Callable[[int, int], None] | None, *, token_labels: bool
) -> None:
    """Downloads the shards that planned rows are of, where stores are behind URLs."""
    for source, store in enumerate(stores):
        if store.location.is_remote:
            rows = plan.rows[plan.sources == source]
            found = np.unique(np.searchsorted(store.shard_rows, rows, side="right") - 1).tolist()
            runs = [range(int(store.shard_rows[s]), int(store.shard_rows[s + 1])) for s in found]
            fetch(store, runs, on_download, token_labels=token_labels)


def fetch(
    store: TicketStore,
    rows: Sequence[range] | None,
    on_download: Callable[[int, int], None] | None = None,
    *,
    token_labels: bool,
) -> None:
    """Downloads what will be read of a store behind a URL, several objects at a time.

    Args:
        rows: runs of rows; None for all.
        token_labels: whether these are read too.

    Raises:
        RemoteError: something cannot be had.
    """
    arrays = [path for path in store.array_paths if token_labels or not path.startswith(f"{FOLDER}/")]
    store.fetch(arrays, rows, on_download)


def shards_of(store: TicketStore) -> str | None:
    """The `shards` that a store on this machine was made from, if that is known."""
    return None if store.location.is_remote else noted_shards(store.path, store.manifest)


def _described(manifest: Manifest, plan: RowPlan, keys_sha256: str, target: Target) -> Manifest:
    return replace(
        manifest,
        schema_version=needed_version(
            manifest.view, manifest.selector, thinned=manifest.thinned, adaptive=manifest.adaptive
        ),
        num_images=plan.num_images,
        dataset=replace(manifest.dataset, shards=plan.shards, source="", keys_sha256=keys_sha256),
        created=creation_time(),
        tool_version=target.tool_version,
        objects={},
        sizes={},
        ticket_digest=None,
        checksum=None,
    )
