"""Samples of a piece of a shard with their tickets, in the shard's order: for training on them, and for baking them."""

from __future__ import annotations

from collections.abc import Iterator

from ...artifacts_schema import ShardError
from .join import Ticket, TicketJoin
from .shards import RawSample, iter_samples
from .spans import CountedShard, ShardSpan


def samples_of_span(
    span: ShardSpan, join: TicketJoin | None, skipped_keys: frozenset[str]
) -> Iterator[tuple[RawSample, Ticket | None]]:
    """The samples of a span with their tickets; None where none are joined.

    Args:
        skipped_keys: samples that are none of those that the shard gives, where no comparison says which are.

    Raises:
        DatalttError: the shard is not the one that was counted, or a sample's ticket is not of its image.
    """
    samples = _given(iter_samples(span.counted.shard), span, skipped_keys)
    if join is None:
        yield from ((sample, None) for sample in samples)
    elif span.counted.rows is None:
        yield from join.join(span.counted.shard, samples)
    else:
        yield from join.join_rows(span.counted.rows.of_given(span.wanted), samples)


def _given(samples: Iterator[RawSample], span: ShardSpan, skipped_keys: frozenset[str]) -> Iterator[RawSample]:
    counted = span.counted
    position = 0
    for place, sample in enumerate(samples):
        if _passes_over(sample, place, counted, skipped_keys):
            continue
        if position == counted.num_samples:
            raise ShardError(_miscounted(counted, "more"))
        if span.has(position):
            yield sample
        position += 1
        if position >= span.stop and span.stop < counted.num_samples:
            return
    if position < span.stop:
        raise ShardError(_miscounted(counted, str(position)))


def _passes_over(sample: RawSample, place: int, counted: CountedShard, skipped_keys: frozenset[str]) -> bool:
    """Tells whether a sample, at this place in its shard, is none of those that the shard gives."""
    if counted.rows is None:
        return sample.key in skipped_keys
    return place < len(counted.rows.rows) and bool(counted.rows.rows[place] < 0)


def _miscounted(counted: CountedShard, found: str) -> str:
    known = "that the tickets were made from" if counted.rows is None else "that was indexed"
    return (
        f"{counted.shard.url} holds {found} samples where {counted.num_samples} were expected: it is not the shard "
        f"{known}; pass `recount=True` if its samples were only dealt anew"
    )
