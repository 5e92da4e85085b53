"""Testing a student: top-1, top-5 and loss, on tickets, random subsets, or all patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F

from ...artifacts_schema import Location, Manifest, OptionError, TicketMismatchError, TicketStore, View, read_manifest
from ..data.counting import count_shards
from ..data.fetching import fetch_tickets
from ..data.images import normalize
from ..data.join import JoinConfig
from ..data.loader import iterate, num_workers_for
from ..data.shards import Shard, given_shards, resolve_shards
from ..data.student_stream import Batch, SampleStream, StreamConfig, StreamPosition
from ..models.checkpoints import load_student
from ..models.registry import center_view_of
from ..models.student import Geometry, Student
from ..options import ErrorOrAllow, ErrorOrSkip, EvalProtocol, Subset
from ..runtime.distributed import Process, process_group
from ..runtime.precision import autocast
from ..runtime.reporting import Reporter, SilentReporter
from .config import EvalConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Means over all samples: accuracies in per cent, cross-entropy in nats."""

    top1: float
    top5: float
    loss: float
    num_samples: int
    num_skipped: int


def center_of(view: View) -> View:
    """The centre view of the same model: what students are tested on."""
    return replace(view, kind="center", augment=None)


def check_tickets(manifest: Manifest, store: str, geometry: Geometry, view: View, model: str) -> None:
    """Refuses tickets whose patches are not those that the model sees.

    Raises:
        TicketMismatchError: another grid, patch size, image size, number of channels, or centre view.
    """
    ours = (geometry.grid, geometry.patch_px, geometry.image_px)
    theirs = (tuple(manifest.grid), manifest.patch_px, manifest.image_px)
    if ours != theirs:
        described = [f"{g[0]}×{g[1]} patches of {p} px ({i} px)" for g, p, i in (theirs, ours)]
        raise TicketMismatchError(
            f"{store} holds tickets for {described[0]}, and {model} sees {described[1]}; select with a model of this "
            "grid, or train another `model`"
        )
    channels = 1 if geometry.mode == "L" else 3
    if manifest.view.num_channels != channels:
        raise TicketMismatchError(
            f"{store} holds tickets of images of {manifest.view.num_channels} channel(s), and {model} takes "
            f"{channels}; train another `model`"
        )
    if manifest.view.resize_px != view.resize_px:
        raise TicketMismatchError(
            f"{store} holds tickets of images resized to {manifest.view.resize_px} px, and these weights were trained "
            f"on images resized to {view.resize_px} px; select with the same view"
        )


def check_center(manifest: Manifest, store: str, purpose: str) -> None:
    """Refuses a store without the centre view's ticket.

    Raises:
        TicketMismatchError
    """
    if manifest.view.kind != "center":
        raise TicketMismatchError(
            f"{store} holds {manifest.num_views} view(s) drawn by policy {manifest.view.policy_name!r}, and "
            f"{purpose} the centre view's ticket; select it with: dataltt select --augment none"
        )


@torch.inference_mode()
def evaluate_stream(
    student: Student,
    stream: StreamConfig,
    process: Process,
    *,
    num_workers: int,
    precision: str,
    reporter: Reporter,
    own_patches: bool = False,
) -> Metrics:
    """Tests a student on all samples of a stream, each once, over all ranks.

    Args:
        own_patches: let its own attention choose `stream.num_keep` patches of each image.
    """
    student.eval()
    position = StreamPosition(rank=process.rank, world_size=process.world_size)
    sums = torch.zeros(5, dtype=torch.float64)
    reporter.start("testing", stream.num_samples, "images")
    for batch in iterate(SampleStream(stream, position), num_workers, pin_memory=process.device.type == "cuda"):
        sums[4] += batch.num_skipped
        if not len(batch.labels):
            continue
        with autocast(process.device, precision):
            num_own = stream.num_keep if own_patches else None
            logits = forward_batch(student, batch, stream.view, process.device, num_own=num_own).float()
        labels = batch.labels.to(process.device)
        top = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums[:4] += torch.tensor([int(top[:, 0].sum()), int(top.sum()), float(loss), len(labels)], dtype=torch.float64)
        reporter.advance(len(labels) * process.world_size, f"top-1 {100 * float(sums[0] / sums[3]):.2f}")
    reporter.finish()
    total = process.sum(sums).cpu()
    top1, top5, loss, count, skipped = total.tolist()
    if not count:
        raise OptionError("there was no sample to test on; check `shards` and the tickets")
    return Metrics(
        top1=100 * top1 / count,
        top5=100 * top5 / count,
        loss=loss / count,
        num_samples=int(count),
        num_skipped=int(skipped),
    )


def forward_batch(
    student: Student, batch: Batch, view: View, device: torch.device, *, num_own: int | None = None
) -> torch.Tensor:
    """Logits float [B, classes] of a batch as it comes from a stream; on `num_own` patches of the student's choice."""
    images = normalize(batch.images.to(device, non_blocking=True), view)
    keep: torch.Tensor | None
    if num_own is not None:
        keep = student.order_patches(images, num_own)[:, :num_own].sort(dim=1).values
    else:
        keep = None if batch.keep_indices is None else batch.keep_indices.to(device, non_blocking=True)
    logits: torch.Tensor = student(images, keep)
    return logits


