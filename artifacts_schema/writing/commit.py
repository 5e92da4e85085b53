"""Commit of parts to a store: read in shard order, written in whole shard objects, checked, and renamed into place.

Memory: one part, one unwritten block per array, and 8 MiB for the duplicate check.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from ..adaptive import Adaptive, ThresholdFinder, counts_of
from ..errors import IncompletePartsError
from ..layout import array_specs
from ..manifest import Dataset, Manifest, Publication, Selector, SkippedSample, View, needed_version
from ..manifest_parsing import parse_manifest
from ..strings import MAX_STRING_BYTES
from ..tickets import bad_ranks, bad_tickets, pack_ranks, ranks_dtype
from .new_store import check_destination, creation_time, write_new_store
from .parts import Part, PartHeader, part_path, parts_dir, read_header, read_keys, read_part, read_shares
from .store_arrays import StoreArrays, refuse_duplicates


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpec:
    """Facts that a selection knows about its store before the parts are there."""

    grid: tuple[int, int]
    patch_px: int
    image_px: int
    num_keep: int
    num_views: int
    has_ranks: bool
    has_views: bool
    selector: Selector
    view: View
    dataset_name: str
    split: str
    source: str
    shards: Sequence[str]
    tool_version: str
    publication: Publication | None = None
    adaptive: Adaptive | None = None  # its threshold is that of the store, once it is found

    @property
    def num_shares(self) -> int:
        """Shares of each view in a part of adaptive tickets, K - L."""
        return 0 if self.adaptive is None else self.num_keep - self.adaptive.least_keep

    @property
    def num_patches(self) -> int:
        """Number of patches of the grid, P."""
        return self.grid[0] * self.grid[1]


def read_headers(store_path: Path, shards: Sequence[str]) -> list[PartHeader]:
    """The headers of all parts, in shard order.

    Raises:
        IncompletePartsError: a part is missing, or belongs to another shard.
    """
    directory = parts_dir(store_path)
    headers = []
    for index, shard in enumerate(shards):
        path = part_path(directory, index)
        if not path.exists():
            raise IncompletePartsError(f"{directory} has no part for shard {shard}; run the same select again")
        header = read_header(path)
        if header.shard != shard:
            raise IncompletePartsError(f"{path} is of shard {header.shard}, not {shard}; delete it and select again")
        headers.append(header)
    return headers


def commit(
    store_path: Path,
    spec: StoreSpec,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Makes the store from its finished parts and removes them.

    Args:
        store_path: where the store is to stand; parts are read from `parts_dir(store_path)`.
        on_progress: called with (parts written, parts in all).

    Raises:
        OutputExistsError: something stands at `store_path` and `overwrite` is not given.
        IncompletePartsError: parts are missing or do not fit the spec.
        DuplicateKeyError: two samples have the same key.
    """
    check_destination(store_path, overwrite=overwrite)
    headers = read_headers(store_path, spec.shards)
    num_images = sum(h.num_rows for h in headers)
    if num_images == 0:
        raise IncompletePartsError(f"no image in {len(headers)} shard(s) of {spec.source}; there is nothing to store")
    # What no reader would open is refused here, while the parts are still there.
    parse_manifest(manifest_of(spec, headers, num_images, "0" * 64).to_json(), str(store_path))

    spec = _with_threshold(spec, headers)

    def write(folder: Path) -> Manifest:
        keys_sha256 = _write_arrays(folder, spec, headers, num_images, on_progress)
        return manifest_of(spec, headers, num_images, keys_sha256)

    manifest = write_new_store(store_path, write, shards=spec.source)
    shutil.rmtree(parts_dir(store_path))
    return manifest


def _with_threshold(spec: StoreSpec, headers: Sequence[PartHeader]) -> StoreSpec:
    """The spec of adaptive tickets with the threshold that all parts together have; any other as it is."""
    if spec.adaptive is None:
        return spec
    a, finder = spec.adaptive, ThresholdFinder()
    for header in headers:
        finder.add(read_shares(header, num_views=spec.num_views, num_shares=spec.num_shares))
    threshold = finder.threshold(num_patches=spec.num_patches, budget=a.budget, least=a.least_keep)
    return replace(spec, adaptive=replace(a, threshold=threshold))


