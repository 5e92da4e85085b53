"""Going on with other numbers of processes, loader processes or images per pass, at the run's own global batch."""

from __future__ import annotations

import math
from typing import Any

from ...artifacts_schema import OptionError
from ..data.layouts import Layout, Stretch
from ..data.loader import num_workers_for
from ..runtime.distributed import Process
from .config import TrainConfig
from .record import RunRecord, recorded_option


def dealt(config: TrainConfig, saved: RunRecord | None, process: Process) -> TrainConfig:
    """The configuration with batch size, passes per step and loader processes as this call's processes need them.

    A run that goes on keeps its global batch, and so its learning rate; a pass takes no more images than before,
    unless `grad_accum` is given anew.

    Args:
        saved: the record of the run that goes on; None for a new one.

    Raises:
        OptionError: these processes cannot make the run's global batch, or `grad_accum` is too large.
    """
    batch_size, passes, workers = config.recipe.batch_size, config.recipe.grad_accum, config.runtime.workers
    if saved is not None:
        batch_size = _batch_size(batch_size, saved, process.world_size)
        if passes == _asked(saved, "grad_accum"):
            per_pass = math.ceil(recorded_option(saved, "batch_size") / recorded_option(saved, "grad_accum"))
            passes = math.ceil(batch_size / per_pass)
        if workers is None and saved.world_size == process.world_size:
            workers = recorded_option(saved, "workers")  # the order of samples depends on them
    most = max(1, batch_size // 2)
    if passes > most:
        raise OptionError(
            f"`grad_accum={passes}` of {batch_size} images: a pass takes at least two, which may be mixed with each "
            f"other; give at most {most}"
        )
    return config.but(
        batch_size=batch_size, grad_accum=passes, workers=num_workers_for(workers, process.local_world_size)
    )


def layout_of(config: TrainConfig, world_size: int) -> Layout:
    """Dealing of samples to these processes."""
    assert config.runtime.workers is not None
    return Layout(
        batch_size=config.recipe.batch_size, world_size=world_size, num_workers=max(1, config.runtime.workers)
    )


def taken_before(state: dict[str, Any], layout: Layout, steps_per_epoch: int) -> tuple[Stretch, ...]:
    """Stretches that other layouts took of the epoch that a checkpoint stands in.

    Args:
        state: of the checkpoint: its step, its layout and what others took before that one.
        layout: that goes on.
    """
    num_done = state["step"] % steps_per_epoch
    taken = [Stretch(layout=Layout(**each["layout"]), num_steps=each["num_steps"]) for each in state.get("taken", [])]
    last = Layout(**state["layout"]) if "layout" in state else layout  # earlier versions went on with the same alone
    if num_done == 0:
        return ()
    if last != layout:
        taken.append(Stretch(layout=last, num_steps=num_done - sum(each.num_steps for each in taken)))
    return tuple(each for each in taken if each.num_steps)


def _batch_size(given: int, saved: RunRecord, world_size: int) -> int:
    """Images per process and step that make the run's global batch.

    Raises:
        OptionError
    """
    was: int = recorded_option(saved, "batch_size")
    total = was * saved.world_size
    if total % world_size:
        counts = [n for n in range(1, total + 1) if total % n == 0]
        near = sorted(sorted(counts, key=lambda n: abs(n - world_size))[:3])
        raise OptionError(
            f"a global batch of {total} images cannot be dealt to {world_size} processes; start "
            f"{', '.join(map(str, near[:-1]))} or {near[-1]}"
        )
    fits = total // world_size
    if given not in (fits, was, _asked(saved, "batch_size")):
        raise OptionError(
            f"`batch_size={given}` on {world_size} process(es) is a global batch of {given * world_size}, and the run "
            f"has one of {total}; leave `batch_size` out, or start another run"
        )
    return fits


def _asked(saved: RunRecord, name: str) -> Any:
    """An option of the recipe as the run was given it."""
    return saved.options.get("recipe", {}).get(name, recorded_option(saved, name))
