"""dataltt eval"""

from __future__ import annotations

from dataclasses import asdict

from ...stages.training.config import EvalConfig
from ..ends import is_said, say
from ..options import takes
from ..progress import reporting


@takes(EvalConfig)
def eval_(config: EvalConfig, as_json: bool) -> None:
    """Test a student: top-1, top-5 and loss on tickets, random, central or all patches, smaller pictures, its choice.

    Example: dataltt eval --checkpoint runs/deit_s_50 --shards 'imagenet/val-*.tar' --tickets val.zarr --test ticket
    """
    from ...stages.training.evaluate import evaluate

    with reporting() as reporter:
        metrics = evaluate(config, reporter)
    c = config
    if is_said(as_json, lambda: {"checkpoint": str(c.checkpoint), "test": c.test, **asdict(metrics)}):
        return
    skipped = f", {metrics.num_skipped} left out" if metrics.num_skipped else ""
    say(
        f"{c.test}: top-1 {metrics.top1:.2f} %, top-5 {metrics.top5:.2f} %, loss {metrics.loss:.4f} "
        f"on {metrics.num_samples} images{skipped}"
    )
