"""First import of the fork server: a loader process that finds its trainer gone before it began ends without a word.

A trainer that ends (Ctrl-C) takes away what a new process is about to open; what became of the process is the trainer's
to say, if it is there still. Import this in the fork server only.
"""

from __future__ import annotations

import sys
from types import TracebackType


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, OSError | EOFError):
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _show  # multiprocessing has no other way to reach the server
