"""Download of what will be read of a remote store, before it is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...artifacts_schema import TicketStore
from ..runtime.reporting import Reporter
from .stream_config import StreamConfig

_KEYS = ("shards/data", "shards/offsets", "shards/rows", "keys/data", "keys/offsets", "digests")


def fetch_tickets(stream: StreamConfig, reporter: Reporter) -> None:
    """Puts into the cache what a stream joins with, so that its workers need no network.

    Raises:
        RemoteError: something cannot be had.
    """
    if stream.join is None:
        return
    store = TicketStore.open(stream.join.store)
    if not store.location.is_remote:
        return
    known = [store.rows_of_shard(s.shard.name) if s.rows is None else None for s in stream.shards]
    rows = [run for run in known if run is not None]
    fetch_store(store, reporter, arrays_of(stream, store), rows if len(rows) == len(known) else None)


def fetch_store(
    store: TicketStore,
    reporter: Reporter,
    arrays: Collection[str] | None = None,
    rows: Sequence[range] | None = None,
) -> None:
    """Puts arrays of a store into the cache and says how far it is; nothing happens where they are on this machine.

    Args:
        arrays: their paths. Default: all.
        rows: runs of rows that are wanted. Default: all.

    Raises:
        RemoteError: something cannot be had.
    """
    seen = 0

    def advance(done: int, total: int) -> None:
        nonlocal seen
        if not seen:
            reporter.start("downloading tickets", total // 1000 or None, "kB")
        reporter.advance(done // 1000 - seen // 1000)
        seen = done

    store.fetch(arrays, rows, advance)
    if seen:
        reporter.finish()


def arrays_of(stream: StreamConfig, store: TicketStore) -> list[str]:
    """Paths of the arrays of a store that a stream reads."""
    wanted = {*_KEYS, "tickets"}
    if stream.view_mode in ("replay", "warp"):
        wanted |= {"views/boxes", "views/flips"}
    join = stream.join
    if stream.view_mode == "warp" or (join is not None and (join.ranks or join.num_keep is not None)):
        wanted.add("ranks")
    if stream.token_labels:
        wanted |= {"token_labels/ids", "token_labels/scores"}
    return [path for path in store.array_paths if path in wanted]
