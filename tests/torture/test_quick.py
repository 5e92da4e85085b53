"""The quick half of make torture, in a process of its own: it forks, and so must not have opened a store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .victims import QUICK_VICTIMS

pytestmark = [pytest.mark.two_ranks, pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")]


def test_nothing_is_lost_or_wrong(tmp_path: Path) -> None:
    table, root = tmp_path / "table.json", Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.torture", "7", "--quick", "--json", str(table)]
    result = subprocess.run(
        command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    outcomes = {row["kind"]: row for row in json.loads(table.read_text())}
    assert len(outcomes) == len(QUICK_VICTIMS) + 2 + 3
    assert all(row["lost"] == row["wrong"] == row["left_over"] == 0 for row in outcomes.values())
    assert sum(row["number"] for kind, row in outcomes.items() if kind.startswith("SIGKILL")) >= len(QUICK_VICTIMS)
    assert outcomes["flipped bits of stores"]["number"] == 52
    assert outcomes["flipped bits of a run's folder"]["number"] == 16
