"""Testing a student: top-1, top-5 and loss, on tickets, random subsets, or all patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F

from ...artifacts_schema import Location, Manifest, OptionError, TicketMismatchError, TicketStore, View, read_manifest
from ...artifacts_schema.thinning import approximation, mean_kept
from ..data.comparing import Comparison, compare_or_count
from ..data.decoders import shown_by
from ..data.fetching import fetch_tickets
from ..data.images import normalize
from ..data.join import JoinConfig
from ..data.loader import iterate, num_workers_for
from ..data.shards import Shard, given_shards, resolve_shards
from ..data.student_stream import Batch, SampleStream, StreamConfig, StreamPosition
from ..data.watching import STALL_TIMEOUT_S
from ..models.checkpoints import CheckpointInfo, find_weights, load_student, read_info
from ..models.prune import gather_patches
from ..models.registry import center_view_of
from ..models.resizing import check_resizable, resize_images, resized_in_words, resized_px
from ..models.student import Geometry, Student
from ..options import ErrorOrSkip, EvalProtocol, JoinOptions, subset_of
from ..runtime.distributed import Process, process_group
from ..runtime.precision import autocast, tf32
from ..runtime.reporting import Reporter, SilentReporter
from .adaptive import check_counts, takes_counts
from .classes import check_head, check_labels
from .config import EvalConfig
from .thinning import cut_down, joined_num_keep


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
        way_out = "select with a model of this grid, or train another `model`"
        if manifest.patch_px == geometry.patch_px:
            way_out = f"select with `image_px={geometry.image_px}`, or give `image_px={manifest.image_px}` here"
        described = [f"{g[0]}×{g[1]} patches of {p} px ({i} px)" for g, p, i in (theirs, ours)]
        raise TicketMismatchError(
            f"{store} holds tickets for {described[0]}, and {model} sees {described[1]}; {way_out}"
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
    """Refuses a store without the centre view's ticket, and one whose tickets know the images' labels.

    Raises:
        TicketMismatchError
    """
    if manifest.selector.uses_labels:
        raise TicketMismatchError(
            f"{store} holds tickets that were chosen by the images' labels ({manifest.selector.title}), and a test on "
            "them tells nothing; select them without labels"
        )
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
    position = StreamPosition(rank=process.rank, world_size=process.world_size)
    sums = torch.zeros(5, dtype=torch.float64)
    reporter.start(name, stream.num_samples, "images")
    batches = iterate(
        SampleStream(stream, position),
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
            logits = logits[: len(batch.labels)]
        if checks_labels:
            seen[batch.labels] = 1
        labels = batch.labels.to(process.device)
        top = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums[:4] += torch.tensor([int(top[:, 0].sum()), int(top.sum()), float(loss), len(labels)], dtype=torch.float64)
        now = min(stream.num_samples, num_shown + len(labels) * process.world_size)  # as if all ranks were as fast
        reporter.advance(now - num_shown, f"top-1 {100 * float(sums[0] / sums[3]):.2f}")
        num_shown = now
    total = process.sum(sums).cpu()
    top1, top5, loss, count, skipped = total.tolist()
    reporter.advance(int(count) - num_shown, f"top-1 {100 * top1 / max(1, count):.2f}")
    reporter.finish()
    if checks_labels:
        _say_labels(process.sum(seen), reporter)
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
    if protocol == "resize":
        check_resizable(student, model, "`test='resize'`")
    fixed = student.fixed_num_keep
    shown = student.geometry.num_patches if protocol == "dense" else num_keep
    if fixed is None or shown == fixed:
        return
    way_out = f"test on ticket, random, center or resize, with tickets of {fixed} patches"
    if protocol != "dense" and tickets is not None:
        way_out = f"{tickets} keeps {num_keep}: select these shards with the ratio of the training shards"
    raise OptionError(
        f"`test={protocol!r}` shows {shown} patches, and this student (`swin_input='small-dense'`) is built for images "
        f"packed from {fixed}; {way_out}"
    )


_WHOSE: Mapping[EvalProtocol, str] = {
    "own": "chosen by the student's own attention",
    "random": "drawn at random",
    "center": "the central ones",
}


def _say_patches(
    config: EvalConfig, stream: StreamConfig, student: Student, info: CheckpointInfo | None, reporter: Reporter
) -> None:
    """Says what there is to know of the patches that a student is tested on."""
    if stream.student_px is not None:
        reporter.message(resized_in_words(student.geometry, stream.student_px, stream.num_keep))
    if config.test in _WHOSE:
        whose = _WHOSE[config.test]
        each = " (of each image as many as its ticket)" if stream.own_counts else ""
        about = "about " if each else ""
        reporter.message(f"{about}{stream.num_keep} of {student.geometry.num_patches} patches{each}, {whose}")
    if config.test != "ticket" or stream.join is None:
        return
    said = approximation(read_manifest(stream.join.store))
    if said is not None:
        reporter.message(f"tickets are {said}")
    if info is not None and info.num_keep is not None and info.num_keep < stream.num_keep:
        reporter.message(
            f"note: {config.tickets} keeps {stream.num_keep} patches, and this student was trained on "
            f"{info.num_keep}; cut tickets down with: dataltt store thin"
        )


def evaluate(config: EvalConfig, reporter: Reporter | None = None) -> Metrics:
    """Runs `dataltt eval`.

    Raises:
        DatalttError: anything that the user can mend.
    """
    if config.test == "ticket" and config.tickets is None:
        raise OptionError("`test='ticket'` needs the tickets of these shards; give `tickets`")
    with process_group(config.runtime.device, rank_timeout_s=config.runtime.rank_timeout_s) as process:
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        find_weights(config.checkpoint, ema=config.ema)
        shards = resolve_shards(given_shards(config.shards), config.remote.access)
        tickets = None if config.tickets is None else config.remote.location(config.tickets)
        compared = compare_for_testing(
            shards,
            tickets,
            protocol=config.test,
            joins=config.joins,
            reporter=quiet,
        )
        known = None if tickets is None else read_manifest(tickets)
        student, info, file, resampling = load_student(
            config.checkpoint,
            model=config.model,
            num_keep=config.num_keep,
            ema=config.ema,
            image_px=config.image_px or _size_of(config, known),
        )
        if file != config.checkpoint or resampling:
            quiet.message(f"weights: {file}{f'; {resampling}' if resampling else ''}")
        name = config.model or (info.model if info else "the model")
        image_px = student.geometry.image_px
        view = info.view if info else center_view_of(student.net, image_px)
        if info is not None and info.image_px != image_px:
            view = replace(view, resize_px=int(image_px / view.crop_share))
        decoder = config.decoder if known or config.decoder or info is None else view.decoder_name
        view = shown_by(view, decoder, known=known.view if known else None, whose=f"{config.tickets}")
        num_classes = cast(int, student.net.num_classes)
        check_head(num_classes, file, shards, asked=config.num_classes)
        check_labels(num_classes, compared, None if tickets is None else TicketStore.open(tickets), doing="testing")
        num_keep = config.num_keep or (info.num_keep if info and info.image_px == image_px else None)
        stream = eval_stream(
            compared,
            tickets,
            protocol=config.test,
            view=view,
            geometry=student.geometry,
            model=name,
            num_classes=num_classes,
            num_keep=num_keep,
            batch_size=config.batch_size,
            seed=config.seed,
            joins=config.joins,
            on_bad_image=config.on_bad_image,
        )
        check_protocol(student, config.test, stream.num_keep, name, config.tickets)
        if tickets is not None:
            check_counts(read_manifest(tickets), str(config.tickets), stream, student, name)
        fetch_tickets(stream, quiet)
        _say_patches(config, stream, student, info, quiet)
        with tf32(process.device, is_on=config.runtime.tf32):
            return evaluate_stream(
                student.to(process.device),
                stream,
                process,
                num_workers=num_workers_for(config.runtime.workers, process.local_world_size),
                precision=config.runtime.precision,
                stall_timeout_s=config.runtime.stall_timeout_s,
                reporter=quiet,
                own_patches=config.test == "own",
                checks_labels=True,
            )


def _size_of(config: EvalConfig, known: Manifest | None) -> int | None:
    """Side of the images that foreign weights are tested on; None where the tickets or the weights say it."""
    is_ours = read_info(find_weights(config.checkpoint, ema=config.ema)) is not None
    return None if is_ours or known is None else known.image_px


def join_for_testing(tickets: Location | None, protocol: EvalProtocol, joins: JoinOptions) -> JoinConfig | None:
    """Options of the join, where images are tested on tickets, or where those without a ticket are not tested on."""
    if tickets is None:
        return None
    needs_tickets = protocol == "ticket" or takes_counts(read_manifest(tickets), protocol)
    if not needs_tickets and joins.on_missing_ticket == "error":
        return None
    return JoinConfig(store=tickets, on_missing_ticket=joins.on_missing_ticket, on_changed_image=joins.on_changed_image)


def compare_for_testing(
    shards: list[Shard], tickets: Location | None, *, protocol: EvalProtocol, joins: JoinOptions, reporter: Reporter
) -> Comparison:
    """Compares the shards to test on with their tickets, if these are needed.

    Raises:
        DatalttError: samples without tickets, or shards that cannot be read.
    """
    store = None if tickets is None else TicketStore.open(tickets)
    if store is not None and (protocol == "ticket" or takes_counts(store.manifest, protocol)):
        check_center(store.manifest, store.path, "testing on tickets needs")
    join = join_for_testing(None if store is None else store.location, protocol, joins)
    return compare_or_count(shards, store, join, reporter, recount=joins.recount)


def eval_stream(
    compared: Comparison,
    tickets: Location | None,
    *,
    protocol: EvalProtocol,
    view: View,
    geometry: Geometry,
    model: str,
    num_classes: int,
    num_keep: int | None,
    ratio: float | None = None,
    batch_size: int,
    seed: int,
    joins: JoinOptions,
    on_bad_image: ErrorOrSkip = "error",
) -> StreamConfig:
    """The stream that tests by a protocol, its tickets checked against the model.

    Args:
        ratio: share of the patches that tickets are cut down to, by rank.

    Raises:
        OptionError: subsets of unknown size.
        TicketMismatchError: tickets for another grid or view.
    """
    skipped_keys: frozenset[str] = frozenset()
    own_counts = False
    join = join_for_testing(tickets, protocol, joins)
    if tickets is not None:
        manifest = read_manifest(tickets)
        check_tickets(manifest, str(tickets), geometry, view, model)
        view = shown_by(view, None, known=manifest.view, whose=str(tickets))
        num_keep, skipped_keys = mean_kept(cut_down(manifest, str(tickets), ratio)), manifest.skipped_keys
        own_counts = takes_counts(manifest, protocol)
        if protocol == "ticket" and join is not None:
            join = replace(join, num_keep=joined_num_keep(manifest, str(tickets), ratio))
    if protocol in ("random", "own", "center", "resize") and num_keep is None:
        raise OptionError(f"`test={protocol!r}`: how many patches? give `tickets` or `num_keep`")
    return StreamConfig(
        shards=compared.shards,
        view=view,
        image_px=geometry.image_px,
        mode=geometry.mode,
        grid=geometry.grid,
        subset=subset_of(protocol),
        student_px=resized_px(geometry, num_keep) if protocol == "resize" and num_keep else None,
        num_keep=num_keep or geometry.grid[0] * geometry.grid[1],
        own_counts=own_counts,
        batch_size=batch_size,
        num_classes=num_classes,
        seed=seed,
        join=join,
        skipped_keys=skipped_keys,
        on_bad_image=on_bad_image,
        training=False,
    )
