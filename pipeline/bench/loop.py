"""Waiting for input: the share of its time that a device idles, by its speed, the input path and the loader processes.

The device is a stand-in that takes a batch every t ms; where there is a GPU, its training step is measured too.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...stages.data.loader import iterate, num_workers_for
from ...stages.data.stream_config import StreamConfig, StreamPosition
from ...stages.data.student_stream import SampleStream
from ...stages.runtime.device import device_name
from ...stages.runtime.distributed import resolve_device
from ...stages.runtime.reporting import Reporter
from .baked import bake_views, replayed_views
from .compute import student_step
from .timing import BenchRow

RATES = (100, 300, 1000, 3000, 10_000, 50_000)  # images/s
BEARABLE = 0.1
NUM_IMAGES = 500
_BATCH_SIZE = 100
_AHEAD = 4  # batches that each loader process may have ready when the clock starts
_MEASURE_S, _EPOCH_IMAGES = 2.0, 200_000
_LEAST_BATCHES = 2


def bench_loop(
    *, model: str, device: str, precision: str, num_images: int = NUM_IMAGES, reporter: Reporter
) -> list[BenchRow]:
    """Measures by path and number of loader processes how fast a device may be that waits a tenth of its time at most.

    Paths: `deit` views replayed from photographs, and the same views baked, kept patches, as JPEG and raw.

    Args:
        model: of the training step, where there is a GPU.
        num_images: photographs that are made, a multiple of the batch size.

    Returns:
        A row for each path and number of processes; `detail` has the waiting share (0 to 1) by images/s.
    """
    where = resolve_device(device)
    workers = sorted({1, max(1, num_workers_for(None))})
    takes: dict[str, Callable[[], None]] = {f"{rate}/s": _stand_in(rate) for rate in RATES}
    with tempfile.TemporaryDirectory(prefix="dataltt-bench-") as folder:
        paths = _paths(Path(folder), num_images)
        if where.type == "cuda":
            keep = next(iter(paths.values())).num_keep
            takes[f"{model} on {device_name(where)}"] = student_step(model, keep, where, precision, _BATCH_SIZE)
        reporter.start("bench loop", len(paths) * len(workers) * len(takes), "loops")
        rows = [_row(path, stream, num, takes, reporter) for path, stream in paths.items() for num in workers]
    reporter.finish()
    return rows


def _paths(root: Path, num_images: int) -> dict[str, StreamConfig]:
    """Streams by name. Their shard comes many times over, so that an epoch outlasts a measurement."""
    replayed = replayed_views(root, num_images)
    found = {"deit": replayed}
    found |= {f"baked {encoding}": bake_views(root, encoding, replayed)[0] for encoding in ("jpeg", "raw")}
    times = max(1, _EPOCH_IMAGES // num_images)
    return {
        name: replace(stream, batch_size=_BATCH_SIZE, shards=stream.shards * times) for name, stream in found.items()
    }


def _stand_in(rate: int) -> Callable[[], None]:
    return lambda: time.sleep(_BATCH_SIZE / rate)


def _row(
    path: str, stream: StreamConfig, workers: int, takes: Mapping[str, Callable[[], None]], reporter: Reporter
) -> BenchRow:
    waits: dict[str, float] = {}
    for name, take in takes.items():
        batches = iterate(SampleStream(stream, StreamPosition()), num_workers=workers)
        waits[name] = waiting_share(batches, take, skip=_AHEAD * workers + 1)
        del batches  # and with it its processes
        reporter.advance(1)
    borne = [rate for rate in RATES if waits[f"{rate}/s"] <= BEARABLE]
    return BenchRow(
        name=f"loop: images/s of a device that waits ≤ {BEARABLE:.0%}, {path}, {workers} loader process(es)",
        value=float(max(borne, default=0)),
        goal="",
        ok=True,
        detail={f"waits at {name}": round(share, 3) for name, share in waits.items()},
    )


def waiting_share(batches: Iterator[Any], take: Callable[[], None], *, skip: int) -> float:
    """The share of its time, 0 to 1, that a device waits for batches.

    Args:
        take: returns when the device is done with a batch.
        skip: batches to leave out first, that were ready before anybody asked.
    """
    for _ in itertools.islice(batches, skip):
        pass
    for _ in itertools.islice(batches, _LEAST_BATCHES):  # loader processes get ahead of a slow device again
        take()
    waited, started = 0.0, time.perf_counter()
    for number in itertools.count(1):
        asked = time.perf_counter()
        if next(batches, None) is None:
            break
        waited += time.perf_counter() - asked
        take()
        if number >= _LEAST_BATCHES and time.perf_counter() - started > _MEASURE_S:
            break
    return waited / (time.perf_counter() - started)
