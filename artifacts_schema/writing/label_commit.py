"""Commit of token labels to a finished store: written beside it, moved in, and last named by its manifest.

At every moment the store is valid: what stands in `token_labels` and is not named by the manifest is nobody's, and is
replaced by the next commit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import zarr

from ..errors import DiskError, IncompletePartsError, OptionError, OutputExistsError
from ..files import clear_left_behind, removing, writing
from ..layout import array_specs
from ..local_notes import keep_source
from ..manifest import Labeller, Manifest
from ..manifest_parsing import parse_manifest
from ..store import TicketStore
from ..token_labels import FOLDER, bad_label_maps
from .array_writer import ArrayWriter
from .label_parts import LabelPart, label_parts_dir, open_label_part
from .new_store import hash_objects, object_sizes
from .parts import part_path
from .root import replace_manifest


def check_unlabelled(store_path: Path, manifest: Manifest, *, overwrite: bool) -> None:
    """Refuses to replace token labels that were not said to be replaced.

    Raises:
        OutputExistsError
    """
    if manifest.token_labels is not None and not overwrite:
        raise OutputExistsError(
            f"{store_path} has token labels of {manifest.token_labels.model}; pass `overwrite=True` to replace them"
        )


def local_store(store: str) -> Path:
    """The folder of a store that is to be written to.

    Raises:
        OptionError: it is a URL.
    """
    path = Path(store)
    if "://" in store and not path.exists():
        raise OptionError(f"`tickets={store!r}`: labels are written into a folder; fetch it: dataltt pull {store}")
    return path


def unlabelled(manifest: Manifest) -> Manifest:
    """The manifest of the same store without token labels."""
    objects = {p: d for p, d in manifest.objects.items() if not p.startswith(f"{FOLDER}/")}
    sizes = {p: n for p, n in manifest.sizes.items() if p in objects}
    return replace(manifest, token_labels=None, objects=objects, sizes=sizes)


def commit_labels(
    store_path: Path,
    labeller: Labeller,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Puts the finished parts of a labelling into their store and removes them.

    Args:
        on_progress: called with (parts written, parts in all).

    Raises:
        OutputExistsError: the store has token labels and `overwrite` is not given.
        IncompletePartsError: parts are missing, damaged, or of another store.
        DiskError: they cannot be written; the store has its old labels or none.
    """
    store = TicketStore.open(str(store_path))
    check_unlabelled(store_path, store.manifest, overwrite=overwrite)
    parts = _open_parts(store_path, store)
    without = unlabelled(store.manifest)
    without = without.upgraded(object_sizes(store_path, without.objects))
    # What no reader would open is refused here, while the parts are still there.
    parse_manifest(replace(without, token_labels=labeller).to_json(), str(store_path))
    temporary = store_path.with_name(f"{store_path.name}.labels.tmp-{os.getpid()}")
    clear_left_behind(store_path)
    shutil.rmtree(temporary, ignore_errors=True)
    with writing(store_path), removing(temporary):
        # One chunk at a time: each that is encoded beside it would take its own buffers.
        with zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1}):
            _write_arrays(temporary, store.manifest, labeller, parts, on_progress)
        labels = hash_objects(temporary)
        manifest = replace(
            without,
            token_labels=labeller,
            objects={**without.objects, **labels},
            sizes={**without.sizes, **object_sizes(temporary, labels)},
        )
        manifest = parse_manifest(manifest.to_json(), str(store_path))
        keep_source(store_path, store.manifest)
        if store.manifest.token_labels is not None:
            replace_manifest(store_path, without)
        shutil.rmtree(store_path / FOLDER, ignore_errors=True)
        os.rename(temporary / FOLDER, store_path / FOLDER)
        try:
            replace_manifest(store_path, manifest)
        except DiskError:
            shutil.rmtree(store_path / FOLDER)  # nobody's, since no manifest names it
            raise
    shutil.rmtree(label_parts_dir(store_path))
    return manifest


def _open_parts(store_path: Path, store: TicketStore) -> list[LabelPart]:
    """The parts of all shards, in the store's order."""
    directory = label_parts_dir(store_path)
    parts = []
    for index, shard in enumerate(store.shard_names):
        path = part_path(directory, index)
        if not path.exists():
            raise IncompletePartsError(f"{directory} has no part for shard {shard}; run the same label again")
        part = open_label_part(path)
        rows = store.rows_of_shard(shard)
        if part.shard != shard or rows is None or part.num_rows != len(rows):
            raise IncompletePartsError(f"{path} is not of shard {shard} of {store_path}; delete it and label again")
        parts.append(part)
    return parts


def _write_arrays(
    temporary: Path,
    m: Manifest,
    labeller: Labeller,
    parts: Sequence[LabelPart],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    specs = array_specs(
        num_images=m.num_images,
        num_views=m.num_views,
        num_patches=m.num_patches,
        num_shards=0,
        num_shard_name_bytes=0,
        has_ranks=False,
        has_views=False,
        has_token_labels=True,
    )
    group = zarr.open_group(temporary, mode="w-", zarr_format=3)
    ids, scores = (ArrayWriter(group, specs[f"{FOLDER}/{name}"], m.num_images) for name in ("ids", "scores"))
    for done, part in enumerate(parts, start=1):
        for maps in part.batches(num_views=m.num_views, num_patches=m.num_patches):
            if bad_label_maps(maps, labeller.num_classes).any():
                raise IncompletePartsError(f"{part.path} holds no label maps; delete it and label again")
            ids.append(maps.ids)
            scores.append(maps.scores)
        if on_progress is not None:
            on_progress(done, len(parts))
    ids.close()
    scores.close()
