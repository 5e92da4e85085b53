"""What a run writes down: its resolved configuration, metrics as JSON lines, TensorBoard events where installed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...artifacts_schema import OptionError, OutputExistsError
from ...artifacts_schema.files import write_atomically

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"

# What may differ between a run and its resumption, for none of it changes the numbers.
FREE_ON_RESUME = frozenset({"resume", "device", "max_steps", "log_steps", "checkpoint_steps", "tool_version"})


def begin_run(run: Path, config: Mapping[str, Any], *, resume: bool) -> None:
    """Creates the run's folder with its configuration, or checks that a resumed run is the same run.

    Raises:
        OutputExistsError: there is a run in this folder, and it is not to be resumed.
        OptionError: there is none to resume, or it was another.
    """
    path = run / CONFIG_FILE
    config = json.loads(json.dumps(config, default=str))
    if not resume:
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            raise OutputExistsError(f"{run} exists; pass --resume to go on with it, or choose another --out")
        run.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(config, indent=1) + "\n").encode())
        return
    if not path.exists():
        raise OptionError(f"--resume: there is no run in {run}; leave --resume out to start one there")
    found = json.loads(path.read_text())
    different = sorted(k for k in {*found, *config} - FREE_ON_RESUME if found.get(k) != config.get(k))
    if different:
        listed = ", ".join(f"{k} was {found.get(k)!r} and is {config.get(k)!r}" for k in different)
        raise OptionError(f"--resume: {run} is another run ({listed}); give the same options, or another --out")


def saved_config(run: Path) -> dict[str, Any]:
    """The configuration of a run, {} if there is none."""
    path = run / CONFIG_FILE
    return json.loads(path.read_text()) if path.exists() else {}


def _step_of(line: str) -> float:
    """The step of a line of metrics; of one that a killed process wrote only half of, one past all others."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class RunLog:
    """Appends metrics to runs/NAME/metrics.jsonl, and to TensorBoard where it is installed."""

    def __init__(self, run: Path, *, first_step: int) -> None:
        path = run / METRICS_FILE
        if path.exists():
            # Lines that were written after the checkpoint that the run resumes from will be written again.
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= first_step]
            write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
        self._file = path.open("a", encoding="utf-8")
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=first_step or None)

    def write(self, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """One line: step, epoch, and the values; numbers go to TensorBoard as well."""
        self._file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._writer is not None:
            self._writer.close()
