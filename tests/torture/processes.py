"""Commands in processes that are forked from this one, which has imported everything and opened nothing."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LEFT_S = 10.0


@dataclass(kw_only=True)
class Job:
    """Command under way in one process or more, each the head of a session. `codes` are of those that have ended."""

    pids: tuple[int, ...]
    log: Path
    codes: dict[int, int] = field(default_factory=dict)

    def wait(self, seconds: float) -> list[int] | None:
        """Exit codes once all have ended; None if one has not in time. Negative ones are signals."""
        end = time.monotonic() + seconds
        while not self._have_all_ended():
            if time.monotonic() > end:
                return None
            time.sleep(0.002)
        return [self.codes[pid] for pid in self.pids]

    def _have_all_ended(self) -> bool:
        for pid in self.pids:
            if pid not in self.codes:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self.codes) == len(self.pids)

    def kill(self, rank: int | None) -> None:
        """Kills one of its processes, or all."""
        for pid in self.pids if rank is None else self.pids[rank : rank + 1]:
            if pid not in self.codes:
                os.kill(pid, signal.SIGKILL)

    def left_over(self, seconds: float = LEFT_S) -> int:
        """Processes of its sessions that are still there after so many seconds."""
        end = time.monotonic() + seconds
        while left := _of_sessions(set(self.pids)):
            if time.monotonic() > end:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return len(left)
            time.sleep(0.02)
        return 0


def start(arguments: Sequence[object], log: Path, ranks: int = 1) -> Job:
    """Starts a command, in as many processes as ranks."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())} if ranks > 1 else {}
    pids = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks} if ranks > 1 else {}
        pid = os.fork()
        if not pid:
            _become(arguments, log, {**address, **{k: str(v) for k, v in place.items()}})
        pids.append(pid)
    return Job(pids=tuple(pids), log=log)


def _become(arguments: Sequence[object], log: Path, variables: dict[str, str]) -> None:
    """Runs the command in this process, a fresh fork, and ends it."""
    code = 70
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(variables)
        sys.argv = ["dataltt", *map(str, arguments)]
        from dataltt.pipeline.cli import main

        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _of_sessions(sessions: set[int]) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX" and int(fields[3]) in sessions:
                found.append(int(folder.name))
    return found


def _free_port() -> int:
    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        return int(given.getsockname()[1])
