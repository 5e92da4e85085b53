"""Outcome of one kind of torture."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Outcome:
    """What came of it.

    Attributes:
        number: how often it was done.
        lost: what could not be gone on with, or was gone.
        wrong: results that differ from those of an undisturbed run, unnoticed.
        left_over: processes that were still there ten seconds later.
        notes: a sentence for each of these.
    """

    kind: str
    number: int = 0
    lost: int = 0
    wrong: int = 0
    left_over: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @property
    def is_good(self) -> bool:
        """Tells whether nothing was lost, wrong or left over, and anything was done at all."""
        return self.number > 0 and not (self.lost or self.wrong or self.left_over)

    def end(self) -> Outcome:
        """Takes the time."""
        self.seconds = time.monotonic() - self._began
        return self
