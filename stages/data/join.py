"""Joining samples with their tickets, shard by shard.

A worker that opens a shard reads what the store has of it at once: the shard's own slice where the store knows it by
name, else the rows that the comparison (stages/data/comparing.py) found for its samples. A sample of neither, in a
stream that nobody compared, is looked up among all keys and images.

Whatever key a sample has in its shard, it leaves with the store's: views, colours and random patches are drawn by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import xxhash

from ...artifacts_schema import (
    Labeller,
    LabelMaps,
    Location,
    MissingTicketError,
    ShardError,
    TicketMismatchError,
    TicketStore,
)
from ...artifacts_schema.geometry import Box
from ...artifacts_schema.lookup import keys_at
from ...artifacts_schema.store import ALL_VIEWS, Rows
from ...artifacts_schema.tickets import Packed, Ranks, pack_ranks
from ...artifacts_schema.token_labels import no_token_labels
from ..options import ErrorOrAllow, ErrorOrSkip
from .row_finder import CHANGED, RowFinder
from .shards import RawSample, Shard
from .spans import SampleRows

# Samples that are looked up together: few reads of the store against little memory for their images.
LOOKUP_WINDOW = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """Options of a join: what to read of the store, and what to do with samples that do not fit it."""

    store: str | Location
    ranks: bool = False
    geometry: bool = False  # boxes and flips too
    token_labels: bool = False
    labeller: Labeller | None = None  # whose labels they must be; None: whoever's
    views: range | None = None  # None: all views
    num_keep: int | None = None  # so many patches of each ticket, by rank; None: all of it
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

    def of_view(self, number: int) -> Ticket:
        """The entry of one of its views."""
        part, labels = slice(number, number + 1), self.token_labels
        return Ticket(
            packed=self.packed[part],
            ranks=None if self.ranks is None else self.ranks[part],
            boxes=None if self.boxes is None else self.boxes[part],
            flips=None if self.flips is None else self.flips[part],
            token_labels=None if labels is None else LabelMaps(labels.ids[part], labels.scores[part]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """Some rows of the store."""

    digests: npt.NDArray[np.uint64]
    packed: Packed
    ranks: Ranks | None
    boxes: Box | None
    flips: npt.NDArray[np.uint8] | None
    token_labels: LabelMaps | None

    def ticket(self, i: int) -> Ticket:
        return Ticket(
            packed=self.packed[i],
            ranks=None if self.ranks is None else self.ranks[i],
            boxes=None if self.boxes is None else self.boxes[i],
            flips=None if self.flips is None else self.flips[i],
            # Copies: a sample that waits in a shuffle buffer would keep the label maps of its whole shard.
            token_labels=None if self.token_labels is None else LabelMaps(*(a[i].copy() for a in self.token_labels)),
        )


class TicketJoin:
    """Joins streams of samples with the tickets of one store. Make it in the process that reads the samples."""

    def __init__(self, config: JoinConfig) -> None:
        self._config = config
        self._store = TicketStore.open(config.store)
        if config.token_labels and self._store.manifest.token_labels is None:
            raise no_token_labels(self._store.path)
        if config.labeller is not None and self._store.manifest.token_labels != config.labeller:
            raise TicketMismatchError(
                f"{self._store.path} was given other token labels while they were being learned; start again"
            )

    @property
    def store(self) -> TicketStore:
        """The store, opened in this process."""
        return self._store

    @cached_property
    def _finder(self) -> RowFinder:
        return RowFinder(self._store, self._config.on_changed_image)

    def join(self, shard: Shard, samples: Iterable[RawSample]) -> Iterator[tuple[RawSample, Ticket]]:
        """Pairs the samples of a shard with their tickets, in the shard's order.

        Raises:
            MissingTicketError: a sample has no ticket.
            TicketMismatchError: a ticket was made from other image bytes.
            ShardError: a sample has no ticket in a stream that passes over those, and counted them without this one.
            SchemaError: the store is damaged.
        """
        rows = self._store.rows_of_shard(shard.name)
        keys = self._store.read_keys(rows) if rows is not None else []
        known = self._slice(rows) if rows is not None else None
        places = {key: i for i, key in enumerate(keys)}
        # Runs of samples of the shard's own slice pass one by one; the others are gathered into windows.
        for is_known, run in itertools.groupby(samples, lambda s: s.key in places):
            if is_known and known is not None:
                for sample in run:
                    i = places[sample.key]
                    yield self._checked(sample, known.digests[i]), known.ticket(i)
                continue
            while window := list(itertools.islice(run, LOOKUP_WINDOW)):
                yield from self._look_up(window)

    def join_rows(self, given: SampleRows, samples: Iterable[RawSample]) -> Iterator[tuple[RawSample, Ticket]]:
        """Pairs samples with the tickets at rows that were found before, one for each.

        Raises:
            TicketMismatchError: a ticket was made from other image bytes.
            ShardError: a sample is not the one whose row was found.
            SchemaError: the store is damaged.
        """
        if not len(given.rows):
            return
        rows, places = np.unique(given.rows, return_inverse=True)
        part, keys = self._slice(rows), self._keys_of(given)
        # Not strict: asked for one more sample, the shard is read to its end, and what is wrong there comes out.
        for sample, i, by_digest in zip(samples, places.tolist(), given.by_digest.tolist(), strict=False):
            key = keys.get(int(rows[i]), sample.key)
            if by_digest:
                yield self._renamed(sample, key, part.digests[i]), part.ticket(i)
            elif key == sample.key:
                yield self._checked(sample, part.digests[i]), part.ticket(i)
            else:
                raise _is_another(sample)

    def _keys_of(self, given: SampleRows) -> dict[int, str]:
        """The store's keys where the samples' own would not do, or would not be known to be wrong."""
        needs_keys = given.by_digest | (self._config.on_changed_image == "allow")
        rows = np.unique(given.rows[needs_keys])
        return dict(zip(rows.tolist(), keys_at(self._store, rows), strict=True))

    def _look_up(self, window: list[RawSample]) -> Iterator[tuple[RawSample, Ticket]]:
        digests = np.array([xxhash.xxh3_64_intdigest(s.image) for s in window], dtype=np.uint64)
        found = self._finder.find([s.key for s in window], digests)
        num_found = int(np.argmax(found.rows < 0)) if (found.rows < 0).any() else len(window)
        whole = SampleRows(rows=found.rows[:num_found], by_digest=found.by_digest[:num_found])
        yield from self.join_rows(whole, window[:num_found])
        if num_found < len(window):
            raise self._unfound(window[num_found], int(found.rows[num_found]))

    def _unfound(self, sample: RawSample, row: int) -> Exception:
        if row == CHANGED:
            return self._mismatch(sample)
        if self._config.on_missing_ticket == "error":
            return MissingTicketError(sample.shard, sample.key, self._store.path)
        return ShardError(
            f"{sample.shard}: sample {sample.key!r} is none of those that {self._store.path} knows this shard by; "
            "pass `recount=True`"
        )

    def _slice(self, rows: Rows) -> _Slice:
        c, store = self._config, self._store
        views = ALL_VIEWS if c.views is None else slice(c.views.start, c.views.stop)
        boxes, flips = (store.read_views(rows, views) if c.geometry else None) or (None, None)
        ranks = store.read_ranks(rows, views) if c.ranks or c.num_keep is not None else None
        thinned = None if c.num_keep is None or ranks is None else pack_ranks(ranks, c.num_keep)
        return _Slice(
            digests=store.read_digests(rows),
            packed=store.read_tickets(rows, views) if thinned is None else thinned,
            ranks=ranks if c.ranks else None,
            boxes=boxes,
            flips=flips,
            token_labels=store.read_token_labels(rows, views) if c.token_labels else None,
        )

    def _checked(self, sample: RawSample, digest: np.uint64) -> RawSample:
        if self._config.on_changed_image == "error" and xxhash.xxh3_64_intdigest(sample.image) != digest:
            raise self._mismatch(sample)
        return sample

    def _renamed(self, sample: RawSample, key: str, digest: np.uint64) -> RawSample:
        """The sample with the store's key."""
        if xxhash.xxh3_64_intdigest(sample.image) != digest:
            raise _is_another(sample)
        return replace(sample, key=key)

    def _mismatch(self, sample: RawSample) -> TicketMismatchError:
        return TicketMismatchError(
            f"{sample.shard}: the image of sample {sample.key!r} is not the one that its ticket in {self._store.path} "
            "was made from; select tickets for these shards, or pass `on_changed_image='allow'` if they are a "
            "re-encoded copy"
        )


def _is_another(sample: RawSample) -> ShardError:
    return ShardError(
        f"{sample.shard}: sample {sample.key!r} is not the one that stood here when the shard was indexed; pass "
        "`recount=True`"
    )
