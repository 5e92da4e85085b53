"""Input of training from baked patches against drawing the same replayed views: one loader process, one core."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...artifacts_schema.baked import BakedManifest, read_baked
from ...artifacts_schema.writing.commit import commit
from ...stages.baking.bake import bake
from ...stages.baking.config import BakeConfig
from ...stages.data.baked_stream import BakedSource
from ...stages.data.counting import count_shards
from ...stages.data.join import JoinConfig
from ...stages.data.loader import iterate
from ...stages.data.packing import EncodedSample, write_shards
from ...stages.data.policies import POLICIES, describe
from ...stages.data.shards import iter_samples, resolve_shards
from ...stages.data.stream_config import StreamConfig, StreamPosition
from ...stages.data.student_stream import SampleStream
from ...stages.runtime.reporting import Reporter, SilentReporter
from .store import SyntheticRows, write_parts
from .timing import BenchRow, ratio_row

RAW_GOAL, JPEG_GOAL, BYTES_GOAL = 20.0, 7.0, 0.2
NUM_IMAGES, _NUM_VIEWS, _BATCH_SIZE = 500, 2, 50
IMAGE_PX = (500, 375)
_FALL = 1.4  # exponent: patches of such pictures take as many bytes as those of photographs of this size


def photographs(count: int) -> Iterator[EncodedSample]:
    """JPEGs of 500×375 px and about 110 kB, as ImageNet's are: noise whose amplitude falls with frequency."""
    rng, (width, height) = np.random.default_rng(0), IMAGE_PX
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    frequency[0, 0] = 1.0

    def plane(contrast: float) -> npt.NDArray[np.float64]:
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency**_FALL
        values: npt.NDArray[np.float64] = np.fft.irfft2(spectrum, s=(height, width))
        return values / values.std() * contrast

    for i in range(count):
        luma, blue, red = plane(60), plane(22), plane(22)
        pixels = np.stack([luma + 1.4 * red, luma - 0.34 * blue - 0.71 * red, luma + 1.77 * blue], axis=-1) + 128
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
        yield EncodedSample(key=f"class{i % 10}/{i:06d}", image=buffer.getvalue(), extension="jpg", label=i % 10)


def write_photographs(folder: Path, num_images: int) -> None:
    """Writes such photographs into one shard, bench-000000.tar, classes.json beside it."""
    write_shards(
        photographs(num_images),
        folder,
        name="bench",
        max_count=num_images,
        classes=[str(c) for c in range(10)],
        total=num_images,
        reporter=SilentReporter(),
    )


def bench_baked(*, repeats: int, num_images: int = NUM_IMAGES, reporter: Reporter) -> list[BenchRow]:
    """Measures images/s of raw and JPEG kept patches over drawing `deit` views, and bytes over those of the sources.

    Args:
        num_images: a multiple of the batch size, so that an epoch is all of them.
    """
    with tempfile.TemporaryDirectory(prefix="dataltt-bench-") as folder:
        root = Path(folder)
        replayed = replayed_views(root, num_images)
        streams = {"replay": replayed}
        baked: dict[str, BakedManifest] = {}
        for encoding in ("raw", "jpeg"):
            streams[encoding], baked[encoding] = bake_views(root, encoding, replayed)
        seconds = _in_turn(streams, num_images, repeats, reporter)
        rates = {f"{name}_images_per_s": num_images / statistics.median(s) for name, s in seconds.items()}
        source = sum(path.stat().st_size for path in root.glob("bench-*.tar")) / num_images
        each = {name: m.num_bytes / m.num_images / m.num_views for name, m in baked.items()}
        goals = {"raw": RAW_GOAL, "jpeg": JPEG_GOAL}
        rows = [
            ratio_row(
                f"baked: images/s of {name} kept patches over drawing replayed views",
                seconds["replay"],
                seconds[name],
                goal=goal,
                **rates,
            )
            for name, goal in goals.items()
        ]
        share = each["jpeg"] / source
        detail: dict[str, Any] = {"source_bytes": source, **{f"{name}_bytes": n for name, n in each.items()}}
        name = "baked: bytes of jpeg kept patches over those of the sources"
        return [*rows, BenchRow(name=name, value=share, goal=f"≤ {BYTES_GOAL}", ok=share <= BYTES_GOAL, detail=detail)]


def replayed_views(root: Path, num_images: int) -> StreamConfig:
    """A stream of replayed `deit` views of photographs, whose store lies beside them."""
    write_photographs(root, num_images)
    shards = resolve_shards(str(root / "bench-*.tar"))
    spec = write_parts(
        root / "store.zarr", [SyntheticRows.of_samples(s.name, list(iter_samples(s))) for s in shards], _NUM_VIEWS
    )
    spec = replace(spec, view=replace(spec.view, augment=describe(POLICIES["deit"], spec.view, 0)))
    manifest = commit(root / "store.zarr", spec)
    return StreamConfig(
        shards=count_shards(shards, None, SilentReporter()),
        view=manifest.view,
        image_px=manifest.image_px,
        mode=manifest.view.mode,
        grid=(manifest.grid[0], manifest.grid[1]),
        subset="ticket",
        num_keep=manifest.num_keep,
        batch_size=_BATCH_SIZE,
        num_classes=10,
        seed=0,
        join=JoinConfig(store=str(root / "store.zarr")),
        view_mode="replay",
        policy=POLICIES["deit"],
        num_views=_NUM_VIEWS,
    )


def bake_views(root: Path, encoding: str, replayed: StreamConfig) -> tuple[StreamConfig, BakedManifest]:
    """The same views, baked."""
    out = root / encoding
    shards = str(root / "bench-*.tar")
    bake(BakeConfig.of(tickets=str(root / "store.zarr"), shards=shards, out=out, encoding=encoding, workers=0))
    manifest = read_baked(out)
    return replace(replayed, join=None, baked=BakedSource.of(out, manifest)), manifest


def _in_turn(
    streams: dict[str, StreamConfig], num_images: int, repeats: int, reporter: Reporter
) -> dict[str, list[float]]:
    """Seconds of an epoch of each stream, in turn, there and back, after one warm-up of each."""

    def once(config: StreamConfig) -> float:
        started = time.perf_counter()
        seen = sum(len(batch.labels) for batch in iterate(SampleStream(config, StreamPosition()), num_workers=0))
        assert seen == num_images, f"{seen} of {num_images} samples came out"
        return time.perf_counter() - started

    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for config in streams.values():
        once(config)
    reporter.start("bench baked", repeats, "rounds")
    for i in range(repeats):
        for name in list(streams)[:: -1 if i % 2 else 1]:
            seconds[name].append(once(streams[name]))
        reporter.advance(1)
    reporter.finish()
    return seconds
