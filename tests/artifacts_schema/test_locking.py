"""Locks: one holder at a time, whoever else is refused by name, and those of processes that are gone are taken over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from dataltt.artifacts_schema import LockedError
from dataltt.artifacts_schema.locking import Holder, held, lock_of

# Holds a lock, says so, and waits for a line.
_HOLD = """
import sys
from pathlib import Path
from dataltt.artifacts_schema.locking import held
with held(Path(sys.argv[1]), "dataltt train", place=Path(sys.argv[1]).parent):
    print("held", flush=True)
    sys.stdin.readline()
"""

# Tries to hold each of many locks once; of those that it held, writes a line before and after.
_RACE = """
import sys
from pathlib import Path
from dataltt.artifacts_schema import LockedError
from dataltt.artifacts_schema.locking import held
folder, who, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    while True:
        try:
            with held(folder / f"{number}.lock", "racing", place=folder):
                with open(folder / f"{number}.log", "a") as log:
                    log.write(f"+{who}\\n"); log.flush()
                    log.write(f"-{who}\\n"); log.flush()
            break
        except LockedError:
            pass
"""


def _start(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _leave(path: Path, holder: Holder) -> None:
    """A lock whose holder did not give it back."""
    fields = ("work", "host", "machine", "pid", "born", "since", "token")
    path.write_text(json.dumps({name: getattr(holder, name) for name in fields}))


def test_the_second_is_told_who_the_first_is(tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    with held(lock_of(store), "dataltt select", place=store) as lock:
        assert lock.path == tmp_path / "store.zarr.lock"
        with (
            pytest.raises(LockedError) as caught,
            held(lock_of(store), "dataltt label", place=store),
        ):
            pass
        lock.check()
    me = lock.holder
    assert str(caught.value) == (
        f"{store} is being written by another process (dataltt select on {me.host}, process {os.getpid()}, since "
        f"{me.since}); wait for it, end it, or choose another place"
    )
    assert list(tmp_path.iterdir()) == []
    with held(lock_of(store), "dataltt label", place=store):
        pass


def test_the_folder_goes_if_it_was_made_for_the_lock_alone(tmp_path: Path) -> None:
    with held(tmp_path / "a" / "b" / "lock.json", "x", place=tmp_path):
        pass
    assert not (tmp_path / "a" / "b").exists()
    with held(tmp_path / "c" / "lock.json", "x", place=tmp_path):
        (tmp_path / "c" / "file").touch()
    assert (tmp_path / "c" / "file").exists()
    (tmp_path / "d").mkdir()
    with held(tmp_path / "d" / "lock.json", "x", place=tmp_path):
        pass
    assert (tmp_path / "d").exists()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_holder_is_gone_and_a_stopped_one_is_not(tmp_path: Path, end: signal.Signals) -> None:
    path = tmp_path / "lock.json"
    with _start(_HOLD, path) as holder:
        assert _line(holder) == "held"
        os.utime(path, (0, 0))  # no sign of life for ages: on this machine the process counts
        holder.send_signal(end)
        if end == signal.SIGKILL:
            holder.wait()
            with held(path, "x", place=tmp_path) as lock:
                assert json.loads(path.read_text())["token"] == lock.holder.token
        else:
            refused = pytest.raises(LockedError, match=f"dataltt train on .*, process {holder.pid}, since 20")
            with refused, held(path, "x", place=tmp_path):
                pass
            holder.send_signal(signal.SIGCONT)
            _go(holder)
            assert holder.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_whoever_holds_a_place_clears_what_the_killed_left_in_it(tmp_path: Path) -> None:
    place = tmp_path / "run"
    unfinished = [place / "metrics.json.tmp-999999999", place / "steps" / ".step-4.tmp-999999999" / "model"]
    kept = [place / f"latest.tmp-{os.getpid()}", place / "steps" / "step-4" / "model", place / "notes.tmp-1x"]
    for path in (*unfinished, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    with held(lock_of(place), "dataltt train", place=place):
        assert sorted(path for path in place.rglob("*") if path.is_file()) == sorted(kept)
    assert not unfinished[1].parent.exists()


def test_a_process_number_given_out_again_holds_nothing(tmp_path: Path) -> None:
    path, me = tmp_path / "lock.json", Holder(work="dataltt train")
    _leave(path, me)
    with pytest.raises(LockedError), held(path, "x", place=tmp_path):
        pass
    _leave(path, replace(me, born=me.born - 1))
    with held(path, "x", place=tmp_path):
        pass


def test_the_dead_are_not_waited_for_before_they_are_buried(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    zombie = _start(_HOLD, path)
    assert _line(zombie) == "held"
    zombie.kill()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    with held(path, "x", place=tmp_path):
        pass
    zombie.communicate()


@pytest.mark.parametrize("other", [{"host": "node17"}, {"machine": "another container"}])
def test_another_machines_holder_is_gone_after_the_time_out(tmp_path: Path, other: dict[str, str]) -> None:
    path, now = tmp_path / "lock.json", 1_000_000.0
    theirs = replace(Holder(work="dataltt train", pid=1), **other)
    with held(path, "dataltt train", place=tmp_path, holder=theirs, clock=lambda: now) as lock:
        now += 400
        lock.beat()
        now += 299
        refused = pytest.raises(LockedError)
        with refused as caught, held(path, "x", place=tmp_path / "run", timeout_s=300, clock=lambda: now):
            pass
        assert str(caught.value) == (
            f"{tmp_path}/run is being written by another process (dataltt train on {theirs.host}, process 1, since "
            f"{theirs.since}); wait for it, end it, or choose another place; if it is gone, the same command goes on "
            f"300 s after its last sign of life (`lock_timeout_s`), or at once if you delete {path}"
        )
        lock.check()
        now += 2
        with held(path, "select", place=tmp_path, timeout_s=300, clock=lambda: now) as ours:
            with pytest.raises(
                LockedError, match=r"gave no sign of life for so long that .* was taken over .select on"
            ):
                lock.check()
            ours.check()
            lock.beat()
            assert json.loads(path.read_text())["token"] == ours.holder.token
    assert list(tmp_path.iterdir()) == []


def test_the_age_is_told_by_the_file_systems_clock(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    _leave(path, Holder(work="dataltt train", host="node17"))
    with pytest.raises(LockedError), held(path, "x", place=tmp_path, timeout_s=60):
        pass
    then = path.stat().st_mtime - 61
    os.utime(path, (then, then))
    with held(path, "x", place=tmp_path, timeout_s=60):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"token": "../../x"}', b"\xff" * 9, json.dumps({"token": "a", "pid": {}}).encode()]
)
def test_what_is_no_lock_keeps_others_out_for_the_time_out(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lock.json"
    path.write_bytes(content)
    with pytest.raises(LockedError, match="unknown on an unknown host"), held(path, "x", place=tmp_path):
        pass
    os.utime(path, (0, 0))
    with held(path, "x", place=tmp_path):
        pass


def test_without_hard_links_it_is_created_exclusively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    with held(tmp_path / "lock.json", "x", place=tmp_path) as lock:
        assert json.loads(lock.path.read_text())["token"] == lock.holder.token
        with pytest.raises(LockedError), held(tmp_path / "lock.json", "y", place=tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_takes_over_what_a_dead_process_left(tmp_path: Path) -> None:
    dead = Holder(work="dataltt train", pid=2**22 + 1, born=1)
    for number in range(100):
        path = tmp_path / f"{number}.json"
        _leave(path, replace(dead, token=f"{number:x}"))
        outcomes: Counter[str] = Counter()
        start, end = threading.Barrier(8), threading.Barrier(8)

        def take(path: Path = path, start: threading.Barrier = start, end: threading.Barrier = end) -> None:
            start.wait()
            try:
                with held(path, "x", place=tmp_path) as lock:
                    outcomes["held"] += 1  # noqa: B023
                    end.wait()
                    lock.check()
            except LockedError:
                outcomes["refused"] += 1  # noqa: B023
                end.wait()

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == {"held": 1, "refused": 7}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_processes_race_for_a_hundred_locks_and_are_never_in_two_at_once(tmp_path: Path) -> None:
    dead = Holder(work="dataltt train", pid=2**22 + 1, born=1)
    for number in range(0, 100, 2):
        _leave(tmp_path / f"{number}.lock", replace(dead, token=f"{number:x}"))
    racers = [_start(_RACE, tmp_path, who, 100) for who in "abcd"]
    for racer in racers:
        assert _line(racer) == "ready"
    for racer in racers:
        _go(racer)
    assert [racer.wait() for racer in racers] == [0, 0, 0, 0]
    for racer in racers:
        racer.communicate()
    for number in range(100):
        lines = (tmp_path / f"{number}.log").read_text().split()
        assert re.fullmatch(r"(\+(\w) -\2 ?){4}", " ".join(lines)), lines
        assert sorted(lines) == sorted(f"{sign}{who}" for who in "abcd" for sign in "+-")
    assert list(tmp_path.glob("*.lock*")) == []
