"""Checks of a baked folder: its manifest, every byte of its files, and every sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ...artifacts_schema import DatalttError
from ...artifacts_schema.baked import BakedManifest, read_baked
from ...artifacts_schema.verify import Check
from ..data.baked_stream import BakedSource


def verify_baked(folder: Path, on_progress: Callable[[int], None] = lambda _: None) -> Iterator[Check]:
    """Runs every check and yields its outcome.

    Args:
        on_progress: called with the views of images that were looked at since.
    """
    name = "baked.json"
    try:
        manifest = read_baked(folder)
    except DatalttError as error:
        yield Check(name=name, ok=False, detail=str(error))
        return
    detail = f"{manifest.num_baked} of {manifest.tickets.num_patches} patches of {manifest.num_images} images in "
    yield Check(name=name, ok=True, detail=f"{detail}{manifest.num_views} view(s), {manifest.encoding}")
    hashed = _hashed(folder, manifest)
    yield hashed
    if hashed.ok:
        yield _read(folder, manifest, on_progress)


def _hashed(folder: Path, manifest: BakedManifest) -> Check:
    name, count = "sizes and SHA-256 of all files", 0
    for file in manifest.files:
        path = folder / file.path
        try:
            num_bytes = path.stat().st_size
            with path.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            return Check(
                name=name, ok=False, detail=f"{path} cannot be read ({error.strerror or error}); copy it again"
            )
        if (num_bytes, sha256) != (file.num_bytes, file.sha256):
            return Check(name=name, ok=False, detail=f"{path} is not the file that was written; copy it again")
        count += 1
    return Check(name=name, ok=True, detail=f"{count} file(s), {manifest.num_bytes} bytes")


def _read(folder: Path, manifest: BakedManifest, on_progress: Callable[[int], None]) -> Check:
    name, source, highest = "samples", BakedSource.of(folder, manifest), 0
    try:
        for shard in manifest.shards:
            keys: list[str] | None = None
            for view in range(manifest.num_views):
                tar = source.open(shard.name, view)
                if keys is not None and tar.keys != keys:
                    path = folder / shard.files[view].path
                    return Check(name=name, ok=False, detail=f"{path} has other samples than the views before it")
                keys = tar.keys
                highest = max([highest, *(tar.read(number).label for number in range(len(tar)))])
                on_progress(len(tar))
    except DatalttError as error:
        return Check(name=name, ok=False, detail=str(error))
    if highest != manifest.highest_label:
        detail = f"labels go up to {highest}, and baked.json says {manifest.highest_label}; bake it again"
        return Check(name=name, ok=False, detail=detail)
    return Check(name=name, ok=True, detail=f"{manifest.num_images} in each view, labels up to {highest}")
