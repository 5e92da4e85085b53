"""Reports of what the stages are doing, without knowing who listens (a terminal, a log file, a test)."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives progress and messages; pipeline/progress.py has those that print."""

    def start(self, name: str, total: int | None, unit: str) -> None:
        """Begins a piece of work; any earlier one has ended."""

    def advance(self, amount: int, note: str = "") -> None:
        """Counts `amount` more units as done; `note` is a short figure to show beside them."""

    def expect(self, total: int) -> None:
        """Takes a better guess of how many units there are in all."""

    def finish(self) -> None:
        """Ends the piece of work."""

    def message(self, text: str) -> None:
        """Says something that should stay on the screen."""

    def heading(self, text: str) -> None:
        """Says what begins now, apart from what was before."""


class SilentReporter:
    """Drops everything: for ranks other than 0, and for callers that do not care."""

    def start(self, name: str, total: int | None, unit: str) -> None: ...

    def advance(self, amount: int, note: str = "") -> None: ...

    def expect(self, total: int) -> None: ...

    def finish(self) -> None: ...

    def message(self, text: str) -> None: ...

    def heading(self, text: str) -> None: ...
