"""Joining samples with their tickets, by key, shard by shard.

A worker that opens a shard which the store knows reads that shard's slice once. Samples that the slice does not have,
or whole shards that the store does not know, go through a lookup over all keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xxhash

from ...artifacts_schema import LabelMaps, Location, MissingTicketError, TicketMismatchError, TicketStore
from ...artifacts_schema.geometry import Box
from ...artifacts_schema.lookup import KeyLookup
from ...artifacts_schema.store import ALL_VIEWS, Rows
from ...artifacts_schema.tickets import Packed, Ranks
from ...artifacts_schema.token_labels import no_token_labels
from ..options import ErrorOrAllow, ErrorOrSkip
from .shards import RawSample, Shard

# Samples that are looked up together: few reads of the store against little memory for their images.
LOOKUP_WINDOW = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """Options of a join: what to read of the store, and what to do with samples that do not fit it."""

    store: str | Location
    ranks: bool = False
    geometry: bool = False  # boxes and flips too
    token_labels: bool = False
    views: range | None = None  # None: all views
    on_missing_ticket: ErrorOrSkip = "error"
    on_changed_image: ErrorOrAllow = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Entry of the store for one sample. Letters: V views, W ticket bytes, P patches, k classes per patch."""

    packed: Packed  # [V, W]
    ranks: Ranks | None = None  # [V, P]
    boxes: Box | None = None  # [V, 4]
    flips: npt.NDArray[np.uint8] | None = None  # [V]
    token_labels: LabelMaps | None = None  # [V, P, k]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """Rows of the store, some of them, by key."""

    index: dict[str, int]
    digests: np.ndarray
    packed: Packed
    ranks: Ranks | None
    boxes: Box | None
    flips: npt.NDArray[np.uint8] | None
    token_labels: LabelMaps | None


class TicketJoin:
    """Joins streams of samples with the tickets of one store. Make it in the process that reads the samples."""

    def __init__(self, config: JoinConfig) -> None:
        self._config = config
        self._store = TicketStore.open(config.store)
        if config.token_labels and self._store.manifest.token_labels is None:
            raise no_token_labels(self._store.path)
        self.num_missing = 0

    @property
    def store(self) -> TicketStore:
        """The store, opened in this process."""
        return self._store

    @cached_property
    def _lookup(self) -> KeyLookup:
        return KeyLookup(self._store)

    def join(self, shard: Shard, samples: Iterable[RawSample]) -> Iterator[tuple[RawSample, Ticket]]:
        """Pairs the samples of a shard with their tickets, in the shard's order.

        Raises:
            MissingTicketError: a sample has no ticket (or it is counted in `num_missing` and passed over).
            TicketMismatchError: a ticket was made from other image bytes.
            SchemaError: the store is damaged.
        """
        rows = self._store.rows_of_shard(shard.name)
        known = self._slice(self._store.read_keys(rows), rows) if rows is not None else None
        # Runs of samples of the shard's own slice pass one by one; the others are gathered into windows.
        for is_known, run in itertools.groupby(samples, lambda s: known is not None and s.key in known.index):
            if is_known and known is not None:
                for sample in run:
                    yield sample, self._ticket(sample, known)
                continue
            while window := list(itertools.islice(run, LOOKUP_WINDOW)):
                yield from self._look_up(window)

    def _look_up(self, window: list[RawSample]) -> Iterator[tuple[RawSample, Ticket]]:
        found = self._lookup.find([s.key for s in window])
        rows = np.unique(found[found >= 0])
        position = {int(row): i for i, row in enumerate(rows)}
        index = {s.key: position[int(row)] for s, row in zip(window, found, strict=True) if row >= 0}
        part = self._slice([], rows, index) if len(rows) else None
        for sample in window:
            if part is not None and sample.key in part.index:
                yield sample, self._ticket(sample, part)
            elif self._config.on_missing_ticket == "error":
                raise MissingTicketError(sample.shard, sample.key, self._store.path)
            else:
                self.num_missing += 1

    def _slice(self, keys: list[str], rows: Rows, index: dict[str, int] | None = None) -> _Slice:
        c, store = self._config, self._store
        views = ALL_VIEWS if c.views is None else slice(c.views.start, c.views.stop)
        boxes, flips = (store.read_views(rows, views) if c.geometry else None) or (None, None)
        return _Slice(
            index={k: i for i, k in enumerate(keys)} if index is None else index,
            digests=store.read_digests(rows),
            packed=store.read_tickets(rows, views),
            ranks=store.read_ranks(rows, views) if c.ranks else None,
            boxes=boxes,
            flips=flips,
            token_labels=store.read_token_labels(rows, views) if c.token_labels else None,
        )

    def _ticket(self, sample: RawSample, part: _Slice) -> Ticket:
        i = part.index[sample.key]
        if self._config.on_changed_image == "error" and xxhash.xxh3_64_intdigest(sample.image) != part.digests[i]:
            raise TicketMismatchError(
                f"{sample.shard}: the image of sample {sample.key!r} is not the one that its ticket in "
                f"{self._config.store} was made from; select tickets for these shards, or pass "
                "`on_changed_image='allow'` if they are a re-encoded copy"
            )
        return Ticket(
            packed=part.packed[i],
            ranks=None if part.ranks is None else part.ranks[i],
            boxes=None if part.boxes is None else part.boxes[i],
            flips=None if part.flips is None else part.flips[i],
            # Copies: a sample that waits in a shuffle buffer would keep the label maps of its whole shard.
            token_labels=None if part.token_labels is None else LabelMaps(*(a[i].copy() for a in part.token_labels)),
        )
