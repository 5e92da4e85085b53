"""Time until the first shard of a store behind a URL is joined, with an empty cache and with a full one.

`python -m dataltt.pipeline.bench.remote` does that once, in a process of its own, and prints it as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...artifacts_schema import TicketStore
from ...artifacts_schema.access.location import Access
from .file_server import served, take_counts
from .store import SHARD_ROWS, SyntheticRows, join_shard, write_store
from .timing import BenchRow

GOALS_S = {"empty": 5.0, "full": 1.0}


def bench_remote(rows: int, repeats: int, report: Callable[[str], object]) -> list[BenchRow]:
    """Seconds from opening a store over HTTP to its first shard joined: medians, with an empty and a full cache.

    Args:
        rows: of the store, in shards of 1,250.
        repeats: how often each is measured, always in a new process, and with an empty cache in a new folder.
        report: called with what is done now.
    """
    measured: dict[str, list[dict[str, Any]]] = {"empty": [], "full": []}
    with tempfile.TemporaryDirectory(prefix="dataltt-bench-") as folder:
        report(f"{rows} rows: writing the store")
        store = Path(folder) / "web" / "store.zarr"
        store.parent.mkdir()
        write_store(
            store, (SyntheticRows.of_shard(i).first(rows - i * SHARD_ROWS) for i in range(-(-rows // SHARD_ROWS)))
        )
        with served(store.parent) as url:
            for number in range(repeats):
                report(f"{rows} rows: round {number + 1} of {repeats}")
                for cache, found in measured.items():
                    take_counts(url)
                    seconds = _measure_in_process(f"{url}/{store.name}", Path(folder) / f"cache-{number}")
                    found.append({"seconds": seconds, **take_counts(url)})
                    assert cache == "empty" or found[-1]["requests"] == 1
        everything = sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
    return [_row(cache, found, rows, everything) for cache, found in measured.items()]


def _row(cache: str, found: list[dict[str, Any]], rows: int, store_bytes: int) -> BenchRow:
    seconds = [each["seconds"] for each in found]
    value, goal = statistics.median(seconds), GOALS_S[cache]
    return BenchRow(
        name=f"store: seconds to open over HTTP and join the first shard, {cache} cache",
        value=value,
        goal=f"≤ {goal:g}",
        ok=value <= goal,
        detail={
            "rows": rows,
            "seconds_s": seconds,
            "objects": found[0]["requests"],
            "bytes": found[0]["bytes"],
            "store_bytes": store_bytes,
        },
    )


def _measure_in_process(url: str, cache: Path) -> float:
    command = [sys.executable, "-m", __name__, url, str(cache)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds: float = json.loads(done.stdout)["seconds"]
    return seconds


def _measure(url: str, cache: Path) -> float:
    started = time.perf_counter()
    store = TicketStore.open(url, Access(cache_dir=cache))
    join_shard(store, store.shard_names[0])
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps({"seconds": _measure(sys.argv[1], Path(sys.argv[2]))}))
