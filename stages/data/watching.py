"""A watch on a loader that gives nothing: it ends the wait, and says what was waited for."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

STALL_TIMEOUT_S = 1800.0
_MOST_FILES = 3
_AGAIN_S = 1.0


class Watch:
    """Watch on waits. If one takes too long, the loader processes are killed, which ends it.

    Where there are none, the thread that waits is interrupted as by Ctrl-C, if it is the main one.

    Attributes:
        workers: the loader processes.
        found: what was waited for, once it took too long.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.workers: Sequence[BaseProcess] = ()
        self.found: str | None = None
        self._turned = threading.Condition()
        self._waits_in: int | None = None  # which thread
        self._deadline: float | None = None
        self._is_over = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watches the waits inside the block."""
        thread = threading.Thread(target=self._watch, name="watch on the loader", daemon=True)
        thread.start()
        # A shell lets jobs in the background ignore it, and those under nohup too.
        is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN and _is_main_thread()
        if is_deaf:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            yield
        finally:
            if is_deaf and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            with self._turned:
                self._is_over = True
                self._turned.notify()
            thread.join()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time that the block takes."""
        self._waits_in = threading.get_ident()
        self._set(time.monotonic() + self.timeout_s)
        try:
            yield
        finally:
            self._set(None)

    def _set(self, deadline: float | None) -> None:
        with self._turned:
            self._deadline = deadline
            self._turned.notify()

    def _watch(self) -> None:
        with self._turned:
            while not self._is_over:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is None or left > 0:
                    self._turned.wait(left)
                    continue
                self._end_the_wait()
                # The first interrupt may only have asked to stop after this step.
                self._deadline = time.monotonic() + _AGAIN_S

    def _end_the_wait(self) -> None:
        pids = [worker.pid for worker in self.workers if worker.pid is not None] or [os.getpid()]
        if self.found is None:
            open_files = dict.fromkeys(file for pid in pids for file in files_of(pid))
            self.found = ", ".join(list(open_files)[:_MOST_FILES])
        for worker in self.workers:
            worker.kill()
        main = threading.main_thread().ident
        if not self.workers and main is not None and main == self._waits_in:
            signal.pthread_kill(main, signal.SIGINT)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def files_of(pid: int) -> list[str]:
    """Data files, and pipes that have names, which a process reads; none where the system does not say."""
    folder = Path(f"/proc/{pid}")
    links = []
    try:
        for link in sorted((folder / "fd").iterdir(), key=lambda each: int(each.name)):
            if _is_read((folder / "fdinfo" / link.name).read_text()):
                links.append(os.readlink(link))
    except OSError:  # it ended, or closed one meanwhile
        pass
    not_data = (sys.prefix, sys.base_prefix, "/dev/", "/proc/", "/sys/", "/memfd:")
    return [f for f in links if f.startswith("/") and not f.startswith(not_data) and not f.endswith(" (deleted)")]


def _is_read(facts: str) -> bool:
    """Tells whether a file was opened to be read, by the system's facts about it (`flags`, octal)."""
    flags = re.search(r"^flags:\s*([0-7]+)$", facts, flags=re.MULTILINE)
    return flags is not None and int(flags[1], 8) & os.O_ACCMODE != os.O_WRONLY
