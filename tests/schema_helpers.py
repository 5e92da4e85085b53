"""Small ticket stores of synthetic data, and the means to damage them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import zarr
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.identity import checksum_of, ticket_digest_of
from dataltt.artifacts_schema.manifest import Manifest, Selector, View
from dataltt.artifacts_schema.writing.commit import StoreSpec, commit
from dataltt.artifacts_schema.writing.parts import Part, parts_dir, write_part

PATCH_PX = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A committed store and what it was made from."""

    path: Path
    spec: StoreSpec
    parts: list[Part]
    manifest: Manifest

    @property
    def keys(self) -> list[str]:
        return [key for part in self.parts for key in part.keys.to_pylist()]

    def column(self, name: str) -> npt.NDArray[Any]:
        """Joins one array of all parts, in row order."""
        return np.concatenate([getattr(part, name) for part in self.parts])


def make_spec(
    *,
    grid: tuple[int, int] = (3, 5),
    num_keep: int = 6,
    num_views: int = 1,
    ranks: bool = True,
    shards: Sequence[str] = ("a.tar",),
    **changes: Any,
) -> StoreSpec:
    """A spec whose manifest is valid; stores of several views are replayed ones, with boxes and flips."""
    replay = num_views > 1
    spec = StoreSpec(
        grid=grid,
        patch_px=PATCH_PX,
        image_px=grid[0] * PATCH_PX,
        num_keep=num_keep,
        num_views=num_views,
        has_ranks=ranks,
        has_views=replay,
        selector=Selector(
            model="synthetic",
            weights_sha256="0" * 64,
            drop_blocks=[3],
            keep_counts=[num_keep],
            precision="fp32",
            ratio=0.5,
        ),
        view=View(
            kind="replay" if replay else "center",
            resize_px=grid[0] * PATCH_PX,
            crop_share=1.0,
            interpolation="bicubic",
            mean=[0.5, 0.5, 0.5],
            std=[0.25, 0.25, 0.25],
            augment={"name": "synthetic", "version": 1, "seed": 0} if replay else None,
        ),
        dataset_name="synthetic",
        split="train",
        source="a test",
        shards=list(shards),
        tool_version="0",
    )
    return dataclasses.replace(spec, **changes)


