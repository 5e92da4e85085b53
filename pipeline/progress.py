"""Progress for people: a live bar in a terminal, plain lines elsewhere; both show rate and time left.

Messages come from the library, so the options that they name are shown as flags.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from .escaping import shown
from .messages import as_flags

_LINE_EVERY_S = 10.0


class _RateColumn(ProgressColumn):
    """Units per second, over all of the task."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        unit = task.fields.get("unit", "")
        return Text(f"{task.completed / elapsed:,.0f} {unit}/s" if elapsed else "", style="cyan")


class TerminalReporter:
    """A live bar for the work under way; what is finished stays on the screen as one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._name, self._unit, self._started, self._done = "", "", 0.0, 0

    def start(self, name: str, total: int | None, unit: str) -> None:
        """Shows a bar for a piece of work, after ending the one before."""
        self.finish()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task(shown(name), total=total, unit=unit, note="")
        self._name, self._unit, self._started, self._done, self._note = name, unit, time.monotonic(), 0, ""
        self._progress.start()

    def advance(self, amount: int, note: str = "") -> None:
        """Moves the bar on by `amount` units; `note` stays beside it until another comes."""
        if self._progress is None:
            return
        self._done += amount
        self._note = shown(note) or self._note
        self._progress.update(self._task, advance=amount, note=self._note)

    def expect(self, total: int) -> None:
        """Takes a better guess of the number of units in all."""
        if self._progress is not None:
            self._progress.update(self._task, total=total)

    def finish(self) -> None:
        """Takes the bar away and leaves one line that sums the work up."""
        if self._progress is None:
            return
        self._progress.stop()
        self._progress = None
        self._console.print(
            shown(_summary(self._name, self._done, self._unit, time.monotonic() - self._started, self._note)),
            style="dim",
            highlight=False,
            markup=False,
        )

    def message(self, text: str) -> None:
        """Prints a sentence of the library above the bar, its options as flags."""
        self._console.print(shown(as_flags(text)), highlight=False, markup=False)

    def heading(self, text: str) -> None:
        """Prints what begins now, below an empty line."""
        self._console.print()
        self.message(text)

    def close(self) -> None:
        """Takes the bar away and leaves nothing."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class LineReporter:
    """A line at the start, every ten seconds, and at the end, for log files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._name: str | None = None

    def start(self, name: str, total: int | None, unit: str) -> None:
        """Begins a piece of work, after ending the one before."""
        self.finish()
        self._name, self._unit, self._done, self._note = name, unit, 0, ""
        self._total = total
        self._started = self._last_line = time.monotonic()

    def advance(self, amount: int, note: str = "") -> None:
        """Counts units; prints a line with rate and time left, at most every `_LINE_EVERY_S` seconds."""
        if self._name is None:
            return
        self._done += amount
        self._note = note or self._note
        now = time.monotonic()
        if now - self._last_line < _LINE_EVERY_S:
            return
        self._last_line = now
        rate = self._done / (now - self._started)
        left = f", {(self._total - self._done) / rate:.0f} s left" if self._total and rate else ""
        total = f"/{self._total}" if self._total else ""
        note = f", {self._note}" if self._note else ""
        self._print(f"{self._name}: {self._done}{total} {self._unit}, {rate:,.0f}/s{left}{note}")

    def expect(self, total: int) -> None:
        """Takes a better guess of the number of units in all."""
        self._total = total

    def finish(self) -> None:
        """Prints one line that sums the work up."""
        if self._name is None:
            return
        self._print(_summary(self._name, self._done, self._unit, time.monotonic() - self._started, self._note))
        self._name = None

    def message(self, text: str) -> None:
        """Prints a sentence of the library, its options as flags."""
        self._print(as_flags(text))

    def heading(self, text: str) -> None:
        """Prints what begins now, below an empty line."""
        self._print("")
        self.message(text)

    def close(self) -> None:
        """Does nothing: nothing is held open."""

    def _print(self, text: str) -> None:
        print(shown(text), file=self._stream, flush=True)


def _summary(name: str, done: int, unit: str, seconds: float, note: str) -> str:
    rate = f", {done / seconds:,.0f}/s" if seconds > 0 and done else ""
    return f"{name}: {done} {unit} in {seconds:.1f} s{rate}" + (f", {note}" if note else "")


@contextmanager
def reporting() -> Iterator[TerminalReporter | LineReporter]:
    """A reporter for standard error, which leaves the terminal in order whatever happens."""
    console = Console(stderr=True)
    reporter = TerminalReporter(console) if console.is_terminal else LineReporter(sys.stderr)
    try:
        yield reporter
    finally:
        reporter.close()


@contextmanager
def steps_of(reporter: TerminalReporter | LineReporter) -> Iterator[Callable[[str, int, int], None]]:
    """A function that takes (what is done, bytes done, bytes in all) and shows a bar for each piece of work."""
    at = ("", 0)

    def advance(what: str, done: int, total: int) -> None:
        nonlocal at
        if what != at[0]:
            reporter.start(what, total // 1000, "kB")
            at = (what, 0)
        reporter.advance(done // 1000 - at[1] // 1000)
        at = (what, done)

    yield advance
    reporter.finish()
