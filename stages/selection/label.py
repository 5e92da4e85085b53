"""Token labels: a classifier runs once over the views of a finished ticket store, and its label maps are added to it.

Shards are dealt to ranks and loader workers as in selection, and batches never span shards.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...artifacts_schema import (
    CheckpointError,
    IncompletePartsError,
    Labeller,
    LabelMaps,
    Manifest,
    ModelError,
    OptionError,
    TicketMismatchError,
    TicketStore,
    read_manifest,
)
from ...artifacts_schema.files import check_writable
from ...artifacts_schema.locking import lock_of
from ...artifacts_schema.writing.label_commit import check_unlabelled, commit_labels, local_store
from ...artifacts_schema.writing.label_parts import LabelPartWriter, label_parts_dir, open_label_part
from ...artifacts_schema.writing.parts import begin_plan, part_path
from ...artifacts_schema.writing.room import labelling_bytes
from ..data.class_list import class_list_beside, class_list_of_run, difference, listed_classes
from ..data.label_stream import StoredViews
from ..data.policies import Policy, replayed_policy
from ..data.shards import Shard, stored_shards
from ..models.checkpoints import find_weights, read_info
from ..models.dense_labels import DenseLabeller
from ..models.families import size_kwargs
from ..models.registry import ALIASES, canonical_name, create_network
from ..models.weight_bounds import sketched
from ..models.weights import check_weights, load_weights, num_classes_in, read_weights, weights_sha256
from ..runtime.board import Board
from ..runtime.distributed import Process, process_group
from ..runtime.locks import written_by_one
from ..runtime.precision import autocast
from ..runtime.reporting import Reporter, SilentReporter
from ..runtime.version import tool_version
from .config import LabelConfig
from .parts import JobProgress, batches_of, check_room, keep_undone, make_all_parts


def label(config: LabelConfig, reporter: Reporter | None = None) -> Manifest | None:
    """Writes token labels into a store; under torchrun, this process's share of them.

    Returns:
        The store's new manifest on rank 0, None on the others.

    Raises:
        DatalttError: anything that the user can mend. The store stays as it was, and the same call goes on from the
            finished parts.
    """
    path = local_store(config.tickets)
    manifest = read_manifest(config.tickets)
    check_unlabelled(path, manifest, overwrite=config.overwrite)
    for place in (path, path.parent):
        check_writable(place)
    policy = _policy(config, manifest)
    shards = _shards_in_order(config, manifest)
    with (
        process_group(config.runtime.device, rank_timeout_s=config.runtime.rank_timeout_s) as process,
        written_by_one(
            process, lock_of(path), "dataltt label", place=path, timeout_s=config.lock_timeout_s
        ) as check_lock,
    ):
        check_unlabelled(path, read_manifest(config.tickets), overwrite=config.overwrite)  # nobody else can now
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        model = load_labeller(config, quiet).to(process.device)
        _check_channels(model, manifest, config)
        labeller = _labeller(config, model)
        _check_classes(config, labeller, shards, quiet)
        views = StoredViews(
            config.tickets,
            manifest,
            list(enumerate(shards)),
            policy=policy,
            batch_size=config.batch_size,
            on_changed_image=config.on_changed_image,
        )
        if process.is_main:
            needed = labelling_bytes(manifest.num_images, manifest.num_views, manifest.num_patches)
            check_room(path, label_parts_dir(path), needed, quiet)
        return make_all_parts(
            process,
            config.runtime,
            quiet,
            begin=lambda: _begin(path, manifest, labeller, config),
            make=lambda board: _make_parts(config, model, views, process, board, quiet),
            commit=lambda progress: commit_labels(path, labeller, overwrite=config.overwrite, on_progress=progress),
            check_lock=check_lock,
            writing="the token labels",
            num_shards=len(shards),
        )


def _begin(path: Path, manifest: Manifest, labeller: Labeller, config: LabelConfig) -> None:
    begin_plan(
        label_parts_dir(path),
        _plan(manifest, labeller, config),
        discard_others=config.overwrite,
        work="labelling",
        way_out="or give `overwrite=True` to discard them",
    )


def load_labeller(config: LabelConfig, reporter: Reporter) -> DenseLabeller:
    """The labelling network with its weights.

    Raises:
        ModelError, CheckpointError
    """
    name = config.model
    if config.checkpoint is None:
        if name in ALIASES and ALIASES[name].kwargs:
            raise CheckpointError(f"there are no pretrained weights of {name}; give `checkpoint`")
        return DenseLabeller(create_network(name, pretrained=True, num_classes=config.num_classes), name)
    file = find_weights(config.checkpoint)
    if file != config.checkpoint:
        reporter.message(f"weights: {file}")
    info = read_info(file)
    if info is not None and info.model != canonical_name(name):
        raise CheckpointError(f"{file} holds weights of {info.model}, not of {name}; give `model={info.model!r}`")
    weights = read_weights(file)
    num_classes = num_classes_in(weights)
    if None not in (num_classes, config.num_classes) and num_classes != config.num_classes:
        raise OptionError(f"`num_classes={config.num_classes}`: {file} has {num_classes} classes; leave it out")
    num_classes = config.num_classes if num_classes is None else num_classes
    sizes = size_kwargs(name, info.image_px) if info else {}

    def make() -> nn.Module:
        return create_network(name, num_classes=num_classes, **sizes)

    check_weights(sketched(make), weights, str(file), name)
    net = make()
    load_weights(net, weights, str(file), name)
    return DenseLabeller(net, name)


def _policy(config: LabelConfig, manifest: Manifest) -> Policy | None:
    """Policy that drew the store's views; None for the centre view."""
    if manifest.view.kind == "center":
        return None
    allow = config.on_other_pixels == "allow"
    return replayed_policy(manifest.view, config.tickets, allow_other_pixels=allow)


