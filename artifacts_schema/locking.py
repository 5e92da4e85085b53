"""Locks of places that one process at a time may write: a small file that names its holder.

OUT.lock beside a store, `lock.json` in a run's folder. A holder on this machine is gone if its process is (a process
number that was given out again has another start time). One on another machine is gone if its file shows no sign of
life for `timeout_s`: holders touch their files, and their age is told by the clock of the file system that both see.

Only hard links (or exclusive creation) and renames are needed. A lock whose holder is gone is taken over under a claim,
a lock of its own named after that very holder, so that of many that see it gone one alone takes it.
"""

from __future__ import annotations

import contextlib
import datetime
import glob
import hashlib
import itertools
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import LockedError
from .files import clear_unfinished, read_regular, writing

LOCK_TIMEOUT_S = 300.0
BEAT_S = 15.0
_MAX_BYTES = 1 << 16
_WAIT_S = 0.01
_MAX_WAITS = 500  # for another one that takes it over, which takes it a few renames
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Process that holds a lock.

    Attributes:
        work: what it does, for those whom it keeps out.
        machine: names the table that its process number is in: this start of this machine, this container.
        born: when the process began, in the kernel's ticks; 0 where that is not known.
        token: names this holding of this lock.
    """

    work: str
    host: str = field(default_factory=platform.node)
    machine: str = field(default_factory=lambda: _machine())
    pid: int = field(default_factory=os.getpid)
    born: int = field(default_factory=lambda: _born(os.getpid()))
    since: str = field(default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds"))
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def phrase(self) -> str:
        """The holder in words."""
        return f"{self.work} on {self.host}, process {self.pid}, since {self.since}"


class Lock:
    """Lock while it is held."""

    def __init__(self, path: Path, holder: Holder, clock: Clock | None) -> None:
        self.path, self.holder = path, holder
        self._clock = clock
        self._taken_by: Holder | None = None
        self._ended = threading.Event()

    def check(self) -> None:
        """Makes sure that it is held still: whoever sleeps for longer than the time-out may lose it to another host.

        Raises:
            LockedError
        """
        if self._taken_by is None:
            found = _read(self.path)
            if found is not None and found.token != self.holder.token:
                self._taken_by = found
        if self._taken_by is not None:
            raise LockedError(
                f"this process gave no sign of life for so long that {self.path} was taken over "
                f"({self._taken_by.phrase}); nothing more is written"
            )

    def beat(self) -> None:
        """Shows that the holder lives."""
        with contextlib.suppress(OSError, LockedError):
            self.check()
            _touch(self.path, self._clock)

    def _beat_on(self) -> None:
        while not self._ended.wait(BEAT_S):
            self.beat()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beats in a thread of its own while the block runs."""
        thread = threading.Thread(target=self._beat_on, name=f"beat of {self.path}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


@contextmanager
def held(
    path: Path,
    work: str,
    *,
    place: Path,
    timeout_s: float = LOCK_TIMEOUT_S,
    holder: Holder | None = None,
    clock: Clock | None = None,
) -> Iterator[Lock]:
    """Holds a lock while the block runs; makes the folder that it is in, and takes it away again if it stayed empty.

    Args:
        path: the lock's file.
        work: what is done meanwhile, for those whom it keeps out.
        place: what the lock is of, for the error's sentence.
        timeout_s: a holder on another machine is gone after so many seconds without a sign of life.
        holder, clock: for tests: who holds it, and whose clock is asked instead of the file system's.

    Raises:
        LockedError: another process holds it.
    """
    made = not path.parent.exists()
    me = holder or Holder(work=work)
    with writing(path):
        _acquire(path, me, place, timeout_s, clock)
    lock = Lock(path, me, clock)
    _clear_left_behind(path, me, timeout_s, clock)
    clear_unfinished(place)
    try:
        with lock.beating():
            yield lock
    finally:
        _release(path, me, timeout_s, clock)
        if made:
            with contextlib.suppress(OSError):  # it is not empty, or not there
                path.parent.rmdir()


def lock_of(store: Path) -> Path:
    """The lock beside a store."""
    return store.with_name(f"{store.name}.lock")


def _acquire(path: Path, me: Holder, place: Path, timeout_s: float, clock: Clock | None) -> None:
    for waits in itertools.count():
        with contextlib.suppress(FileNotFoundError):  # of the folder, which another one took away
            path.parent.mkdir(parents=True, exist_ok=True)
            if _create(path, me, clock):
                return
        found = _read(path)
        if found is None:
            continue
        if not _is_gone(path, found, me, timeout_s, clock):
            raise LockedError(_refusal(path, found, me, place, timeout_s))
        try:
            with _claim(path, found, me, timeout_s, clock):
                if _token(path) == found.token:
                    _replace(path, me, clock)
                    return
        except LockedError:  # another one takes it over at this moment
            if waits > _MAX_WAITS:
                raise
            time.sleep(_WAIT_S)


def _clear_left_behind(path: Path, me: Holder, timeout_s: float, clock: Clock | None) -> None:
    """Removes claims and unfinished files of holders that are gone: this lock is held, so nobody needs them."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError, LockedError):
            found = _read(left)
            if found is not None and _is_gone(left, found, me, timeout_s, clock):
                left.unlink(missing_ok=True)


def _release(path: Path, me: Holder, timeout_s: float, clock: Clock | None) -> None:
    for _ in range(_MAX_WAITS):
        try:
            if _token(path) != me.token:
                return
            with _claim(path, me, me, timeout_s, clock):
                if _token(path) == me.token:
                    path.unlink()
        except LockedError:
            time.sleep(_WAIT_S)
        except OSError:  # a full disk has no room for a claim, but a lock can be removed
            with contextlib.suppress(OSError):  # a disk that is gone: nobody is kept out for longer than the time-out
                if _token(path) == me.token:
                    path.unlink(missing_ok=True)
            return


@contextmanager
def _claim(path: Path, found: Holder, me: Holder, timeout_s: float, clock: Clock | None) -> Iterator[None]:
    """Holds the right to replace or remove the lock of that holder."""
    claim = path.with_name(f"{path.name}.{found.token[:16]}")
    _acquire(claim, me, path, timeout_s, clock)
    try:
        yield
    finally:
        if _token(claim) == me.token:
            claim.unlink(missing_ok=True)


def _refusal(path: Path, found: Holder, me: Holder, place: Path, timeout_s: float) -> str:
    way_out = "wait for it, end it, or choose another place"
    if not _is_here(found, me):
        way_out += (
            f"; if it is gone, the same command goes on {timeout_s:g} s after its last sign of life "
            f"(`lock_timeout_s`), or at once if you delete {path}"
        )
    return f"{place} is being written by another process ({found.phrase}); {way_out}"


# ---- Who is there still


def _is_here(found: Holder, me: Holder) -> bool:
    return found.machine == me.machine and found.host == me.host


def _is_gone(path: Path, found: Holder, me: Holder, timeout_s: float, clock: Clock | None) -> bool:
    if _is_here(found, me):
        return not _is_alive(found)
    return _age_s(path, me, clock) > max(timeout_s, 2 * BEAT_S)


def _is_alive(found: Holder) -> bool:
    if found.born:
        return _born(found.pid) == found.born
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _born(pid: int) -> int:
    """Time at which a process began, in ticks since the machine did; 0 if it has ended, or that is not known."""
    try:
        # Field 22; the name in field 2 may hold spaces and parentheses. A zombie (Z) has ended.
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        return 0 if state in ("Z", "X") else int(fields[18])
    except (OSError, ValueError, IndexError):
        return 0


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return platform.node()


def _age_s(path: Path, me: Holder, clock: Clock | None) -> float:
    """Seconds since the last sign of life; 0 if the lock is gone."""
    try:
        beaten = path.stat().st_mtime
        if clock is not None:
            return clock() - beaten
        probe = path.with_name(f"{path.name}.{me.token}.now")
        probe.touch()
        try:
            return probe.stat().st_mtime - beaten
        finally:
            probe.unlink(missing_ok=True)
    except FileNotFoundError:
        return 0.0


# ---- The file


def _create(path: Path, me: Holder, clock: Clock | None) -> bool:
    """Creates the file with its content, or tells that it is there."""
    temporary = _written(path, me, clock)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return _token(path) == me.token  # NFS may have made it, and lost the answer
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _replace(path: Path, me: Holder, clock: Clock | None) -> None:
    os.replace(_written(path, me, clock), path)


def _written(path: Path, me: Holder, clock: Clock | None) -> Path:
    temporary = path.with_name(f"{path.name}.{me.token}.new")
    try:
        temporary.write_text(json.dumps(asdict(me), indent=1) + "\n", encoding="utf-8")
        _touch(temporary, clock)
    except FileNotFoundError:
        raise
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _touch(path: Path, clock: Clock | None) -> None:
    os.utime(path, None if clock is None else (clock(), clock()))


def _token(path: Path) -> str | None:
    found = _read(path)
    return None if found is None else found.token


def _read(path: Path) -> Holder | None:
    """The holder that a lock names, None if there is no lock; of an unreadable one, a holder on no known host."""
    try:
        content = read_regular(path, _MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LockedError(f"{path} is no lock ({error}); remove it") from None
    try:
        document = json.loads(content)
        texts = {name: str(document[name]) for name in ("work", "host", "machine", "since", "token")}
        if not all(text.isprintable() and len(text) < 256 for text in texts.values()) or not texts["token"].isalnum():
            raise ValueError
        return Holder(pid=int(document["pid"]), born=int(document["born"]), **texts)
    except (ValueError, TypeError, KeyError):
        named = hashlib.sha256(content).hexdigest()
        return Holder(work="unknown", host="an unknown host", machine="", pid=0, born=0, since="unknown", token=named)
