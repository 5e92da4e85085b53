"""What tickets cost in a data stream: the same shards with and without the join."""

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
from ...stages.data.shards import iter_samples, resolve_shards
from ...stages.data.stream import SampleStream, StreamConfig, StreamPosition
from ...stages.reporting import Reporter, SilentReporter
from .store import SyntheticRows, write_store
from .timing import BenchRow, interleaved, ratio_row

JOIN_GOAL = 0.97
_IMAGE_PX = (400, 533)
_BATCH_SIZE = 50
NUM_IMAGES = 1000  # one shard, as `dataltt pack` makes them


def _photographs(count: int) -> Iterator[EncodedSample]:
    """JPEGs of a photograph's size and detail: smooth noise, so that decoding costs what it costs on photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (34, 25, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize(_IMAGE_PX, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield EncodedSample(key=f"class{i % 10}/{i:06d}", image=buffer.getvalue(), extension="jpg", label=i % 10)


def bench_join(*, repeats: int, num_images: int = NUM_IMAGES, reporter: Reporter) -> list[BenchRow]:
    """Samples per second of one loader process with tickets over the same without, decoding 400×533-px JPEGs.

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
        write_store(root / "bench.zarr", rows)
        view = View(
            kind="center", resize_px=248, crop_share=0.9, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3
        )
        without = StreamConfig(
            shards=count_shards(shards, None, SilentReporter()),
            view=view,
            image_px=224,
            mode="RGB",
            grid=(14, 14),
            subset="dense",
            num_keep=98,
            batch_size=_BATCH_SIZE,
            num_classes=10,
            seed=0,
        )
        with_tickets = replace(without, subset="ticket", join=JoinConfig(store=str(root / "bench.zarr")))

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
    return [
        ratio_row(
            "join: samples/s with tickets over the same stream without",
            without_s,
            with_s,
            goal=JOIN_GOAL,
            samples_per_s=[num_images / sorted(s)[len(s) // 2] for s in (without_s, with_s)],
        )
    ]
