"""Whole commands whose processes are killed, stopped or asked to end: nothing is left, and what was done is kept."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dataltt.stages.models.checkpoints import latest_checkpoint

from ..helpers import MODEL, SmallStore, fashion_samples, make_shards

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")

_SCRIPT = 'from dataltt.pipeline.cli import main\n\nif __name__ == "__main__":\n    main()\n'
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
_LEFT_S = 10.0


def _children(of: int) -> list[int]:
    """Processes below one, nearest first."""
    below: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            below.setdefault(int(_fields(int(folder.name))[1] or 0), []).append(int(folder.name))
    found: list[int] = []
    left = [of]
    while left:
        more = below.get(left.pop(0), [])
        found += more
        left += more
    return found


def _fields(pid: int) -> tuple[str, str]:
    """State and parent of a process; both empty if it has ended."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return ("", "") if state in "ZX" else (state, parent)


def _until(is_so: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def _running(folder: Path, *args: object, ranks: int = 1) -> Iterator[subprocess.Popen[str]]:
    script = folder / "run_dataltt.py"
    script.write_text(_SCRIPT)
    launcher = _TORCHRUN if ranks > 1 else ()
    command = [sys.executable, *launcher, str(script), *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        for pid in [process.pid, *_children(process.pid)]:
            with_it = _fields(pid)
            if with_it[0]:
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def _training(small: SmallStore, run: Path) -> tuple[object, ...]:
    options = ("--model", MODEL, "--batch-size", 6, "--epochs", 5000, "--workers", 1, "--log-steps", 1)
    return ("train", "--tickets", small.store, "--shards", small.shards, "--device", "cpu", *options, "--out", run)


def _steps(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def _rank_processes(launcher: int) -> list[int]:
    """The ranks that torchrun started; each has its own loader processes below it."""
    below = _children(launcher)
    return [pid for pid in below if _fields(pid)[1] == str(launcher)]


@pytest.mark.slow
def test_nothing_is_left_of_a_killed_trainer(small: SmallStore, tmp_path: Path) -> None:
    with _running(tmp_path, *_training(small, tmp_path / "run")) as process:
        assert _until(lambda: _steps(tmp_path / "run") > 7, 60)
        below = _children(process.pid)
        assert len(below) >= 3  # fork server, loader process, resource tracker
        process.kill()
        process.communicate(timeout=_LEFT_S)  # nobody holds its output
        assert _until(lambda: not any(_fields(pid)[0] for pid in below), _LEFT_S)


@pytest.mark.slow
def test_nothing_is_left_of_a_killed_selection(small: SmallStore, tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "many", [400], fashion_samples(400))
    options = ("--augment", "deit", "--num-views", 64, "--batch-size", 8, "--workers", 1, "--device", "cpu")
    selection = ("--model", MODEL, "--checkpoint", small.weights, "--shards", shards, "--ratio", 0.5, *options)
    with _running(tmp_path, "select", *selection, "--out", tmp_path / "out.zarr") as process:
        assert _until(lambda: len(_children(process.pid)) >= 3, 60)
        below = _children(process.pid)
        process.kill()
        process.communicate(timeout=_LEFT_S)
        assert _until(lambda: not any(_fields(pid)[0] for pid in below), _LEFT_S)


@pytest.mark.slow
@pytest.mark.two_ranks
def test_all_ranks_save_when_one_is_asked_to_end(small: SmallStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _running(tmp_path, *_training(small, run), ranks=2) as process:
        assert _until(lambda: _steps(run) > 4, 60)
        below = _children(process.pid)
        os.kill(_rank_processes(process.pid)[-1], signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        assert _until(lambda: not any(_fields(pid)[0] for pid in below), _LEFT_S)
    assert len(re.findall("interrupted at step [0-9]+", said)) == 1, said
    assert re.findall(r"exitcode +: (\d+)", said) == ["75", "75"], said
    assert not (run / "lock.json").exists()
    found = latest_checkpoint(run)
    assert found is not None
    assert f"interrupted at step {int(found.name.removeprefix('step-'))}," in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGKILL, "lost another process of this job"), (signal.SIGSTOP, "waited 4 s for another")],
)
def test_a_job_ends_when_a_rank_is_gone(small: SmallStore, tmp_path: Path, number: signal.Signals, said: str) -> None:
    run = tmp_path / "run"
    with _running(tmp_path, *_training(small, run), "--rank-timeout-s", 4, ranks=2) as process:
        assert _until(lambda: _steps(run) > 4, 60)
        below = _children(process.pid)
        os.kill(_rank_processes(process.pid)[-1], number)
        output, _ = process.communicate(timeout=60)  # torchrun waits 30 s for a process that is stopped
        assert _until(lambda: not any(_fields(pid)[0] for pid in below), _LEFT_S)
    assert process.returncode == 1
    (sentence,) = re.findall("^dataltt: .*", output, flags=re.MULTILINE)
    assert said in sentence


@pytest.mark.slow
def test_ranks_save_and_end_when_their_launcher_is_killed(small: SmallStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with _running(tmp_path, *_training(small, run), ranks=2) as process:
        assert _until(lambda: _steps(run) > 4, 60)
        below = _children(process.pid)
        process.kill()
        process.communicate(timeout=3 * _LEFT_S)
        assert _until(lambda: not any(_fields(pid)[0] for pid in below), _LEFT_S)
    assert latest_checkpoint(run) is not None
