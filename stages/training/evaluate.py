"""Testing a student: top-1, top-5 and loss, on tickets, random subsets, or all patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from ...artifacts_schema import Manifest, OptionError, TicketStore, View, read_manifest
from ...artifacts_schema.thinning import approximation
from ..data.decoders import shown_by
from ..data.fetching import fetch_tickets
from ..data.loader import num_workers_for
from ..data.shards import given_shards, resolve_shards
from ..data.stream_config import StreamConfig
from ..models.checkpoints import CheckpointInfo, find_weights, load_student, read_info
from ..models.registry import center_view_of
from ..models.resizing import resized_in_words
from ..models.student import Student
from ..options import EvalProtocol
from ..runtime.distributed import process_group
from ..runtime.precision import tf32
from ..runtime.reporting import Reporter, SilentReporter
from .adaptive import check_counts
from .classes import check_head, check_labels
from .config import EvalConfig
from .eval_loop import Metrics, evaluate_stream
from .eval_stream import check_protocol, compare_for_testing, eval_stream


def evaluate(config: EvalConfig, reporter: Reporter | None = None) -> Metrics:
    """Runs `dataltt eval`.

    Raises:
        DatalttError: anything that the user can mend.
    """
    if config.test == "ticket" and config.tickets is None:
        raise OptionError("`test='ticket'` needs the tickets of these shards; give `tickets`")
    runtime = config.runtime
    with process_group(runtime.device, rank_timeout_s=runtime.rank_timeout_s) as process:
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        student, stream = _student_and_stream(config, quiet)
        fetch_tickets(stream, quiet)
        with tf32(process.device, is_on=runtime.tf32):
            return evaluate_stream(
                student.to(process.device),
                stream,
                process,
                num_workers=num_workers_for(runtime.workers, process.local_world_size),
                precision=runtime.precision,
                stall_timeout_s=runtime.stall_timeout_s,
                reporter=quiet,
                own_patches=config.test == "own",
                checks_labels=True,
            )


def _student_and_stream(config: EvalConfig, reporter: Reporter) -> tuple[Student, StreamConfig]:
    """The student and the stream that it is tested on: checked in the order in which they can fail, cheapest first."""
    find_weights(config.checkpoint, ema=config.ema)
    shards = resolve_shards(given_shards(config.shards), config.remote.access)
    tickets = None if config.tickets is None else config.remote.location(config.tickets)
    compared = compare_for_testing(shards, tickets, protocol=config.test, joins=config.joins, reporter=reporter)
    manifest = None if tickets is None else read_manifest(tickets)
    student, info, file, resampling = load_student(
        config.checkpoint,
        model=config.model,
        num_keep=config.num_keep,
        ema=config.ema,
        image_px=config.image_px or _size_of(config, manifest),
    )
    if file != config.checkpoint or resampling:
        reporter.message(f"weights: {file}{f'; {resampling}' if resampling else ''}")
    name = config.model or (info.model if info else "the model")
    num_classes = cast(int, student.net.num_classes)
    view = _view(config, student, info, manifest)
    check_head(num_classes, file, shards, asked=config.num_classes)
    check_labels(num_classes, compared, None if tickets is None else TicketStore.open(tickets), doing="testing")
    same_px = info is not None and info.image_px == student.geometry.image_px
    stream = eval_stream(
        compared,
        tickets,
        protocol=config.test,
        view=view,
        geometry=student.geometry,
        model=name,
        num_classes=num_classes,
        num_keep=config.num_keep or (info.num_keep if info and same_px else None),
        batch_size=config.batch_size,
        seed=config.seed,
        joins=config.joins,
        on_bad_image=config.on_bad_image,
    )
    _check_num_keep(config, student, stream)
    check_protocol(student, config.test, stream.num_keep, name, config.tickets)
    if manifest is not None:
        check_counts(manifest, str(config.tickets), stream, student, name)
    _say_patches(config, stream, student, info, reporter)
    return student, stream


def _check_num_keep(config: EvalConfig, student: Student, stream: StreamConfig) -> None:
    asked, total = config.num_keep, student.geometry.num_patches
    if asked is not None and asked > total:
        raise OptionError(f"`num_keep={asked}`: the student sees {total} patches; give at most so many")
    if asked is not None and config.tickets is not None and asked != stream.num_keep:
        raise OptionError(
            f"`num_keep={asked}`: {config.tickets} says how many, {stream.num_keep}; leave one of the two out"
        )


def _view(config: EvalConfig, student: Student, info: CheckpointInfo | None, manifest: Manifest | None) -> View:
    """The centre view that the weights were trained for, of images as large as they are now shown."""
    image_px = student.geometry.image_px
    view = info.view if info else center_view_of(student.net, image_px)
    if info is not None and info.image_px != image_px:
        view = replace(view, resize_px=int(image_px / view.crop_share))
    decoder = config.decoder if manifest or config.decoder or info is None else view.decoder_name
    return shown_by(view, decoder, known=manifest.view if manifest else None, whose=f"{config.tickets}")


def _size_of(config: EvalConfig, known: Manifest | None) -> int | None:
    """Side of the images that foreign weights are tested on; None where the tickets or the weights say it."""
    is_ours = read_info(find_weights(config.checkpoint, ema=config.ema)) is not None
    return None if is_ours or known is None else known.image_px


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
