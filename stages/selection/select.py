"""Stage one: a ticket selector runs once over the shards and writes a ticket store.

Shards are dealt to ranks, and on each rank to loader workers. Batches never span shards, so that what the selector
computes does not depend on how many ranks and workers there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from timm.models.vision_transformer import VisionTransformer

from ...artifacts_schema import (
    CheckpointError,
    Manifest,
    OptionError,
    Selector,
    TicketStore,
)
from ...artifacts_schema.adaptive import Shares, shares_of
from ...artifacts_schema.combining.extend import commit_extension
from ...artifacts_schema.locking import lock_of
from ...artifacts_schema.tickets import order_to_ranks, pack_ranks
from ...artifacts_schema.writing.commit import StoreSpec, commit
from ...artifacts_schema.writing.new_store import check_destination
from ...artifacts_schema.writing.parts import Part, begin_plan, part_path, parts_dir, read_header, write_part
from ...artifacts_schema.writing.room import selection_bytes
from ..data.class_list import listed_classes
from ..data.decoders import shown_by
from ..data.drawing import ViewDrawer
from ..data.images import normalize
from ..data.policies import POLICIES, Policy, describe, policy_of
from ..data.room import guessed_samples
from ..data.selection_stream import ShardBatches, ViewBatch
from ..data.shards import Shard, absolute_spec, given_shards, is_url, resolve_shards
from ..models.checkpoints import SELECTOR_FILE, find_weights, read_info
from ..models.registry import canonical_name, center_view_of, create_vit, geometry_of
from ..models.resampling import resampled_in_words
from ..models.weight_entries import entry_taken
from ..models.weights import vit_weights, vit_with, weights_sha256
from ..runtime.board import Board
from ..runtime.distributed import Process, process_group
from ..runtime.locks import written_by_one
from ..runtime.precision import autocast
from ..runtime.reporting import Reporter, SilentReporter
from ..runtime.version import tool_version
from .choosing import Chooser, checked_selector, chooser_of, described
from .config import SelectConfig
from .extend import extending, lacking
from .part_checks import PartChecks
from .parts import JobProgress, batches_of, check_room, keep_undone, make_all_parts
from .selectors import NamedSelector

# Views that are not drawn at random: one, and that one mirrored.
MAX_FIXED_VIEWS = 2
DEFAULT_VIEWS = 16  # the most that docs/views.md has measured
_SPLITS = ("train", "validation", "val", "test")


def select(config: SelectConfig, reporter: Reporter | None = None) -> Manifest | None:
    """Runs stage one; under torchrun, this process's share of it.

    Returns:
        The manifest of the finished store on rank 0, None on the others.

    Raises:
        DatalttError: anything that the user can mend. Finished parts stay, and the same call goes on from them.
    """
    check_destination(config.out, overwrite=config.overwrite)
    if config.views.augment not in ("none", *POLICIES):
        raise OptionError(
            f"`augment={config.views.augment!r}` is not known to this version; it has none, {', '.join(POLICIES)}"
        )
    policy = None if config.views.augment == "none" else policy_of(config.views.augment, min_crop=config.views.min_crop)
    num_views = _num_views(config, policy)
    # Cheap checks come before the model is loaded.
    named = checked_selector(config.selector, config.selector_option, config.cascade, config.checkpoint, config.budget)
    shards = resolve_shards(given_shards(config.shards), config.remote.access)
    base = None if config.extend is None else TicketStore.open(config.remote.location(config.extend))
    if base is not None:
        shards = lacking(base, shards)
    with (
        process_group(config.runtime.device, rank_timeout_s=config.runtime.rank_timeout_s) as process,
        written_by_one(
            process, lock_of(config.out), "dataltt select", place=config.out, timeout_s=config.lock_timeout_s
        ) as check_lock,
    ):
        check_destination(config.out, overwrite=config.overwrite)  # once more: nobody else can make it now
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        model, digest = _model(config, named, quiet)
        split = config.split or next((s for s in _SPLITS if s in shards[0].name), "unknown")
        chooser = chooser_of(
            named,
            config.cascade,
            model,
            config.model,
            process.device,
            split=split,
            budget=config.budget,
            base=None if base is None else base.manifest.adaptive,
        )
        if chooser.uses_labels and named is not None and named.package is None:
            _check_classes(model.num_classes, shards)
        selector = described(config, named, chooser, digest)
        spec = _store_spec(config, model, chooser, selector, shards, policy, num_views, base, split)
        if base is not None:
            spec = extending(base, spec, config, quiet)
        if process.is_main:
            check_room(config.out, parts_dir(config.out), _needed_bytes(spec, shards, base), quiet)
        plan, batches = _plan(spec, shards, config, base), _shard_batches(config, shards, spec, policy)
        return make_all_parts(
            process,
            config.runtime,
            quiet,
            begin=lambda: begin_plan(parts_dir(config.out), plan, discard_others=config.overwrite),
            make=lambda board: _make_parts(config, chooser, spec, batches, process, board, quiet, base),
            commit=lambda progress: _commit(config, spec, base, progress),
            check_lock=check_lock,
            writing="the store",
            num_shards=len(shards),
        )


def _check_classes(num_classes: int, shards: Sequence[Shard]) -> None:
    """Refuses labels that number other classes than the selector's head.

    Raises:
        OptionError
    """
    listed = listed_classes(shards)
    if listed not in (None, num_classes):
        raise OptionError(
            f"the selector's head has {num_classes} classes, and classes.json beside the shards lists {listed}: labels "
            "would name others of them; leave `selector_option='labels=true'` out"
        )


def _needed_bytes(spec: StoreSpec, shards: Sequence[Shard], base: TicketStore | None) -> int | None:
    num_images = guessed_samples(shards)
    of_base = 0 if base is None else sum(base.num_stored_bytes().values())
    return None if num_images is None else selection_bytes(spec, num_images) + of_base


def _commit(
    config: SelectConfig, spec: StoreSpec, base: TicketStore | None, on_progress: Callable[..., None]
) -> Manifest:
    if base is None:
        return commit(config.out, spec, overwrite=config.overwrite, on_progress=on_progress)
    return commit_extension(base, config.out, spec, overwrite=config.overwrite, on_progress=on_progress)


def _model(
    config: SelectConfig, named: NamedSelector | None, reporter: Reporter
) -> tuple[VisionTransformer, str | None]:
    """The selector's ViT with its weights, of a run's folder its best (else newest) ones, and these weights' digest;
    or with none that count.

    Raises:
        ModelError, CheckpointError
    """
    if named is not None and not named.needs_weights:
        return create_vit(config.model, image_px=config.image_px), None
    file = config.checkpoint
    if file is not None and file.is_dir():
        file = find_weights(file)
        reporter.message(f"weights: {file}")
        _note_other_share(config, config.checkpoint, reporter)
    weights = vit_weights(config.model, file)
    if file is not None and (said := entry_taken(file)):
        reporter.message(said)
    info = None if file is None else read_info(file)
    # Models whose weights have the same names and shapes may still want images normalised in another way.
    if info is not None and info.model != canonical_name(config.model):
        raise CheckpointError(
            f"{file} holds weights of {info.model}, not of {config.model}; give `model={info.model!r}`"
        )
    image_px = config.image_px or (info.image_px if info else None)
    model = vit_with(weights, f"{file}", config.model, image_px=image_px, needs_head=False)
    if said := resampled_in_words(model, weights):
        reporter.message(said)
    return model, weights_sha256(model, weights)


def _note_other_share(config: SelectConfig, run: Path | None, reporter: Reporter) -> None:
    """Says so where a selector was fitted to keep another share than it is to keep now."""
    path = None if run is None else run / SELECTOR_FILE
    if path is None or not path.exists():
        return
    fitted = json.loads(path.read_text())
    for name in ("ratio", "keep_rate"):
        if fitted.get(name) is not None and fitted[name] != getattr(config.cascade, name):
            option = f"`{name}={fitted[name]:g}`"
            reporter.message(f"note: {run} was fitted with {option}; a selector is best at the share it was fitted for")


def _shard_batches(
    config: SelectConfig, shards: Sequence[Shard], spec: StoreSpec, policy: Policy | None
) -> ShardBatches:
    drawer = ViewDrawer(policy, spec.view, image_px=spec.image_px, num_views=spec.num_views, seed=config.views.seed)
    return ShardBatches(
        list(enumerate(shards)),
        drawer,
        mode=spec.view.mode,
        batch_size=config.batch_size,
        on_bad_image=config.on_bad_image,
    )


def _num_views(config: SelectConfig, policy: Policy | None) -> int:
    """Number of views of each image.

    Raises:
        OptionError: views that would be alike, or none.
    """
    is_drawn = policy is not None and policy.crop_scale is not None
    num_views = config.views.num_views if config.views.num_views is not None else DEFAULT_VIEWS if is_drawn else 1
    if policy is None and config.views.min_crop is not None:
        raise OptionError(f"`min_crop={config.views.min_crop}` needs random crops, e.g. `augment='deit'`")
    if not is_drawn and not 1 <= num_views <= MAX_FIXED_VIEWS:
        raise OptionError(
            f"`num_views={num_views}`: without random crops an image has {MAX_FIXED_VIEWS} views, one and its mirror "
            "image; give 1 or 2, or a policy that crops, e.g. `augment='deit'`"
        )
    return num_views


def _store_spec(
    config: SelectConfig,
    model: VisionTransformer,
    chooser: Chooser,
    selector: Selector,
    shards: Sequence[Shard],
    policy: Policy | None,
    num_views: int,
    base: TicketStore | None,
    split: str,
) -> StoreSpec:
    geometry = geometry_of(model, config.model)
    known = None if base is None else base.manifest.view
    view = shown_by(center_view_of(model), config.views.decoder, known=known, whose=f"{config.extend}")
    if policy is not None:
        view = replace(view, kind="replay", augment=describe(policy, view, config.views.seed))
    return StoreSpec(
        grid=geometry.grid,
        patch_px=geometry.patch_px,
        image_px=geometry.image_px,
        num_keep=chooser.num_keep,
        adaptive=chooser.adaptive,
        num_views=num_views,
        has_ranks=config.ranks,
        has_views=num_views > 1 or policy is not None,
        selector=selector,
        view=view,
        dataset_name=config.name or _dataset_name(shards[0]),
        split=split,
        source=absolute_spec(given_shards(config.shards)),
        shards=[s.name for s in shards],
        tool_version=tool_version(),
        publication=config.publication.over(),
    )


def _dataset_name(shard: Shard) -> str:
    """Common part of the shards' names: imagenet-train-000017.tar is of imagenet-train."""
    return shard.name.rsplit(".", 1)[0].rstrip("0123456789-_") or shard.name


