"""Commit of parts to a store: read in shard order, written in whole shard objects, checked, and renamed into place.

Memory: one part, one unwritten block per array, and 8 bytes per image for the duplicate check.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import zarr

from ..errors import DuplicateKeyError, IncompletePartsError, OutputExistsError
from ..layout import ArraySpec, array_specs, is_beside_objects
from ..local_notes import write_local_notes
from ..manifest import (
    MANIFEST_ATTRIBUTE,
    SCHEMA_VERSION,
    Dataset,
    Manifest,
    Publication,
    Selector,
    SkippedSample,
    View,
    parse_manifest,
)
from ..manifest_file import is_store
from ..strings import MAX_STRING_BYTES, encode_strings, hash_strings, keys_digest
from ..tickets import bad_ranks, bad_tickets, pack_ranks, ranks_dtype
from .array_writer import ArrayWriter
from .parts import Part, PartHeader, part_path, parts_dir, read_header, read_keys, read_part

# Arrays whose rows stand in the parts as they stand in the store.
_PART_ARRAYS = frozenset({"labels", "digests", "tickets", "ranks", "views/boxes", "views/flips"})


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


def check_destination(store_path: Path, *, overwrite: bool) -> None:
    """Refuses to write where something stands, but for a ticket store that is to be overwritten.

    Raises:
        OutputExistsError
    """
    if not store_path.exists():
        return
    if not is_store(str(store_path)):
        raise OutputExistsError(f"{store_path} exists and is not a ticket store; choose another `out`")
    if not overwrite:
        raise OutputExistsError(f"{store_path} exists; pass `overwrite=True` to replace it, or choose another `out`")


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
    parse_manifest(_manifest(spec, headers, num_images, "0" * 64, {}, {}).to_json(), str(store_path))
    temporary = store_path.with_name(f"{store_path.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        # One chunk at a time: each that is encoded beside it would take its own buffers.
        with zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1}):
            keys_sha256 = _write_arrays(temporary, spec, headers, num_images, on_progress)
        objects = hash_objects(temporary)
        manifest = _manifest(spec, headers, num_images, keys_sha256, objects, object_sizes(temporary, objects))
        write_local_notes(temporary, shards=spec.source)
        # The attributes, in the group's own metadata object, are the last thing written.
        document = manifest.to_json()
        manifest = parse_manifest(document, str(store_path))
        zarr.open_group(temporary, mode="r+").update_attributes({MANIFEST_ATTRIBUTE: document})
        _put_in_place(temporary, store_path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(parts_dir(store_path))
    return manifest


def _put_in_place(temporary: Path, store_path: Path) -> None:
    """Renames the finished directory; whatever stood there goes aside first and is removed last."""
    aside = store_path.with_name(f"{store_path.name}.old-{os.getpid()}")
    if store_path.exists():
        os.rename(store_path, aside)
    os.rename(temporary, store_path)
    shutil.rmtree(aside, ignore_errors=True)


def _write_arrays(
    temporary: Path,
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
    )
    group = zarr.open_group(temporary, mode="w-", zarr_format=3)
    num_key_bytes = 0
    hashes = np.empty(num_images, dtype=np.uint64)
    writers = {p: ArrayWriter(group, s, num_images) for p, s in specs.items() if p in _PART_ARRAYS}
    offsets_writer = ArrayWriter(group, specs["keys/offsets"], num_images + 1)
    offsets_writer.append(np.zeros(1, np.int64))
    # An array's length is fixed when it is made, so the key bytes are counted first, in a pass over that column.
    keys_writer = ArrayWriter(group, specs["keys/data"], sum(_key_bytes(h) for h in headers))
    first_row = 0
    for done, header in enumerate(headers, start=1):
        part = _read(spec, header)
        data, offsets = encode_strings(part.keys)
        keys_writer.append(data)
        offsets_writer.append(offsets[1:] + num_key_bytes)
        num_key_bytes += len(data)
        hashes[first_row : first_row + part.num_rows] = hash_strings(part.keys.to_pylist())
        first_row += part.num_rows
        for path, writer in writers.items():
            writer.append(getattr(part, path.removeprefix("views/")))
        if on_progress is not None:
            on_progress(done, len(headers))
    for each in (*writers.values(), offsets_writer, keys_writer):
        each.close()
    _write_shard_names(group, specs, headers)
    hashes.sort()
    _refuse_duplicates(hashes, headers)
    return keys_digest(hashes)


def _write_shard_names(group: zarr.Group, specs: dict[str, ArraySpec], headers: Sequence[PartHeader]) -> None:
    data, offsets = encode_strings([h.shard for h in headers])
    rows = np.cumsum([0, *(h.num_rows for h in headers)], dtype=np.int64)
    for path, values in (("shards/data", data), ("shards/offsets", offsets), ("shards/rows", rows)):
        writer = ArrayWriter(group, specs[path], len(values))
        writer.append(values)
        writer.close()


def _key_bytes(header: PartHeader) -> int:
    return int(pc.sum(pc.binary_length(read_keys(header))).as_py() or 0)


def _read(spec: StoreSpec, header: PartHeader) -> Part:
    """A part whose tickets and ranks are what the spec says."""
    part = read_part(
        header,
        num_views=spec.num_views,
        num_patches=spec.num_patches,
        ranks_dtype=ranks_dtype(spec.num_patches),
    )
    has = {"ranks": part.ranks is not None, "boxes": part.boxes is not None, "flips": part.flips is not None}
    wanted = {"ranks": spec.has_ranks, "boxes": spec.has_views, "flips": spec.has_views}
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
    return part


def _refuse_duplicates(sorted_hashes: npt.NDArray[np.uint64], headers: Sequence[PartHeader]) -> None:
    repeated = sorted_hashes[1:][sorted_hashes[1:] == sorted_hashes[:-1]]
    if not len(repeated):
        return
    # Equal digests are all but surely equal keys; one more pass over the keys alone finds the names.
    wanted, seen = set(repeated.tolist()), dict[str, str]()
    for header in headers:
        keys = read_keys(header).to_pylist()
        for key, digest in zip(keys, hash_strings(keys).tolist(), strict=True):
            if digest in wanted:
                if key in seen:
                    raise DuplicateKeyError(key, seen[key], header.shard)
                seen[key] = header.shard
    raise IncompletePartsError(
        f"keys {sorted(seen)[:2]} differ but have one XXH3-64 digest; rename one of them, since lookups go by digest"
    )


def hash_objects(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root` but the root group's metadata (which carries the manifest), notes and card."""
    digests = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        if not is_beside_objects(name):
            with path.open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def object_sizes(root: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of each of these objects of the store at `root`."""
    return {name: (root / name).stat().st_size for name in names}


def _manifest(
    spec: StoreSpec,
    headers: Sequence[PartHeader],
    num_images: int,
    keys_sha256: str,
    objects: dict[str, str],
    sizes: dict[str, int],
) -> Manifest:
    skipped: list[SkippedSample] = [s for h in headers for s in h.skipped]
    epoch = os.environ.get("SOURCE_DATE_EPOCH")  # reproducible-builds.org: fixes the one field that is a time
    now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return Manifest(
        schema_version=SCHEMA_VERSION,
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
        created=now.isoformat(timespec="seconds"),
        tool_version=spec.tool_version,
        publication=spec.publication,
        skipped=skipped,
        objects=objects,
        sizes=sizes,
    )
