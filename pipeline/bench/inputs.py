"""Input of training, path by path: from shards of photographs to batches, one loader process, one core.

A path is a name and a function that reads an epoch, in this process alone: `PATHS` lists them. All are timed in turn
within one run, by the processor's time, so that what else the machine does counts less.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...artifacts_schema import View
from ...stages.data.counting import count_shards
from ...stages.data.decoders import decoded_by
from ...stages.data.loader import iterate
from ...stages.data.policies import POLICIES
from ...stages.data.shards import resolve_shards
from ...stages.data.spans import CountedShard
from ...stages.data.stream_config import StreamConfig, StreamPosition
from ...stages.data.student_stream import SampleStream
from ...stages.options import Decoder
from ...stages.runtime.reporting import Reporter, SilentReporter
from .baked import write_photographs
from .peers import PEERS, PeerViews, read_by
from .timing import BenchRow, ratio_row

NUM_IMAGES = 300
_IMAGE_PX, _BATCH_SIZE = 224, 50
_CENTER = View(
    kind="center",
    resize_px=248,
    crop_share=0.9,
    interpolation="bicubic",
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
)

# Images read in an epoch of these shards.
Epoch = Callable[[tuple[CountedShard, ...]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputGoal:
    """A path that is compared with another one, and should be so many times as fast if it has a goal."""

    name: str
    path: str
    over: str
    goal: float | None = None


def _decoded(views: str, decoder: Decoder) -> Epoch:
    """The path of `dataltt train`: views of a policy's name, or `center`."""

    def read(shards: tuple[CountedShard, ...]) -> int:
        stream = StreamConfig(
            shards=shards,
            view=decoded_by(_CENTER, decoder),
            image_px=_IMAGE_PX,
            mode="RGB",
            grid=(14, 14),
            subset="dense",
            num_keep=196,
            batch_size=_BATCH_SIZE,
            num_classes=2**31,
            seed=0,
        )
        if views != "center":
            stream = replace(stream, view_mode="warp", policy=POLICIES[views])
        return sum(len(batch.labels) for batch in iterate(SampleStream(stream, StreamPosition()), num_workers=0))

    return read


def _peer(name: str, views: PeerViews) -> Epoch:
    return lambda shards: read_by(name, [s.shard.url for s in shards], views, _IMAGE_PX, _BATCH_SIZE)


_VIEWS = ("center", "crop", "deit")
_PEER_VIEWS: tuple[PeerViews, ...] = ("center", "crop")
_GOALS = {"center": 2.0, "crop": 1.8, "deit": 1.5}
PATHS: Mapping[str, Epoch] = {
    **{f"{views}, {decoder}": _decoded(views, decoder) for views in _VIEWS for decoder in ("pillow", "torchvision")},
    **{f"{views}, {name}": _peer(name, views) for views in _PEER_VIEWS for name in PEERS},
}
GOALS = tuple(
    InputGoal(
        name=f"input: images/s of {views} views by torchvision over Pillow",
        path=f"{views}, torchvision",
        over=f"{views}, pillow",
        goal=_GOALS[views],
    )
    for views in _VIEWS
) + tuple(
    InputGoal(
        name=f"input: images/s of {views} views by torchvision over {name}",
        path=f"{views}, torchvision",
        over=f"{views}, {name}",
    )
    for views in _PEER_VIEWS
    for name in PEERS
)


def bench_input(
    *, repeats: int, num_images: int = NUM_IMAGES, shards: str | None = None, reporter: Reporter
) -> list[BenchRow]:
    """Measures images/s of each path, and the ratios that have goals.

    Args:
        num_images: of the photographs that are made; a multiple of the batch size.
        shards: other shards to read instead, of at least a batch.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="dataltt-bench-") as folder:
            counted = count_shards(resolve_shards(shards or _made(Path(folder), num_images)), None, SilentReporter())
            seconds = _in_turn(counted, repeats, reporter)
    finally:
        torch.set_num_threads(num_threads)
    rates = {name: 1 / statistics.median(taken) for name, taken in seconds.items()}
    return [
        ratio_row(
            goal.name,
            seconds[goal.over],
            seconds[goal.path],
            goal=goal.goal,
            images_per_s=[rates[goal.over], rates[goal.path]],
        )
        for goal in GOALS
    ]


def _made(folder: Path, num_images: int) -> str:
    """Shards of photographs, written into a folder."""
    write_photographs(folder, num_images)
    return str(folder / "bench-*.tar")


def _in_turn(shards: tuple[CountedShard, ...], repeats: int, reporter: Reporter) -> dict[str, list[float]]:
    """Processor seconds an image of an epoch of each path, in turn, there and back, after one warm-up of each."""

    def once(path: Epoch) -> float:
        started = time.process_time()
        seen = path(shards)
        return (time.process_time() - started) / seen

    seconds: dict[str, list[float]] = {name: [] for name in PATHS}
    for path in PATHS.values():
        once(path)
    reporter.start("bench input", repeats, "rounds")
    for i in range(repeats):
        for name in list(PATHS)[:: -1 if i % 2 else 1]:
            seconds[name].append(once(PATHS[name]))
        reporter.advance(1)
    reporter.finish()
    return seconds