def _plan(spec: StoreSpec, shards: Sequence[Shard], config: SelectConfig, base: TicketStore | None) -> dict[str, Any]:
    """Plan of a selection, which its parts belong to: it goes on only if all of this is the same."""
    plan = asdict(spec)
    del plan["publication"]  # parts may be gone on from under another licence
    stats = [None if is_url(s.url) else Path(s.url).stat() for s in shards]
    plan["shards"] = [
        [s.name, *([] if st is None else [st.st_size, int(st.st_mtime)])] for s, st in zip(shards, stats, strict=True)
    ]
    plan["seed"], plan["on_bad_image"] = config.views.seed, config.on_bad_image
    if base is not None:
        plan["extend"] = base.manifest.digest
    return plan


def _make_parts(
    config: SelectConfig,
    chooser: Chooser,
    spec: StoreSpec,
    dataset: ShardBatches,
    process: Process,
    board: Board,
    reporter: Reporter,
    base: TicketStore | None,
) -> None:
    """Writes this rank's parts that are not there yet."""
    directory = parts_dir(config.out)
    checks = PartChecks(directory, base, given_shards(config.shards), reporter)
    todo, num_todo = keep_undone(dataset, process, reporter, lambda index, _: _is_done(directory, index))
    pending: dict[int, list[_Ordered]] = {}
    reporter.start("selecting tickets", None, "images")
    progress = JobProgress(board, reporter, num_todo)
    for batch in batches_of(dataset, config.runtime, process, len(todo), reporter):
        pending.setdefault(batch.index, []).append(_ordered(chooser, batch, spec, config, process))
        if batch.last:
            part = _part(spec.shards[batch.index], pending.pop(batch.index), spec)
            checks.check(part)
            write_part(directory, batch.index, part)
            progress.end_shard(part.num_rows)
        progress.advance(len(batch.keys))
    progress.finish()


