"""What killed processes leave beside a store is cleared by the next one that writes it, and nothing is lost by it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dataltt.artifacts_schema.files import clear_left_behind


@pytest.fixture
def gone() -> int:
    """A process number that nobody has."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "zarr.json").write_text(content)
    return path


def test_halves_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, gone: int) -> None:
    store = _folder(tmp_path / "a.zarr", "whole")
    living, other = _folder(tmp_path / f"a.zarr.tmp-{os.getpid()}", ""), _folder(tmp_path / f"b.zarr.tmp-{gone}", "")
    _folder(tmp_path / f"a.zarr.tmp-{gone}", "")
    _folder(tmp_path / f"a.zarr.labels.tmp-{gone}", "")
    _folder(tmp_path / f"a.zarr.old-{gone}", "")
    notes = tmp_path / "a.zarr.notes-2024"
    notes.write_text("mine")
    clear_left_behind(store)
    assert set(tmp_path.iterdir()) == {store, living, other, notes}


def test_what_stood_there_comes_back(tmp_path: Path, gone: int) -> None:
    """Killed between the two renames by which a store takes another one's place."""
    _folder(tmp_path / f"a.zarr.old-{gone}", "before")
    clear_left_behind(tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr" / "zarr.json").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
