"""Metrics of a run: JSON lines, and TensorBoard events where that is installed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from ...artifacts_schema.files import write_atomically, writing

METRICS_FILE = "metrics.jsonl"
_EVENTS_FOLDER = "tensorboard"


def _step_of(line: str) -> float:
    """The step of a line of metrics; of one that a killed process wrote only half of, one past all others."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class RunLog:
    """Appends metrics to runs/NAME/metrics.jsonl, and to TensorBoard where it is installed.

    All of it raises `DiskError` where they cannot be written.
    """

    def __init__(self, run: Path, *, first_step: int) -> None:
        self._run, self._path = run, run / METRICS_FILE
        self._writer: Any = None
        with writing(self._path):
            self._file = self._opened(first_step)
        with writing(run / _EVENTS_FOLDER):
            self._open_events(first_step)

    def _opened(self, first_step: int) -> TextIO:
        path = self._path
        if path.exists():
            # Lines that were written after the checkpoint that the run resumes from will be written again.
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= first_step]
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        return path.open("a", encoding="utf-8")

    def _open_events(self, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(self._run / _EVENTS_FOLDER), purge_step=first_step or None)

    def write(self, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Writes one line: step, epoch, and the values; numbers go to TensorBoard as well."""
        with writing(self._path):
            self._file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
            self._file.flush()
        if self._writer is None:
            return
        with writing(self._run / _EVENTS_FOLDER):
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes."""
        with writing(self._path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._writer is not None:
            with writing(self._run / _EVENTS_FOLDER):
                self._writer.close()
