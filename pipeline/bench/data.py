"""Cost of tickets in a data stream: the same shards with and without the join."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...artifacts_schema import View
from ...stages.data.counting import count_shards
from ...stages.data.join import JoinConfig
from ...stages.data.loader import iterate
from ...stages.data.packing import EncodedSample, write_shards
from ...stages.data.policies import POLICIES
from ...stages.data.shards import Shard, iter_samples, resolve_shards
from ...stages.data.stream_config import StreamConfig, StreamPosition
from ...stages.data.student_stream import SampleStream
from ...stages.runtime.reporting import Reporter, SilentReporter
from .store import IMAGE_PX, SyntheticRows, write_store
from .timing import BenchRow, interleaved, ratio_row

JOIN_GOAL = 0.97
_NUM_VIEWS = 10
_BATCH_SIZE = 50
NUM_IMAGES = 1000  # one shard, as `dataltt pack` makes them


def _photographs(count: int) -> Iterator[EncodedSample]:
    """JPEGs of a photograph's size and detail: smooth noise, so that decoding costs what it costs on photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (34, 25, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(IMAGE_PX, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield EncodedSample(key=f"class{i % 10}/{i:06d}", image=buffer.getvalue(), extension="jpg", label=i % 10)


def bench_join(*, repeats: int, num_images: int = NUM_IMAGES, reporter: Reporter) -> list[BenchRow]:
    """Measures what tickets cost one loader process that decodes 400×533-px JPEGs: a centre view's, and replayed views.

    Args:
        num_images: a multiple of the batch size, so that an epoch is all of them.
    """
    with tempfile.TemporaryDirectory(prefix="dataltt-bench-") as folder:
        root = Path(folder)
        write_shards(
            _photographs(num_images),
            root,
            name="bench",
            max_count=num_images,
            classes=[str(c) for c in range(10)],
            total=num_images,
            reporter=SilentReporter(),
        )
        shards = resolve_shards(str(root / "bench-*.tar"))
        rows = [SyntheticRows.of_samples(s.name, list(iter_samples(s))) for s in shards]
        write_store(root / "center.zarr", rows)
        write_store(root / "views.zarr", rows, _NUM_VIEWS)
        center = _dense_stream(shards)
        fresh = replace(center, view_mode="warp", policy=POLICIES["deit"])
        replayed = replace(fresh, view_mode="replay", num_views=_NUM_VIEWS)
        return [
            _compared("join: samples/s with tickets over the same stream without", center, center, root / "center.zarr",
                      repeats, num_images, reporter),
            _compared("join: samples/s of replayed views with tickets over fresh ones without", fresh, replayed,
                      root / "views.zarr", repeats, num_images, reporter),
        ]  # fmt: skip


def _dense_stream(shards: list[Shard]) -> StreamConfig:
    return StreamConfig(
        shards=count_shards(shards, None, SilentReporter()),
        view=View(kind="center", resize_px=248, crop_share=0.9, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3),
        image_px=224,
        mode="RGB",
        grid=(14, 14),
        subset="dense",
        num_keep=98,
        batch_size=_BATCH_SIZE,
        num_classes=10,
        seed=0,
    )


def _compared(
    name: str,
    without: StreamConfig,
    joined: StreamConfig,
    store: Path,
    repeats: int,
    num_images: int,
    reporter: Reporter,
) -> BenchRow:
    """Times one stream as it is against another with the store's tickets."""
    with_tickets = replace(joined, subset="ticket", join=JoinConfig(store=str(store)))

    def stream(config: StreamConfig) -> None:
        seen = sum(len(batch.labels) for batch in iterate(SampleStream(config, StreamPosition()), num_workers=0))
        assert seen == num_images, f"{seen} of {num_images} samples came out"

    without_s, with_s = interleaved(
        lambda: stream(without),
        lambda: stream(with_tickets),
        repeats=repeats,
        reporter=reporter,
        name="bench join",
    )
    return ratio_row(
        name,
        without_s,
        with_s,
        goal=JOIN_GOAL,
        samples_per_s=[num_images / sorted(s)[len(s) // 2] for s in (without_s, with_s)],
    )
