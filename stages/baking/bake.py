"""Bakes the views of a ticket store: the patches that training reads, as WebDataset shards (artifacts_schema/baked.py).

Source shards are dealt to ranks, and on each rank to loader processes. A shard's tars appear when they are whole, and
what is done stays, so that the same call goes on.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from ...artifacts_schema import (
    IncompletePartsError,
    Manifest,
    OptionError,
    OutputExistsError,
    TicketMismatchError,
    TicketStore,
)
from ...artifacts_schema.baked import (
    BAKED_FILE,
    FORMAT_VERSION,
    BakedFile,
    BakedManifest,
    BakedPatches,
    is_baked,
    read_baked,
)
from ...artifacts_schema.files import check_writable, write_atomically, writing
from ...artifacts_schema.locking import lock_of
from ...artifacts_schema.space import check_space, shown_bytes
from ...artifacts_schema.thinning import refuse_adaptive
from ...artifacts_schema.writing.parts import begin_plan
from ..data.baked_tar import BakedFormat
from ..data.class_list import CLASSES_FILE, class_list_beside, keep_class_list
from ..data.comparing import Comparison, compare_shards
from ..data.fetching import fetch_store
from ..data.join import JoinConfig
from ..data.policies import replayed_policy
from ..data.shards import Shard, stored_shards
from ..runtime.board import Board
from ..runtime.distributed import Process, process_group
from ..runtime.locks import written_by_one
from ..runtime.reporting import Reporter, SilentReporter
from ..runtime.version import tool_version
from ..selection.parts import JobProgress, batches_of, keep_undone, make_all_parts
from .config import BakeConfig
from .shard_bakes import BakedPart, BakeRecipe, ShardBakes

PARTS = "parts"
_PART = TypeAdapter(BakedPart)
_LIBRARIES = ("pillow", "timm", "torch", "torchvision", "numpy")
# A JPEG of quality 95 takes a sixth of its pixels' bytes or less; room for a third of a guess is enough to begin.
_JPEG_SHARE = 1 / 6


def bake(config: BakeConfig, reporter: Reporter | None = None) -> BakedManifest | None:
    """Bakes a store's views; under torchrun, this process's share of them.

    Returns:
        The manifest of the finished folder on rank 0, None on the others.

    Raises:
        DatalttError: anything that the user can mend. Finished shards stay, and the same call goes on from them.
    """
    if not (config.out / PARTS).exists():  # else a bake was killed, perhaps after its end
        _check_destination(config.out, overwrite=config.overwrite)
    store = TicketStore.open(config.remote.location(config.tickets))
    patches, num_baked = which_patches(config.patches, store.manifest, config.tickets)
    num_views = _num_views(config, store.manifest)
    policy = replayed_policy(store.manifest.view, config.tickets, allow_other_pixels=config.on_other_pixels == "allow")
    form = _format(config, store.manifest, patches, num_baked)
    shards = stored_shards(store.location, store.manifest, config.shards)
    runtime = config.processes.runtime
    with (
        process_group(runtime.device, rank_timeout_s=runtime.rank_timeout_s) as process,
        written_by_one(
            process, lock_of(config.out), "dataltt bake", place=config.out, timeout_s=config.lock_timeout_s
        ) as check_lock,
    ):
        process.on_main(lambda: _check_destination(config.out, overwrite=config.overwrite))
        quiet = reporter if reporter is not None and process.is_main else SilentReporter()
        join = _join(config, store, num_views)
        fetch_store(store, quiet)
        compared = compare_shards(shards, store, join, quiet, recount=config.joins.recount)
        if process.is_main:
            _check_room(config, form, compared.num_joined * num_views, quiet)
        recipe = BakeRecipe(
            out=config.out,
            manifest=store.manifest,
            policy=policy,
            num_views=num_views,
            form=form,
            quality=config.jpeg_quality,
            join=join,
            names=file_names([s.name for s in shards]),
            on_bad_image=config.on_bad_image,
        )
        plan = _plan(config, recipe, patches, compared)
        bakes = ShardBakes(list(enumerate(compared.shards)), recipe)
        return make_all_parts(
            process,
            runtime,
            quiet,
            begin=lambda: _begin(config, plan),
            make=lambda board: _make_parts(config, bakes, process, board, quiet),
            commit=lambda progress: _commit(config, recipe, patches, shards, progress),
            check_lock=check_lock,
            writing=BAKED_FILE,
            num_shards=len(shards),
        )


def which_patches(asked: str, manifest: Manifest, tickets: str) -> tuple[BakedPatches, int]:
    """Resolves which patches are baked, and how many of each view, from `kept`, `all` or a share.

    Raises:
        OptionError: it is none of these, or less than a ticket, or needs ranks.
    """
    refuse_adaptive(manifest, tickets, "a baked folder has equal numbers of patches in all samples")
    if asked == "kept":
        return "kept", manifest.num_keep
    if asked == "all":
        return "all", manifest.num_patches
    try:
        share = float(asked)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise OptionError(f"`patches={asked!r}` should be 'kept', 'all', or a share in (0, 1], such as 0.7")
    num_baked = math.ceil(share * manifest.num_patches - 1e-9)
    if num_baked < manifest.num_keep:
        raise OptionError(
            f"`patches={asked!r}` is {num_baked} patches, and tickets in {tickets} keep {manifest.num_keep}; give a "
            "larger share, or 'kept'"
        )
    if num_baked == manifest.num_patches:
        return "all", num_baked
    if not manifest.has_ranks:
        raise OptionError(
            f"`patches={asked!r}` takes the best by rank, and {tickets} has no ranks; give 'kept' or 'all', or select "
            "again with `ranks`"
        )
    return "share", num_baked


def file_names(shards: Sequence[str]) -> tuple[str, ...]:
    """Names of baked shards, without folder and extension: the source's own where they are distinct."""
    plain = [re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"\.tar(\.\w+)?$", "", PurePosixPath(s).name)) for s in shards]
    if len({name.lower() for name in plain}) == len(plain) and all(name.strip(".") for name in plain):
        return tuple(plain)
    return tuple(f"{number:06d}-{name}" for number, name in enumerate(plain))


