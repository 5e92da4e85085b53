"""Images to judge tickets on: each is decoded once, shown in one view, and joined with its entry of every store.

Letters: B images of a batch, P patches of the grid, W bytes of a ticket.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...artifacts_schema import DatalttError, MissingTicketError, TicketMismatchError, View
from ..data.images import decode_image, to_tensor
from ..data.join import JoinConfig, Ticket, TicketJoin
from ..data.loader import Failure
from ..data.policies import Policy
from ..data.shards import RawSample
from ..data.span_samples import samples_of_span
from ..data.spans import CountedShard, ShardSpan, eval_run, spans_of
from ..data.view_modes import ViewShower


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """Images, and the view of them that is judged: the centre view, or the first one that stores hold.

    Attributes:
        num_images: how many of the shards' samples, the first ones.
        skipped_keys: samples that are no part of them.
        joins: of each store.
        policy: of replayed views; `num_views` of them are stored.
    """

    shards: tuple[CountedShard, ...]
    num_images: int
    skipped_keys: frozenset[str]
    joins: tuple[JoinConfig, ...]
    view: View
    image_px: int
    mode: str
    policy: Policy | None
    num_views: int
    batch_size: int


class JudgedBatch(NamedTuple):
    """Images of a batch as they are shown, uint8 [B, channels, H, W], with their keys, and their labels int64 [B].

    Attributes:
        numbers: int64 [B], their places among all images.
        tickets: by store, of each image its entry.
    """

    numbers: Tensor
    images: Tensor
    keys: tuple[str, ...]
    labels: Tensor
    tickets: tuple[tuple[Ticket, ...], ...]


class JudgedImages(IterableDataset[Any]):
    """All images of a source in batches, each once, dealt to loader workers in runs."""

    def __init__(self, source: ImageSource) -> None:
        super().__init__()
        self.source = source

    def __iter__(self) -> Iterator[JudgedBatch | Failure]:
        info = get_worker_info()
        part, num_parts = (info.id, info.num_workers) if info else (0, 1)
        try:
            start, stop = eval_run(num_samples=self.source.num_images, part=part, num_parts=num_parts)
            yield from _Reader(self.source).batches(start, stop)
        except MissingTicketError as error:
            yield Failure(MissingTicketError(error.shard, error.key, error.store, may_skip=False))
        except DatalttError as error:
            yield Failure(error)


class _Reader:
    """Reads a run of the images, in the process that needs them."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.joins = [TicketJoin(join) for join in source.joins]
        self.shower = ViewShower(
            "static" if source.policy is None else "replay",
            source.view,
            image_px=source.image_px,
            augment=None,
            policy=source.policy,
            seed=0,
            stored_seed=source.view.seed or 0,
            num_views=source.num_views,
        )

    def batches(self, start: int, stop: int) -> Iterator[JudgedBatch]:
        """The images from number `start` up to `stop`."""
        samples = itertools.chain.from_iterable(map(self._joined, spans_of(self.source.shards, start, stop)))
        numbered = enumerate(samples, start)
        while some := list(itertools.islice(numbered, self.source.batch_size)):
            yield JudgedBatch(
                numbers=torch.tensor([number for number, _ in some]),
                images=torch.stack([self._shown(*joined) for _, joined in some]),
                keys=tuple(sample.key for _, (sample, _) in some),
                labels=torch.tensor([sample.label for _, (sample, _) in some]),
                tickets=tuple(zip(*(tickets for _, (_, tickets) in some), strict=True)),
            )

    def _joined(self, span: ShardSpan) -> Iterator[tuple[RawSample, tuple[Ticket, ...]]]:
        """The samples of a span with their entry of each store; keys are those of the first store."""
        samples = (sample for sample, _ in samples_of_span(span, None, self.source.skipped_keys))
        if not self.joins:
            yield from ((sample, ()) for sample in samples)
            return
        copies = itertools.tee(samples, len(self.joins))
        joined = (join.join(span.counted.shard, copy) for join, copy in zip(self.joins, copies, strict=True))
        for pairs in zip(*joined, strict=True):
            yield pairs[0][0], tuple(ticket for _, ticket in pairs)

    def _shown(self, sample: RawSample, tickets: tuple[Ticket, ...]) -> Tensor:
        view = self.source.view
        image = decode_image(sample, self.source.mode, view.decoder_name, "mend the shard, or take the image out")
        if self.source.policy is None:
            return to_tensor(self.shower.show(image, sample.key, 0, None).image)
        self._check_boxes(sample, tickets)
        return to_tensor(self.shower.show(image, sample.key, 0, tickets[0]).image)

    def _check_boxes(self, sample: RawSample, tickets: tuple[Ticket, ...]) -> None:
        """Refuses entries of one image that are of different views of it, as under different keys they are."""
        first, *others = tickets
        for join, other in zip(self.source.joins[1:], others, strict=True):
            if _view_of(first) != _view_of(other):
                raise TicketMismatchError(
                    f"{sample.shard}: {self.source.joins[0].store} and {join.store} hold different views of sample "
                    f"{sample.key!r}; judge them one by one"
                )


def _view_of(ticket: Ticket) -> tuple[list[float], int]:
    """Box and flip of an entry's first view."""
    assert ticket.boxes is not None
    assert ticket.flips is not None
    return ticket.boxes[0].tolist(), int(ticket.flips[0])
