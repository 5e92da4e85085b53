"""Comparison of shards with a ticket store, before anything is made of either: which samples have tickets.

Shards that the store knows by name cost nothing; others are indexed once (stages/data/shard_index.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...artifacts_schema import MissingTicketError, ShardError, TicketMismatchError, TicketStore
from ...artifacts_schema.lookup import AMBIGUOUS
from ..runtime.distributed import rank_and_world_size
from ..runtime.reporting import Reporter
from .counting import Lack, count_samples_of
from .fetching import fetch_store
from .join import JoinConfig
from .row_finder import CHANGED, RowFinder
from .shard_headers import header_keys
from .shard_index import IndexCache, ShardIndex
from .shards import Shard, is_url
from .spans import CountedShard, SampleRows

_NUM_THREADS = 4
# Of so many shards that the store knows by name, the first sample is looked at: another lab's may be called the same.
_NUM_PROBED = 16
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Shards against a store: what each gives, and what is said of them.

    Attributes:
        num_by_digest: samples that were joined by their images, since the store knows them by other keys.
        num_other_labels: joined samples whose label is not the one that the store has.
        highest_label: of the shards that were looked into; -1 where there was none.
        unlabelled: samples of those shards that are given and have no label.
    """

    shards: tuple[CountedShard, ...]
    missing: tuple[Lack, ...] = ()
    changed: tuple[Lack, ...] = ()
    num_ambiguous: int = 0
    num_by_digest: int = 0
    num_other_labels: int = 0
    highest_label: int = -1
    unlabelled: tuple[Lack, ...] = ()

    @property
    def num_joined(self) -> int:
        """Number of samples that the shards give."""
        return sum(s.num_samples for s in self.shards)

    @property
    def num_missing(self) -> int:
        """Number of samples that have no ticket."""
        return sum(s.num_missing for s in self.shards)

    def sentences(self) -> list[str]:
        """Sentences for the user, if there is anything to know."""
        said = []
        if self.missing:
            said.append(f"{self.counts()}; those are left out, as asked")
        if self.num_by_digest:
            said.append(
                f"{self.num_by_digest} samples joined by their images' digests: the shards have other keys, and views "
                "are drawn by the store's"
            )
        if self.num_other_labels:
            said.append(
                f"{self.num_other_labels} of {self.num_joined} samples have another label than in the store; the "
                "shards' count"
            )
        return said

    def counts(self) -> str:
        """Says how many samples have tickets, and which shards lack them."""
        lacking = ", ".join(f"{lack.num_samples} of {lack.shard}" for lack in self.missing[:_SHOWN])
        more = f" and of {len(self.missing) - _SHOWN} more shard(s)" if len(self.missing) > _SHOWN else ""
        known = f"{self.num_joined} of {self.num_joined + self.num_missing} samples have tickets"
        ambiguous = f"; {self.num_ambiguous} stand in the store more than once, with different tickets"
        return f"{known}, without are {lacking}{more}" + (ambiguous if self.num_ambiguous else "")

    def to_json(self) -> dict[str, Any]:
        """Counts for the record of a run."""
        return {
            "in_shards": self.num_joined + self.num_missing,
            "with_tickets": self.num_joined,
            "joined_by_digest": self.num_by_digest,
            "shards_without_tickets": [lack.shard for lack in self.missing],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """A shard that was indexed."""

    counted: CountedShard
    missing: Lack | None
    changed: Lack | None
    num_ambiguous: int
    num_by_digest: int
    num_other_labels: int
    highest_label: int
    unlabelled: Lack | None


def compare_shards(
    shards: Sequence[Shard],
    store: TicketStore,
    join: JoinConfig,
    reporter: Reporter,
    *,
    recount: bool = False,
    cache: Path | None = None,
) -> Comparison:
    """Finds the tickets of all samples, says what came of it, and ends where that is not what was asked for.

    Args:
        recount: trust neither the store's counts nor a kept index.
        cache: the cache's folder. Default: the store's.

    Raises:
        MissingTicketError: samples have no ticket, and are not to be skipped; or none has one.
        TicketMismatchError: images are not those that their tickets were made from.
        ShardError: a shard that cannot be read, or no sample in any.
    """
    known = _known(shards, store, recount=recount)
    indexed: dict[int, _Compared] = {}
    unknown = [i for i, rows in enumerate(known) if rows is None]
    if unknown:
        fetch_store(store, reporter, ("keys/data", "keys/offsets", "digests", "labels"))
        finder = RowFinder(store, join.on_changed_image)
        folder = IndexCache(cache or store.location.access.cache_folder)
        for i, index in _indexed(shards, unknown, folder, store, reporter, anew=recount):
            indexed[i] = _compared(shards[i], index, finder, store)
    counted = [
        indexed[i].counted if rows is None else CountedShard(shard=shards[i], num_samples=len(rows))
        for i, rows in enumerate(known)
    ]
    in_order = [indexed[i] for i in unknown]
    comparison = Comparison(
        shards=tuple(counted),
        missing=tuple(c.missing for c in in_order if c.missing),
        changed=tuple(c.changed for c in in_order if c.changed),
        num_ambiguous=sum(c.num_ambiguous for c in in_order),
        num_by_digest=sum(c.num_by_digest for c in in_order),
        num_other_labels=sum(c.num_other_labels for c in in_order),
        highest_label=max((c.highest_label for c in in_order), default=-1),
        unlabelled=tuple(c.unlabelled for c in in_order if c.unlabelled),
    )
    _refuse(comparison, store.path, join)
    for sentence in comparison.sentences():
        reporter.message(sentence)
    return comparison


def compare_or_count(
    shards: Sequence[Shard],
    store: TicketStore | None,
    join: JoinConfig | None,
    reporter: Reporter,
    *,
    recount: bool = False,
    cache: Path | None = None,
) -> Comparison:
    """Compares shards with the store that they are joined with; of a stream that is not joined, counts them.

    Raises:
        DatalttError: as `compare_shards` and `count_samples_of`.
    """
    if store is not None and join is not None:
        return compare_shards(shards, store, join, reporter, recount=recount, cache=cache)
    counted = count_samples_of(shards, store, reporter, recount=recount)
    return Comparison(shards=counted.shards, highest_label=counted.highest_label, unlabelled=counted.unlabelled)


def _known(shards: Sequence[Shard], store: TicketStore, *, recount: bool) -> list[range | None]:
    """The store's rows of each shard that holds the samples that the store knows it by; None of others."""
    rows = [store.rows_of_shard(s.name) for s in shards]
    if recount:
        return [r if r is not None and _has_keys(s, store, r) else None for s, r in zip(shards, rows, strict=True)]
    named = [i for i, r in enumerate(rows) if r is not None and len(r) and not is_url(shards[i].url)]
    probed = {named[int(k)] for k in np.linspace(0, len(named) - 1, _NUM_PROBED)} if named else set()
    skipped = store.manifest.skipped_keys
    for i in sorted(probed):
        r = rows[i]
        assert r is not None
        first = next((key for key in header_keys(shards[i]) if key not in skipped), None)
        if first != store.read_keys(r[:1])[0]:
            return [None] * len(shards)
    return rows


def _has_keys(shard: Shard, store: TicketStore, rows: range) -> bool:
    """Tells, from tar headers, whether a local shard has the keys of these rows, in their order."""
    if is_url(shard.url):
        return False
    skipped = store.manifest.skipped_keys
    return [key for key in header_keys(shard) if key not in skipped] == store.read_keys(rows)


def _indexed(
    shards: Sequence[Shard],
    numbers: Sequence[int],
    folder: IndexCache,
    store: TicketStore,
    reporter: Reporter,
    *,
    anew: bool,
) -> Iterator[tuple[int, ShardIndex]]:
    """Yields the index of each of these shards, read or kept, and says what reading cost.

    Ranks begin at different shards, so that with a common cache folder each reads its part.
    """
    rank, world_size = rank_and_world_size()
    turn = rank * len(numbers) // world_size
    order = [*numbers[turn:], *numbers[:turn]]
    began, num_read, num_samples, num_bytes = time.perf_counter(), 0, 0, 0
    reporter.start("indexing shards", len(order), "shards")
    pool = ThreadPoolExecutor(_NUM_THREADS)
    try:
        found = pool.map(lambda i: folder.get_or_make(shards[i], anew=anew), order)
        for i, (index, is_read) in zip(order, found, strict=True):
            if is_read:
                num_read, num_samples = num_read + 1, num_samples + len(index.keys)
                num_bytes += index.num_bytes
            reporter.advance(1)
            yield i, index
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    reporter.finish()
    if num_read:
        reporter.message(
            f"indexed {num_read} shard(s) that {store.path} does not know by name and content: {num_samples} samples, "
            f"{num_bytes / 1e6:.1f} MB of images in {time.perf_counter() - began:.1f} s; kept in {folder.folder}"
        )


def _compared(shard: Shard, index: ShardIndex, finder: RowFinder, store: TicketStore) -> _Compared:
    found = finder.find(index.keys, index.digests)
    is_joined = found.rows >= 0
    skipped = store.manifest.skipped_keys
    was_skipped = np.fromiter((key in skipped for key in index.keys), dtype=np.bool_, count=len(index.keys))
    is_changed = found.rows == CHANGED
    is_missing = ~is_joined & ~was_skipped & ~is_changed
    places = np.flatnonzero(is_joined)
    theirs = labels_at(store, found.rows[places])
    ours = index.labels[places]
    return _Compared(
        counted=CountedShard(
            shard=shard,
            num_samples=len(places),
            num_missing=int(is_missing.sum()),
            rows=SampleRows(rows=found.rows, by_digest=found.by_digest),
        ),
        missing=_lack(shard, index, is_missing),
        changed=_lack(shard, index, is_changed),
        num_ambiguous=int((is_missing & (found.rows == AMBIGUOUS)).sum()),
        num_by_digest=int(found.by_digest.sum()),
        num_other_labels=int(((theirs >= 0) & (ours >= 0) & (theirs != ours)).sum()),
        highest_label=int(ours.max(initial=-1)),
        unlabelled=_lack(shard, index, is_joined & (index.labels < 0)),
    )


def labels_at(store: TicketStore, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Labels int32 [n] of rows in any order."""
    unique, places = np.unique(rows, return_inverse=True)
    return store.read_labels(unique)[places] if len(unique) else np.zeros(0, np.int32)


def _lack(shard: Shard, index: ShardIndex, which: npt.NDArray[np.bool_]) -> Lack | None:
    if not which.any():
        return None
    return Lack(shard=shard.name, key=index.keys[int(np.argmax(which))], num_samples=int(which.sum()))


def _refuse(comparison: Comparison, store: str, join: JoinConfig) -> None:
    """Raises where samples lack what was asked for."""
    c = comparison
    if c.changed:
        first, num_changed = c.changed[0], sum(lack.num_samples for lack in c.changed)
        others = f", nor are {num_changed - 1} others" if num_changed > 1 else ""
        raise TicketMismatchError(
            f"{first.shard}: the image of sample {first.key!r} is not the one that its ticket in {store} was made "
            f"from{others}; select tickets for these shards, or pass `on_changed_image='allow'` if they are a "
            "re-encoded copy"
        )
    if c.num_joined + c.num_missing == 0:
        raise ShardError(f"no sample in {len(c.shards)} shard(s), the first of which is {c.shards[0].shard.url}")
    if c.missing and (join.on_missing_ticket == "error" or c.num_joined == 0):
        first, may_skip = c.missing[0], c.num_joined > 0
        raise MissingTicketError(first.shard, first.key, store, counts=c.counts(), may_skip=may_skip)