def _num_views(config: BakeConfig, manifest: Manifest) -> int:
    if manifest.view.kind != "replay":
        raise TicketMismatchError(
            f"{config.tickets} holds the centre view, which training mirrors and colours anew in each epoch, so that "
            "it cannot be baked; select views that are drawn once: dataltt select --augment deit"
        )
    wanted = manifest.num_views if config.num_views is None else config.num_views
    if wanted > manifest.num_views:
        raise OptionError(f"`num_views={wanted}`: {config.tickets} holds {manifest.num_views}; ask for at most so many")
    return wanted


def _format(config: BakeConfig, manifest: Manifest, patches: BakedPatches, num_baked: int) -> BakedFormat:
    if config.encoding == "jpeg" and manifest.patch_px % 8:
        raise OptionError(
            f"`encoding='jpeg'`: patches of {manifest.patch_px} px are not whole blocks of 8, so that they would bleed "
            "into each other; give `encoding='raw'`"
        )
    return BakedFormat(
        num_patches=manifest.num_patches,
        num_baked=num_baked,
        num_keep=manifest.num_keep,
        patch_px=manifest.patch_px,
        channels=manifest.view.num_channels,
        encoding=config.encoding,
        is_whole=patches == "all",
        has_ranks=manifest.has_ranks,
    )


def _join(config: BakeConfig, store: TicketStore, num_views: int) -> JoinConfig:
    return JoinConfig(
        store=store.location,
        ranks=store.manifest.has_ranks,
        geometry=True,
        views=range(num_views),
        on_missing_ticket=config.joins.on_missing_ticket,
        on_changed_image=config.joins.on_changed_image,
    )


def _check_destination(out: Path, *, overwrite: bool) -> None:
    """Refuses to write where something else stands; what a bake killed after its end has left goes.

    Raises:
        OutputExistsError, DiskError
    """
    if is_baked(out):
        if not overwrite:
            shutil.rmtree(out / PARTS, ignore_errors=True)
            raise OutputExistsError(
                f"{out} is baked already; pass `overwrite=True` to bake it anew, or choose another `out`"
            )
    elif out.exists() and not (out / PARTS).is_dir() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(f"{out} exists and is not a baked folder; choose another `out`")
    check_writable(out)