def _shards_in_order(config: LabelConfig, manifest: Manifest) -> list[Shard]:
    """The store's shards, in its order.

    Raises:
        TicketMismatchError: the shards given are others.
    """
    found = {s.name: s for s in stored_shards(config.remote.location(config.tickets), manifest, config.shards)}
    names = manifest.dataset.shards
    for name in names:
        if name not in found:
            raise TicketMismatchError(
                f"shard {name} of {config.tickets} is not among the shards given; token labels are of all rows, so "
                "give the `shards` it was made from"
            )
    for name in found:
        if name not in names:
            raise TicketMismatchError(
                f"{found[name].url} is not a shard of {config.tickets}; give the `shards` it was made from"
            )
    return [found[name] for name in names]


def _check_channels(model: DenseLabeller, manifest: Manifest, config: LabelConfig) -> None:
    stored, wanted = manifest.view.num_channels, len(model.input_format.mean)
    if wanted not in (stored, 3):
        raise ModelError(
            f"{config.model} takes {wanted} channel(s), and {config.tickets} shows images of {stored}; label with "
            "another `model`"
        )


def _check_classes(config: LabelConfig, labeller: Labeller, shards: Sequence[Shard], reporter: Reporter) -> None:
    """Compares the labeller's classes with those of the images: by name where both are listed, else by number.

    Raises:
        OptionError: a class has two numbers, or a number two classes.
    """
    listed = listed_classes(shards)
    if listed is not None and listed != labeller.num_classes:
        reporter.message(
            f"note: {config.model} has {labeller.num_classes} classes, and classes.json beside the shards lists "
            f"{listed}; students of these images will refuse such token labels"
        )
    trained = None if config.checkpoint is None else class_list_of_run(config.checkpoint)
    given = None if trained is None else class_list_beside(shards)
    if trained is None or given is None:
        return
    found = difference(trained, given)
    if found is not None:
        raise OptionError(f"{found}; label with a model that was trained on the classes of these images")


def _labeller(config: LabelConfig, model: DenseLabeller) -> Labeller:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")  # as for the store itself
    now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return Labeller(
        model=canonical_name(config.model),
        weights_sha256=weights_sha256(model.net),
        num_classes=model.num_classes,
        precision=config.runtime.precision,
        tool_version=tool_version(),
        created=now.isoformat(timespec="seconds"),
    )


def _plan(manifest: Manifest, labeller: Labeller, config: LabelConfig) -> dict[str, Any]:
    """Plan of a labelling, which its parts belong to: it goes on only if all of this is the same."""
    plan = {k: v for k, v in asdict(labeller).items() if k != "created"}
    plan["store"] = manifest.digest
    plan["on_changed_image"], plan["on_other_pixels"] = config.on_changed_image, config.on_other_pixels
    return plan


def _make_parts(
    config: LabelConfig,
    model: DenseLabeller,
    views: StoredViews,
    process: Process,
    board: Board,
    reporter: Reporter,
) -> None:
    """Writes this rank's parts that are not there yet."""
    directory = label_parts_dir(Path(config.tickets))
    m, store = views.manifest, TicketStore.open(config.tickets)
    todo, num_todo = keep_undone(
        views, process, reporter, lambda index, shard: _is_done(directory, index, shard, store)
    )
    writers: dict[int, LabelPartWriter] = {}
    names = dict(todo)
    num_images = process.sum(torch.tensor([sum(len(store.rows_of_shard(s.name) or ()) for _, s in todo)]))
    reporter.start("labelling tokens", int(num_images.item()), "images")
    progress = JobProgress(board, reporter, num_todo)
    for batch in batches_of(views, config.runtime, process, len(todo), reporter):
        if batch.index not in writers:
            writers[batch.index] = LabelPartWriter(
                directory, batch.index, names[batch.index].name, num_views=m.num_views, num_patches=m.num_patches
            )
        if batch.images:
            writers[batch.index].append(_label_maps(model, batch.images, m, config, process.device))
        if batch.last:
            writers.pop(batch.index).close()
            progress.end_shard()
        progress.advance(len(batch.images))
    progress.finish()


def _is_done(directory: Path, index: int, shard: Shard, store: TicketStore) -> bool:
    path = part_path(directory, index)
    if not path.exists():
        return False
    part = open_label_part(path)
    if part.shard != shard.name or part.num_rows != len(store.rows_of_shard(shard.name) or ()):
        raise IncompletePartsError(f"{path} is not of shard {shard.name}; delete it and label again")
    return True


def _label_maps(
    model: DenseLabeller, images: Sequence[Tensor], m: Manifest, config: LabelConfig, device: torch.device
) -> LabelMaps:
    """Label maps of every view, ids and scores [B, V, P, 5], on each view's own grid."""
    pixels = torch.cat(list(images)).to(device, non_blocking=True)  # [B · V, channels, H, W]
    expected = model.input_format
    mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (expected.mean, expected.std))
    ids, scores = [], []
    with autocast(device, config.runtime.precision):
        for some in pixels.split(config.batch_size):
            # A grey image has three equal channels for a network that wants so many.
            grey_or_rgb = some.expand(-1, len(expected.mean), -1, -1).float()
            found = model.label(grey_or_rgb.div_(255).sub_(mean).div_(std), m.grid)
            ids.append(found[0].cpu().numpy().astype(np.uint16))
            scores.append(found[1].cpu().numpy().astype(np.float16))
    lead = (len(images), m.num_views, m.num_patches, -1)
    return LabelMaps(np.concatenate(ids).reshape(lead), np.concatenate(scores).reshape(lead))
