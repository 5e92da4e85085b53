"""Stage one's batches: every view of every image of a shard, in the shard's order; each image is decoded once.

Letters: B images, V views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...artifacts_schema import BadImageError, DatalttError, SkippedSample
from ..options import ErrorOrSkip
from .drawing import ViewDrawer
from .images import decode_image, to_tensor
from .loader import Failure
from .shards import Shard, iter_samples

_WAY_OUT = "mend the shard, or pass `on_bad_image='skip'`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewBatch:
    """Batch of samples of one shard, in its order; `last` marks the shard's end."""

    index: int
    images: list[Tensor]  # B of uint8 [V, channels, H, W]
    keys: list[str]
    labels: list[int]
    digests: list[int]
    boxes: list[npt.NDArray[np.float32]]  # B of [V, 4]
    flips: list[list[bool]]  # B of V
    skipped: list[SkippedSample]
    last: bool


class ShardBatches(IterableDataset[Any]):
    """Batches of views, shard by shard; each image is read and decoded once."""

    def __init__(
        self,
        shards: Sequence[tuple[int, Shard]],
        views: ViewDrawer,
        *,
        mode: str,
        batch_size: int,
        on_bad_image: ErrorOrSkip,
    ) -> None:
        super().__init__()
        self.shards, self.views, self.mode, self.on_bad_image = shards, views, mode, on_bad_image
        # Every view goes through the selector, and waits for it in memory.
        self.images_per_batch = max(1, batch_size // views.num_views)

    def __iter__(self) -> Iterator[ViewBatch | Failure]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        try:
            for index, shard in self.shards[first::step]:
                yield from self._batches(index, shard)
        except DatalttError as error:
            yield Failure(error)

    def _batches(self, index: int, shard: Shard) -> Iterator[ViewBatch]:
        batch = _empty(index)
        for sample in iter_samples(shard):
            if len(batch.keys) == self.images_per_batch:
                yield batch
                batch = _empty(index)
            try:
                image = decode_image(sample, self.mode, self.views.decoder, _WAY_OUT)
            except BadImageError as error:
                if self.on_bad_image == "error":
                    raise
                batch.skipped.append(SkippedSample(shard=shard.name, key=sample.key, reason=error.reason))
                continue
            views = self.views.draw_all(image, sample.key)
            batch.images.append(torch.stack([to_tensor(v.image) for v in views]))
            batch.keys.append(sample.key)
            batch.labels.append(sample.label)
            batch.digests.append(xxhash.xxh3_64_intdigest(sample.image))
            batch.boxes.append(np.stack([v.box for v in views]))
            batch.flips.append([v.flip for v in views])
        yield replace(batch, last=True)


def _empty(index: int) -> ViewBatch:
    return ViewBatch(index=index, images=[], keys=[], labels=[], digests=[], boxes=[], flips=[], skipped=[], last=False)
