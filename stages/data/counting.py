"""Numbers of samples by shard, and their labels: from the ticket store that knows the shards, else from themselves."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from ...artifacts_schema import ShardError, TicketStore
from ..runtime.reporting import Reporter
from .shard_headers import labelled_keys
from .shards import Shard
from .spans import CountedShard


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Samples of a shard that lack something, such as a ticket: how many, and the key of the first."""

    shard: str
    key: str
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedSamples:
    """Shards with their numbers of samples, and what is known of these samples' labels.

    Attributes:
        highest_label: of the shards that were looked into; -1 where there was none.
        unlabelled: samples of those shards that have no label, by shard.
    """

    shards: tuple[CountedShard, ...]
    highest_label: int = -1
    unlabelled: tuple[Lack, ...] = ()


def count_shards(
    shards: Sequence[Shard], store: TicketStore | None, reporter: Reporter, *, recount: bool = False
) -> tuple[CountedShard, ...]:
    """Counts the samples of shards, without reading them where the store knows every one by name.

    Raises:
        ShardError: a shard that cannot be read, or no sample in any.
    """
    return count_samples_of(shards, store, reporter, recount=recount).shards


def count_samples_of(
    shards: Sequence[Shard], store: TicketStore | None, reporter: Reporter, *, recount: bool = False
) -> CountedSamples:
    """Counts the samples of shards as `count_shards`, and takes down their labels where they are looked into.

    Raises:
        ShardError: a shard that cannot be read, or no sample in any.
        SampleError, DuplicateKeyError: a sample without an image, or a key that comes twice.
    """
    known = None if store is None or recount else [store.rows_of_shard(s.name) for s in shards]
    found: list[CountedSamples] = []
    if known is not None and all(rows is not None for rows in known):
        counts = [len(rows) for rows in known if rows is not None]
    else:
        # Those have no ticket, and streams pass over them.
        skipped = store.manifest.skipped_keys if store is not None else frozenset()
        reporter.start("counting samples", len(shards), "shards")
        for shard in shards:
            found.append(count_labels(shard, skipped))
            reporter.advance(1)
        reporter.finish()
        counts = [each.shards[0].num_samples for each in found]
    if sum(counts) == 0:
        raise ShardError(f"no sample in {len(shards)} shard(s), the first of which is {shards[0].url}")
    return CountedSamples(
        shards=tuple(CountedShard(shard=s, num_samples=n) for s, n in zip(shards, counts, strict=True)),
        highest_label=max((each.highest_label for each in found), default=-1),
        unlabelled=tuple(lack for each in found for lack in each.unlabelled),
    )


def count_labels(shard: Shard, excluding: Set[str]) -> CountedSamples:
    """Looks into one shard.

    Args:
        excluding: keys that do not count.

    Raises:
        ShardError, SampleError, DuplicateKeyError: as `iter_samples`.
    """
    count, highest, without = 0, -1, list[str]()
    for key, label in labelled_keys(shard):
        if key not in excluding:
            count, highest = count + 1, max(highest, label)
            without += [key] if label < 0 else []
    lacks = (Lack(shard=shard.name, key=without[0], num_samples=len(without)),) if without else ()
    return CountedSamples(
        shards=(CountedShard(shard=shard, num_samples=count),), highest_label=highest, unlabelled=lacks
    )
