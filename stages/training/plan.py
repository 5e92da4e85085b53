"""What follows from a training configuration (shards, student, streams, steps), checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from ...artifacts_schema import Manifest, OptionError, TicketMismatchError, TicketStore, View, read_manifest
from ..data.counting import count_shards
from ..data.join import JoinConfig
from ..data.loader import num_workers_for
from ..data.shards import Shard, listed_classes, resolve_shards, stored_shards
from ..data.spans import CountedShard, num_train_steps
from ..data.student_stream import StreamConfig
from ..models.checkpoints import find_weights
from ..models.families import create_student, family_of, resolve_input
from ..models.registry import canonical_name, center_view_of, load_initial_weights, read_weights
from ..models.student import Geometry, Student
from ..runtime.distributed import Process
from ..runtime.randomness import isolated_rng
from ..runtime.reporting import Reporter
from .config import TrainConfig, check_options, matched_epochs, protocol_of
from .evaluate import EvalProtocol, center_of, check_protocol, check_tickets, eval_stream
from .run_log import saved_config
from .view_plan import ViewPlan, plan_views


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run that can start: `config` has every default filled in."""

    config: TrainConfig
    student: Student
    stream: StreamConfig
    val_stream: StreamConfig | None
    protocol: EvalProtocol | None
    steps_per_epoch: int
    epochs: int


def plan_run(config: TrainConfig, process: Process, reporter: Reporter) -> RunPlan:
    """Resolves a configuration, in the order in which it can fail, cheapest first.

    Raises:
        DatalttError: anything that the user can mend.
    """
    check_options(config)
    protocol = protocol_of(config)
    manifest = None if config.tickets is None else read_manifest(config.tickets)
    shards = _training_shards(config, manifest)
    store = None if config.tickets is None else TicketStore.open(config.tickets)
    name = config.model or (manifest.selector.model if manifest else None)
    if name is None:
        raise OptionError("which model? pass --model, e.g. deit_s")
    saved_workers = saved_config(config.out).get("workers") if config.resume else None
    epochs = _epochs(config, name, manifest, reporter)
    config = replace(
        config,
        model=canonical_name(name),
        swin_input=resolve_input(name, config.swin_input),
        num_classes=_num_classes(config, store, shards),
        workers=num_workers_for(saved_workers if config.workers is None else config.workers, process.local_world_size),
        epochs=epochs,
        warmup_epochs=min(5.0, epochs / 5) if config.warmup_epochs is None else config.warmup_epochs,
        test=protocol,
    )
    student = _student(config, name, manifest, reporter)
    geometry = student.geometry
    if manifest is not None:
        _check_store(config, manifest, geometry)
    view = manifest.view if manifest else center_view_of(student.net, geometry.image_px)
    views = plan_views(config, manifest, view.mean)
    config = replace(_with_views(config, views), token_labels=_token_labels(config, manifest, views, shards))
    stream = _train_stream(
        config,
        geometry,
        views,
        view=view,
        num_keep=manifest.num_keep if manifest else geometry.num_patches,
        has_ranks=manifest is not None and manifest.has_ranks,
        skipped_keys=manifest.skipped_keys if manifest else frozenset(),
        shards=count_shards(shards, store, reporter, recount=config.recount),
    )
    steps_per_epoch = num_train_steps(stream.num_samples, config.batch_size, process.world_size)
    if steps_per_epoch == 0:
        raise OptionError(
            f"{stream.num_samples} samples are fewer than one batch of {config.batch_size} on "
            f"{process.world_size} process(es); lower --batch-size"
        )
    val_stream = _val_stream(config, protocol, stream, geometry, reporter)
    if protocol is not None and val_stream is not None:
        check_protocol(student, protocol, val_stream.num_keep, name, config.val_tickets)
    return RunPlan(
        config=config,
        student=student,
        stream=stream,
        val_stream=val_stream,
        protocol=protocol,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
    )


def _epochs(config: TrainConfig, name: str, manifest: Manifest | None, reporter: Reporter) -> int:
    """As asked, else the family's; more of them where they are to make up for the patches left out."""
    epochs = family_of(name).epochs if config.epochs is None else config.epochs
    if not config.match_tokens:
        return epochs
    assert manifest is not None  # check_options: --match-tokens needs a store
    matched = matched_epochs(epochs, manifest.selector)
    reporter.message(f"{epochs} epochs become {matched}, to see as many tokens as on all patches (--match-tokens)")
    return matched


def _student(config: TrainConfig, name: str, manifest: Manifest | None, reporter: Reporter) -> Student:
    """A student with random weights, or those of --init."""
    num_keep = None if manifest is None or config.control == "dense" else manifest.num_keep
    with isolated_rng(config.seed, "initialisation"):
        student = create_student(
            name,
            num_keep=num_keep,
            patch_input=config.swin_input,
            num_classes=config.num_classes,
            drop_path_rate=config.drop_path,
        )
    if config.init is not None:
        weights = find_weights(config.init)
        fresh = load_initial_weights(student.net, read_weights(weights), str(weights), name)
        head = f"; its head starts afresh for {config.num_classes} classes" if fresh else ""
        reporter.message(f"initial weights: {weights}{head}")
    return student


