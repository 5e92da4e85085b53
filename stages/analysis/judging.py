"""A judge: a ViT that is shown some patches of an image and says what it sees. It is not trained for that.

Letters: B images, K kept patches, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ...artifacts_schema import CheckpointError, ModelError, OptionError, TicketMismatchError, View
from ..data.batches import Batch
from ..data.counting import CountedSamples
from ..data.shards import Shard
from ..models.checkpoints import load_student
from ..models.pruned_vit import TokenPrunedViT
from ..models.registry import center_view_of
from ..models.resizing import check_resizable
from ..models.student import Geometry
from ..models.weights import read_weights, vit_weights, vit_with, weights_sha256
from ..runtime.precision import autocast
from ..training.classes import check_head
from ..training.eval_loop import forward_batch
from .config import QualityConfig
from .judged_images import JudgedBatch
from .quality_arms import Shown

METRICS = ("top1", "top5", "loss", "agreement")

Outcomes = npt.NDArray[np.float64]  # [B, 4]: METRICS of each image; accuracies are 0 or 100, unknown ones NaN


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A plain ViT, the centre view that its authors used, and what it is called.

    Attributes:
        weights: what its weights came from, for messages.
    """

    name: str
    weights: Path
    student: TokenPrunedViT
    view: View
    sha256: str
    device: torch.device
    precision: str

    @property
    def geometry(self) -> Geometry:
        """The patches that it sees."""
        return self.student.geometry

    @property
    def num_classes(self) -> int:
        """Classes of its head."""
        return int(self.student.net.num_classes)

    @torch.inference_mode()
    def logits(self, batch: JudgedBatch, shown: Shown | None) -> Tensor:
        """Logits float32 [B, C] of what is shown of a batch; None for all patches.

        Raises:
            ModelError: they are not finite.
        """
        keep = None if shown is None else shown.keep_indices
        counts = None if shown is None else shown.counts
        given = Batch(images=batch.images, labels=batch.labels, keep_indices=keep, num_skipped=0, counts=counts)
        px = None if shown is None else shown.image_px
        with autocast(self.device, self.precision):
            logits = forward_batch(self.student, given, self.view, self.device, student_px=px).float()
        if not logits.isfinite().all():
            raise ModelError(f"the judge {self.name} gives logits that are not finite; its weights are damaged")
        return logits


def outcomes(logits: Tensor, labels: Tensor | None, answers: Tensor) -> Outcomes:
    """Figures that a judge came to on some images, METRICS of each.

    Args:
        logits: float32 [B, C].
        labels: int64 [B]; None where nobody knows the true class.
        answers: int64 [B], what it says on all patches.
    """
    agrees = 100.0 * (logits.argmax(dim=1) == answers).double()
    if labels is None:
        unknown = torch.full_like(agrees, torch.nan)
        columns = [unknown, unknown, unknown, agrees]
    else:
        right = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="none").double()
        columns = [100.0 * right[:, 0].double(), 100.0 * right.any(dim=1).double(), loss, agrees]
    found: Outcomes = torch.stack(columns, dim=1).cpu().numpy()
    return found


def load_judge(config: QualityConfig, device: torch.device, image_px: int | None) -> Judge:
    """The judge that is asked for, else the selectors' own network.

    Args:
        image_px: side of the images that it is to take; None for its own.

    Raises:
        OptionError, ModelError, CheckpointError: there is none, or it cannot be shown some patches.
    """
    try:
        return _load_judge(config, device, image_px)
    except (CheckpointError, ModelError) as error:
        if config.judge is None and config.judge_checkpoint is None:
            raise
        said = str(error).replace("`checkpoint`", "`judge_checkpoint`").replace("`model", "`judge")
        raise type(error)(said) from error


def _load_judge(config: QualityConfig, device: torch.device, image_px: int | None) -> Judge:
    name = config.judge or config.model
    file = config.judge_checkpoint or (config.checkpoint if config.judge is None else None)
    if file is None:
        if name is None:
            raise OptionError("who judges? give `judge`, a ViT's name, with its weights as `judge_checkpoint`")
        published = vit_weights(name, None)
        student, view = TokenPrunedViT(vit_with(published, name, name, image_px=image_px), name), None
        weights = Path(name)
    else:
        loaded, info, weights, _ = load_student(file, model=name, image_px=image_px)
        name = name or (info.model if info else "the judge")
        if not isinstance(loaded, TokenPrunedViT):
            raise ModelError(f"{name} cannot judge, since it is no plain ViT; give `judge='deit_s'` or the like")
        published = read_weights(weights)
        student, view = loaded, info.view if info else None
        if view is not None and info is not None and info.image_px != student.geometry.image_px:
            view = replace(view, resize_px=int(student.geometry.image_px / view.crop_share))
    if student.net.num_classes == 0:
        raise ModelError(f"{name} cannot judge, since its weights have no head; give others as `judge_checkpoint`")
    check_resizable(student, name, "judging against smaller pictures")
    return Judge(
        name=name,
        weights=weights,
        student=student.to(device).eval().requires_grad_(False),
        view=view or center_view_of(student.net, student.geometry.image_px),
        sha256=weights_sha256(student.net, published),
        device=device,
        precision=config.runtime.precision,
    )


def check_same_pictures(judge: Judge, geometry: Geometry, view: View, whose: str) -> None:
    """Refuses tickets of other patches or pictures than the judge sees.

    Args:
        whose: they are, for the sentence.

    Raises:
        TicketMismatchError
    """
    ours = (*judge.geometry.grid, judge.geometry.patch_px, len(judge.view.mean), judge.view.resize_px)
    theirs = (*geometry.grid, geometry.patch_px, len(view.mean), view.resize_px)
    if ours != theirs:
        said = [
            f"{h}×{w} patches of {px} px, {channels} channel(s), of pictures resized to {resize} px"
            for h, w, px, channels, resize in (theirs, ours)
        ]
        raise TicketMismatchError(
            f"{whose} chooses among {said[0]}, and the judge {judge.name} sees {said[1]}; give a `judge` that sees the "
            "same"
        )


def why_labels_are_unknown(judge: Judge, shards: Sequence[Shard], counted: CountedSamples) -> str | None:
    """Says why labels of the images are none that the judge could get right; None where they are."""
    num_unlabelled = sum(lack.num_samples for lack in counted.unlabelled)
    if num_unlabelled:
        return f"{num_unlabelled} of {sum(each.num_samples for each in counted.shards)} images have no label"
    if counted.highest_label >= judge.num_classes:
        return f"labels go up to {counted.highest_label}, and the judge's head has {judge.num_classes} classes"
    try:
        check_head(judge.num_classes, judge.weights, shards, asked=None)
    except OptionError:
        return f"classes.json beside the shards does not list the {judge.num_classes} classes of the judge's head"
    return None
