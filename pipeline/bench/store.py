"""Size of a store, and time and memory that making and using one take. No torch: memory is measured here.

`python -m dataltt.pipeline.bench.store` runs one measurement in a process of its own and prints it as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from ...artifacts_schema import Selector, TicketStore, View
from ...artifacts_schema.combining.assembly import Target
from ...artifacts_schema.combining.merge import merge_stores
from ...artifacts_schema.lookup import KeyLookup, keys_at
from ...artifacts_schema.tickets import order_to_ranks, pack_ranks
from ...artifacts_schema.verify import verify_store
from ...artifacts_schema.writing.commit import StoreSpec, commit
from ...artifacts_schema.writing.parts import Part, begin_plan, part_path, parts_dir, write_part

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


def _spec(shards: Sequence[str], num_views: int = 1) -> StoreSpec:
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
    return _spec(names, num_views)


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


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _measure(what: str, store: Path, num_images: int) -> dict[str, Any]:
    num_shards = num_images // SHARD_ROWS
    if what in LOADS:
        return LOADS[what](store)
    if what == "parts":
        write_parts(store, map(SyntheticRows.of_shard, range(num_shards)))
        return {}
    if what == "halves":
        _write_halves(store, num_shards)
        return {}
    if what == "commit":
        commit(store, _spec([f"train-{i:06d}.tar" for i in range(num_shards)]))
        sizes = TicketStore.open(str(store)).num_stored_bytes()
        everything = sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
        return {
            "peak_bytes": peak_bytes(),
            "tickets_bytes_per_image": sizes["tickets"] / num_images,
            "all_bytes_per_image": everything / num_images,
            "bytes_per_image": {k: v / num_images for k, v in sizes.items()},
        }
    # As a loader worker joins: shard by shard, in random order.
    opened = TicketStore.open(str(store))
    num_joined = 0
    for i in np.random.default_rng(0).permutation(num_shards):
        num_joined += join_shard(opened, f"train-{i:06d}.tar")
    assert num_joined == num_images
    return {"peak_bytes": peak_bytes()}


def _half(store: Path, name: str) -> Path:
    return store.with_name(f"{store.name}.{name}")


def _write_halves(store: Path, num_shards: int) -> None:
    """Two stores that together are `store`, of its own parts, which must still be there."""
    middle = num_shards // 2
    for name, shards in (("first", range(middle)), ("second", range(middle, num_shards))):
        directory = parts_dir(_half(store, name))
        directory.mkdir()
        for index, shard in enumerate(shards):
            os.link(part_path(parts_dir(store), shard), part_path(directory, index))
        commit(_half(store, name), _spec([f"train-{i:06d}.tar" for i in shards]))


def _time_opening(store: Path) -> dict[str, Any]:
    started = time.perf_counter()
    opened = TicketStore.open(str(store))
    opened.shard_names, opened.shard_rows  # noqa: B018 (reads and checks)
    return {"seconds": time.perf_counter() - started, "peak_bytes": peak_bytes()}


def _time_joins(store: Path) -> dict[str, Any]:
    """Seconds to join one shard, medians: by its name; by its keys, if it has another name; by keys from anywhere."""
    opened, rng = TicketStore.open(str(store)), np.random.default_rng(0)
    names, some = opened.shard_names, np.random.default_rng(1).integers(0, len(opened), SHARD_ROWS)
    started = time.perf_counter()
    lookup = KeyLookup(opened)
    built = time.perf_counter() - started
    seconds: dict[str, list[float]] = {"by_name_s": [], "by_key_s": []}
    for name in rng.choice(names, _NUM_JOINS):
        rows = opened.rows_of_shard(name)
        assert rows is not None
        keys = opened.read_keys(rows)
        seconds["by_name_s"].append(_seconds(partial(join_shard, opened, name)))
        seconds["by_key_s"].append(_seconds(partial(_join_keys, opened, lookup, keys)))
    scattered = keys_at(opened, np.unique(some))
    found = {name: statistics.median(each) for name, each in seconds.items()}
    found["scattered_s"] = _seconds(lambda: _join_keys(opened, lookup, scattered))
    return {**found, "lookup_s": built, "peak_bytes": peak_bytes()}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _join_keys(store: TicketStore, lookup: KeyLookup, keys: Sequence[str]) -> None:
    """Reads what a loader worker reads of a shard that the store does not know by name."""
    rows = np.sort(lookup.find(keys))
    assert rows[0] >= 0
    run = range(int(rows[0]), int(rows[-1]) + 1)
    where = run if len(run) == len(rows) else rows
    assert len(keys) == len(store.read_digests(where)) == len(store.read_tickets(where))


def _time_verify(store: Path) -> dict[str, Any]:
    started = time.perf_counter()
    assert all(check.ok for check in verify_store(str(store)))
    return {"seconds": time.perf_counter() - started, "peak_bytes": peak_bytes()}


def _time_merge(store: Path) -> dict[str, Any]:
    started = time.perf_counter()
    merged = merge_stores([_half(store, "first"), _half(store, "second")], Target(path=_half(store, "merged")))
    seconds = time.perf_counter() - started
    assert merged.manifest.digest == TicketStore.open(str(store)).manifest.digest
    return {"seconds": seconds, "peak_bytes": peak_bytes()}


def _time_diff(store: Path) -> dict[str, Any]:
    from ...stages.analysis.store_diff import diff_stores

    started = time.perf_counter()
    found = diff_stores(str(store), str(_half(store, "merged")))
    assert found.num_identical == found.num_images[2]
    return {"seconds": time.perf_counter() - started, "peak_bytes": peak_bytes()}


# What is done with a finished store, each in a process of its own.
LOADS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "open": _time_opening,
    "join_time": _time_joins,
    "verify": _time_verify,
    "merge": _time_merge,
    "diff": _time_diff,
}
_STEPS = ("parts", "halves", "commit", "join", *LOADS)


def measure_in_process(what: str, store: Path, num_images: int) -> dict[str, Any]:
    """Runs one measurement in a fresh process, whose peak memory is its own."""
    command = [sys.executable, "-m", "dataltt.pipeline.bench.store", what, str(store), str(num_images)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def bench_memory(sizes: Sequence[int], report: Any) -> dict[int, dict[str, dict[str, Any]]]:
    """Sizes of stores, and seconds and peak memory of all that is done with them, for several numbers of rows.

    Disk: about 200 bytes a row of the largest.
    """
    found: dict[int, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="dataltt-bench-") as folder:
        for num_images in dict.fromkeys(sizes):
            store = Path(folder) / str(num_images) / "store.zarr"
            store.parent.mkdir()
            found[num_images] = {}
            for what in _STEPS:
                report(f"{num_images} rows: {what}")
                started = time.perf_counter()
                found[num_images][what] = measure_in_process(what, store, num_images)
                found[num_images][what].setdefault("seconds", time.perf_counter() - started)
            shutil.rmtree(store.parent)
    return found


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