def _is_done(directory: Path, index: int) -> bool:
    path = part_path(directory, index)
    return path.exists() and bool(read_header(path).shard)


class _Ordered(NamedTuple):
    """A batch with the orders of its views' patches."""

    batch: ViewBatch
    order: npt.NDArray[np.int64]  # [B, V, P], on each view's own grid
    shares: Shares | None  # [B, V, K - L], of adaptive tickets


def _ordered(
    chooser: Chooser,
    batch: ViewBatch,
    spec: StoreSpec,
    config: SelectConfig,
    process: Process,
) -> _Ordered:
    """Patch orders of every view."""
    a, lead = spec.adaptive, (len(batch.images), spec.num_views)
    if not batch.images:
        shares = None if a is None else np.empty((*lead, spec.num_shares), dtype=np.uint16)
        return _Ordered(batch, np.empty((*lead, spec.num_patches), dtype=np.int64), shares)
    pixels = torch.cat(batch.images).to(process.device, non_blocking=True)  # [B · V, channels, H, W]
    labels = torch.tensor(batch.labels, device=process.device).repeat_interleave(spec.num_views)
    names = [f"{key}\x1f{view}" for key in batch.keys for view in range(spec.num_views)]
    orders, held, first = [], [], 0
    with autocast(process.device, config.runtime.precision):
        for some in pixels.split(config.batch_size):
            these = slice(first, first := first + len(some))
            order, weights = chooser.order(normalize(some, spec.view), labels[these], names[these])
            orders.append(order.cpu().numpy())
            if a is not None:
                held.append(shares_of(weights.float().cpu().numpy(), a.least_keep, spec.num_keep))
    shares = None if a is None else np.concatenate(held).reshape(*lead, spec.num_shares)
    return _Ordered(batch, np.concatenate(orders).reshape(*lead, spec.num_patches), shares)


def _part(shard: str, ordered: Sequence[_Ordered], spec: StoreSpec) -> Part:
    batches = [each.batch for each in ordered]
    keys = [key for batch in batches for key in batch.keys]
    ranks = order_to_ranks(np.concatenate([each.order for each in ordered]))
    shares = [each.shares for each in ordered if each.shares is not None]
    boxes = flips = None
    if spec.has_views:
        boxes = np.array([b for batch in batches for b in batch.boxes], np.float32).reshape(-1, spec.num_views, 4)
        flips = np.array([f for batch in batches for f in batch.flips], np.uint8).reshape(-1, spec.num_views)
    return Part(
        shard=shard,
        keys=pa.array(keys, type=pa.large_string()),
        labels=np.array([label for batch in batches for label in batch.labels], dtype=np.int32),
        digests=np.array([digest for batch in batches for digest in batch.digests], dtype=np.uint64),
        tickets=pack_ranks(ranks, spec.num_keep),
        ranks=ranks if spec.has_ranks or shares else None,
        boxes=boxes,
        flips=flips,
        shares=np.concatenate(shares) if shares else None,
        skipped=[skipped for batch in batches for skipped in batch.skipped],
    )