def _check_room(config: BakeConfig, form: BakedFormat, num_samples: int, reporter: Reporter) -> None:
    """Says how much will be written, and ends where there is no room for it."""
    each, is_jpeg = form.largest_sample_bytes(), form.encoding == "jpeg"
    needed = num_samples * each * (_JPEG_SHARE if is_jpeg else 1.0)
    there = sum(path.stat().st_size for path in config.out.glob("view-*/*.tar")) if not config.overwrite else 0
    left = max(0.0, needed - there)
    reporter.message(f"baking {num_samples} views: about {shown_bytes(needed)}")
    warning = check_space(config.out, left, least=left / 3 if is_jpeg else left)
    if warning is not None:
        reporter.message(f"note: {warning}")


def _plan(config: BakeConfig, recipe: BakeRecipe, patches: BakedPatches, compared: Comparison) -> dict[str, Any]:
    """Plan of a bake, which its parts belong to: it goes on only if all of this is the same."""
    return {
        "tickets": recipe.manifest.digest,
        "patches": patches,
        "num_baked": recipe.form.num_baked,
        "encoding": config.encoding,
        "quality": config.jpeg_quality if config.encoding == "jpeg" else None,
        "num_views": recipe.num_views,
        "on_bad_image": config.on_bad_image,
        "libraries": _libraries(),
        "shards": [[counted.shard.name, counted.num_samples] for counted in compared.shards],
    }


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _begin(config: BakeConfig, plan: dict[str, Any]) -> None:
    out = config.out
    with writing(out):
        if is_baked(out):  # it is to be overwritten
            (out / BAKED_FILE).unlink()
            shutil.rmtree(out / PARTS, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        begin_plan(
            out / PARTS,
            plan,
            discard_others=config.overwrite,
            work="bake",
            suffix=".json",
            way_out="choose another `out`, or pass `overwrite=True` to discard them",
        )
        if not any((out / PARTS).glob("part-*.json")):
            for folder in out.glob("view-*"):
                shutil.rmtree(folder)


def _make_parts(config: BakeConfig, bakes: ShardBakes, process: Process, board: Board, reporter: Reporter) -> None:
    """Writes this rank's shards that are not there yet."""
    runtime, num_images = config.processes.runtime, sum(counted.num_samples for _, counted in bakes.shards)
    todo, num_todo = keep_undone(bakes, process, reporter, lambda index, _: _part_path(config.out, index).exists())
    reporter.start("baking", num_images if num_todo == len(bakes.recipe.names) else None, "images")
    progress = JobProgress(board, reporter, num_todo)
    for report in batches_of(bakes, runtime, process, len(todo), reporter):
        if report.part is not None:
            content = json.dumps(asdict(report.part)).encode()
            write_atomically(_part_path(config.out, report.number), content)
            progress.end_shard()
        progress.advance(report.num_images)
    progress.finish()


def _part_path(out: Path, index: int) -> Path:
    return out / PARTS / f"part-{index:06d}.json"


def _commit(
    config: BakeConfig,
    recipe: BakeRecipe,
    patches: BakedPatches,
    shards: Sequence[Shard],
    on_progress: Callable[..., None],
) -> BakedManifest:
    """Writes baked.json from the parts, and removes them."""
    out, parts = config.out, []
    for index in range(len(shards)):
        parts.append(_PART.validate_json(_part_path(out, index).read_bytes()))
        on_progress()
    num_images = sum(part.shard.num_samples for part in parts)
    if num_images == 0:
        raise IncompletePartsError(f"no image could be decoded, so nothing is baked in {out}; check the shards")
    keep_class_list(out, class_list_beside(shards))
    dataset = replace(recipe.manifest.dataset, source="")  # a private matter
    manifest = BakedManifest(
        format_version=FORMAT_VERSION,
        patches=patches,
        num_baked=recipe.form.num_baked,
        encoding=config.encoding,
        quality=config.jpeg_quality if config.encoding == "jpeg" else None,
        num_views=recipe.num_views,
        num_images=num_images,
        highest_label=max(part.highest_label for part in parts),
        shards=[part.shard for part in parts],
        libraries=_libraries(),
        created=_now(),
        tool_version=tool_version(),
        tickets=replace(recipe.manifest, dataset=dataset),
        classes=_file_of(out, CLASSES_FILE),
    )
    write_atomically(out / BAKED_FILE, (json.dumps(manifest.to_json(), indent=1) + "\n").encode())
    shutil.rmtree(out / PARTS)
    return read_baked(out)


def _file_of(out: Path, name: str) -> BakedFile | None:
    """A small file of the folder, if it is there."""
    if not (out / name).exists():
        return None
    content = (out / name).read_bytes()
    return BakedFile(path=name, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _now() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="seconds")
