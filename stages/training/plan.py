"""Plan of a run: shards, student, streams and steps that follow from its configuration, checked before any writing."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...artifacts_schema import Manifest, OptionError, View, read_manifest
from ...artifacts_schema.thinning import mean_kept
from ..data.class_list import ClassList, class_list_beside
from ..data.decoders import shown_by
from ..data.spans import num_train_steps
from ..data.stream_config import StreamConfig
from ..models.registry import center_view_of
from ..models.resizing import resized_px
from ..models.student import Geometry, Student
from ..options import EvalProtocol, subset_of
from ..runtime.distributed import Process
from ..runtime.reporting import Reporter, SilentReporter
from .adaptive import check_counts, takes_counts
from .baked_run import open_baked
from .classes import check_resumed_classes
from .config import TrainConfig, check_options, protocol_of
from .defaults import model_name, out_of, settled, with_defaults
from .elastic import dealt
from .eval_stream import center_of, check_protocol, check_tickets, eval_stream
from .record import RECORD_FILE, read_record
from .run_samples import RunSamples, samples_of_run
from .run_source import RunSource, source_of
from .student_plan import check_student, make_student, token_targets
from .view_plan import ViewPlan, plan_views

# Of a student that is not there yet.
_SOME_MEAN = [0.5, 0.5, 0.5]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run that can start: `asked` is what was given, `config` has every default filled in.

    `samples` says how many the shards hold, and how many of them have tickets; `ticket_store` names these; `classes`
    are those listed beside the shards, if any are.
    """

    asked: TrainConfig
    config: TrainConfig
    out: Path
    student: Student
    stream: StreamConfig
    val_stream: StreamConfig | None
    protocol: EvalProtocol | None
    steps_per_epoch: int
    samples: dict[str, Any]
    ticket_store: dict[str, Any]
    classes: ClassList | None

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        assert self.config.recipe.epochs is not None  # a default that is filled in
        return self.config.recipe.epochs

    def stream_of(self, epoch: int) -> StreamConfig:
        """The stream of an epoch: in the last `dense_epochs` of the run, the same views with all patches."""
        if epoch < self.epochs - self.config.dense_epochs:
            return self.stream
        return replace(self.stream, subset="dense", student_px=None)


def plan_run(config: TrainConfig, process: Process, reporter: Reporter, *, any_labels: bool = False) -> RunPlan:
    """Resolves a configuration, in the order in which it can fail, cheapest first; the student is made last.

    Args:
        any_labels: the stream is not trained on, so labels may be those of other classes.

    Raises:
        DatalttError: anything that the user can mend.
    """
    check_options(config)
    protocol = protocol_of(config)
    asked, baked = settled(config), open_baked(config)
    config = config if baked is None else baked.completed(config)
    source = source_of(config, baked)
    manifest, name = source.manifest, model_name(config, source.manifest)
    source.announce(config, reporter)
    config, classes = _going_on(settled(config), source, process)
    config = with_defaults(config, name, manifest, reporter)
    num_classes = source.num_classes(config.data.num_classes, SilentReporter() if any_labels else reporter)
    config = config.but(num_classes=num_classes, test=protocol)
    views = plan_views(config, manifest, manifest.view.mean if manifest else _SOME_MEAN)
    config = _with_views(config, views)
    config = config.but(token_labels=token_targets(config, manifest, views, source.shards))
    samples = samples_of_run(
        config,
        views,
        protocol,
        source.store,
        source.shards,
        reporter,
        classes_asked=asked.data.num_classes,
        any_labels=any_labels,
        known=source.known_samples,
    )
    student = _student(config, name, source, reporter)
    view = _view(config, student, manifest)
    config = config.but(decoder=view.decoder_name)
    if manifest is not None:
        _check_store(config, manifest, student.geometry)
    else:
        plan_views(asked, None, view.mean)  # with the student's own mean
    stream = _train_stream(config, student.geometry, views, samples, view=view, source=source)
    steps_per_epoch = _steps_per_epoch(stream, config, process)
    val_stream = _val_stream(config, protocol, samples, stream, student.geometry)
    _check_shown(config, manifest, student, name, protocol, stream, val_stream)
    return RunPlan(
        asked=asked,
        config=config,
        out=out_of(config),
        student=student,
        stream=stream,
        val_stream=val_stream,
        protocol=protocol,
        steps_per_epoch=steps_per_epoch,
        samples=samples.to_json(),
        ticket_store=source.recorded(config),
        classes=classes,
    )


def _going_on(config: TrainConfig, source: RunSource, process: Process) -> tuple[TrainConfig, ClassList | None]:
    """The configuration as these processes share its batches, those of a run that goes on; and the classes listed
    beside the shards, which have to be that run's.
    """
    saved = read_record(out_of(config) / RECORD_FILE) if config.run.resume else None
    config = dealt(config, saved, process)
    classes = class_list_beside(source.shards)
    if config.run.resume:
        check_resumed_classes(out_of(config), classes)
    return config, classes


