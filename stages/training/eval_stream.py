"""Streams to test on: tickets, random subsets or all patches, checked against the student that is shown them."""

from __future__ import annotations

from dataclasses import replace

from ...artifacts_schema import Location, Manifest, OptionError, TicketMismatchError, TicketStore, View, read_manifest
from ...artifacts_schema.thinning import mean_kept
from ..data.comparing import Comparison, compare_or_count
from ..data.decoders import shown_by
from ..data.join import JoinConfig
from ..data.shards import Shard
from ..data.stream_config import StreamConfig
from ..models.resizing import check_resizable, resized_px
from ..models.student import Geometry, Student
from ..options import ErrorOrSkip, EvalProtocol, JoinOptions, subset_of
from ..runtime.reporting import Reporter
from .adaptive import takes_counts
from .thinning import cut_down, joined_num_keep


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
