"""Counts that the processes of a job share while each works at its own pace, and their signs of life."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ...artifacts_schema import RanksError
from .distributed import Process

_POLL_S = 0.2


class Board:
    """Board that every process of a job writes its counts on. All make it together.

    Args:
        rank_timeout_s: a process without a sign of life for so long is waited for no longer.
        store: what the counts are kept in. Default: a part of the process group's own.
    """

    def __init__(self, process: Process, rank_timeout_s: float, store: dist.Store | None = None) -> None:
        self._process, self._timeout_s = process, rank_timeout_s
        self._own: Counter[str] = Counter()
        self._store = store
        self._over = threading.Event()
        if process.world_size > 1 and store is None:
            name = process.sum(torch.tensor([random.SystemRandom().getrandbits(40) if process.is_main else 0]))
            self._store = dist.PrefixStore(f"board-{name.item()}", dist.distributed_c10d._get_default_store())

    def add(self, name: str, amount: int = 0) -> int:
        """Adds to a count; returns what all processes have added so far."""
        if self._store is not None:
            return int(self._store.add(name, amount))
        self._own[name] += amount
        return self._own[name]

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Shows that this process lives while the block runs."""
        if self._store is None:
            yield
            return
        thread = threading.Thread(target=self._beat, name="beat of the board", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _beat(self) -> None:
        with contextlib.suppress(RuntimeError):  # the job ended
            while not self._over.wait(min(5.0, self._timeout_s / 8)):
                self.add(f"beat-{self._process.rank}", 1)

    def wait_for_all(self, meanwhile: Callable[[], None]) -> None:
        """Waits until all processes have come here; calls `meanwhile` now and then.

        Raises:
            RanksError: one of them gave no sign of life for too long.
        """
        if self._store is None:
            return
        self.add(f"here-{self._process.rank}", 1)
        last: dict[int, tuple[int, float]] = {}
        while absent := [rank for rank in range(self._process.world_size) if not self.add(f"here-{rank}")]:
            for rank in absent:
                beat, now = self.add(f"beat-{rank}"), time.monotonic()
                seen, since = last.get(rank, (-1, now))
                last[rank] = (beat, now) if beat != seen else (seen, since)
                if now - last[rank][1] > self._timeout_s:
                    raise RanksError(
                        f"rank {rank} gave no sign of life for {self._timeout_s:g} s: it is stopped, or gone; give the "
                        "same command again, which goes on, with a longer `rank_timeout_s` if it was only slow"
                    )
            meanwhile()
            time.sleep(_POLL_S)
        meanwhile()
