"""Means of the tests of remote stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.access.location import Access

from ...far.serving import Request

FIRST_TICKETS = "tickets/c/0/0/0"  # the only object of tickets


def with_options(access: Access, options: dict[str, Any]) -> Access:
    """Access with storage options as the command line gives them: texts."""
    texts = tuple(
        (key, str(value).lower() if isinstance(value, bool) else str(value)) for key, value in options.items()
    )
    return Access(storage_options=texts, cache_dir=access.cache_dir, cache_gb=access.cache_gb)


def everything(store: TicketStore) -> dict[str, Any]:
    """All that a store gives of all rows, as lists that `==` compares."""
    rows = range(len(store))
    boxes, flips = store.read_views(rows) or (None, None)
    return {
        "manifest": store.manifest,
        "shard_names": store.shard_names,
        "shard_rows": store.shard_rows.tolist(),
        "keys": store.read_keys(rows),
        "tickets": store.read_tickets(rows).tolist(),
        "ranks": store.read_ranks(rows).tolist() if store.manifest.has_ranks else None,
        "labels": store.read_labels(rows).tolist(),
        "digests": store.read_digests(rows).tolist(),
        "boxes": None if boxes is None else boxes.tolist(),
        "flips": None if flips is None else flips.tolist(),
    }


def everything_in(folder: Path) -> dict[str, Any]:
    """The same of a store in a folder."""
    return everything(TicketStore.open(folder))


def names_below(prefix: str, requests: Iterable[Request]) -> list[str]:
    """Names, below a prefix, of what was asked for, sorted. Whatever is not below it stays as it is."""
    return sorted(r.path.removeprefix(prefix) for r in requests)


def left_over(cache: Path) -> Sequence[Path]:
    """Files of a cache that are neither objects nor locks: downloads that were left behind."""
    return sorted(cache.rglob("*.tmp"))
