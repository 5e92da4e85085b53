"""End of a long run between two steps, when a person (Ctrl-C) or a scheduler (SIGTERM) asks for it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# torchrun passes on to its processes what the terminal has sent them already.
_SAME_REQUEST_S = 5.0


class Terminated(KeyboardInterrupt):
    """An end that SIGTERM asked for: the scheduler's, not a person's."""


@contextmanager
def terminable() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, so that what is held is given back (in the main thread only).

    Raises:
        Terminated: it came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """Request to stop, if somebody made one. The first is remembered; a second one acts as it always did.

    Args:
        is_shared: the process is one of many, which torchrun may send the same signal once more.
    """

    def __init__(self, *, is_shared: bool = False) -> None:
        self.signal = 0
        self._is_shared = is_shared
        self._made_at = 0.0

    @property
    def is_made(self) -> bool:
        """Tells whether there is a request."""
        return self.signal != 0

    def make(self, number: int) -> None:
        """Makes the request that a signal stands for; SIGTERM's counts for more than Ctrl-C's."""
        if not self.is_made:
            self._made_at = time.monotonic()
        self.signal = max(self.signal, number)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Takes requests while the block runs (in the main thread only, where Python handles signals).

        Raises:
            KeyboardInterrupt: after the block, if a request was made; `Terminated` if SIGTERM made it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
        else:
            with self._handling():
                yield
        if self.is_made:
            raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt

    @contextmanager
    def _handling(self) -> Iterator[None]:
        # What a job in the background ignores, it goes on to ignore.
        before = {n: handler for n in _SIGNALS if (handler := signal.getsignal(n)) is not signal.SIG_IGN}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def stop(number: int, _frame: object) -> None:
            if self.is_made and time.monotonic() - self._made_at > _SAME_REQUEST_S:
                restore()
                signal.raise_signal(number)
                return
            self.make(number)
            if not self._is_shared:
                restore()

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            if not (self._is_shared and self.is_made):  # the first process to end makes torchrun ask the rest again
                restore()
