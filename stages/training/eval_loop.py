"""Testing a student on a stream: top-1, top-5 and loss over all its samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...artifacts_schema import OptionError, View
from ..data.batches import Batch
from ..data.images import normalize
from ..data.loader import iterate
from ..data.stream_config import StreamConfig, StreamPosition
from ..data.student_stream import SampleStream
from ..data.watching import STALL_TIMEOUT_S
from ..models.prune import gather_patches
from ..models.resizing import resize_images
from ..models.student import Student
from ..runtime.distributed import Process
from ..runtime.precision import autocast
from ..runtime.reporting import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Means over all samples: accuracies in per cent, cross-entropy in nats."""

    top1: float
    top5: float
    loss: float
    num_samples: int
    num_skipped: int


@torch.inference_mode()
def evaluate_stream(
    student: Student,
    stream: StreamConfig,
    process: Process,
    *,
    num_workers: int,
    precision: str,
    reporter: Reporter,
    stall_timeout_s: float = STALL_TIMEOUT_S,
    own_patches: bool = False,
    checks_labels: bool = False,
    same_size: bool = False,
    name: str = "testing",
) -> Metrics:
    """Tests a student on all samples of a stream, each once, over all ranks.

    Args:
        stall_timeout_s: how long the next batch may take.
        own_patches: let its own attention choose `stream.num_keep` patches of each image.
        checks_labels: say so if no label is as high as the head's last class.
        same_size: fill batches up that are not full, so that a compiled student is not compiled for their sizes too.
        name: what is shown beside the progress.
    """
    student.eval()
    seen = torch.zeros(stream.num_classes if checks_labels else 0)
    sums = torch.zeros(5, dtype=torch.float64)  # those of `_sums_of`, and bad images
    reporter.start(name, stream.num_samples, "images")
    batches = iterate(
        SampleStream(stream, StreamPosition(rank=process.rank, world_size=process.world_size)),
        num_workers,
        pin_memory=process.device.type == "cuda",
        stall_timeout_s=stall_timeout_s,
        reporter=reporter,
    )
    num_shown = 0
    for batch in batches:
        sums[4] += batch.num_skipped
        if not len(batch.labels):
            continue
        with autocast(process.device, precision):
            num_own = stream.num_keep if own_patches else None
            shown = filled_up(batch, stream.batch_size) if same_size else batch
            logits = forward_batch(
                student, shown, stream.view, process.device, num_own=num_own, student_px=stream.student_px
            ).float()
        if checks_labels:
            seen[batch.labels] = 1
        sums[:4] += _sums_of(logits[: len(batch.labels)], batch.labels.to(process.device))
        now = min(stream.num_samples, num_shown + len(batch.labels) * process.world_size)  # as if ranks were as fast
        reporter.advance(now - num_shown, f"top-1 {100 * float(sums[0] / sums[3]):.2f}")
        num_shown = now
    total = process.sum(sums).cpu()
    reporter.advance(int(total[3]) - num_shown, f"top-1 {100 * float(total[0]) / max(1, int(total[3])):.2f}")
    reporter.finish()
    if checks_labels:
        _say_labels(process.sum(seen), reporter)
    return _means(total, stream)


def _sums_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sums over a batch, float64 [4]: right at first, right among five, cross-entropy, samples.

    Args:
        logits: float [B, classes].
        labels: int64 [B].
    """
    top = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.tensor([int(top[:, 0].sum()), int(top.sum()), float(loss), len(labels)], dtype=torch.float64)


def _means(total: torch.Tensor, stream: StreamConfig) -> Metrics:
    """Means of what was summed over all ranks.

    Raises:
        OptionError: there was no sample.
    """
    top1, top5, loss, count, skipped = total.tolist()
    if not count:
        raise OptionError("there was no sample to test on; check `shards` and the tickets")
    return Metrics(
        top1=100 * top1 / count,
        top5=100 * top5 / count,
        loss=loss / count,
        num_samples=int(count),
        num_skipped=int(skipped) + stream.num_missing,
    )


def _say_labels(seen: torch.Tensor, reporter: Reporter) -> None:
    """Says which labels there were, above zero in float32 [classes], if the highest classes had no image."""
    labels = seen.nonzero()[:, 0].tolist()
    if labels and labels[-1] < len(seen) - 1:
        reporter.message(
            f"the images are of {len(labels)} classes, the highest label is {labels[-1]}, and the head has {len(seen)} "
            "classes; are they numbered as in training?"
        )


def filled_up(batch: Batch, size: int) -> Batch:
    """A batch of `size` images: its own, then its first one again and again."""
    index = torch.arange(size)
    index[len(batch.labels) :] = 0
    keep, counts = batch.keep_indices, batch.counts
    return batch._replace(
        images=batch.images[index],
        keep_indices=None if keep is None else keep[index],
        counts=None if counts is None else tuple(counts[i] for i in index.tolist()),
    )


def forward_batch(
    student: Student,
    batch: Batch,
    view: View,
    device: torch.device,
    *,
    num_own: int | None = None,
    student_px: int | None = None,
) -> torch.Tensor:
    """Logits float [B, classes] of a batch as it comes from a stream; on `num_own` patches of the student's choice, or
    of images made smaller to `student_px`.
    """
    pixels = batch.images.to(device, non_blocking=True)
    keep = None if batch.keep_indices is None else batch.keep_indices.to(device, non_blocking=True)
    counts = () if batch.counts is None else (batch.counts,)
    if num_own is None and keep is not None and student.takes_patches:  # nothing else is normalised
        kept = normalize(gather_patches(pixels, keep, student.geometry.grid), view)
        shown: torch.Tensor = student(kept, keep, *counts)
        return shown
    images = resize_images(normalize(pixels, view), student_px)
    if num_own is not None:
        keep = student.order_patches(images, num_own)[:, :num_own].sort(dim=1).values
    logits: torch.Tensor = student(images, keep)
    return logits
