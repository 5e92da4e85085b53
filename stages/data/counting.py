"""Numbers of samples by shard: from the ticket store that knows the shards, else from the shards themselves."""

from __future__ import annotations

from collections.abc import Sequence

from ...artifacts_schema import ShardError, TicketStore
from ..runtime.reporting import Reporter
from .shards import Shard, count_samples
from .spans import CountedShard


def count_shards(
    shards: Sequence[Shard], store: TicketStore | None, reporter: Reporter, *, recount: bool = False
) -> tuple[CountedShard, ...]:
    """Counts the samples of shards, without reading them where the store knows every one by name.

    Raises:
        ShardError: a shard that cannot be read, or no sample in any.
    """
    known = None if store is None or recount else [store.rows_of_shard(s.name) for s in shards]
    if known is not None and all(rows is not None for rows in known):
        counts = [len(rows) for rows in known if rows is not None]
    else:
        counts = []
        # Those have no ticket, and streams pass over them.
        skipped = store.manifest.skipped_keys if store is not None else frozenset()
        reporter.start("counting samples", len(shards), "shards")
        for shard in shards:
            counts.append(count_samples(shard, skipped))
            reporter.advance(1)
        reporter.finish()
    if sum(counts) == 0:
        raise ShardError(f"no sample in {len(shards)} shard(s), the first of which is {shards[0].url}")
    return tuple(CountedShard(shard=s, num_samples=n) for s, n in zip(shards, counts, strict=True))