def check_protocol(student: Student, protocol: EvalProtocol, num_keep: int, model: str, tickets: str | None) -> None:
    """Refuses to test a student on what it cannot be shown.

    Raises:
        OptionError: more or fewer patches than it is built for, or those of an attention that it does not have.
    """
    if protocol == "own" and not student.chooses_patches:
        raise OptionError(
            f"`test='own'`: {model} has no CLS token whose attention could choose patches; test on ticket, random or "
            "dense"
        )
    fixed = student.fixed_num_keep
    shown = student.geometry.num_patches if protocol == "dense" else num_keep
    if fixed is None or shown == fixed:
        return
    way_out = f"test on ticket or random, with tickets of {fixed} patches"
    if protocol != "dense" and tickets is not None:
        way_out = f"{tickets} keeps {num_keep}: select these shards with the ratio of the training shards"
    raise OptionError(
        f"`test={protocol!r}` shows {shown} patches, and this student (`swin_input='small-dense'`) is built for images "
        f"packed from {fixed}; {way_out}"
    )


def evaluate(config: EvalConfig, reporter: Reporter | None = None) -> Metrics:
    """Runs `dataltt eval`.

    Raises:
        DatalttError: anything that the user can mend.
    """
    if config.test == "ticket" and config.tickets is None:
        raise OptionError("`test='ticket'` needs the tickets of these shards; give `tickets`")
    with process_group(config.runtime.device) as process:
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        student, info, file = load_student(
            config.checkpoint, model=config.model, num_keep=config.num_keep, ema=config.ema
        )
        if file != config.checkpoint:
            quiet.message(f"weights: {file}")
        name = config.model or (info.model if info else "the model")
        view = info.view if info else center_view_of(student.net, student.geometry.image_px)
        num_keep = config.num_keep or (info.num_keep if info else None)
        if config.test == "own" and num_keep is None and config.tickets is None:
            raise OptionError("`test='own'`: how many patches? give `tickets` or `num_keep`")
        stream = eval_stream(
            resolve_shards(given_shards(config.shards), config.remote.access),
            None if config.tickets is None else config.remote.location(config.tickets),
            subset="dense" if config.test == "own" else config.test,
            view=view,
            geometry=student.geometry,
            model=name,
            num_classes=cast(int, student.net.num_classes),
            num_keep=num_keep,
            batch_size=config.batch_size,
            seed=config.seed,
            on_missing_ticket=config.joins.on_missing_ticket,
            on_changed_image=config.joins.on_changed_image,
            on_bad_image=config.on_bad_image,
            recount=config.joins.recount,
            reporter=quiet,
        )
        check_protocol(student, config.test, stream.num_keep, name, config.tickets)
        fetch_tickets(stream, quiet)
        if config.test in ("own", "random"):
            whose = "chosen by the student's own attention" if config.test == "own" else "drawn at random"
            quiet.message(f"{stream.num_keep} of {student.geometry.num_patches} patches, {whose}")
        return evaluate_stream(
            student.to(process.device),
            stream,
            process,
            num_workers=num_workers_for(config.runtime.workers, process.local_world_size),
            precision=config.runtime.precision,
            reporter=quiet,
            own_patches=config.test == "own",
        )


def eval_stream(
    shards: list[Shard],
    tickets: Location | None,
    *,
    subset: Subset,
    view: View,
    geometry: Geometry,
    model: str,
    num_classes: int,
    num_keep: int | None,
    batch_size: int,
    seed: int,
    on_missing_ticket: ErrorOrSkip = "error",
    on_changed_image: ErrorOrAllow = "error",
    on_bad_image: ErrorOrSkip = "error",
    recount: bool = False,
    reporter: Reporter,
) -> StreamConfig:
    """The stream that tests by a protocol, its tickets checked against the model.

    Raises:
        OptionError: random subsets of unknown size.
        TicketMismatchError: tickets for another grid or view.
    """
    join = store = None
    skipped_keys: frozenset[str] = frozenset()
    if tickets is not None:
        manifest = read_manifest(tickets)
        check_tickets(manifest, str(tickets), geometry, view, model)
        if subset == "ticket":
            check_center(manifest, str(tickets), "testing on tickets needs")
        store = TicketStore.open(tickets)
        num_keep, skipped_keys = manifest.num_keep, manifest.skipped_keys
        if subset == "ticket":
            join = JoinConfig(
                store=store.location, on_missing_ticket=on_missing_ticket, on_changed_image=on_changed_image
            )
    if subset == "random" and num_keep is None:
        raise OptionError("`test='random'`: how many patches? give `tickets` or `num_keep`")
    return StreamConfig(
        shards=count_shards(shards, store, reporter, recount=recount),
        view=view,
        image_px=geometry.image_px,
        mode=geometry.mode,
        grid=geometry.grid,
        subset=subset,
        num_keep=num_keep or geometry.grid[0] * geometry.grid[1],
        batch_size=batch_size,
        num_classes=num_classes,
        seed=seed,
        join=join,
        skipped_keys=skipped_keys,
        on_bad_image=on_bad_image,
        training=False,
    )