def _student(config: TrainConfig, name: str, source: RunSource, reporter: Reporter) -> Student:
    """The student, if it can do what the run asks of it."""
    student = make_student(config, name, source.manifest, reporter)
    if source.baked is not None:
        source.baked.check_student(student, name)
    check_student(student, config, name)
    return student


def _check_shown(
    config: TrainConfig,
    manifest: Manifest | None,
    student: Student,
    name: str,
    protocol: EvalProtocol | None,
    stream: StreamConfig,
    val_stream: StreamConfig | None,
) -> None:
    """Refuses patches that the student cannot be shown, in training or in validation."""
    if protocol is not None and val_stream is not None:
        check_protocol(student, protocol, val_stream.num_keep, name, config.val_tickets)
    compiled = config.student.compile
    if manifest is not None:
        check_counts(manifest, str(config.tickets), stream, student, name, compiled=compiled)
    if val_stream is not None and config.val_tickets is not None:
        theirs = read_manifest(config.remote.location(config.val_tickets))
        check_counts(theirs, config.val_tickets, val_stream, student, name, compiled=compiled)


def _steps_per_epoch(stream: StreamConfig, config: TrainConfig, process: Process) -> int:
    """Steps of an epoch.

    Raises:
        OptionError: there is none.
    """
    steps = num_train_steps(stream.num_shown, config.recipe.batch_size, process.world_size)
    if steps == 0:
        raise OptionError(
            f"{stream.num_shown} samples are fewer than one batch of {config.recipe.batch_size} on "
            f"{process.world_size} process(es); lower `batch_size`"
        )
    return steps


def _with_views(config: TrainConfig, plan: ViewPlan) -> TrainConfig:
    """The configuration with what its views came to; replayed ones are the store's, so their numbers stay unset."""
    if plan.mode == "replay":
        return config.but(view_mode="replay", num_views=plan.num_views)
    colours = {f.name: getattr(plan.policy.augment, f.name) for f in fields(plan.policy.augment)}
    num_views = plan.num_views if plan.mode == "warp" and config.num_views is not None else None
    return config.but(view_mode=plan.mode, num_views=num_views, augment=plan.policy.name, **colours)


def _view(config: TrainConfig, student: Student, manifest: Manifest | None) -> View:
    """The view that tickets are of, or the student's own; by the decoder that is asked for, where one may be."""
    view = manifest.view if manifest else center_view_of(student.net, student.geometry.image_px)
    return shown_by(view, config.views.decoder, known=None if manifest is None else view, whose=f"{config.tickets}")


def _check_store(config: TrainConfig, manifest: Manifest, geometry: Geometry) -> None:
    assert config.tickets is not None
    assert config.student.model is not None
    check_tickets(manifest, config.tickets, geometry, manifest.view, config.student.model)
    if config.control == "inverse" and not manifest.has_ranks:
        raise OptionError(f"`control='inverse'` needs ranks, which {config.tickets} lacks; select again with `ranks`")


def _train_stream(
    c: TrainConfig,
    geometry: Geometry,
    views: ViewPlan,
    samples: RunSamples,
    *,
    view: View,
    source: RunSource,
) -> StreamConfig:
    assert c.data.num_classes is not None
    manifest = source.manifest
    return StreamConfig(
        shards=samples.training.shards,
        view=view,
        image_px=geometry.image_px,
        mode=geometry.mode,
        grid=geometry.grid,
        subset=subset_of(c.control),
        student_px=resized_px(geometry, mean_kept(manifest)) if manifest and c.control == "resize" else None,
        num_keep=mean_kept(manifest) if manifest else geometry.num_patches,
        own_counts=manifest is not None and takes_counts(manifest, c.control),
        batch_size=c.recipe.batch_size,
        num_classes=c.data.num_classes,
        seed=c.run.seed,
        join=samples.join,
        skipped_keys=manifest.skipped_keys if manifest else frozenset(),
        view_mode=views.mode,
        augment=views.policy.augment if views.mode == "static" else None,
        policy=None if views.mode == "static" else views.policy,
        num_views=views.num_views,
        views_seed=views.seed,
        random_erasing=c.mixing.random_erasing,
        mixing=c.mixing.is_on,
        token_labels=c.student.token_labels == "store",
        on_bad_image=c.data.on_bad_image,
        shuffle_buffer=c.data.shuffle_buffer,
        repeats=c.views.repeats,
        baked=None if source.baked is None else source.baked.source,
    )


def _val_stream(
    c: TrainConfig, protocol: EvalProtocol | None, samples: RunSamples, stream: StreamConfig, geometry: Geometry
) -> StreamConfig | None:
    if samples.validation is None or protocol is None:
        return None
    assert c.student.model is not None
    return eval_stream(
        samples.validation,
        None if c.val_tickets is None else c.remote.location(c.val_tickets),
        protocol=protocol,
        view=center_of(stream.view),
        geometry=geometry,
        model=c.student.model,
        num_classes=stream.num_classes,
        num_keep=stream.num_keep,
        ratio=c.ratio,
        batch_size=c.recipe.batch_size,
        seed=c.run.seed,
        joins=c.joins,
        on_bad_image=c.data.on_bad_image,
    )
