"""Shards to batches: the data set that loader workers run, for training and for testing.

Everything about a sample (its crop, flip, colours, random patches) is drawn from (seed, epoch, key), or for replayed
views from (the store's seed, key, epoch mod V), so it is the same in any worker, rank, batch or order. The key is the
store's, if the sample is joined with one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ...artifacts_schema import BadImageError, DatalttError, OptionError, SampleError
from ...artifacts_schema.geometry import center_box
from ...artifacts_schema.summary import position_prior
from ..padding import padded
from ..runtime.randomness import generator_of
from .augment import erase_patches
from .batches import Batch, Shown
from .images import Picture, decode_image, size_of, to_tensor
from .join import JoinConfig, Ticket, TicketJoin
from .layouts import left_after
from .loader import Failure
from .patches import PatchChooser, kept_of
from .repeats import Repeats
from .shards import RawSample
from .span_samples import samples_of_span
from .spans import ShardSpan, eval_run, num_train_steps, spans_at, spans_of, train_run, worker_steps
from .stream_config import StreamConfig, StreamPosition
from .token_labels import check_view_mode, collate_labels, shown_labels
from .view_modes import ViewShower


class _Picture:
    """A sample with its ticket, and the views of it that a worker is to show."""

    __slots__ = ("repeats", "sample", "shown", "ticket")

    def __init__(self, sample: RawSample, ticket: Ticket | None, repeats: Sequence[int] = (0,)) -> None:
        self.sample, self.ticket, self.repeats = sample, ticket, repeats
        self.shown: dict[int, Shown] = {}


class SampleStream(IterableDataset[Any]):
    """Batches of one epoch, for one rank."""

    def __init__(self, config: StreamConfig, position: StreamPosition) -> None:
        super().__init__()
        if config.subset in ("ticket", "inverse") and config.join is None and config.baked is None:
            raise OptionError(f"{config.subset} patches come from a ticket store; pass `tickets`")
        if config.view_mode == "replay" and config.join is None and config.baked is None:
            raise OptionError("replayed views come from a ticket store; pass `tickets`")
        if config.token_labels:
            check_view_mode(config.view_mode, config.view, has_join=config.join is not None)
        self.config, self.position = config, position
        self._left = left_after(position.taken, config.num_shown, config.shuffle(position)) if position.taken else None

    def __iter__(self) -> Iterator[Batch | Failure]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            kind = _worker_kind(self.config)
            yield from kind(self.config, self.position, worker, num_workers, self._left).batches()
        except DatalttError as error:
            yield Failure(error)


def _worker_kind(config: StreamConfig) -> type[StreamWorker]:
    if config.baked is None:
        return StreamWorker
    from .baked_stream import BakedWorker  # made of what stands here

    return BakedWorker


class StreamWorker:
    """Share of one worker in one epoch.

    Attributes:
        worker: whose share it is: of `num_workers`, this one's steps are `worker`, `worker + num_workers`, …
        num_done: batches of this share that were given before `position.first_step`.

    Args:
        left: positions of the epoch's sequence that are dealt out, int64, ascending. None: all.
    """

    def __init__(
        self,
        config: StreamConfig,
        position: StreamPosition,
        worker: int,
        num_workers: int,
        left: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.config, self.position, self._left = config, position, left
        # The loader starts with its worker 0; when resuming, that one takes over whose turn it is.
        self.worker = (worker + position.first_step) % num_workers
        self.num_workers = num_workers
        self._repeats = Repeats(number=config.repeats, seed=config.seed, epoch=position.epoch)
        self._views = self._views_of_epoch()
        self.join = TicketJoin(self._join_config(config.join)) if config.join else None
        self.num_skipped = 0
        self._reported = 0
        self._shower = ViewShower(
            config.view_mode,
            config.view,
            image_px=config.image_px,
            augment=config.augment,
            policy=config.policy,
            seed=config.seed,
            stored_seed=config.views_seed,
            num_views=config.num_views,
        )
        warps = config.view_mode == "warp" and config.subset in ("ticket", "inverse") and self.join is not None
        self._chooser = PatchChooser(
            subset=config.subset,
            view_mode=config.view_mode,
            grid=config.grid,
            seed=config.seed,
            breaks_ties=config.mixing,
            prior=position_prior(self.join.store) if warps and self.join else None,
        )

    def _join_config(self, join: JoinConfig) -> JoinConfig:
        """Options of this epoch's join: what it reads of the store."""
        join = replace(join, token_labels=self.config.token_labels)
        if self.config.view_mode == "replay":
            return replace(join, geometry=True, views=self._views)
        if self.config.view_mode == "warp":
            return replace(join, geometry=True, views=range(self.config.num_views))
        return join

    def _views_of_epoch(self) -> range:
        """The stored views that hold those of this epoch."""
        first, total = self._repeats.view(0) % self.config.num_views, self.config.num_views
        return range(first, first + self.config.repeats) if first + self.config.repeats <= total else range(total)

    @property
    def _num_shown(self) -> int:
        """Views that are dealt out, each a picture's."""
        return self.config.num_shown if self._left is None else len(self._left)

    @property
    def _steps(self) -> range:
        """The training steps whose batches this share is."""
        num_steps = num_train_steps(self._num_shown, self.config.batch_size, self.position.world_size)
        return worker_steps(num_steps, self.worker, self.num_workers)

    @property
    def num_done(self) -> int:
        """Number of batches of this share that were given before `position.first_step`."""
        return sum(1 for s in self._steps if s < self.position.first_step)

    def batches(self, num_done: int | None = None) -> Iterator[Batch]:
        """The batches of this share after the first `num_done` (None: after those before the position's step)."""
        c, p = self.config, self.position
        if num_done is None:
            num_done = self.num_done
        if not c.training:
            part = p.rank * self.num_workers + self.worker
            run = eval_run(num_samples=c.num_samples, part=part, num_parts=p.world_size * self.num_workers)
            yield from itertools.islice(self._all_batches(self._processed(self._dealt(run))), num_done, None)
            return
        run = train_run(
            num_samples=self._num_shown,
            batch_size=c.batch_size,
            rank=p.rank,
            world_size=p.world_size,
            worker=self.worker,
            num_workers=self.num_workers,
        )
        samples = self._resumed(run, num_done * c.batch_size)
        yield from itertools.islice(self._full_batches(samples), len(self._steps) - num_done)

    def _resumed(self, run: tuple[int, int], num_done: int) -> Iterator[Shown]:
        """The samples of a run after the first `num_done`, which an earlier process trained on."""
        c = self.config
        if c.on_bad_image == "error":
            yield from self._refilled(run, skip=num_done)
            return
        # Which samples were skipped before is known only by going through them again.
        samples = self._refilled(run, skip=0)
        for _ in itertools.islice(samples, num_done):
            pass
        self._newly_skipped()
        yield from samples

    def _refilled(self, run: tuple[int, int], skip: int) -> Iterator[Shown]:
        """The samples of a run; where some were skipped, as the user asked, the runs after it fill their places.

        A shard of bad images so costs a second look at as many others, not many at the few good ones of its run.
        """
        (start, stop), total = run, self._num_shown
        length, num_bad_runs = stop - start, 0
        for first in itertools.count(start, length):
            num_bad_runs += 1
            for shown in self._processed(self._shuffled((first % total, first % total + length), skip)):
                num_bad_runs = 0
                yield shown
            if num_bad_runs * length >= total and not skip:
                raise SampleError("every sample was skipped, since no image can be decoded; check the shards")
            skip = 0

    def _order(self) -> list[int]:
        """The shards in this epoch's order."""
        if not self.config.training:
            return list(range(len(self.config.shards)))
        return (
            generator_of(self.config.seed, "shards", self.position.epoch).permutation(len(self.config.shards)).tolist()
        )

    def _dealt(self, run: tuple[int, int]) -> Iterator[Any]:
        """The pictures of a run, each with the repeat that is shown: (_Picture, int)."""
        for start, stop in self._pieces(run):
            yield from self._once(start, stop) if self.config.repeats == 1 else self._repeated(start, stop)

    def _pieces(self, run: tuple[int, int]) -> list[tuple[int, int]]:
        """A run, which may go on at the sequence's beginning, in pieces that do not."""
        pieces = ((run[0], min(run[1], self._num_shown)), (0, run[1] - self._num_shown))
        return [(start, stop) for start, stop in pieces if start < stop]

    def _spans(self, start: int, stop: int) -> list[ShardSpan]:
        """The samples of a piece, where each is shown once."""
        sequence = [self.config.shards[i] for i in self._order()]
        if self._left is None:
            return spans_of(sequence, start, stop)
        return spans_at(sequence, self._left[start:stop])

    def _once(self, start: int, stop: int) -> Iterator[tuple[_Picture, int]]:
        yield from ((_Picture(*joined), 0) for joined in self._joined(self._spans(start, stop)))

    def _repeated(self, start: int, stop: int) -> Iterator[tuple[_Picture, int]]:
        spans, repeats = self._repeated_spans(start, stop)
        # Not strict: asked for one more sample, the shard is read to its end, and what is wrong there comes out.
        for joined, which in zip(self._joined(spans), repeats, strict=False):
            picture = _Picture(*joined, which)
            yield from ((picture, repeat) for repeat in picture.repeats)

    def _repeated_spans(self, start: int, stop: int) -> tuple[list[ShardSpan], list[list[int]]]:
        """The pictures of a piece, where each is shown several times, and the repeats of each that the piece has."""
        order, n = self._order(), self.config.repeats
        sequence = [self.config.shards[i] for i in order]
        positions = np.arange(start, stop) if self._left is None else self._left[start:stop]
        numbers, firsts = np.unique(positions // n, return_index=True)
        chosen = self._repeats.pictures([shard.num_samples for shard in self.config.shards])
        before = np.cumsum([0, *(shard.num_samples for shard in sequence)])
        places = np.concatenate([chosen[i] + before[k] for k, i in enumerate(order)])[numbers]
        repeats = [which.tolist() for which in np.split(positions % n, firsts[1:])]
        return spans_at(sequence, places), repeats

    def _joined(self, spans: Iterable[ShardSpan]) -> Iterator[tuple[RawSample, Ticket | None]]:
        """The samples of some spans with their tickets."""
        for span in spans:
            yield from samples_of_span(span, self.join, self.config.skipped_keys)

    def _shuffled(self, run: tuple[int, int], skip: int = 0) -> Iterator[Any]:
        shuffle, num_before = self.config.shuffle(self.position), len(self.position.taken)
        return itertools.islice(shuffle.shuffled(self._dealt(run), run, num_before), skip, None)

    def _processed(self, items: Iterable[Any]) -> Iterator[Shown]:
        for picture, repeat in items:
            try:
                if repeat not in picture.shown:
                    picture.shown = self._process(picture)
                yield picture.shown.pop(repeat)
            except BadImageError:
                if self.config.on_bad_image == "error":
                    raise
                self.num_skipped += 1

    def _process(self, picture: _Picture) -> dict[int, Shown]:
        """All views of a picture that this worker shows, by repeat: it is decoded once."""
        c, sample = self.config, picture.sample
        check_label(sample.shard, sample.key, sample.label, c.num_classes)
        image = decode_image(sample, c.mode, c.view.decoder_name, "mend the shard, or pass `on_bad_image='skip'`")
        return {r: self._show(image, sample, picture.ticket, self._repeats.view(r)) for r in picture.repeats}

    def _show(self, image: Picture, sample: RawSample, ticket: Ticket | None, number: int) -> Shown:
        """A view of a picture, by its number: that of the epoch, where nothing is repeated."""
        c = self.config
        if c.view_mode == "replay" and ticket is not None:
            ticket = ticket.of_view(number % c.num_views - self._views.start)
        if c.view_mode == "warp" and ticket is not None and ticket.boxes is None:
            # A store of one centre view: its box follows from the image's size.
            box = center_box(*size_of(image), resize_px=c.view.resize_px, crop_px=c.image_px)
            ticket = replace(ticket, boxes=box[None], flips=np.zeros(1, np.uint8))
        shown = self._shower.show(image, sample.key, number, ticket)
        scores = self._chooser.scores(sample.key, number, ticket, shown)
        pixels = to_tensor(shown.image)
        if c.random_erasing > 0:
            pixels = erase_patches(pixels, c.grid, c.view, c.random_erasing, c.seed, number, sample.key)
        labels = shown_labels(ticket, c.view_mode, shown, c.grid) if c.token_labels and ticket is not None else None
        num_keep = None
        if c.own_counts and ticket is not None and scores is not None:
            num_keep = self._chooser.num_kept(ticket, shown)
        return Shown(
            key=sample.key, image=pixels, label=sample.label, scores=scores, token_labels=labels, num_keep=num_keep
        )

    def _full_batches(self, samples: Iterator[Shown]) -> Iterator[Batch]:
        """Yields each batch as soon as it is full."""
        while len(batch := list(itertools.islice(samples, self.config.batch_size))) == self.config.batch_size:
            yield self._collate(batch)

    def _all_batches(self, samples: Iterator[Shown]) -> Iterator[Batch]:
        """Yields every sample; the last batch is made when none is left, so that it reports all that were skipped."""
        batch: list[Shown] = []
        for sample in samples:
            if len(batch) == self.config.batch_size:
                yield self._collate(batch)
                batch = []
            batch.append(sample)
        if batch:
            yield self._collate(batch)
        elif num_skipped := self._newly_skipped():
            yield Batch(torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), None, num_skipped)

    def _collate(self, batch: list[Shown]) -> Batch:
        c = self.config
        keep_indices = scored = None
        scores = [sample.scores for sample in batch if sample.scores is not None]  # of all samples, or of none
        counts = tuple(sample.num_keep for sample in batch if sample.num_keep is not None)
        if scores and c.mixing:
            scored = torch.from_numpy(np.stack(scores))
        elif counts:
            keep_indices = padded([kept_of(s, n) for s, n in zip(scores, counts, strict=True)])
        elif scores:
            keep_indices = torch.from_numpy(np.stack([kept_of(s, c.num_keep) for s in scores]))
        positions = [sample.positions for sample in batch if sample.positions is not None]
        label_maps = [sample.token_labels for sample in batch if sample.token_labels is not None]
        return Batch(
            images=torch.stack([sample.image for sample in batch]),
            labels=torch.tensor([sample.label for sample in batch]),
            keep_indices=keep_indices,
            num_skipped=self._newly_skipped(),
            scores=scored,
            token_labels=collate_labels(label_maps) if c.token_labels else None,
            keys=tuple(sample.key for sample in batch),
            positions=torch.from_numpy(np.stack(positions)) if positions and c.mixing else None,
            counts=counts or None,
        )

    def _newly_skipped(self) -> int:
        """Samples skipped since this was last asked."""
        new, self._reported = self.num_skipped - self._reported, self.num_skipped
        return new


def check_label(shard: str, key: str, label: int, num_classes: int) -> None:
    """Refuses a sample without a label, or with one that the model has no class for.

    Raises:
        SampleError
    """
    if label < 0:
        raise SampleError(f"{shard}: sample {key!r} has no .cls; repack the shard with labels")
    if label >= num_classes:
        raise SampleError(
            f"{shard}: sample {key!r} is of class {label}, and the model has {num_classes} classes; use shards of the "
            "model's classes, or train with a larger `num_classes`"
        )