def _token_labels(
    config: TrainConfig, manifest: Manifest | None, views: ViewPlan, shards: list[Shard]
) -> Literal["store", "image"] | None:
    """Where a student with an auxiliary head has its targets from.

    Raises:
        OptionError, TicketMismatchError: they are not to be had, or belong to something else.
    """
    assert config.model is not None
    if not family_of(config.model).learns_token_labels:
        if config.token_labels is not None:
            raise OptionError(f"--token-labels: {config.model} has no head that would learn them; leave it out")
        return None
    if config.token_labels == "image":
        return "image"
    image = "or pass --token-labels image (every token learns the image's label)"
    if manifest is None:
        raise OptionError(f"{config.model} learns token labels; pass --tickets with a store that has them, {image}")
    labels = manifest.token_labels
    if labels is None:
        raise TicketMismatchError(
            f"{config.tickets} has no token labels; write them with: dataltt label --tickets {config.tickets} --model "
            f"MODEL, {image}"
        )
    of_images = listed_classes(shards) or config.num_classes
    if labels.num_classes != of_images or labels.num_classes != config.num_classes:
        raise TicketMismatchError(
            f"{config.tickets} has token labels of {labels.num_classes} classes ({labels.model}), and the images have "
            f"{of_images}; label with a model of these classes, {image}"
        )
    if views.mode == "warp":
        raise OptionError(
            f"token labels in {config.tickets} belong to its own views; train with --views replay or static, {image}"
        )
    return "store"


def _with_views(config: TrainConfig, plan: ViewPlan) -> TrainConfig:
    """The configuration with what its views came to; replayed ones are the store's, so their numbers stay unset."""
    if plan.mode == "replay":
        return replace(config, views="replay", num_views=plan.num_views)
    colours = {f.name: getattr(plan.policy.augment, f.name) for f in fields(plan.policy.augment)}
    num_views = plan.num_views if plan.mode == "warp" and config.num_views is not None else None
    return replace(config, views=plan.mode, num_views=num_views, augment=plan.policy.name, **colours)


def _check_store(config: TrainConfig, manifest: Manifest, geometry: Geometry) -> None:
    assert config.tickets is not None
    assert config.model is not None
    check_tickets(manifest, config.tickets, geometry, manifest.view, config.model)
    if config.control == "inverse" and not manifest.has_ranks:
        raise OptionError(f"--control inverse needs ranks, which {config.tickets} lacks; select again with --ranks")


def _train_stream(
    c: TrainConfig,
    geometry: Geometry,
    views: ViewPlan,
    *,
    view: View,
    num_keep: int,
    has_ranks: bool,
    skipped_keys: frozenset[str],
    shards: tuple[CountedShard, ...],
) -> StreamConfig:
    join = None
    of_tickets = c.control in ("ticket", "inverse")
    if of_tickets or views.mode == "replay" or c.token_labels == "store":
        assert c.tickets is not None
        join = JoinConfig(
            store=c.tickets,
            ranks=of_tickets and (c.control == "inverse" or views.mode == "warp" or (c.mix.is_on and has_ranks)),
            token_labels=c.token_labels == "store",
            on_missing_ticket=c.on_missing_ticket,
            on_changed_image=c.on_changed_image,
        )
    assert c.num_classes is not None
    return StreamConfig(
        shards=shards,
        view=view,
        image_px=geometry.image_px,
        mode=geometry.mode,
        grid=geometry.grid,
        subset=c.control,
        num_keep=num_keep,
        batch_size=c.batch_size,
        num_classes=c.num_classes,
        seed=c.seed,
        join=join,
        skipped_keys=skipped_keys,
        views=views.mode,
        augment=views.policy.augment if views.mode == "static" else None,
        policy=None if views.mode == "static" else views.policy,
        num_views=views.num_views,
        views_seed=views.seed,
        random_erasing=c.random_erasing,
        mixing=c.mix.is_on,
        token_labels=c.token_labels == "store",
        on_bad_image=c.on_bad_image,
        shuffle_buffer=c.shuffle_buffer,
    )


def _val_stream(
    c: TrainConfig, protocol: EvalProtocol | None, stream: StreamConfig, geometry: Geometry, reporter: Reporter
) -> StreamConfig | None:
    if c.val_shards is None or protocol is None:
        return None
    assert c.model is not None
    return eval_stream(
        resolve_shards(c.val_shards),
        c.val_tickets,
        subset="dense" if protocol == "own" else protocol,
        view=center_of(stream.view),
        geometry=geometry,
        model=c.model,
        num_classes=stream.num_classes,
        num_keep=stream.num_keep,
        batch_size=c.batch_size,
        seed=c.seed,
        on_missing_ticket=c.on_missing_ticket,
        on_changed_image=c.on_changed_image,
        on_bad_image=c.on_bad_image,
        recount=c.recount,
        reporter=reporter,
    )


def _training_shards(config: TrainConfig, manifest: Manifest | None) -> list[Shard]:
    """The shards asked for, else those that the store was made from."""
    if manifest is not None and config.tickets is not None:
        return stored_shards(config.tickets, manifest, config.shards)
    if config.shards is None:
        raise OptionError("--control dense without --tickets: which shards? pass --shards")
    return resolve_shards(config.shards)


def _num_classes(config: TrainConfig, store: TicketStore | None, shards: list[Shard]) -> int:
    """As asked, else of the classes.json beside the shards, else the highest label in the store plus one."""
    if config.num_classes is not None:
        return config.num_classes
    listed = listed_classes(shards)
    if listed is not None:
        return listed
    if store is not None:
        highest = int(store.read_labels(range(store.manifest.num_images)).max())
        if highest >= 0:
            return highest + 1
    raise OptionError("how many classes? pass --num-classes, or put a classes.json beside the shards")
