"""End of a long run between two steps, when a person (Ctrl-C) or a scheduler (SIGTERM) asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Request to stop, if somebody made one. The first is remembered; a second one acts as it always did."""

    def __init__(self) -> None:
        self.is_made = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Takes requests while the block runs (in the main thread only, where Python handles signals).

        Raises:
            KeyboardInterrupt: after the block, if a request was made.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def stop(_number: int, _frame: object) -> None:
            self.is_made = True
            restore()

        for number in _SIGNALS:
            signal.signal(number, stop)
        try:
            yield
        finally:
            restore()
        if self.is_made:
            raise KeyboardInterrupt
