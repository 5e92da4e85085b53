"""Seconds and memory of all that is done with a store, by its number of rows. No torch: memory is measured here.

`python -m dataltt.pipeline.bench.load` runs one measurement in a process of its own and prints it as JSON.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts_schema import TicketStore
from ...artifacts_schema.combining.assembly import Target
from ...artifacts_schema.combining.merge import merge_stores
from ...artifacts_schema.lookup import KeyLookup, keys_at
from ...artifacts_schema.verify import verify_store
from ...artifacts_schema.writing.commit import commit
from ...artifacts_schema.writing.parts import part_path, parts_dir
from .store import SHARD_ROWS, SyntheticRows, join_shard, spec_of, write_parts
from .timing import BenchRow

_NUM_JOINS = 100


def peak_bytes() -> int:
    """The most memory that this process has had resident.

    Of Linux's own count for it alone: what getrusage says begins at the peak of the process that started it.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def measure(what: str, store: Path, num_images: int) -> dict[str, Any]:
    """Does one step with a store, after those before it, and measures it."""
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
        commit(store, spec_of([f"train-{i:06d}.tar" for i in range(num_shards)]))
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
        commit(_half(store, name), spec_of([f"train-{i:06d}.tar" for i in shards]))


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
    command = [sys.executable, "-m", "dataltt.pipeline.bench.load", what, str(store), str(num_images)]
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


GOALS_S = {"open": 2.0, "by_name_s": 0.05, "by_key_s": 0.05}
GROWTH_GOAL = 1.3
_BOUNDED = ("commit", "join")  # in memory, whatever the number of rows
_TIMED = ("commit", "verify", "merge", "diff")


def load_rows(found: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> list[BenchRow]:
    """Figures of `bench_memory` with their goals: at the largest size, beside those at the others."""
    small, large = min(found), max(found)

    def row(name: str, value: float, goal: float | None, **detail: Any) -> BenchRow:
        shown = "" if goal is None else f"≤ {goal:g}"
        return BenchRow(name=f"store: {name}", value=value, goal=shown, ok=goal is None or value <= goal, detail=detail)

    def at_all(step: str, figure: str, scale: float = 1, digits: int = 3) -> dict[str, float]:
        return {f"{size} rows": round(found[size][step][figure] / scale, digits) for size in found}

    seconds = found[large]["join_time"]
    rows = [
        row(
            f"seconds to open, {large} rows",
            found[large]["open"]["seconds"],
            GOALS_S["open"],
            **at_all("open", "seconds"),
        )
    ]
    for figure, how in (("by_name_s", "by name"), ("by_key_s", "by key"), ("scattered_s", "by keys from anywhere")):
        what = f"seconds to join a shard of {SHARD_ROWS} {how}, {large} rows"
        rows.append(row(what, seconds[figure], GOALS_S.get(figure), **at_all("join_time", figure, digits=4)))
    rows += [
        row(
            f"seconds of {step}, {large} rows", found[large][step]["seconds"], None, **at_all(step, "seconds", digits=1)
        )
        for step in _TIMED
    ]
    for step in dict.fromkeys((*_BOUNDED, "join_time", *_TIMED)):
        ratio = found[large][step]["peak_bytes"] / found[small][step]["peak_bytes"]
        goal = GROWTH_GOAL if step in _BOUNDED else None
        what = f"peak memory of {step}, {large} rows over {small}"
        rows.append(row(what, ratio, goal, unit="MiB", **at_all(step, "peak_bytes", 2**20, 1)))
    return rows


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
