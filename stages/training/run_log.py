"""Metrics of a run: JSON lines always, TensorBoard events where that is installed, and whatever logger is asked for."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from ...artifacts_schema import OptionError
from ...artifacts_schema.files import write_atomically, writing

METRICS_FILE = "metrics.jsonl"
_EVENTS_FOLDER = "tensorboard"
_WANDB_ID = "wandb-id"


def _step_of(line: str) -> float:
    """The step of a line of metrics; of one that a killed process wrote only half of, one past all others."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Logger(Protocol):
    """Receives a run's metrics."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the values of a step: numbers and words by name. Steps rise; some come twice."""

    def close(self) -> None:
        """Takes notice that nothing will follow."""


class RunLog:
    """Appends metrics to runs/NAME/metrics.jsonl, and tells loggers: TensorBoard's where it is installed, and others.

    All of it raises `DiskError` where they cannot be written.

    Args:
        first_step: lines after it are dropped: they will be written again.
    """

    def __init__(self, run: Path, *, first_step: int, loggers: Sequence[Logger] = ()) -> None:
        self._run, self._path, self._loggers = run, run / METRICS_FILE, loggers
        self._writer: Any = None
        with writing(self._path):
            self._file = self._opened(first_step)
        with writing(run / _EVENTS_FOLDER):
            self._open_events(first_step)

    def _opened(self, first_step: int) -> TextIO:
        path = self._path
        if path.exists():
            # Lines that were written after the checkpoint that the run resumes from will be written again.
            lines = [
                line
                for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
                if _step_of(line) <= first_step
            ]
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
        for logger in self._loggers:
            logger.log(step, {"epoch": epoch, **values})
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
        for logger in self._loggers:
            logger.close()
        if self._writer is not None:
            with writing(self._run / _EVENTS_FOLDER):
                self._writer.close()


class WandbLogger:
    """Weights & Biases; its own variables say where (`WANDB_MODE=offline` needs no network). A run that goes on is one.

    Raises:
        OptionError: it is not installed, or refuses.
    """

    def __init__(self, run: Path, record: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise OptionError("`log='wandb'` needs wandb; install it with: pip install 'dataltt[wandb]'") from None
        id_file = run / _WANDB_ID
        run_id = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else secrets.token_hex(4)
        project = os.environ.get("WANDB_PROJECT", "dataltt")
        try:
            self._run = wandb.init(
                project=project, name=run.name, id=run_id, resume="allow", dir=str(run), config=dict(record)
            )
        except wandb.errors.Error as error:
            raise OptionError(f"`log='wandb'`: {error}; see to that, or give WANDB_MODE=offline") from None
        write_atomically(id_file, f"{run_id}\n".encode())

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the values of a step; what it has of later steps already, it leaves."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._run.finish()


def create_logger(name: Literal["wandb"] | None, run: Path, record: Mapping[str, Any]) -> Logger | None:
    """The logger of that name, for the run in a folder.

    Raises:
        OptionError: it cannot be had.
    """
    return WandbLogger(run, record) if name == "wandb" else None
