"""Stores of synthetic rows, which take as much room as stores can, and their sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from ...artifacts_schema import Selector, TicketStore, View
from ...artifacts_schema.tickets import order_to_ranks, pack_ranks
from ...artifacts_schema.writing.commit import StoreSpec, commit
from ...artifacts_schema.writing.parts import Part, begin_plan, parts_dir, write_part

NUM_KEEP, NUM_PATCHES = 98, 196
SHARD_ROWS = 1250  # as ImageNet in 1,024 shards
IMAGE_PX = (400, 533)
_NUM_JOINS = 100


class _Encoded(Protocol):
    """Sample of which no more is needed than its key, its encoded image and its label."""

    @property
    def key(self) -> str: ...

    @property
    def image(self) -> bytes: ...

    @property
    def label(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticRows:
    """Rows of one shard, with random tickets of 98 of 196 patches."""

    shard: str
    keys: list[str]
    labels: npt.NDArray[np.int32]
    digests: npt.NDArray[np.uint64]

    @classmethod
    def of_samples(cls, shard: str, samples: Sequence[_Encoded]) -> SyntheticRows:
        """Rows for real samples."""
        return cls(
            shard=shard,
            keys=[s.key for s in samples],
            labels=np.array([s.label for s in samples], dtype=np.int32),
            digests=np.array([xxhash.xxh3_64_intdigest(s.image) for s in samples], dtype=np.uint64),
        )

    @classmethod
    def of_shard(cls, index: int) -> SyntheticRows:
        """Rows with ImageNet's kind of keys (n01440764/n01440764_10026), classes mixed, digests random."""
        wnids = np.random.default_rng(1).choice(16_000_000, 1000, replace=False)
        rng = np.random.default_rng([2, index])
        labels = rng.integers(0, 1000, SHARD_ROWS, dtype=np.int32)
        numbers = index * SHARD_ROWS + np.arange(SHARD_ROWS)
        keys = [f"n{wnids[c]:08d}/n{wnids[c]:08d}_{n}" for c, n in zip(labels, numbers, strict=True)]
        digests = rng.integers(0, 2**64, SHARD_ROWS, dtype=np.uint64)
        return cls(shard=f"train-{index:06d}.tar", keys=keys, labels=labels, digests=digests)

    def first(self, num_rows: int) -> SyntheticRows:
        """The first rows alone."""
        kept = slice(num_rows)
        return replace(self, keys=self.keys[kept], labels=self.labels[kept], digests=self.digests[kept])


def spec_of(shards: Sequence[str], num_views: int = 1) -> StoreSpec:
    """The spec of a store of these shards."""
    view = View(kind="center", resize_px=248, crop_share=0.9, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)
    if num_views > 1:
        view = replace(view, kind="replay", augment={"name": "deit", "version": 1, "seed": 0})
    return StoreSpec(
        grid=(14, 14),
        patch_px=16,
        image_px=224,
        num_keep=NUM_KEEP,
        num_views=num_views,
        has_ranks=False,
        has_views=num_views > 1,
        selector=Selector(
            model="synthetic",
            weights_sha256="0" * 64,
            drop_blocks=[3, 6, 9],
            keep_counts=[156, 124, NUM_KEEP],
            precision="fp32",
            ratio=0.5,
        ),
        view=view,
        dataset_name="synthetic",
        split="train",
        source="train-*.tar",
        shards=shards,
        tool_version="bench",
    )


def _crops(rng: np.random.Generator, lead: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Boxes [R, V, 4] of whole pixels of a 400×533-px image, as RandomResizedCrop has them."""
    height, width = IMAGE_PX[1], IMAGE_PX[0]
    area, aspect = rng.uniform(0.08, 1, lead) * height * width, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), lead))
    h = np.clip(np.rint(np.sqrt(area / aspect)), 1, height)
    w = np.clip(np.rint(np.sqrt(area * aspect)), 1, width)
    top, left = np.floor(rng.random(lead) * (height - h + 1)), np.floor(rng.random(lead) * (width - w + 1))
    return np.stack([top / height, left / width, h / height, w / width], axis=-1).astype(np.float32)


def write_parts(store: Path, rows: Iterable[SyntheticRows], num_views: int = 1) -> StoreSpec:
    """Parts with uniformly random tickets, which no codec can shrink: the worst case for the size."""
    directory = parts_dir(store)
    begin_plan(directory, {"bench": True})
    names = []
    for index, shard in enumerate(rows):
        rng, lead = np.random.default_rng([3, index]), (len(shard.keys), num_views)
        order = rng.random((*lead, NUM_PATCHES)).argsort(axis=-1)
        part = Part(
            shard=shard.shard,
            keys=pa.array(shard.keys),
            labels=shard.labels,
            digests=shard.digests,
            tickets=pack_ranks(order_to_ranks(order), NUM_KEEP),
            boxes=_crops(rng, lead) if num_views > 1 else None,
            flips=rng.integers(0, 2, lead, dtype=np.uint8) if num_views > 1 else None,
        )
        write_part(directory, index, part)
        names.append(shard.shard)
    return spec_of(names, num_views)


def write_store(store: Path, rows: Iterable[SyntheticRows], num_views: int = 1) -> None:
    """A complete store of synthetic rows."""
    commit(store, write_parts(store, rows, num_views))


def bytes_per_view(num_images: int, num_views: int) -> float:
    """Bytes of a box, a flip and a ticket, per view and image, in a store of crops."""
    with tempfile.TemporaryDirectory(prefix="dataltt-bench-") as folder:
        store = Path(folder) / "views.zarr"
        write_store(store, map(SyntheticRows.of_shard, range(num_images // SHARD_ROWS)), num_views)
        sizes = TicketStore.open(str(store)).num_stored_bytes()
    return sum(sizes[name] for name in ("tickets", "views/boxes", "views/flips")) / num_images / num_views


def join_shard(store: TicketStore, shard: str) -> int:
    """Reads what a loader worker reads of a shard: keys, digests and tickets. Returns the number of rows."""
    rows = store.rows_of_shard(shard)
    assert rows is not None
    index = {key: r for r, key in enumerate(store.read_keys(rows))}
    assert len(index) == len(store.read_digests(rows)) == len(store.read_tickets(rows))
    return len(index)
