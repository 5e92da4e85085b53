"""State of a run as its checkpoints hold it: weights, their average, and what it takes to go on from there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...artifacts_schema import OptionError
from ..data.layouts import Layout, Stretch
from ..models.checkpoints import CheckpointInfo, save_checkpoint
from ..models.weights import load_weights, read_weights
from .eval_stream import center_of
from .plan import RunPlan
from .updates import Updates


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a run: its steps, its best validation, and the bad images that all ranks left out.

    Of the epoch under way, `layout` deals the samples, and `taken` are the stretches that other layouts took before.
    """

    step: int
    best_top1: float | None
    num_skipped: int
    layout: Layout
    taken: tuple[Stretch, ...]


def info_of(plan: RunPlan, step: int, *, top1: float | None) -> CheckpointInfo:
    """Origin of a run's weights after `step` steps, which came to `top1` in validation, in per cent."""
    c, s = plan.config, plan.stream
    assert c.student.model is not None
    return CheckpointInfo(
        model=c.student.model,
        num_classes=s.num_classes,
        image_px=s.image_px,
        view=center_of(s.view),
        control=c.control,
        num_keep=plan.student.fixed_num_keep or s.num_keep,
        swin_input=c.student.swin_input,
        step=step,
        epoch=step // plan.steps_per_epoch,
        protocol=plan.protocol,
        top1=top1,
    )


def save_state(plan: RunPlan, updates: Updates, progress: Progress, *, top1: float | None) -> None:
    """Writes a checkpoint into the run's folder, whole or not at all.

    Args:
        top1: of the latest validation, in per cent.

    Raises:
        DiskError: it cannot be written.
    """
    training = {
        "step": progress.step,
        "steps_per_epoch": plan.steps_per_epoch,
        **updates.state_dict(),
        "best_top1": progress.best_top1,
        "num_skipped": progress.num_skipped,
        "layout": asdict(progress.layout),
        "taken": [asdict(stretch) for stretch in progress.taken],
        "shown": asdict(updates.loss.shown),
    }
    ema = updates.ema.module.state_dict() if updates.ema is not None else None
    info, weights = info_of(plan, progress.step, top1=top1), plan.student.net.state_dict()
    save_checkpoint(plan.out, info, weights, ema, training, keep=plan.config.logging.keep_checkpoints)


def load_state(plan: RunPlan, updates: Updates, checkpoint: Path, state: dict[str, Any]) -> None:
    """Puts a checkpoint's weights, their average and the optimiser's state where those of a fresh run are.

    Args:
        state: of the same checkpoint, as `load_training_state` reads it.

    Raises:
        CheckpointError: the weights are damaged, or not of this student.
        OptionError: the shards are not those of before.
    """
    assert plan.config.student.model is not None
    source = checkpoint / "model.safetensors"
    load_weights(plan.student.net, read_weights(source), str(source), plan.config.student.model)
    if updates.ema is not None:
        source = checkpoint / "ema.safetensors"
        load_weights(updates.ema.module, read_weights(source), str(source), plan.config.student.model)
    updates.load_state_dict(state)
    updates.loss.shown.go_on(**state.get("shown", {}))
    if state["steps_per_epoch"] != plan.steps_per_epoch:
        raise OptionError(
            f"the shards held {state['steps_per_epoch']} steps per epoch and now hold {plan.steps_per_epoch}; give the "
            "same shards"
        )
