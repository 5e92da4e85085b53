"""The views that a store's tickets were selected for, shown again: every view of every image, in the store's order.

Boxes and flips are the store's own, so they fit whatever drew them; colours are drawn again from the same names.

Letters: B images, V views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...artifacts_schema import DatalttError, Manifest, TicketMismatchError, TicketStore
from ..options import ErrorOrAllow
from .drawing import CenterViews, DrawnView, PolicyViews
from .images import decode_image, to_tensor
from .loader import Failure
from .policies import Policy
from .shards import RawSample, Shard, iter_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """Batch of images of shard number `index`, in its order; `last` marks the shard's end."""

    index: int
    images: list[Tensor]  # B of uint8 [V, channels, H, W]
    last: bool = False


class _StoredSample(NamedTuple):
    """A sample with the geometry that the store holds of its views; None of a single centre view."""

    sample: RawSample
    boxes: npt.NDArray[np.float32] | None = None  # [V, 4]
    flips: npt.NDArray[np.uint8] | None = None  # [V]


class StoredViews(IterableDataset[Any]):
    """Batches of a store's views, shard by shard; each image is read and decoded once.

    Args:
        shards: with their numbers in the store.
        policy: what replayed views were drawn by, None for the centre view.
        batch_size: views per batch; at least one image's.
    """

    def __init__(
        self,
        store: str,
        manifest: Manifest,
        shards: Sequence[tuple[int, Shard]],
        *,
        policy: Policy | None,
        batch_size: int,
        on_changed_image: ErrorOrAllow,
    ) -> None:
        super().__init__()
        self.store, self.manifest, self.shards, self.policy = store, manifest, shards, policy
        self.on_changed_image = on_changed_image
        self.images_per_batch = max(1, batch_size // manifest.num_views)

    def __iter__(self) -> Iterator[StoredBatch | Failure]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        try:
            store = TicketStore.open(self.store)
            for index, shard in self.shards[first::step]:
                yield from self._batches(store, index, shard)
        except DatalttError as error:
            yield Failure(error)

    def _batches(self, store: TicketStore, index: int, shard: Shard) -> Iterator[StoredBatch]:
        shower = _StoredViewShower(self.manifest, self.policy)
        images: list[Tensor] = []
        for sample, boxes, flips in self._matched(store, shard):
            if len(images) == self.images_per_batch:
                yield StoredBatch(index=index, images=images)
                images = []
            image = decode_image(sample, shower.mode, shower.decoder, _MEND)
            images.append(torch.stack([to_tensor(v.image) for v in shower.show_all(image, sample.key, boxes, flips)]))
        yield StoredBatch(index=index, images=images, last=True)

    def _matched(self, store: TicketStore, shard: Shard) -> Iterator[_StoredSample]:
        """The samples of a shard with their boxes and flips.

        Raises:
            TicketMismatchError: they are not the store's rows of this shard, one by one.
        """
        rows = store.rows_of_shard(shard.name)
        if rows is None:
            raise TicketMismatchError(f"{shard.url} is not a shard of {self.store}; pass the `shards` it was made from")
        keys, digests = store.read_keys(rows), store.read_digests(rows)
        boxes, flips = store.read_views(rows) or (None, None)
        skipped = {s.key for s in self.manifest.skipped if s.shard == shard.name}
        position = 0
        for sample in iter_samples(shard):
            if sample.key in skipped:
                continue
            if position == len(keys) or sample.key != keys[position]:
                raise self._misplaced(shard, sample.key, keys, position)
            changed = xxhash.xxh3_64_intdigest(sample.image) != digests[position]
            if changed and self.on_changed_image == "error":
                raise TicketMismatchError(
                    f"{shard.name}: the image of sample {sample.key!r} is not the one that its ticket in {self.store} "
                    "was made from; pass the `shards` it was made from, or `on_changed_image='allow'` if these are "
                    "a re-encoded copy"
                )
            if boxes is None or flips is None:
                yield _StoredSample(sample)
            else:
                yield _StoredSample(sample, boxes[position], flips[position])
            position += 1
        if position < len(keys):
            raise TicketMismatchError(f"{shard.name}: sample {keys[position]!r} of {self.store} is missing; {_WAY_OUT}")

    def _misplaced(self, shard: Shard, key: str, keys: list[str], position: int) -> TicketMismatchError:
        if key not in keys:
            return TicketMismatchError(f"{shard.name}: sample {key!r} is not in {self.store}; {_WAY_OUT}")
        expected = f"sample {keys[position]!r}" if position < len(keys) else "nothing more"
        return TicketMismatchError(
            f"{shard.name}: sample {key!r} stands where {self.store} has {expected} (samples are missing, or in "
            f"another order); {_WAY_OUT}"
        )


_MEND = "mend the shard: its ticket was made from a sound image"
_WAY_OUT = "pass the `shards` it was made from, or select tickets for these shards"


class _StoredViewShower:
    """Shows the views of an image whose boxes and flips are known."""

    def __init__(self, manifest: Manifest, policy: Policy | None) -> None:
        view = manifest.view
        self.mode, self.decoder = view.mode, view.decoder_name
        self._numbers = range(manifest.num_views)
        self._seed = view.seed
        self._center = CenterViews(view, manifest.image_px)
        self._drawn = None if policy is None else PolicyViews(policy, view, manifest.image_px)

    def show_all(
        self, image: Any, key: str, boxes: npt.NDArray[np.float32] | None, flips: npt.NDArray[np.uint8] | None
    ) -> list[DrawnView]:
        """The V views, from boxes [V, 4] and flips [V]."""
        if self._drawn is None or boxes is None or flips is None:
            return [self._center.draw(image, number) for number in self._numbers]
        return [self._drawn.show(image, boxes[n], bool(flips[n]), self._seed, key, n) for n in self._numbers]
