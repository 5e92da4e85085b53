"""Locks of work that many processes share: rank 0 holds them for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ...artifacts_schema.locking import Lock, held
from .distributed import Process


@contextmanager
def written_by_one(
    process: Process, path: Path, work: str, *, place: Path, timeout_s: float
) -> Iterator[Callable[[], None]]:
    """Holds the lock of a place while the block runs, on rank 0; a refusal ends all ranks.

    Yields:
        What makes sure that it is held still, before something is written: it raises LockedError if not.

    Raises:
        LockedError: another process writes there.
    """
    with ExitStack() as stack:
        lock: Lock | None = process.on_main(
            lambda: stack.enter_context(held(path, work, place=place, timeout_s=timeout_s))
        )
        yield (lambda: None) if lock is None else lock.check
