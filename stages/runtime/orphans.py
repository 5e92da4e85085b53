"""Processes that end when the one they work for is gone, however it went."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

_EVERY_S = 1.0


def end_with_parent() -> None:
    """Ends this loader process as soon as the process that started it is gone.

    Its parent in the kernel's eyes is the fork server, which lives as long as it does, so that neither would notice.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()  # a pipe whose other end that process holds
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


def end_with_launcher() -> None:
    """Asks this process to end, as a scheduler would, as soon as the torchrun that started it is gone."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    launcher = os.getppid()
    _poll(lambda: os.getppid() != launcher, lambda: os.kill(os.getpid(), signal.SIGTERM))


def _poll(is_so: Callable[[], bool], act: Callable[[], None]) -> None:
    def wait() -> None:
        while not is_so():
            time.sleep(_EVERY_S)
        act()

    threading.Thread(target=wait, name="end with launcher", daemon=True).start()