def pack_by_hand(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Packs by hand, as the format says: patch p of [..., P] is bit p % 8 of byte p // 8, least significant first."""
    num_patches = mask.shape[-1]
    packed = np.zeros((*mask.shape[:-1], -(-num_patches // 8)), dtype=np.uint8)
    for position in np.ndindex(mask.shape):
        patch = position[-1]
        if mask[position]:
            packed[(*position[:-1], patch // 8)] += 2 ** (patch % 8)
    return packed


def make_part(spec: StoreSpec, index: int, num_rows: int, *, seed: int = 0, **changes: Any) -> Part:
    """The part of shard number `index`, whose keys no other shard has."""
    rng = np.random.default_rng([seed, index])
    lead = (num_rows, spec.num_views)
    ranks = rng.permuted(np.broadcast_to(np.arange(spec.num_patches), (*lead, spec.num_patches)), axis=-1)
    of_dtype: Any = ranks.astype(np.uint8 if spec.num_patches <= 256 else np.uint16)
    part = Part(
        shard=spec.shards[index],
        keys=pa.array([f"klasse_{index}/bild-é{row:05d}" for row in range(num_rows)], type=pa.large_string()),
        labels=rng.integers(-1, 1000, num_rows, dtype=np.int32),
        # All bits of the first are set; near to each other, since random ones take long to compress.
        digests=np.uint64(2**64 - 1 - (index << 32)) - np.arange(num_rows, dtype=np.uint64),
        tickets=np.packbits(ranks < spec.num_keep, axis=-1, bitorder="little"),
        ranks=of_dtype if spec.has_ranks else None,
        boxes=_boxes(rng, lead) if spec.has_views else None,
        flips=rng.integers(0, 2, lead, dtype=np.uint8) if spec.has_views else None,
    )
    return dataclasses.replace(part, **changes)


def _boxes(rng: np.random.Generator, lead: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Boxes [R, V, 4] within the unit square: y0, x0, height, width."""
    size = rng.uniform(0.1, 0.5, (*lead, 2))
    return np.concatenate([rng.uniform(0, 0.5, (*lead, 2)), size], axis=-1).astype(np.float32)


def write_parts(store_path: Path, parts: Sequence[Part]) -> Path:
    """Writes the parts of a store to be; returns their directory."""
    directory = parts_dir(store_path)
    directory.mkdir(parents=True)
    for index, part in enumerate(parts):
        write_part(directory, index, part)
    return directory


def make_store(
    tmp_path: Path,
    num_shards: int = 3,
    rows_per_shard: int | Sequence[int] = (4, 1, 6),
    num_views: int = 1,
    ranks: bool = True,
    *,
    grid: tuple[int, int] = (3, 5),
    num_keep: int = 6,
    seed: int = 0,
    name: str = "store.zarr",
) -> Made:
    """A committed store below `tmp_path`."""
    counts = [rows_per_shard] * num_shards if isinstance(rows_per_shard, int) else list(rows_per_shard)
    shards = [f"shard-{s:03d}.tar" for s in range(num_shards)]
    spec = make_spec(grid=grid, num_keep=num_keep, num_views=num_views, ranks=ranks, shards=shards)
    parts = [make_part(spec, index, n, seed=seed) for index, n in enumerate(counts)]
    path = tmp_path / name
    write_parts(path, parts)
    return Made(path=path, spec=spec, parts=parts, manifest=commit(path, spec))


def copy_store(made: Made, tmp_path: Path) -> Path:
    """A copy of a store that a test may damage."""
    return Path(shutil.copytree(made.path, tmp_path / made.path.name))


def read_everything(path: Path) -> dict[str, Any]:
    """Reads all that the reader gives of all rows."""
    store = TicketStore.open(str(path))
    rows = range(store.manifest.num_images)
    boxes, flips = store.read_views(rows) or (None, None)
    return {
        "shard_names": store.shard_names,
        "shard_rows": store.shard_rows,
        "keys": store.read_keys(rows),
        "tickets": store.read_tickets(rows),
        "ranks": store.read_ranks(rows) if store.manifest.has_ranks else None,
        "labels": store.read_labels(rows),
        "digests": store.read_digests(rows),
        "boxes": boxes,
        "flips": flips,
    }


def put(store: Path, array: str, selection: Any, values: Any) -> None:
    """Overwrites entries of one array of a store through Zarr, so that its checksums are right."""
    opened: Any = zarr.open_group(store, mode="r+")[array]
    opened[selection] = values


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Rewrites a JSON file after `change` has altered its document in place."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def reseal(manifest: dict[str, Any]) -> None:
    """Gives an altered manifest its checksum again, and its ticket digest where it still has one."""
    if "checksum" in manifest:
        if isinstance(manifest.get("objects"), dict):
            manifest["sizes"] = {p: n for p, n in manifest.get("sizes", {}).items() if p in manifest["objects"]}
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            manifest["ticket_digest"] = ticket_digest_of(manifest)
        manifest["checksum"] = checksum_of(manifest)


def edit_metadata(store: Path, array: str, change: Callable[[Any], object]) -> None:
    """Alters the metadata of one array of a store in place, and what its manifest says about them."""
    path = store / array / "zarr.json"
    edit_json(path, change)
    content = path.read_bytes()

    def agree(manifest: Any) -> None:
        manifest["objects"][f"{array}/zarr.json"] = hashlib.sha256(content).hexdigest()
        if manifest.get("sizes"):
            manifest["sizes"][f"{array}/zarr.json"] = len(content)

    edit_manifest(store, agree)


def edit_manifest(store: Path, change: Callable[[Any], object], *, seal: bool = True) -> None:
    """Alters the manifest of a store in place; its checksum fits unless `seal` is False."""

    def alter(document: Any) -> None:
        change(document["attributes"]["dataltt"])
        if seal:
            reseal(document["attributes"]["dataltt"])

    edit_json(store / "zarr.json", alter)


def digests_of(root: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by relative path."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
