"""Agreement of the tickets that training would use with those that the selector gives what the student really sees.

The student's batches come from the very stream that `train` would open; the selector is then run online on their
pixels, mixed and erased as they are. Agreement is the intersection over union (IoU) of two sets of K patches.

Letters: B batch, K kept patches, P patches of the grid.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...artifacts_schema import (
    Manifest,
    OptionError,
    SampleError,
    Selector,
    TicketMismatchError,
    TicketStore,
    read_manifest,
)
from ...artifacts_schema.thinning import refuse_adaptive
from ...artifacts_schema.tickets import mirror, unpack_mask
from ..data.images import normalize
from ..data.loader import iterate, num_workers_for
from ..data.packing import EncodedSample, write_shards
from ..data.policies import policy_of
from ..data.shards import RawSample, iter_samples, resolve_shards
from ..data.stream_config import StreamConfig, StreamPosition
from ..data.student_stream import SampleStream
from ..models.checkpoints import find_weights
from ..models.registry import create_vit
from ..models.selector import TicketSelector
from ..models.weights import vit_weights, vit_with, weights_sha256
from ..options import CascadeOptions, ViewMode
from ..runtime.distributed import Process, process_group
from ..runtime.precision import autocast
from ..runtime.reporting import Reporter, SilentReporter
from ..selection.choosing import checked_selector, chooser_of
from ..selection.config import DrawnViewOptions, SelectConfig
from ..selection.select import select
from ..selection.selectors import CASCADE, NamedSelector, without_labels
from ..training.config import TrainConfig
from ..training.groups import MixingOptions
from ..training.mixing import Mix, draw_mix, mix_batch
from ..training.plan import plan_run
from .config import BATCH_SIZE, FidelityConfig

_ERASING = 0.25  # as `train` erases by default


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityRow:
    """IoU over the images of one way to train, against the selector online."""

    name: str
    mean: float
    percentile_5: float
    num_images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityResult:
    """Rows of a measurement, and how many of how many patches are kept."""

    rows: list[FidelityRow]
    num_keep: int
    num_patches: int
    augment: str


def fidelity(config: FidelityConfig, reporter: Reporter | None = None) -> FidelityResult:
    """Measures a store, or, without one, every way to train on a sample of the shards.

    Raises:
        DatalttError: anything that the user can mend.
    """
    if config.cascade.ratio is None and config.cascade.keep_rate is None:
        config = config.but(ratio=0.5)
    policy_of(config.augment, min_crop=config.min_crop)  # refuses what there is not, before anything is selected
    reporter = reporter or SilentReporter()
    with (
        process_group(config.runtime.device) as process,
        tempfile.TemporaryDirectory(prefix="dataltt-fidelity-") as folder,
    ):
        if process.world_size > 1:
            raise OptionError("fidelity runs in one process; leave torchrun out")
        stores = [config.tickets] if config.tickets else _make_stores(config, Path(folder), reporter)
        manifest = read_manifest(config.remote.location(stores[-1]))
        meter = _Meter(config, manifest, process, reporter)
        rows = [row for store in stores for row in meter.rows(store)]
        if config.tickets is None:
            rows.insert(1, _static_under_crops(stores[0], stores[-1]))
    return FidelityResult(
        rows=rows,
        num_keep=manifest.num_keep,
        num_patches=manifest.num_patches,
        augment=manifest.view.policy_name or "none",
    )


def _make_stores(config: FidelityConfig, folder: Path, reporter: Reporter) -> list[str]:
    """Tickets of a sample of the shards: for the centre view, the whole image, and drawn views; with ranks."""
    if config.shards is None:
        raise OptionError("which images? give `shards`, or `tickets` of a store whose shards are here")
    samples = itertools.chain.from_iterable(
        iter_samples(s) for s in resolve_shards(config.shards, config.remote.access)
    )
    sample = list(itertools.islice(samples, config.images))
    if len(sample) < BATCH_SIZE:
        raise SampleError(f"{config.shards} holds {len(sample)} images; at least {BATCH_SIZE} are needed")
    _write_sample(sample, folder / "shards", reporter)
    base = SelectConfig(
        model=config.model,
        checkpoint=config.checkpoint,
        image_px=config.image_px,
        selector=config.selector or CASCADE,
        selector_option=config.selector_option,
        shards=str(folder / "shards" / "sample-*.tar"),
        cascade=config.cascade,
        ranks=True,
        views=DrawnViewOptions(seed=config.seed),
        runtime=config.runtime,
    )
    drawn = {"augment": config.augment, "min_crop": config.min_crop, "num_views": config.num_views}
    kinds: dict[str, dict[str, Any]] = {
        "center": {"augment": "none", "num_views": 1},
        "whole": {"augment": "whole", "num_views": 1},
        "drawn": drawn,
    }
    stores = []
    for name, changes in kinds.items():
        reporter.message(f"selecting for {name} views")
        each = base.but(out=folder / f"{name}.zarr", **changes)
        select(each, reporter)
        stores.append(str(each.out))
    return stores


def _write_sample(sample: list[RawSample], folder: Path, reporter: Reporter) -> None:
    # Whatever its extension says, an image is known by its first bytes. Labels play no part.
    encoded = (EncodedSample(key=s.key, image=s.image, extension="jpg", label=0) for s in sample)
    write_shards(
        encoded, folder, name="sample", max_count=len(sample), classes=["any"], total=len(sample), reporter=reporter
    )


def _online(
    config: FidelityConfig, manifest: Manifest, device: torch.device, reporter: Reporter
) -> Callable[[Tensor, Sequence[str]], Tensor]:
    """The store's selector, to run on what students are shown: patch orders int64 [B, P] of images and their names.

    Raises:
        OptionError: another selector is asked for, or it chooses by labels.
        TicketMismatchError: other weights than the store's.
    """
    refuse_adaptive(manifest, str(config.tickets), "fidelity runs a selector that keeps one number")
    if config.image_px not in (None, manifest.image_px):
        raise OptionError(
            f"`image_px={config.image_px}`: {config.tickets} is of images of {manifest.image_px} px; leave it out"
        )
    s = manifest.selector
    named = _named(config, s, reporter)
    if named is not None and not named.needs_weights:
        vit = create_vit(config.model, image_px=manifest.image_px)
    else:
        file = None if config.checkpoint is None else find_weights(config.checkpoint)
        weights = vit_weights(config.model, file)
        vit = vit_with(weights, f"{file}", config.model, image_px=manifest.image_px, needs_head=False)
        found, expected = weights_sha256(vit, weights), s.weights_sha256 or ""
        if found != expected:
            raise TicketMismatchError(
                f"{config.tickets} was selected with other weights (SHA-256 {expected[:12]}…) "
                f"than these ({found[:12]}…); give those with `model={s.model!r}` and `checkpoint`"
            )
    if named is None:  # with the counts that it had, whatever rounds them now
        cascade = TicketSelector(vit, s.drop_blocks, s.keep_counts).to(device)
        return lambda images, names: cascade(images)
    chooser = chooser_of(named, CascadeOptions(ratio=s.ratio), vit, config.model, device)
    if chooser.uses_labels:
        raise OptionError(f"{s.title} chooses by labels, of which mixed images have two; {without_labels(named)}")
    return lambda images, names: chooser.order(images, torch.zeros(len(images), dtype=torch.int64), names).order


def _named(config: FidelityConfig, stored: Selector, reporter: Reporter) -> NamedSelector | None:
    """The store's selector by name, None of the cascade.

    Raises:
        OptionError: another is asked for, or the store's is not known here.
    """
    of_store = [f"{key}={value}" for key, value in (stored.settings or {}).items()]
    is_asked = config.selector is not None or config.selector_option
    options = config.selector_option if is_asked else of_store
    kept = CascadeOptions(ratio=stored.ratio, keep_rate=stored.keep_rate)
    named = checked_selector(config.selector or stored.name or CASCADE, options, kept, config.checkpoint)
    here = (None, None, None) if named is None else (named.name, dict(named.settings), named.package)
    if here[:2] != (stored.name, stored.settings):
        raise OptionError(
            f"{config.tickets} has tickets by {stored.title}; leave `selector` and `selector_option` out to measure it"
        )
    if here[2] != stored.package:
        reporter.message(f"note: {config.tickets} was selected with {stored.package}, and this is {here[2]}")
    return named


class _Meter:
    """Compares what streams keep with what the selector would keep."""

    def __init__(self, config: FidelityConfig, manifest: Manifest, process: Process, reporter: Reporter) -> None:
        self.order = _online(config, manifest, process.device, reporter)
        self.config, self.process, self.reporter = config, process, reporter
        self.num_workers = num_workers_for(config.runtime.workers)

    def rows(self, store: str) -> Iterator[FidelityRow]:
        """Measures every way to train on a store."""
        m = read_manifest(self.config.remote.location(store))
        if m.view.kind == "center":
            yield self._row("static", self._stream(store, "static"))
            if m.has_ranks:
                yield self._row("warp, centre view", self._warped(store, 1))
            return
        if m.view.policy_name == "whole":
            if m.has_ranks:
                yield self._row("warp, whole image", self._warped(store, 1))
            return
        if m.has_ranks:
            for n in sorted({1, 2, 4, m.num_views} & set(range(1, m.num_views + 1))):
                yield self._row(f"warp, {n} view{'s' if n > 1 else ''}", self._warped(store, n))
        replayed = self._stream(store, "replay")
        yield self._row("random subset", replace(replayed, subset="random"))
        yield self._row("replay", replayed)
        yield self._row("replay, erased", replace(replayed, random_erasing=_ERASING))
        yield from self._mixed_rows(replayed, has_ranks=m.has_ranks)

    def _mixed_rows(self, replayed: StreamConfig, *, has_ranks: bool) -> Iterator[FidelityRow]:
        assert replayed.join is not None
        kinds: list[tuple[str, Mix | MixingOptions]] = [
            ("cutmix", MixingOptions(mixup=0.0)),
            ("mixup", MixingOptions(cutmix=0.0)),
            ("mixup at λ = 0.5", Mix(lam=0.5)),
        ]
        for with_ranks in (True, False) if has_ranks else (False,):
            join = replace(replayed.join, ranks=with_ranks)
            for name, mix in kinds:
                label = f"replay, {name}" + ("" if with_ranks else ", without ranks")
                yield self._row(label, replace(replayed, join=join, mixing=True), mix)

    def _stream(self, store: str, views: ViewMode, num_views: int | None = None) -> StreamConfig:
        """Stream that `train` would open, without erasing and mixing."""
        train = TrainConfig.of(
            out="unused",
            tickets=store,
            **self.config.remote.flat(),
            shards=self.config.shards if self.config.tickets else None,
            model=self.config.model,
            num_classes=1,
            view_mode=views,
            num_views=num_views,
            augment=None if views == "replay" else self.config.augment,
            min_crop=self.config.min_crop if views == "warp" else None,
            random_erasing=0.0,
            mixup=0.0,
            cutmix=0.0,
            batch_size=BATCH_SIZE,
            workers=self.config.runtime.workers,
            seed=self.config.seed,
        )
        # Labels play no part: any class will do.
        stream = plan_run(train, self.process, self.reporter, any_labels=True).stream
        return replace(stream, num_classes=2**31, seed=self.config.seed)

    def _warped(self, store: str, num_views: int) -> StreamConfig:
        return self._stream(store, "warp", num_views)

    def _row(self, name: str, stream: StreamConfig, mix: Mix | MixingOptions | None = None) -> FidelityRow:
        ious: list[npt.NDArray[np.float64]] = []
        num_batches = self.config.images // BATCH_SIZE
        self.reporter.start(name, num_batches * BATCH_SIZE, "images")
        batches = iterate(
            SampleStream(stream, StreamPosition()),
            self.num_workers,
            stall_timeout_s=self.config.runtime.stall_timeout_s,
            reporter=self.reporter,
        )
        for step, batch in enumerate(itertools.islice(batches, num_batches)):
            images = normalize(batch.images.to(self.process.device), stream.view)
            keep = batch.keep_indices
            if mix is not None:
                drawn = draw_mix(mix, stream.grid, stream.seed, step) if isinstance(mix, MixingOptions) else mix
                scores = batch.scores.to(images.device)
                mixed = mix_batch(images, scores, drawn, grid=stream.grid, num_keep=stream.num_keep)
                images, keep = mixed.images, mixed.keep_indices
            assert keep is not None
            with autocast(images.device, self.config.runtime.precision):
                names = [f"{step}\x1f{number}" for number in range(len(images))]
                online = self.order(images, names)[:, : stream.num_keep]
            ious.append(_iou(keep.cpu(), online.cpu()))
            self.reporter.advance(len(images))
        self.reporter.finish()
        return _summary(name, np.concatenate(ious))


def _iou(a: Tensor, b: Tensor) -> npt.NDArray[np.float64]:
    """IoU of sets of K patches, int64 [B, K] each: float64 [B]."""
    shared = (a[:, :, None] == b[:, None, :]).sum(dim=(1, 2)).double()
    result: npt.NDArray[np.float64] = (shared / (a.shape[1] + b.shape[1] - shared)).numpy()
    return result


def _summary(name: str, ious: npt.NDArray[np.float64]) -> FidelityRow:
    return FidelityRow(
        name=name, mean=float(ious.mean()), percentile_5=float(np.percentile(ious, 5)), num_images=len(ious)
    )


def _static_under_crops(center: str, drawn: str) -> FidelityRow:
    """The centre view's ticket under random crops, mirrored as they are: what `train` refuses to do."""
    fixed, moving = TicketStore.open(center), TicketStore.open(drawn)
    m = moving.manifest
    rows = range(m.num_images)
    views = moving.read_views(rows, slice(1))
    assert views is not None
    theirs = unpack_mask(moving.read_tickets(rows, slice(1))[:, 0], m.num_patches)
    ours = unpack_mask(fixed.read_tickets(rows)[:, 0], m.num_patches)
    ours = np.where(views[1] > 0, mirror(ours, m.grid), ours)
    return _summary("centre ticket under crops", (ours & theirs).sum(1) / (ours | theirs).sum(1))
