"""Commands are killed at drawn moments and given again, until they come to their end: the result is the undisturbed."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from .outcome import Outcome
from .processes import Job, start
from .victims import Fingerprint, Inputs, Victim

_LONG_S = 120.0
_KILLS_IN_A_ROW = 4
_ALREADY_THERE = (
    "is baked already",
    "exists; pass --overwrite",
    "pass --overwrite to replace them",
    "exists; delete the train shards",
)
_UNFINISHED = re.compile(r"\.(tmp|old)-\d+")


class Killer:
    """Kills one victim again and again.

    Args:
        folder: where it may write.
        say: takes a line of progress.
    """

    def __init__(self, victim: Victim, inputs: Inputs, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self.victim, self.inputs, self.folder, self.say = victim, inputs, folder, say
        ranks = f", {victim.ranks} ranks" if victim.ranks > 1 else ""
        self.outcome = Outcome(kind=f"SIGKILL of {victim.name}{ranks}")
        self.random = random.Random(f"{seed} {self.outcome.kind}")

    def run(self, num_kills: int) -> Outcome:
        """Kills so many times in all."""
        began = time.monotonic()
        expected = self._undisturbed()
        self.takes_s = time.monotonic() - began
        while expected is not None and self.outcome.number < num_kills:
            self._life(expected, min(_KILLS_IN_A_ROW, num_kills - self.outcome.number))
        self.say(f"{self.outcome.kind}: {self.outcome.number}")
        return self.outcome.end()

    def _undisturbed(self) -> Fingerprint | None:
        place = self._place()
        codes = self._start(place).wait(_LONG_S)
        if codes is None or any(codes):
            self._note("lost", place, f"the undisturbed run ended with {codes}")
            return None
        return self.victim.fingerprint(place)

    def _place(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.victim.prepare(self.inputs, self.folder)
        return self.folder

    def _start(self, place: Path) -> Job:
        arguments = self.victim.arguments(self.inputs, place)
        return start(arguments, place.parent / f"{place.name}.log", self.victim.ranks)

    def _life(self, expected: Fingerprint, num_kills: int) -> None:
        """One result, come to through some kills."""
        place = self._place()
        (place.parent / f"{place.name}.log").unlink(missing_ok=True)
        for _ in range(num_kills):
            job = self._start(place)
            if self._strike(job, place):
                self.outcome.number += 1
            else:  # it was faster
                break
        (place.parent / f"{place.name}.log").unlink(missing_ok=True)
        job = self._start(place)
        codes = job.wait(_LONG_S)
        self.outcome.left_over += job.left_over()
        is_there = set(codes or ()) == {1} and any(said in self._said(place) for said in _ALREADY_THERE)
        if codes is None or (any(codes) and not is_there):
            self._note("lost", place, f"the same command ended with {codes}")
        elif self.victim.fingerprint(place) != expected:  # if it was killed when all was done, all must be there
            self._note("wrong", place, "it came to another result")
        elif left := sorted(path.name for path in place.rglob("*") if _UNFINISHED.search(path.name)):
            self._note("wrong", place, f"files are left behind: {', '.join(left)}")

    def _strike(self, job: Job, place: Path) -> bool:
        """Kills at a drawn moment; false if all had ended before."""
        if self.random.random() < 0.5 and self.victim.watched:
            self._await_a_file(job, place)
        else:
            codes = job.wait(self.random.uniform(0, self.takes_s))
            if codes is not None:
                return False
        job.kill(self.random.choice([None, *range(self.victim.ranks)]) if self.victim.ranks > 1 else None)
        codes = job.wait(_LONG_S)
        if codes is None:
            self._note("left_over", place, "a rank went on when another was killed")
            job.kill(None)
            job.wait(_LONG_S)
        self.outcome.left_over += job.left_over()
        return codes is None or any(codes)

    def _await_a_file(self, job: Job, place: Path) -> None:
        """Waits until a file of the victim's appears, and a little more."""
        pattern = self.random.choice(self.victim.watched)
        before = set(place.glob(pattern))
        end = time.monotonic() + self.takes_s
        while time.monotonic() < end and set(place.glob(pattern)) <= before:
            time.sleep(0.001)
        time.sleep(self.random.choice([0.0, 0.002, 0.01]))

    def _said(self, place: Path) -> str:
        log = place.parent / f"{place.name}.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def _note(self, kind: str, place: Path, what: str) -> None:
        setattr(self.outcome, kind, getattr(self.outcome, kind) + 1)
        last = self._said(place).splitlines()[-3:]
        self.outcome.notes.append(f"{self.outcome.kind}: {what}; {' | '.join(last)}")
        kept = place.parent / f"kept-{len(self.outcome.notes)}-{place.name}"
        shutil.copytree(place, kept, dirs_exist_ok=True)
