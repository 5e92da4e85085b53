"""Sentences in which a run says what it trains on, what padding costs, and what is dealt anew."""

from __future__ import annotations

from ..data.layouts import Layout, Stretch
from ..data.stream_config import StreamConfig
from ..models.resizing import resized_in_words
from ..models.student import Student
from ..padding import PatchesShown
from .figures import Figures
from .plan import RunPlan


def run_in_words(plan: RunPlan, layout: Layout, lr: float) -> str:
    """Sentence on a run that begins: its student, its images and steps, and by which test the best is kept.

    Args:
        layout: dealing of samples to the run's processes.
        lr: learning rate of the global batch.
    """
    c, s = plan.config, plan.stream
    tested = "while dropping" if plan.student.summary else f"on {plan.protocol}"
    what = plan.student.summary or f"{c.control}: {_shown_in_words(plan.student, s)}"
    left_out = s.num_shown - plan.steps_per_epoch * layout.global_batch
    repeated = f" (1 in {s.repeats} each epoch, in {s.repeats} views)" if s.repeats > 1 else ""
    return (
        f"{c.student.model}, {what}; {s.num_samples} images{repeated}, {plan.steps_per_epoch} steps per epoch"
        + (f" (each epoch leaves out another {left_out}, less than a batch)" if left_out else "")
        + f", learning rate {lr:.3g}"
        + (f"; the last {c.dense_epochs} epoch(s) on all patches" if c.dense_epochs else "")
        + (f"; best kept by testing {tested}" if plan.protocol else "; no `val_shards`: no best is kept")
    )


def _shown_in_words(student: Student, stream: StreamConfig) -> str:
    num_patches = student.geometry.num_patches
    if stream.student_px is not None:
        return resized_in_words(student.geometry, stream.student_px, stream.num_keep)
    if stream.subset == "dense":
        return "all patches"
    if stream.own_counts:
        return f"as many patches as an image needs, about {stream.num_keep} of {num_patches} on average"
    zeroed = "" if student.saves_compute else " (the others are set to zero, which saves no compute)"
    return f"{stream.num_keep} of {num_patches} patches{zeroed}"


def padding_in_words(shown: PatchesShown, figures: Figures, num_patches: int, *, ends_dense: bool) -> str:
    """Sentence on what padding leaves of the arithmetic that adaptive tickets save.

    Args:
        ends_dense: whether the run has an end on all patches, of which this does not tell.
    """
    whole, flops = figures.whole.flops, figures.usual.flops
    share = f"; {flops / whole:.1%} of the arithmetic of all {num_patches}" if flops and whole else ""
    share += ", before the end on all of them" if ends_dense else ""
    return f"{shown.mean_kept:.1f} patches of an image on average, {shown.mean_padded:.1f} with padding{share}"


def waiting_in_words(share: float, *, can_bake: bool) -> str:
    """Sentence on what to do where a GPU waits for its input; only replayed views can be baked, and only once.

    Args:
        share: of an epoch's time, in [0, 1].
    """
    way_out = "bake the patches (dataltt bake), or use more `workers`" if can_bake else "use more `workers`"
    return f"note: {share:.0%} of this epoch went into waiting for images; {way_out}"


def dealt_anew_in_words(last: Stretch, layout: Layout, epoch: int, num_skipped: int) -> str:
    """Sentence on an epoch, counted from 0, that other processes go on with.

    Args:
        last: what was done of it before, by another layout.
        layout: that goes on.
        num_skipped: bad images so far; others took their places, and which ones cannot be told without reading all
            again.
    """
    said = f"the rest of epoch {epoch + 1} is dealt to {layout}, in another order than to {last.layout}: each of its "
    said += "samples once"
    if num_skipped:
        said += f", but up to {num_skipped} that stood in for bad images, which may be seen again"
    return said
