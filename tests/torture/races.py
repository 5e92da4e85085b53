"""Two processes at once on one place: one writes it, the other is refused by a sentence that names the first."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from .outcome import Outcome
from .processes import Job, start
from .victims import Fingerprint, Inputs, Victim

_LONG_S = 120.0


def race(victim: Victim, inputs: Inputs, folder: Path, number: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Starts a command twice at once; every other time beside the lock of a process that was killed."""
    found, draw = Outcome(kind=f"races of two for one lock, {victim.name}"), random.Random(f"{seed} races")
    expected: Fingerprint | None = None
    for i in range(number):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        victim.prepare(inputs, folder)
        if i % 2:
            _leave_a_lock(victim, inputs, folder, draw)
        logs = [folder / "first.log", folder / "second.log"]
        jobs = [start(victim.arguments(inputs, folder), log) for log in logs]
        codes = [_code(job) for job in jobs]
        found.number += 1
        found.left_over += sum(job.left_over() for job in jobs)
        said = [log.read_text(errors="replace") for log in logs]
        refused = [k for k in range(2) if codes[k] == 1 and "is being written by another process" in said[k]]
        is_there = i % 2 and codes == [1, 1] and all("exists; pass --overwrite" in text for text in said)
        if 0 not in codes and not is_there:  # the one that was killed may have come to its end
            found.lost += 1
            found.notes.append(f"nobody wrote it: {codes}; {[text.splitlines()[-1:] for text in said]}")
            continue
        result = victim.fingerprint(folder)
        expected = expected or result
        # One that comes when the first is done finds a finished result, which is no race.
        if result != expected or (codes.count(0) == 1 and not refused and "exists" not in "".join(said)):
            found.wrong += 1
            found.notes.append(f"{codes}; {[text.splitlines()[-1:] for text in said]}")
    say(f"{found.kind}: {found.number}")
    return found.end()


def _code(job: Job) -> int | None:
    codes = job.wait(_LONG_S)
    return None if codes is None else codes[0]


def _leave_a_lock(victim: Victim, inputs: Inputs, folder: Path, draw: random.Random) -> None:
    """Kills a process once it holds the lock."""
    job = start(victim.arguments(inputs, folder), folder / "killed.log")
    while not any(_is_lock(path) for path in folder.rglob("*")) and job.wait(0.001) is None:
        pass
    job.wait(draw.uniform(0, 0.05))
    job.kill(None)
    job.wait(_LONG_S)
    job.left_over()


def _is_lock(path: Path) -> bool:
    if path.name != "lock.json" and path.suffix != ".lock":
        return False
    try:
        return "pid" in json.loads(path.read_text())
    except (OSError, ValueError):
        return False
