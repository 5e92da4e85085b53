"""Quality of tickets without training: a ViT is shown the kept patches alone, and says what it still sees.

Every image is decoded once. A batch is then judged at every arm and number of patches, one forward pass each.

Letters: N images, P patches of the grid, K kept patches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ...artifacts_schema import OptionError
from ..data.class_list import class_list_beside
from ..data.loader import iterate, num_workers_for
from ..data.shards import Shard
from ..models.registry import canonical_name
from ..models.resizing import resized_side
from ..runtime.distributed import process_group
from ..runtime.reporting import Reporter, SilentReporter
from .config import QualityConfig
from .judged_images import JudgedImages
from .judging import Judge, Outcomes, outcomes
from .quality_arms import Arm
from .quality_plan import QualityPlan, plan_quality
from .quality_result import ImageClass, Kind, Measure, QualityResult, Scored, conclusions, scored_rows

_ALL = "all patches"

# What the judge came to, by arm (None: shown all patches) and number of patches.
Judged = dict[tuple[int | None, int], Outcomes]


def quality(config: QualityConfig, reporter: Reporter | None = None) -> QualityResult:
    """Runs `dataltt quality`.

    Raises:
        DatalttError: anything that the user can mend.
    """
    reporter = reporter or SilentReporter()
    with process_group(config.runtime.device) as process:
        if process.world_size > 1:
            raise OptionError("quality runs in one process; leave torchrun out")
        plan = plan_quality(config, process.device, reporter)
        judged, labels = judge_all(plan, config, reporter)
    return _result(plan, judged, labels, config)


def judge_all(plan: QualityPlan, config: QualityConfig, reporter: Reporter) -> tuple[Judged, npt.NDArray[np.int64]]:
    """Shows the judge everything once; returns what it came to, and labels int64 [N], in the images' order."""
    judge, num_patches = plan.judge, plan.judge.geometry.num_patches
    parts: dict[tuple[int | None, int], list[Outcomes]] = defaultdict(list)
    numbers, labels = [], []
    reporter.start("judging", plan.source.num_images, "images")
    batches = iterate(
        JudgedImages(plan.source),
        num_workers_for(config.runtime.workers),
        pin_memory=judge.device.type == "cuda",
        stall_timeout_s=config.runtime.stall_timeout_s,
        reporter=reporter,
    )
    for batch in batches:
        of_all = judge.logits(batch, None)
        answers = of_all.argmax(dim=1)
        known = None if plan.unknown_labels is not None else batch.labels.to(judge.device)
        parts[None, num_patches].append(outcomes(of_all, known, answers))
        for number, (_, arm) in enumerate(plan.arms):
            for shown in arm.shown(batch):
                parts[number, shown.num_keep].append(outcomes(judge.logits(batch, shown), known, answers))
        numbers.append(batch.numbers)
        labels.append(batch.labels)
        reporter.advance(len(batch.keys))
    reporter.finish()
    order = torch.cat(numbers).argsort().numpy()  # workers take turns
    return {key: np.concatenate(some)[order] for key, some in parts.items()}, torch.cat(labels).numpy()[order]


def _result(plan: QualityPlan, judged: Judged, labels: npt.NDArray[np.int64], config: QualityConfig) -> QualityResult:
    judge = plan.judge
    measure: Measure = "top1" if plan.unknown_labels is None else "agreement"
    num_patches = judge.geometry.num_patches
    keys = sorted(judged, key=lambda key: (key[0] is not None, -key[1], key[0] or 0))
    unfilled = [_row(judge, plan.arms, number, num_keep) for number, num_keep in keys]
    filled, gains = scored_rows(unfilled, [judged[key] for key in keys], labels, measure=measure, seed=config.seed)
    of_all, *rows = filled
    return QualityResult(
        judge=canonical_name(judge.name),
        judge_sha256=judge.sha256,
        measure=measure,
        unknown_labels=plan.unknown_labels,
        num_images=len(labels),
        num_patches=num_patches,
        precision=judge.precision,
        seed=config.seed,
        all_patches=of_all,
        rows=rows,
        gains=gains,
        classes=_classes(labels, plan.shards),
        conclusions=conclusions(rows, gains, measure, num_patches),
    )


def _row(judge: Judge, arms: Sequence[tuple[Kind, Arm]], number: int | None, num_keep: int) -> Scored:
    """The row of an arm at a number of patches, without figures."""
    if number is None:
        return Scored(arm=_ALL, kind="all patches", num_keep=num_keep, num_tokens=num_keep)
    kind, arm = arms[number]
    side = resized_side(num_keep, judge.geometry.grid)
    return Scored(
        arm=arm.name,
        kind=kind,
        num_keep=num_keep,
        num_tokens=side * side if arm.name == "resize" and kind == "control" else num_keep,
        is_approximate=arm.is_approximate(num_keep),
        is_self_judged=arm.weights_sha256 == judge.sha256,
    )


def _classes(labels: npt.NDArray[np.int64], shards: Sequence[Shard]) -> list[ImageClass]:
    """The classes that images are of, and what classes.json beside the shards calls them."""
    listed = class_list_beside(shards)
    names = {} if listed is None else {number: name for name, number in listed.number_of.items()}
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    return [
        ImageClass(label=label, name=names.get(label), num_images=count)
        for label, count in zip(found.tolist(), counts.tolist(), strict=True)
    ]
