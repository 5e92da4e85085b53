"""Room and permission for what a run will have to write, looked at before the first step."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...artifacts_schema.files import check_writable
from ...artifacts_schema.space import check_space
from ..runtime.reporting import Reporter
from .config import TrainConfig
from .run_log import METRICS_FILE

_STATES = {"adamw": 2, "sgd": 1}  # tensors that an optimiser keeps for each parameter


def check_run_folder(run: Path) -> None:
    """Refuses a folder in which nothing can be written, or whose metrics cannot.

    Raises:
        DiskError
    """
    check_writable(run)
    if (run / METRICS_FILE).exists():
        check_writable(run / METRICS_FILE)


def checkpoint_bytes(net: nn.Module, config: TrainConfig) -> int:
    """Bytes of a checkpoint: weights, their average, and the optimiser's state."""
    weights = sum(tensor.nbytes for tensor in net.state_dict().values())
    parameters = sum(p.nbytes for p in net.parameters() if p.requires_grad)
    averaged = 2 if config.recipe.ema_decay > 0 else 1
    return averaged * weights + _STATES[config.recipe.opt] * parameters


def check_room(run: Path, net: nn.Module, config: TrainConfig, reporter: Reporter) -> None:
    """Warns where the disk has no room for a checkpoint beside those before, and the best weights.

    Raises:
        DiskError: there is no room for a single checkpoint.
    """
    one = checkpoint_bytes(net, config)
    best = sum(tensor.nbytes for tensor in net.state_dict().values())
    there = sum(path.stat().st_size for path in run.rglob("*.safetensors")) if run.is_dir() else 0
    there += sum(path.stat().st_size for path in run.rglob("training.pt")) if run.is_dir() else 0
    most = (config.logging.keep_checkpoints + 1) * one  # the new one stands beside the others
    warning = check_space(run, max(one, most + best - there), least=one)
    if warning is not None:
        reporter.message(f"note: {warning}")
