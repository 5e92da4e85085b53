"""Whatever ends a command is one sentence and an exit code; what should not have happened stands in a log."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import BadImageError, OptionError
from dataltt.pipeline.unexpected import end_by

from ..disks import Disk
from ..helpers import CliResult, SmallStore, run_cli, run_cli_process

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture(autouse=True)
def not_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATALTT_DEBUG", raising=False)


def _verify_with(error: BaseException, monkeypatch: pytest.MonkeyPatch, *options: object) -> CliResult:
    """Runs a command whose work raises this."""

    def fail(*_: Any, **__: Any) -> None:
        try:
            raise KeyError("what came first")
        except KeyError:
            raise error  # noqa: B904 (nested, as libraries do it)

    monkeypatch.setattr("dataltt.artifacts_schema.combining.thin.thin_store", fail)
    return run_cli("store", "thin", "some.zarr", "--no-ranks", "--out", "x.zarr", *options)


def test_a_fault_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _verify_with(RuntimeError("shapes differ: [2] and [3]\nmore of it"), monkeypatch)
    (log,) = Path.cwd().glob("dataltt-error-*.log")
    assert (result.code, result.out) == (70, "")
    assert result.err == (
        "dataltt: a fault of dataltt's own ended this (RuntimeError: shapes differ: [2] and [3]); what happened stands "
        f"in {log}; please report it with that (docs/reliability.md says how)\n"
    )
    text = log.read_text()
    assert "dataltt store thin some.zarr --no-ranks --out x.zarr\nPython 3." in text
    assert re.search(r"torch \d.*, zarr \d", text)
    assert text.index("KeyError: 'what came first'") < text.index(
        "RuntimeError: shapes differ: [2] and [3]\nmore of it"
    )


def test_debugging_shows_it_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATALTT_DEBUG", "1")
    result = _verify_with(RuntimeError("boom"), monkeypatch)
    assert result.code == 70
    assert result.err.startswith("Traceback (most recent call last):")
    said = "dataltt: a fault of dataltt's own ended this (RuntimeError: boom); please report it (docs/reliability.md"
    assert result.err.splitlines()[-1].startswith(said)
    mendable = _verify_with(OptionError("`lr=-1`: too low"), monkeypatch)
    assert mendable.code == 1
    assert mendable.err.startswith("Traceback")
    assert mendable.err.endswith("\ndataltt: --lr -1: too low\n")
    assert list(Path.cwd().iterdir()) == []


def test_secrets_are_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("--storage-option", "token=hunter2", "--storage-option=key=hunter3")
    assert _verify_with(RuntimeError("boom"), monkeypatch, *secrets).code == 70
    (log,) = Path.cwd().glob("dataltt-error-*.log")
    assert "hunter" not in log.read_text()
    assert "--storage-option token=… --storage-option=key=…" in log.read_text()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadImageError("a.tar", "k", "cut off", "give `on_bad_image='skip'`"), 1, "a.tar: image of sample 'k' cannot"),
        (ExceptionGroup("2 workers", [OptionError("`lr=-1`: too low"), ValueError()]), 1, "--lr -1: too low"),
        (PermissionError(13, "Permission denied", "a.png"), 1, "a.png may not be read or written by this user"),
        (OSError(28, "No space left on device", "x/y"), 1, "x/y cannot be written: too little room on its disk ("),
        (OSError(28, "No space left on device"), 1, "a file cannot be written: too little room on its disk ("),
        (MemoryError(), 1, "memory ran out (without a reason); lower --batch-size or --workers"),
        (FileNotFoundError(2, "No such file", "gone"), 70, "(FileNotFoundError: [Errno 2] No such file: 'gone')"),
        (ExceptionGroup("x", [ExceptionGroup("y", [ValueError("deep")])]), 70, "ended this (ValueError: deep)"),
        (AssertionError(), 70, "ended this (AssertionError: without a reason)"),
        (RuntimeError("\x1b[31mred\u202e"), 70, "(RuntimeError: \\x1b[31mred\\u202e)"),
        (
            RuntimeError(
                "Caught it in worker 0.\nTraceback (most recent call last):\n  File x\nValueError: the reason\n"
            ),
            70,
            "(RuntimeError: ValueError: the reason)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_one_sentence_each(error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = _verify_with(error, monkeypatch)
    assert result.code == code
    assert result.err.startswith("dataltt: ")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert len(list(Path.cwd().glob("dataltt-error-*.log"))) == (code == 70)


def test_a_log_goes_where_it_can(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(disk.folder)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with disk.read_only():
        assert end_by(RuntimeError("boom")) == 70
        (log,) = tmp_path.glob("dataltt-error-*.log")
        assert str(log) in capsys.readouterr().err
        monkeypatch.setattr("tempfile.tempdir", str(disk.folder))
        assert end_by(RuntimeError("boom")) == 70
        assert "see what happened with DATALTT_DEBUG=1; please report it" in capsys.readouterr().err


@pytest.mark.long
def test_in_a_process_of_its_own(small: SmallStore, tmp_path: Path) -> None:
    """A real fault: a module of another version is in the way."""
    (tmp_path / "timm.py").write_text("raise RuntimeError('not the timm that was meant')\n")
    result = run_cli_process(
        *("select", "--model", "deit_t", "--shards", small.shards, "--ratio", 0.5, "--out", tmp_path / "s.zarr"),
        env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
    )
    assert result.code == 70, result
    assert "Traceback" not in result.err
    assert "(RuntimeError: not the timm that was meant); what happened stands in" in result.err
    (log,) = Path.cwd().glob("dataltt-error-*.log")
    assert "timm.py" in log.read_text()
