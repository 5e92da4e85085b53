"""Merging of stores of one selector, view and ratio: all their shards in one store, each image once.

Shards stand in the order of the stores, and in each store's own order. A shard that several stores know comes once;
where one store has images of it that another lacks, its rows are interleaved as they stand in the shard, if the stores
tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import OptionError, TicketMismatchError
from ..manifest import Dataset, Labeller, SkippedSample
from ..store import TicketStore
from .assembly import Combined, Place, Target, fetch, parent_entry, shards_of, write_store
from .differences import refuse_other_kind
from .interleave import UnknownOrderError, interleave
from .rows import RowPlan, read_columns, read_keys_of, rows_per_block

_MAX_STORES = 1 << 16
# In the order in which a disagreement is named; a digest says most.
_COMPARED = {
    "digests": "is of other bytes",
    "labels": "has another label",
    "views/boxes": "has other views",
    "views/flips": "has other views",
    "tickets": "has another ticket",
    "ranks": "has other ranks",
}


def merge_stores(stores: Sequence[Place], target: Target) -> Combined:
    """Merges stores into a new one.

    Raises:
        OptionError: they are not of one selector, view and ratio, or the order of a shard's images is unknown.
        TicketMismatchError: they disagree on an image.
        DuplicateKeyError: an image stands in two shards.
        OutputExistsError, LockedError, StoreNotFoundError, SchemaError, RemoteError
    """
    if not 2 <= len(stores) <= _MAX_STORES:
        raise OptionError(f"merge takes two stores or more, and {len(stores)} was given; name the others too")
    with target.held("dataltt store merge"):
        return _merged(stores, target)


def _merged(stores: Sequence[Place], target: Target) -> Combined:
    opened = [TicketStore.open(place) for place in stores]
    for other in opened[1:]:
        _refuse_other_kind(opened[0], other)
    labeller, notes = _common_labeller(opened)
    for store in opened:
        fetch(store, None, target.on_download, token_labels=labeller is not None)
    plan = _planned(opened)
    publications = [store.manifest.publication for store in opened]
    publication = publications[0] if all(p == publications[0] for p in publications) else None
    if publication is None and any(publications):
        notes = (*notes, "licence, authors and citation are left out, since they differ; give them with: dataltt card")
    manifest = replace(
        opened[0].manifest,
        dataset=_dataset(opened),
        skipped=_skipped(opened),
        token_labels=labeller,
        publication=publication,
        parent=[parent_entry(store, "merge") for store in opened],
    )
    return Combined(manifest=write_store(target, opened, plan, manifest, shards=_common_shards(opened)), notes=notes)


def _refuse_other_kind(first: TicketStore, other: TicketStore) -> None:
    having = first if first.manifest.has_ranks else other
    without_ranks = f"leave the ranks out with: dataltt store thin {having.path} --no-ranks"
    refuse_other_kind(first.path, first.manifest, other.path, other.manifest, without_ranks=without_ranks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardRows:
    """Rows of one shard in the new store."""

    sources: npt.NDArray[np.uint16]
    rows: npt.NDArray[np.int64]


def _planned(stores: Sequence[TicketStore]) -> RowPlan:
    names = list(dict.fromkeys(name for store in stores for name in store.shard_names))
    found = [_of_shard(stores, name) for name in names]
    return RowPlan(
        shards=names,
        num_rows=[len(each.rows) for each in found],
        sources=np.concatenate([each.sources for each in found]),
        rows=np.concatenate([each.rows for each in found]),
    )


def _of_shard(stores: Sequence[TicketStore], name: str) -> _ShardRows:
    holders = [(s, rows) for s, store in enumerate(stores) if (rows := store.rows_of_shard(name)) is not None]
    # The one that has most images of it says most about their order.
    holders.sort(key=lambda holder: -len(holder[1]))
    source, rows = holders[0]
    merged = _ShardRows(
        sources=np.full(len(rows), source, dtype=np.uint16), rows=np.arange(rows.start, rows.stop, dtype=np.int64)
    )
    keys = stores[source].read_keys(rows) if len(holders) > 1 else []
    for other, other_rows in holders[1:]:
        other_keys = stores[other].read_keys(other_rows)
        merged, keys = _joined(stores, name, merged, keys, (other, other_rows.start, other_keys))
    return merged


def _joined(
    stores: Sequence[TicketStore],
    name: str,
    merged: _ShardRows,
    keys: list[str],
    holder: tuple[int, int, list[str]],
) -> tuple[_ShardRows, list[str]]:
    """The rows of a shard with those of one more store, after a comparison of those that both have."""
    source, first_row, other_keys = holder
    places = {key: i for i, key in enumerate(keys)}
    shared = [(places[key], i) for i, key in enumerate(other_keys) if key in places]
    if shared:
        ours, theirs = np.array(shared, dtype=np.int64).T
        _compare(stores, name, merged.sources[ours], merged.rows[ours], source, theirs + first_row)
    if len(shared) == len(other_keys):
        return merged, keys
    try:
        order = interleave(keys, other_keys)
    except UnknownOrderError:
        first = stores[int(merged.sources[0])].path if len(keys) else name
        raise OptionError(
            f"{first} and {stores[source].path} hold different images of shard {name}, and nothing says in which "
            f"order these stand in it; if it is one shard, select it whole, else leave it out of one store with: "
            "dataltt store subset"
        ) from None
    is_new = np.array([new for new, _ in order], dtype=np.bool_)
    index = np.array([i for _, i in order], dtype=np.int64)
    sources, rows = np.full(len(order), source, dtype=np.uint16), index + first_row
    sources[~is_new], rows[~is_new] = merged.sources[index[~is_new]], merged.rows[index[~is_new]]
    return _ShardRows(sources=sources, rows=rows), [other_keys[i] if new else keys[i] for new, i in order]


def _compare(
    stores: Sequence[TicketStore],
    name: str,
    sources: npt.NDArray[np.uint16],
    rows: npt.NDArray[np.int64],
    other: int,
    other_rows: npt.NDArray[np.int64],
) -> None:
    """Refuses images that two stores have, and disagree on."""
    size = rows_per_block(stores[other].manifest)
    for source in np.unique(sources):
        mine = np.flatnonzero(sources == source)
        mine = mine[np.argsort(other_rows[mine])]
        for first in range(0, len(mine), size):
            some = mine[first : first + size]
            _compare_rows(stores[source], rows[some], stores[other], other_rows[some], name)


def _compare_rows(
    first: TicketStore, rows: npt.NDArray[np.int64], second: TicketStore, others: npt.NDArray[np.int64], name: str
) -> None:
    order = np.argsort(rows)  # a store reads ascending rows
    sorted_ours = read_columns(first, rows[order])
    theirs = read_columns(second, others)
    for path, said in _COMPARED.items():
        if path not in theirs:
            continue
        differs = (sorted_ours[path] != theirs[path][order]).reshape(len(rows), -1).any(axis=1)
        if differs.any():
            place = int(np.flatnonzero(differs)[0])
            i = int(order[place])
            key = read_keys_of(second, others[i : i + 1])[0]
            values = f" ({theirs[path][i]}, and {sorted_ours[path][place]} there)" if path == "labels" else ""
            raise TicketMismatchError(
                f"image {key!r} of shard {name} {said} in {second.path} than in {first.path}{values}; select it "
                "again, or leave its shard out of one of them with: dataltt store subset"
            )


def _dataset(stores: Sequence[TicketStore]) -> Dataset:
    sets = [store.manifest.dataset for store in stores]
    names, splits = (" + ".join(dict.fromkeys(getattr(s, n) for s in sets)) for n in ("name", "split"))
    return replace(sets[0], name=names, split=splits)


def _common_shards(stores: Sequence[TicketStore]) -> str | None:
    """The `shards` that all stores were made from: in braces, if the stores have no shard in common."""
    sources = list(dict.fromkeys(shards_of(store) for store in stores))
    if len(sources) == 1:
        return sources[0]
    names = [name for store in stores for name in store.shard_names]
    listed = [s for s in sources if s and "," not in s and ":" not in s.split("/")[0]]
    can_be_listed = len(listed) == len(sources) and len(set(names)) == len(names)
    return f"{{{','.join(listed)}}}" if can_be_listed else None


def _skipped(stores: Sequence[TicketStore]) -> list[SkippedSample]:
    """Samples that one store lacks and no other has."""
    found: dict[tuple[str, str], SkippedSample] = {}
    for store in stores:
        for each in store.manifest.skipped:
            found.setdefault((each.shard, each.key), each)
    has_ticket: dict[str, set[str]] = {}
    for shard in dict.fromkeys(shard for shard, _ in found):
        rows = [(store, store.rows_of_shard(shard)) for store in stores]
        has_ticket[shard] = {key for store, r in rows if r is not None for key in store.read_keys(r)}
    return [each for (shard, key), each in found.items() if key not in has_ticket[shard]]


def _common_labeller(stores: Sequence[TicketStore]) -> tuple[Labeller | None, tuple[str, ...]]:
    """The network that all token labels are of, if it is one; else a sentence about those that are left out."""
    found = [store.manifest.token_labels for store in stores]
    if not any(found):
        return None, ()
    lacking = [store.path for store, labeller in zip(stores, found, strict=True) if labeller is None]
    if lacking:
        return None, (f"token labels are left out, since {lacking[0]} has none",)
    kinds = {(x.model, x.weights_sha256, x.num_classes, x.precision) for x in found if x is not None}
    if len(kinds) > 1:
        return None, ("token labels are left out, since they are of different networks",)
    return found[0], ()
