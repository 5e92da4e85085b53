"""Keys and labels of shards without their images: of local files from tar headers, of others by reading them."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from webdataset.tariterators import base_plus_ext

from .shard_limits import limited
from .shards import Shard, checked_key, class_number, grouped, is_member, is_url, iter_samples, opened_tar


def header_keys(shard: Shard) -> Iterator[str]:
    """Yields the keys of a local shard in its own order, from tar headers alone.

    Raises:
        ShardError: the shard cannot be read to its end.
    """
    seen: set[str] = set()
    with opened_tar(shard) as tar:
        for member in tar:
            prefix, _ = base_plus_ext(member.name)
            if prefix is None or prefix in seen or not is_member(member):
                continue
            seen.add(prefix)
            yield prefix


def labelled_keys(shard: Shard) -> Iterator[tuple[str, int]]:
    """Yields key and label (-1 where there is none) of every sample of a shard, in its own order.

    Raises:
        ShardError, SampleError, DuplicateKeyError: as `iter_samples`.
    """
    if is_url(shard.url):
        yield from ((sample.key, sample.label) for sample in iter_samples(shard))
        return
    seen: dict[str, tuple[str, ...]] = {}
    with opened_tar(shard) as tar:
        for group in grouped(limited(_headers(shard, tar), shard), shard):
            key = checked_key(group, shard, seen)
            yield key, class_number(group.get("cls"), shard, key)


def _headers(shard: Shard, tar: Any) -> Iterator[dict[str, Any]]:
    """Members as `grouped` takes them, without their contents but those of .cls files."""
    for member in tar:
        if is_member(member):
            content = tar.extractfile(member).read() if member.name.lower().endswith(".cls") else b""
            yield {"fname": member.name, "data": content, "__url__": shard.url}


def count_samples(shard: Shard, excluding: Set[str] = frozenset()) -> int:
    """Counts the samples of a shard.

    Args:
        excluding: keys that do not count.

    Raises:
        ShardError, SampleError, DuplicateKeyError: as `iter_samples`.
    """
    return sum(key not in excluding for key, _ in labelled_keys(shard))
