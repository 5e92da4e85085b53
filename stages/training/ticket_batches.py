"""Shards and their tickets as a data set for a training loop of one's own: batches with names, and resumable.

Letters: B batch, K kept patches, H and W height and width in pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...artifacts_schema import DatalttError, Location, Manifest, OptionError, TicketStore
from ...artifacts_schema.thinning import mean_kept, refuse_adaptive
from ..data.batches import Batch
from ..data.comparing import compare_or_count
from ..data.images import normalize
from ..data.join import JoinConfig
from ..data.loader import raisable
from ..data.shards import stored_shards
from ..data.spans import num_train_steps
from ..data.stream_config import StreamConfig, StreamPosition
from ..data.student_stream import StreamWorker
from ..options import ErrorOrAllow, ErrorOrSkip, Subset, ViewMode
from ..runtime.distributed import rank_and_world_size
from ..runtime.reporting import Reporter, SilentReporter
from .adaptive import takes_counts
from .loop_views import LoopViews, ShownViews, shown_views

_ANY_CLASS = 2**31


class TicketBatch(NamedTuple):
    """Batch of images with their kept patches.

    Attributes:
        images: uint8 [B, channels, H, W]; `TicketBatches.normalize` makes them what a network takes.
        labels: int64 [B].
        keep_indices: int64 [B, K], the kept patches of each image, ascending; None for all (`subset="dense"`). Of
            adaptive tickets K is the batch's largest, and -1 stands after an image's own.
        keys: of the B samples.
        num_skipped: bad images that were left out, as asked, since the batch before.
        counts: B numbers of patches, of adaptive tickets: `net(images, keep_indices, counts)`; else None.
    """

    images: Tensor
    labels: Tensor
    keep_indices: Tensor | None
    keys: list[str]
    num_skipped: int
    counts: tuple[int, ...] | None = None


class TicketBatches(IterableDataset[TicketBatch]):
    """Batches of one epoch. Give it to a loader as it is: `DataLoader(data, batch_size=None, num_workers=4)`.

    In training, every rank and every worker has its own part of each epoch, all ranks have equally many batches, and
    samples are drawn anew for every epoch that `set_epoch` names. In testing, every sample comes once, over all ranks.
    Ranks are those of torch's process group (or torchrun's), found when an epoch begins.

    A pass can be resumed at any batch: by `set_epoch(epoch, first_batch=n)` with any loader; by the loader's own state
    with torchdata's StatefulDataLoader; by `state_dict` and `load_state_dict` where this is iterated without a loader.
    The numbers of ranks and workers, and the batch size, have to be those of before.

    Attributes:
        manifest: of the store.
        num_missing: samples that have no ticket and are left out, as asked.
        num_by_digest: samples that were joined by their images, since the store knows them by other keys.
    """

    def __init__(
        self,
        config: StreamConfig,
        manifest: Manifest,
        *,
        num_by_digest: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self.num_missing, self.num_by_digest = config.num_missing, num_by_digest
        self._config = config
        self._place = None if rank is None or world_size is None else (rank, world_size)
        # Epoch and first batch, shared with workers that outlive an epoch (persistent_workers).
        self._start = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._loaded: dict[str, int] | None = None
        self._latest: _Pass | None = None

    def set_epoch(self, epoch: int, *, first_batch: int = 0) -> None:
        """Sets the epoch that the next pass shows, before it begins.

        Args:
            epoch: from 0 on; says how samples are shuffled and which views are shown.
            first_batch: this rank's batches that are passed over, to go on within an epoch of training.

        Raises:
            OptionError: no such epoch or batch.
        """
        if epoch < 0:
            raise OptionError(f"`epoch` {epoch} should be at least 0")
        if first_batch and (not self._config.training or not 0 < first_batch <= len(self)):
            most = len(self) if self._config.training else 0
            raise OptionError(f"`first_batch` {first_batch} should lie between 0 and {most}")
        self._start[0], self._start[1] = epoch, first_batch
        self._loaded = None

    @property
    def epoch(self) -> int:
        """Epoch that the next pass shows."""
        return int(self._start[0])

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        if not self._config.training:
            raise TypeError("how many batches there are in testing depends on the loader's workers")
        return num_train_steps(self._config.num_shown, self._config.batch_size, self._ranks()[1])

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [B, channels, H, W] on any device as the float32 that a network takes, by the store's mean and std."""
        return normalize(images, self.manifest.view)

    def __iter__(self) -> Iterator[TicketBatch]:
        rank, world_size = self._ranks()
        epoch, first_batch = self._start.tolist()
        position = StreamPosition(epoch=epoch, first_step=first_batch, rank=rank, world_size=world_size)
        self._latest = _Pass(self._config, position)
        if self._loaded is not None:
            state, self._loaded = self._loaded, None
            self._latest.load_state_dict(state)
        return self._latest

    def state_dict(self) -> dict[str, int]:
        """Returns where the latest pass of this process stands."""
        return self._latest.state_dict() if self._latest is not None else {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next pass go on where another stood; the passes after it are those of `set_epoch`."""
        if "num_given" in state:
            self._loaded = dict(state)
        else:  # none had begun
            self.set_epoch(state["epoch"])

    def _ranks(self) -> tuple[int, int]:
        return rank_and_world_size() if self._place is None else self._place

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are not forked know nothing of this process's group.
        known = torch.distributed.is_available() and torch.distributed.is_initialized()
        place = self._ranks() if known else self._place
        return {**self.__dict__, "_place": place, "_latest": None}


class _Pass(Iterator[TicketBatch]):
    """Pass of one worker over its share of an epoch. It knows its state, as torchdata's StatefulDataLoader asks."""

    def __init__(self, config: StreamConfig, position: StreamPosition) -> None:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        self._config, self._position = config, position
        # As StreamWorker deals shares when it begins within an epoch.
        self._share, self._num_workers = (worker + position.first_step) % num_workers, num_workers
        self._num_given: int | None = None  # of this share; None: as the position says
        self._batches: Iterator[Batch] | None = None

    def __next__(self) -> TicketBatch:
        try:
            if self._batches is None:
                self._begin()
            assert self._batches is not None
            assert self._num_given is not None
            batch = next(self._batches)
            while not len(batch.labels):  # the last samples were all skipped
                batch = next(self._batches)
        except DatalttError as error:
            converted = raisable(error)
            raise converted from (None if converted is error else error)
        self._num_given += 1
        return TicketBatch(
            batch.images, batch.labels, batch.keep_indices, list(batch.keys), batch.num_skipped, batch.counts
        )

    def _begin(self) -> None:
        stream = self._stream()
        self._num_given = stream.num_done if self._num_given is None else self._num_given
        self._batches = stream.batches(self._num_given)

    def _stream(self) -> StreamWorker:
        # A position at `share` makes the first worker the one whose share that is.
        worker = (self._share - self._position.first_step) % self._num_workers
        return StreamWorker(self._config, self._position, worker, self._num_workers)

    def state_dict(self) -> dict[str, int]:
        c, p = self._config, self._position
        num_given = self._num_given
        if num_given is None:
            num_given = len(range(self._share, p.first_step, self._num_workers))
        return {
            "epoch": p.epoch,
            "share": self._share,
            "num_given": num_given,
            "num_workers": self._num_workers,
            "world_size": p.world_size,
            "batch_size": c.batch_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        ours = {**self.state_dict(), "num_workers": self._num_workers}
        for name in ("batch_size", "world_size", "num_workers"):
            if state[name] != ours[name]:
                raise OptionError(
                    f"this state is of {name.replace('_', ' ')} {state[name]}, and now it is {ours[name]}; a pass goes "
                    "on with the same alone, so set it back, or begin the epoch anew"
                )
        rank, world_size = self._position.rank, self._position.world_size
        self._position = StreamPosition(epoch=state["epoch"], rank=rank, world_size=world_size)
        self._share, self._num_given, self._batches = state["share"], state["num_given"], None


def ticket_batches(
    shards: str | None = None,
    *,
    tickets: str | Path | TicketStore,
    batch_size: int,
    training: bool = True,
    subset: Subset = "ticket",
    view_mode: ViewMode | None = None,
    num_views: int | None = None,
    augment: str | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    shuffle_buffer: int = 2000,
    on_missing_ticket: ErrorOrSkip = "error",
    on_changed_image: ErrorOrAllow = "error",
    on_bad_image: ErrorOrSkip = "error",
    on_other_pixels: ErrorOrAllow = "error",
    recount: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    reporter: Reporter | None = None,
) -> TicketBatches:
    """Shards and their tickets as a torch data set whose batches have names.

    Images are given as uint8, a quarter of what floats would take on their way out of a worker; normalise them where
    the network is: `data.normalize(batch.images.to(device))`.

    Args:
        shards: braces, a glob or a URL; None for those that the store was made from.
        tickets: the store: a path, a URL, or what `open` gave.
        batch_size: samples of a batch, on each rank.
        training: shuffled, mirrored and coloured, full batches alone; else every sample once, as it is.
        subset: the patches to keep: tickets, or one of the controls that `dataltt train` has.
        view_mode: None for replayed views where the store has them, else its centre view; `warp` carries tickets over
            to fresh crops.
        num_views: how many of the store's views are shown in turn (view = epoch mod V); None for all.
        augment: the policy that fresh views are drawn by.
        num_classes: labels above are refused.
        seed: of shuffling, mirroring and colours.
        shuffle_buffer: samples that wait to be drawn from, in each worker.
        on_missing_ticket, on_changed_image, on_bad_image, on_other_pixels, recount: as in `dataltt train`.
        rank, world_size: instead of those of torch's process group.
        reporter: is told how many samples have tickets, and of the indexing of shards that the store does not know.
            Without one, a warning says how many samples are left out, or joined by their images.

    Raises:
        DatalttError: whatever can be known to be wrong before an image is read.
    """
    _check_call(batch_size, subset, rank, world_size)
    store = tickets if isinstance(tickets, TicketStore) else TicketStore.open(tickets)
    manifest = store.manifest
    asked = LoopViews(
        tickets=store.path,
        subset=subset,
        view_mode=view_mode,
        num_views=num_views,
        augment=augment,
        on_other_pixels=on_other_pixels,
        training=training,
    )
    views = shown_views(asked, manifest)
    own_counts = _own_counts(store, subset, views)
    found = stored_shards(store.location, manifest, None if shards is None else str(shards))
    join = _join(store.location, subset, views, on_missing_ticket, on_changed_image, own_counts=own_counts)
    compared = compare_or_count(found, store, join, reporter or SilentReporter(), recount=recount)
    for sentence in compared.sentences() if reporter is None else ():
        warnings.warn(sentence, stacklevel=2)
    config = StreamConfig(
        shards=compared.shards,
        view=manifest.view,
        image_px=manifest.image_px,
        mode=manifest.view.mode,
        grid=(manifest.grid[0], manifest.grid[1]),
        subset=subset,
        num_keep=mean_kept(manifest),
        own_counts=own_counts,
        batch_size=batch_size,
        num_classes=_ANY_CLASS if num_classes is None else num_classes,
        seed=seed,
        join=join,
        skipped_keys=manifest.skipped_keys,
        view_mode=views.mode,
        augment=views.augment,
        policy=views.policy,
        num_views=views.num_views,
        views_seed=views.seed,
        on_bad_image=on_bad_image,
        shuffle_buffer=shuffle_buffer,
        training=training,
    )
    data = TicketBatches(config, manifest, num_by_digest=compared.num_by_digest, rank=rank, world_size=world_size)
    if training and len(data) == 0:
        raise OptionError(
            f"{config.num_samples} samples are fewer than one batch of {batch_size} on each process; lower `batch_size`"
        )
    return data


def _check_call(batch_size: int, subset: str, rank: int | None, world_size: int | None) -> None:
    if batch_size < 1:
        raise OptionError(f"`batch_size` {batch_size} should be at least 1")
    if (rank is None) != (world_size is None):
        raise OptionError("`rank` and `world_size` go together; give both, or neither")
    if subset == "resize":
        raise OptionError("`subset` 'resize' is none: take 'dense', and make the batch's images smaller")


def _own_counts(store: TicketStore, subset: Subset, views: ShownViews) -> bool:
    """Tells whether images keep as many patches as their own tickets.

    Raises:
        OptionError: the store does not say what this subset, or these views, need.
    """
    if subset == "inverse" and not store.manifest.has_ranks:
        raise OptionError(
            f"`subset` 'inverse' needs ranks, which {store.path} lacks; select again: dataltt select --ranks"
        )
    own_counts = takes_counts(store.manifest, subset)
    if own_counts and views.mode == "warp":
        refuse_adaptive(
            store.manifest, store.path, "how many patches the views of this `view_mode` need, they do not say"
        )
    return own_counts


def _join(
    location: Location,
    subset: Subset,
    views: ShownViews,
    on_missing_ticket: ErrorOrSkip,
    on_changed_image: ErrorOrAllow,
    *,
    own_counts: bool,
) -> JoinConfig | None:
    of_tickets = subset in ("ticket", "inverse")
    if not of_tickets and not own_counts and views.mode != "replay" and on_missing_ticket == "error":
        return None
    ranks = of_tickets and (subset == "inverse" or views.mode == "warp")
    return JoinConfig(
        store=location, ranks=ranks, on_missing_ticket=on_missing_ticket, on_changed_image=on_changed_image
    )