def _write_arrays(
    folder: Path,
    spec: StoreSpec,
    headers: Sequence[PartHeader],
    num_images: int,
    on_progress: Callable[[int, int], None] | None,
) -> str:
    """Writes every array; returns the digest of the keys."""
    specs = array_specs(
        num_images=num_images,
        num_views=spec.num_views,
        num_patches=spec.num_patches,
        num_shards=len(headers),
        num_shard_name_bytes=sum(len(h.shard.encode()) for h in headers),
        has_ranks=spec.has_ranks,
        has_views=spec.has_views,
        has_counts=spec.adaptive is not None,
    )
    # The key bytes are counted first, in a pass over that column.
    num_key_bytes = sum(num_key_bytes_of(h) for h in headers)
    arrays = StoreArrays(folder, specs, num_images=num_images, num_key_bytes=num_key_bytes)
    for done, header in enumerate(headers, start=1):
        part = checked_part(spec, header)
        arrays.append(part.keys, part.columns)
        if on_progress is not None:
            on_progress(done, len(headers))
    summary = arrays.close([h.shard for h in headers], [h.num_rows for h in headers])
    refuse_duplicates(summary, ((h.shard, read_keys(h).to_pylist()) for h in headers))
    return summary.sha256


def num_key_bytes_of(header: PartHeader) -> int:
    """Bytes of all keys of a part."""
    return int(pc.sum(pc.binary_length(read_keys(header))).as_py() or 0)


def checked_part(spec: StoreSpec, header: PartHeader) -> Part:
    """A part whose tickets and ranks are what the spec says; adaptive tickets are cut to their own counts.

    Raises:
        IncompletePartsError: it is damaged, or of another selection.
    """
    part = read_part(
        header,
        num_views=spec.num_views,
        num_patches=spec.num_patches,
        ranks_dtype=ranks_dtype(spec.num_patches),
        num_shares=spec.num_shares,
    )
    has = {name: getattr(part, name) is not None for name in ("ranks", "boxes", "flips", "shares")}
    is_adaptive = spec.adaptive is not None
    wanted = {"ranks": spec.has_ranks or is_adaptive, "boxes": spec.has_views, "flips": spec.has_views}
    wanted["shares"] = is_adaptive
    bad = bool(bad_tickets(part.tickets, spec.num_patches, spec.num_keep).any())
    if part.ranks is not None and not bad:
        bad = bool(bad_ranks(part.ranks).any()) or not np.array_equal(
            pack_ranks(part.ranks, spec.num_keep), part.tickets
        )
    if (pc.max(pc.binary_length(part.keys)).as_py() or 0) > MAX_STRING_BYTES:
        raise IncompletePartsError(
            f"{part.shard} has a key longer than {MAX_STRING_BYTES} bytes; shorten it, delete {header.path} and select "
            "again"
        )
    if has != wanted or bad:
        raise IncompletePartsError(f"{header.path} is damaged or of another selection; delete it and select again")
    return part if spec.adaptive is None else _cut_to_counts(part, spec, spec.adaptive)


def _cut_to_counts(part: Part, spec: StoreSpec, adaptive: Adaptive) -> Part:
    """A part of adaptive tickets, as the store has it: each view's ticket with its own number of patches."""
    assert part.ranks is not None
    assert part.shares is not None
    counts = counts_of(part.shares, adaptive)
    ranks = part.ranks if spec.has_ranks else None
    return replace(part, tickets=pack_ranks(part.ranks, counts), ranks=ranks, shares=None, counts=counts)


def manifest_of(spec: StoreSpec, headers: Sequence[PartHeader], num_images: int, keys_sha256: str) -> Manifest:
    """The manifest of a store of these parts, without its objects."""
    skipped: list[SkippedSample] = [s for h in headers for s in h.skipped]
    return Manifest(
        schema_version=needed_version(spec.view, spec.selector, adaptive=spec.adaptive),
        grid=spec.grid,
        patch_px=spec.patch_px,
        image_px=spec.image_px,
        num_patches=spec.num_patches,
        num_keep=spec.num_keep,
        num_views=spec.num_views,
        num_images=num_images,
        has_ranks=spec.has_ranks,
        selector=spec.selector,
        view=spec.view,
        dataset=Dataset(
            name=spec.dataset_name,
            split=spec.split,
            shards=list(spec.shards),
            source="",
            keys_sha256=keys_sha256,
        ),
        created=creation_time(),
        tool_version=spec.tool_version,
        publication=spec.publication,
        adaptive=spec.adaptive,
        skipped=skipped,
    )
