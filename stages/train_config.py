"""What a training run is asked to do, and what follows from it (shards, model, streams, steps), checked first."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from ..artifacts_schema import Manifest, OptionError, ShardError, TicketStore, View, read_manifest
from .data.counting import count_shards
from .data.join import JoinConfig
from .data.loader import num_workers_for
from .data.patches import Subset
from .data.shards import Shard, is_url, resolve_shards
from .data.shown import ViewMode
from .data.spans import CountedShard, num_train_steps
from .data.stream import StreamConfig
from .distributed import Process
from .evaluate import EvalProtocol, center_of, check_tickets, eval_stream
from .mixing import MixConfig
from .models.pruned_vit import TokenPrunedViT
from .models.registry import Geometry, canonical_name, center_view_of, create_vit, geometry_of
from .randomness import isolated_rng
from .reporting import Reporter
from .run_log import saved_config
from .view_plan import ViewPlan, plan_views

# What a store may name as the place of its shards without anybody having said so.
_SAFE_SCHEMES = frozenset({"http", "https", "s3", "gs", "hf"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What `dataltt train` is asked to do; the command line's options, by their names. Defaults: DeiT's recipe."""

    out: Path
    tickets: str | None = None
    shards: str | None = None
    val_shards: str | None = None
    val_tickets: str | None = None
    test: EvalProtocol | None = None
    model: str | None = None
    num_classes: int | None = None
    control: Subset = "ticket"
    epochs: int = 300
    batch_size: int = 128  # per process
    lr: float = 5e-4  # for a global batch of 512, scaled linearly
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: float | None = None  # None: 5, or a fifth of a short run
    weight_decay: float = 0.05
    smoothing: float = 0.1
    drop_path: float = 0.1
    views: ViewMode | None = None  # None: what the store was selected for
    num_views: int | None = None
    augment: str | None = None  # None: the store's recipe, or deit
    min_crop: float | None = None
    hflip: float | None = None  # None, here and below: the recipe's
    auto_augment: str | None = None
    color_jitter: float | None = None
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    ema_decay: float = 0.99996
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    max_steps: int | None = None
    resume: bool = False
    seed: int = 0
    workers: int | None = None
    device: str = "auto"
    shuffle_buffer: int = 2000
    log_steps: int = 50
    checkpoint_steps: int | None = None  # None: at the end of every epoch
    on_missing_ticket: Literal["error", "skip"] = "error"
    on_changed_image: Literal["error", "allow"] = "error"
    on_bad_image: Literal["error", "skip"] = "error"
    on_other_pixels: Literal["error", "allow"] = "error"
    recount: bool = False

    @property
    def mix(self) -> MixConfig:
        return MixConfig(mixup=self.mixup, cutmix=self.cutmix, probability=self.mix_prob, switch=self.mix_switch)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run that can start: `config` has every default filled in."""

    config: TrainConfig
    student: TokenPrunedViT
    stream: StreamConfig
    val_stream: StreamConfig | None
    protocol: EvalProtocol | None
    steps_per_epoch: int


def plan_run(config: TrainConfig, process: Process, reporter: Reporter) -> RunPlan:
    """Resolves a configuration, in the order in which it can fail, cheapest first.

    Raises:
        DatalttError: anything that the user can mend.
    """
    _check_options(config)
    protocol = _protocol(config)
    manifest = None if config.tickets is None else read_manifest(config.tickets)
    shards = _training_shards(config, manifest)
    store = None if config.tickets is None else TicketStore.open(config.tickets)
    name = config.model or (manifest.selector.model if manifest else None)
    if name is None:
        raise OptionError("which model? pass --model, e.g. deit_s")
    saved_workers = saved_config(config.out).get("workers") if config.resume else None
    config = replace(
        config,
        model=canonical_name(name),
        num_classes=_num_classes(config, store, shards),
        workers=num_workers_for(saved_workers if config.workers is None else config.workers, process.local_world_size),
        warmup_epochs=min(5.0, config.epochs / 5) if config.warmup_epochs is None else config.warmup_epochs,
        test=protocol,
    )
    with isolated_rng(config.seed, "initialisation"):
        vit = create_vit(name, num_classes=config.num_classes, drop_path_rate=config.drop_path)
    geometry = geometry_of(vit, name)
    if manifest is not None:
        _check_store(config, manifest, geometry)
    view = manifest.view if manifest else center_view_of(vit)
    views = plan_views(config, manifest, view.mean)
    config = _with_views(config, views)
    stream = _train_stream(
        config,
        geometry,
        views,
        view=view,
        num_keep=manifest.num_keep if manifest else geometry.grid[0] * geometry.grid[1],
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
    return RunPlan(
        config=config,
        student=TokenPrunedViT(vit),
        stream=stream,
        val_stream=_val_stream(config, protocol, stream, geometry, reporter),
        protocol=protocol,
        steps_per_epoch=steps_per_epoch,
    )


def _with_views(config: TrainConfig, plan: ViewPlan) -> TrainConfig:
    """The configuration with what its views came to; replayed ones are the store's, so their numbers stay unset."""
    if plan.mode == "replay":
        return replace(config, views="replay", num_views=plan.num_views)
    colours = {f.name: getattr(plan.recipe.augment, f.name) for f in fields(plan.recipe.augment)}
    num_views = plan.num_views if plan.mode == "warp" and config.num_views is not None else None
    return replace(config, views=plan.mode, num_views=num_views, augment=plan.recipe.name, **colours)


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
    if of_tickets or views.mode == "replay":
        assert c.tickets is not None
        join = JoinConfig(
            store=c.tickets,
            ranks=of_tickets and (c.control == "inverse" or views.mode == "warp" or (c.mix.is_on and has_ranks)),
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
        augment=views.recipe.augment if views.mode == "static" else None,
        recipe=None if views.mode == "static" else views.recipe,
        num_views=views.num_views,
        views_seed=views.seed,
        random_erasing=c.random_erasing,
        mixing=c.mix.is_on,
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
        subset=protocol,
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
    if config.shards is not None:
        return resolve_shards(config.shards)
    if manifest is None:
        raise OptionError("--control dense without --tickets: which shards? pass --shards")
    source = manifest.dataset.source
    try:
        shards = resolve_shards(source)
    except ShardError as error:
        raise ShardError(f"the shards that {config.tickets} names are not here ({error}); pass --shards") from error
    # A store is somebody else's; webdataset would run what stands behind pipe: as a command.
    if any(is_url(s.url) and s.url.split(":")[0] not in _SAFE_SCHEMES for s in shards):
        raise OptionError(f"{config.tickets} names its shards as {source!r}; pass --shards to say that you mean them")
    return shards


def _num_classes(config: TrainConfig, store: TicketStore | None, shards: list[Shard]) -> int:
    """As asked, else of the classes.json beside the shards, else the highest label in the store plus one."""
    if config.num_classes is not None:
        return config.num_classes
    listed = Path(shards[0].url).parent / "classes.json"
    if not is_url(shards[0].url) and listed.exists():
        try:
            return len(json.loads(listed.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise OptionError(f"{listed} does not list classes ({error}); mend it, or pass --num-classes") from None
    if store is not None:
        highest = int(store.read_labels(range(store.manifest.num_images)).max())
        if highest >= 0:
            return highest + 1
    raise OptionError("how many classes? pass --num-classes, or put a classes.json beside the shards")


_RANGES = {
    "lr": (0, float("inf")),
    "min_lr": (0, float("inf")),
    "warmup_epochs": (0, float("inf")),
    "weight_decay": (0, float("inf")),
    "smoothing": (0, 0.999),
    "drop_path": (0, 0.999),
    "hflip": (0, 1),
    "color_jitter": (0, float("inf")),
    "random_erasing": (0, 1),
    "mixup": (0, 1000),
    "cutmix": (0, 1000),
    "mix_prob": (0, 1),
    "mix_switch": (0, 1),
    "ema_decay": (0, 1),
}


def _check_options(config: TrainConfig) -> None:
    if config.control != "dense" and config.tickets is None:
        raise OptionError(f"--control {config.control} needs --tickets STORE (for which patches, or how many)")
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise OptionError(f"--{name.replace('_', '-')} {value} should lie between {low:g} and {high:g}")
    for name in ("epochs", "batch_size", "log_steps"):
        if getattr(config, name) < 1:
            raise OptionError(f"--{name.replace('_', '-')} {getattr(config, name)} should be at least 1")
    if config.val_tickets is not None and config.val_shards is None:
        raise OptionError("--val-tickets without --val-shards; give the shards that they are of")
    if config.test == "ticket" and config.val_tickets is None:
        raise OptionError("--test ticket needs --val-tickets (select tickets for the validation shards)")


def _protocol(config: TrainConfig) -> EvalProtocol | None:
    """How to validate: as asked, else on what (a), (b) and (c) of the paper are tested on; None without shards."""
    if config.val_shards is None or config.test is not None:
        return config.test if config.val_shards is not None else None
    if config.control == "dense":
        return "dense"
    if config.val_tickets is None:
        raise OptionError(
            "which patches to validate on? pass --val-tickets (winning tickets), or --test random or --test dense"
        )
    return "ticket"
