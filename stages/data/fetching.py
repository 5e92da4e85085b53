"""Download of what a stream will read of a remote store, before its workers start."""

from __future__ import annotations

from ...artifacts_schema import TicketStore
from ..runtime.reporting import Reporter
from .student_stream import StreamConfig

_KEYS = ("shards/data", "shards/offsets", "shards/rows", "keys/data", "keys/offsets", "digests")


def fetch_tickets(stream: StreamConfig, reporter: Reporter) -> None:
    """Puts into the cache what a stream joins with, so that its workers need no network; says how far it is.

    Nothing happens where the store is on this machine, or everything is here.

    Raises:
        RemoteError: something cannot be had.
    """
    if stream.join is None:
        return
    store = TicketStore.open(stream.join.store)
    if not store.location.is_remote:
        return
    known = [store.rows_of_shard(s.shard.name) for s in stream.shards]
    rows = [run for run in known if run is not None]
    seen = 0

    def advance(done: int, total: int) -> None:
        nonlocal seen
        if not seen:
            reporter.start("downloading tickets", total // 1000, "kB")
        reporter.advance((done - seen) // 1000)
        seen = done

    store.fetch(arrays_of(stream, store), rows if len(rows) == len(known) else None, advance)
    if seen:
        reporter.finish()


def arrays_of(stream: StreamConfig, store: TicketStore) -> list[str]:
    """Paths of the arrays of a store that a stream reads."""
    wanted = {*_KEYS, "tickets"}
    if stream.view_mode in ("replay", "warp"):
        wanted |= {"views/boxes", "views/flips"}
    if stream.view_mode == "warp" or (stream.join is not None and stream.join.ranks):
        wanted.add("ranks")
    if stream.token_labels:
        wanted |= {"token_labels/ids", "token_labels/scores"}
    return [path for path in store.array_paths if path in wanted]
