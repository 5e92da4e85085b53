"""Loaders: batches arrive whatever room shared memory has, and whatever ends a loader process is one sentence."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dataltt.artifacts_schema import LoaderError
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.loader import iterate
from dataltt.stages.data.sharing import ByPipe, Sending, num_bytes_of, semaphore_bytes
from dataltt.stages.data.watching import files_of
from dataltt.stages.runtime.interrupts import StopRequest

from ...helpers import run_process
from .odd_datasets import Counting, Signalled, Silent

# Scripts find the tests' own modules.
_ENV = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])}

_SMALL = """
import os, subprocess, sys
from dataltt.artifacts_schema import LoaderError
from dataltt.stages.data.loader import iterate
from dataltt.stages.runtime.reporting import SilentReporter
from tests.stages.data.odd_datasets import Counting

class Notes(SilentReporter):
    def message(self, text):
        print(text)

if __name__ == "__main__":
    for size in sys.argv[1:]:
        subprocess.run(["mount", "-o", f"remount,size={size}", "/dev/shm"], check=True)
        try:
            items = list(iterate(Counting(12, 1 << 20), 2, reporter=Notes()))
            assert all((item["images"] == item["number"]).all() for item in items)
            print(size, sorted(item["number"] for item in items))
        except LoaderError as error:
            print(size, error)
"""


def _batch() -> Batch:
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    return Batch(images, torch.tensor([3, 1]), None, 2, scores=torch.rand(2, 5), keys=("a", "b"))


@pytest.mark.parametrize("by_pipe", [False, True])
def test_what_arrives_is_what_was_sent(tmp_path: Path, by_pipe: bool) -> None:
    batch = _batch()
    folder = str(tmp_path / "none") if not by_pipe else str(tmp_path)
    senders = 1 if not by_pipe else 1 << 40  # more than any disk has room for
    (sent,) = Sending([batch], senders, folder)  # type: ignore[arg-type]
    arrived = pickle.loads(pickle.dumps(sent))
    assert isinstance(arrived, ByPipe) == by_pipe
    found = arrived.item if by_pipe else arrived
    assert type(found) is Batch
    for ours, theirs in zip(found, batch, strict=True):
        assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs
    assert num_bytes_of(found) == num_bytes_of(batch) == 96 + 16 + 40


def test_semaphores_take_a_page_each() -> None:
    assert semaphore_bytes(2) == 14 * os.sysconf("SC_PAGE_SIZE")


def _may_mount() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


@pytest.mark.long
def test_small_shared_memory(tmp_path: Path) -> None:
    """16 kB do not even hold two workers' semaphores, 64 kB none of 12 batches of 1 MiB, 5 MB some of them."""
    if not _may_mount():
        pytest.skip("needs the right to mount a file system over /dev/shm")
    script = tmp_path / "script.py"
    script.write_text(_SMALL)
    inside = f"mount -t tmpfs -o size=16k tmpfs /dev/shm && exec {sys.executable} {script} 16k 64k 5m"
    done = run_process(["unshare", "-m", "sh", "-c", inside], _ENV)
    lines = [line for line in done.out.splitlines() if not line.startswith("note: ")]
    assert lines[1:] == [f"{size} {list(range(12))}" for size in ("64k", "5m")], done
    assert re.fullmatch(
        r"16k /dev/shm has \d+ bytes free, and 2 loader process\(es\) need 57344; make room there \(a container has "
        r"more with: docker run --shm-size 8g\), or use `workers=0`",
        lines[0],
    )
    assert "note: there is little room in shared memory, so batches come through a pipe" in done.out
    assert done.err == ""


@pytest.mark.long
def test_a_killed_loader_process_is_one_sentence() -> None:
    items = iterate(Signalled(signal.SIGKILL), 2)
    with pytest.raises(LoaderError) as caught:
        list(items)
    assert re.fullmatch(
        r"a loader process \(number \d+\) was killed, perhaps for memory; use fewer `workers` or a smaller "
        r"`batch_size`, and give the same command again \(of train with `resume`\)",
        str(caught.value),
    )
    assert caught.value.__context__ is None


@pytest.mark.long
def test_a_script_without_a_main_guard_is_told_of_it(tmp_path: Path) -> None:
    """Its loader process runs the script anew, and so would start a loader process of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "from dataltt.stages.data.loader import iterate\n"
        "from tests.stages.data.odd_datasets import Counting\n"
        "print(len(list(iterate(Counting(2), 1))))\n"
    )
    done = run_process([sys.executable, script], _ENV)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(
        r"dataltt\.\S+LoaderError: a loader process \(number \d+\) ended by itself with code 1; a script of your own "
        r'has to call dataltt below `if __name__ == "__main__":`, since every loader process runs the rest of the '
        r"script anew; else use fewer `workers` .*",
        done.err.splitlines()[-1],
    )


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_the_trainers_to_answer(number: signal.Signals) -> None:
    assert list(iterate(Signalled(number), 1)) == list(range(10))


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A pipe with a name that nobody writes to."""
    os.mkfifo(tmp_path / "train-000017.tar")
    return tmp_path / "train-000017.tar"


def _sentence(pipe: Path) -> str:
    return (
        f"the loader gave nothing for 0.5 s, so it was ended: it waited for a file or the network (open: {pipe}); see "
        "to that, and give the same command again (of train with `resume`), or a longer `stall_timeout_s`"
    )


@pytest.mark.parametrize("is_requested", [False, True], ids=["plain", "in a run"])
def test_nothing_hangs(pipe: Path, is_requested: bool) -> None:
    stop, handler = StopRequest(), signal.getsignal(signal.SIGINT)
    items = iterate(Silent(str(pipe)), 0, stall_timeout_s=0.5)
    assert next(items) == 0
    with pytest.raises(LoaderError) as caught:
        if is_requested:
            with stop.watched():
                next(items)
        else:
            next(items)
    assert str(caught.value) == _sentence(pipe)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("is_requested", [False, True], ids=["plain", "in a run"])
def test_nothing_hangs_in_the_background(pipe: Path, is_requested: bool) -> None:
    """Where a shell, or nohup, has the job ignore Ctrl-C; that stays so."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop, items = StopRequest(), iterate(Silent(str(pipe)), 0, stall_timeout_s=0.5)
        with pytest.raises(LoaderError) as caught, stop.watched() if is_requested else contextlib.nullcontext():
            list(items)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
    assert str(caught.value) == _sentence(pipe)


@pytest.mark.slow
def test_no_loader_process_hangs(pipe: Path) -> None:
    assert len(list(iterate(Counting(3), 1))) == 3  # the fork server runs now, and starts processes at once
    items = iterate(Silent(str(pipe)), 2, stall_timeout_s=0.5)
    with pytest.raises(LoaderError) as caught:
        list(items)
    # On a machine that is busy it may take longer than that to start a process, which then has nothing open.
    assert str(caught.value) in (_sentence(pipe), _sentence(pipe).replace(f" (open: {pipe})", ""))


def test_open_files_are_those_of_data(tmp_path: Path) -> None:
    (tmp_path / "a.tar").touch()
    with (tmp_path / "a.tar").open("rb"), (tmp_path / "run.log").open("wb"):
        assert str(tmp_path / "a.tar") in files_of(os.getpid())
        assert str(tmp_path / "run.log") not in files_of(os.getpid())
    assert str(tmp_path / "a.tar") not in files_of(os.getpid())
    assert files_of(2**22 + 1) == []
