"""Tickets joined onto a map-style data set: an ImageFolder, or a set of Hugging Face's `datasets`.

Letters: n samples, V views, K kept patches, W ticket bytes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor
from torch.utils.data import Dataset

from ...artifacts_schema import (
    DatalttError,
    MissingTicketError,
    OptionError,
    SampleError,
    TicketMismatchError,
    TicketStore,
)
from ...artifacts_schema.geometry import Box
from ...artifacts_schema.lookup import MISSING, DigestLookup, KeyLookup, keys_at
from ...artifacts_schema.thinning import refuse_adaptive
from ...artifacts_schema.tickets import Packed
from ..data.encoded_images import EncodedImages, encoded_images
from ..data.images import decode_image, normalize, to_tensor
from ..data.join import Ticket
from ..data.loader import raisable
from ..data.patches import PatchChooser, kept_of
from ..data.view_modes import ViewShower
from ..options import ErrorOrAllow, ErrorOrSkip, ViewMode
from .loop_views import LoopViews, ShownViews, shown_views


class TicketSample(NamedTuple):
    """Sample with its kept patches; torch's loaders make batches of the same names.

    Attributes:
        image: uint8 [channels, H, W], the view that the ticket is of.
        label: class index, -1 where it is unknown.
        keep_indices: int64 [K], the kept patches, ascending.
        key: as the store knows the image.
    """

    image: Tensor
    label: int
    keep_indices: Tensor
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """The tickets of one epoch's view (of a centre view: of all)."""

    number: int
    packed: Packed  # [n, V, W]
    boxes: Box | None  # [n, V, 4]
    flips: npt.NDArray[np.uint8] | None  # [n, V]


class TicketImages(Dataset[TicketSample]):
    """Images with their tickets, by number. Use it as any map-style set: shuffling and ranks are the sampler's.

    All tickets of an epoch are held in memory, `n · W` bytes (25 for 196 patches).

    Attributes:
        num_skipped: images that have no ticket and were left out, as asked.
        num_by_digest: images that were joined by their bytes, since the store knows them by other keys.
    """

    def __init__(
        self,
        images: EncodedImages,
        store: TicketStore,
        *,
        by: Literal["key", "digest"],
        views: ShownViews,
        seed: int,
        on_missing_ticket: ErrorOrSkip,
        on_changed_image: ErrorOrAllow,
    ) -> None:
        self.manifest = manifest = store.manifest
        self._images, self._path, self._views = images, store.path, views
        self._location = store.location
        self._checks_digests = by == "key" and on_changed_image == "error"
        rows, self.num_by_digest = _rows(images, store, by)
        self._indices = np.flatnonzero(rows >= 0)
        self._rows = rows[self._indices]
        self.num_skipped = len(rows) - len(self._rows)
        if self.num_skipped:
            self._refuse_or_warn(int(np.flatnonzero(rows < 0)[0]), on_missing_ticket)
        if by == "key" and self.num_by_digest:
            warnings.warn(
                f"{self.num_by_digest} of {len(images)} images joined by their digests: they have other keys in "
                f"{self._path}, by which views are drawn",
                stacklevel=3,
            )
        self._grid = (manifest.grid[0], manifest.grid[1])
        self._chooser = PatchChooser(
            subset="ticket", view_mode=views.mode, grid=self._grid, seed=seed, breaks_ties=False
        )
        self._seed = seed
        self._digests = _gather(store.read_digests, self._rows)
        # The store's own keys: colours are drawn by them.
        self._keys = _gather_keys(store, self._rows)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # with workers that outlive an epoch
        self._loaded = self._load(store)
        self._made: ViewShower | None = None

    def _refuse_or_warn(self, first: int, on_missing_ticket: str) -> None:
        num_images, num_joined = len(self._images), len(self._rows)
        if on_missing_ticket == "error" or not num_joined:
            counts = f"{num_joined} of {num_images} images have tickets"
            name, key = self._images.name, self._images.read(first).key
            raise MissingTicketError(name, key, self._path, counts=counts, may_skip=num_joined > 0)
        warnings.warn(
            f"{self.num_skipped} of {num_images} images have no ticket in {self._path} and are left out",
            stacklevel=4,
        )

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch: of V replayed views, number epoch mod V is shown.

        Raises:
            OptionError: no such epoch.
        """
        if epoch < 0:
            raise OptionError(f"`epoch` {epoch} should be at least 0")
        self._epoch.fill_(epoch)
        self._tickets()

    @property
    def epoch(self) -> int:
        """Epoch whose views are shown."""
        return int(self._epoch)

    def __len__(self) -> int:
        return len(self._rows)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [B, channels, H, W] on any device as the float32 that a network takes, by the store's mean and std."""
        return normalize(images, self.manifest.view)

    def __getitem__(self, index: int) -> TicketSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} images, and no number {index}")
        try:
            return self._sample(index % len(self))
        except DatalttError as error:
            converted = raisable(error)
            raise converted from (None if converted is error else error)

    def _sample(self, index: int) -> TicketSample:
        m = self.manifest
        sample, key = self._images.read(int(self._indices[index])), self._keys[index]
        if self._checks_digests and xxhash.xxh3_64_intdigest(sample.image) != self._digests[index]:
            raise TicketMismatchError(
                f"{sample.shard}: the image of {sample.key!r} is not the one that its ticket in {self._path} was made "
                "from; select tickets for these images, or pass `on_changed_image='allow'` for a re-encoded copy"
            )
        image = decode_image(sample, m.view.mode, m.view.decoder_name, "mend it, or leave it out")
        ticket, epoch = self._ticket(index), self.epoch
        shown = self._shower().show(image, key, epoch, ticket)
        scores = self._chooser.scores(key, epoch, ticket, shown)
        assert scores is not None
        kept = torch.from_numpy(kept_of(scores, m.num_keep))
        return TicketSample(to_tensor(shown.image), sample.label, kept, key)

    def _ticket(self, index: int) -> Ticket:
        loaded = self._tickets()
        return Ticket(
            packed=loaded.packed[index],
            boxes=None if loaded.boxes is None else loaded.boxes[index],
            flips=None if loaded.flips is None else loaded.flips[index],
        )

    def _number(self) -> int:
        """Number of the replayed view that this epoch shows."""
        return self.epoch % self._views.num_views

    def _tickets(self) -> _Loaded:
        if self._loaded.number != self._number():
            self._loaded = self._load(TicketStore.open(self._location))
        return self._loaded

    def _load(self, store: TicketStore) -> _Loaded:
        number = self._number()
        replays = self._views.mode == "replay"
        views = slice(number, number + 1) if replays else slice(None)
        packed = _gather(lambda rows: store.read_tickets(rows, views), self._rows)
        boxes = flips = None
        if replays:
            boxes = _gather(lambda rows: _geometry(store, rows, views)[0], self._rows)
            flips = _gather(lambda rows: _geometry(store, rows, views)[1], self._rows)
        return _Loaded(number=number, packed=packed, boxes=boxes, flips=flips)

    def _shower(self) -> ViewShower:
        v = self._views
        if self._made is None:
            self._made = ViewShower(
                v.mode,
                self.manifest.view,
                image_px=self.manifest.image_px,
                augment=v.augment,
                policy=v.policy,
                seed=self._seed,
                stored_seed=v.seed,
                num_views=v.num_views,
            )
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}  # made again in the worker


def _geometry(store: TicketStore, rows: Any, views: slice) -> tuple[Box, npt.NDArray[np.uint8]]:
    found = store.read_views(rows, views)
    assert found is not None  # of a replayed store
    return found


def _gather(read: Any, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Gathers what `read` gives for rows in any order, more than once too; Zarr reads increasing ones."""
    unique, places = np.unique(rows, return_inverse=True)
    is_run = len(unique) and unique[-1] - unique[0] + 1 == len(unique)
    found: npt.NDArray[Any] = read(range(int(unique[0]), int(unique[-1]) + 1) if is_run else unique)
    return found if is_run and np.array_equal(unique, rows) else found[places]


def _gather_keys(store: TicketStore, rows: npt.NDArray[np.int64]) -> list[str]:
    """The store's own keys: views are drawn by them."""
    unique, places = np.unique(rows, return_inverse=True)
    known = keys_at(store, unique)
    return [known[place] for place in places]


def _rows(images: EncodedImages, store: TicketStore, by: Literal["key", "digest"]) -> tuple[npt.NDArray[np.int64], int]:
    """The store's row of each image, int64 [n], negative where it has no ticket; and how many the digests gave."""
    if not len(images):
        raise SampleError(f"{images.name}: there is no image in it; give another set")
    if by == "digest":
        rows = np.full(len(images), MISSING)
    elif images.keys is None:
        raise OptionError("which column holds the keys? pass `key`, or `by='digest'` to join by the images themselves")
    else:
        rows = KeyLookup(store).find(images.keys)
    others = np.flatnonzero(rows < 0)
    if not len(others):
        return rows, 0
    digests = (xxhash.xxh3_64_intdigest(images.read(int(i)).image) for i in others)
    rows[others] = DigestLookup(store).find(np.fromiter(digests, dtype=np.uint64, count=len(others)))
    return rows, int((rows[others] >= 0).sum())


def join_tickets(
    images: Any,
    *,
    tickets: str | Path | TicketStore,
    by: Literal["key", "digest"] = "key",
    key: str | None = None,
    image: str = "image",
    label: str = "label",
    training: bool = True,
    view_mode: ViewMode | None = None,
    num_views: int | None = None,
    augment: str | None = None,
    seed: int = 0,
    on_missing_ticket: ErrorOrSkip = "error",
    on_changed_image: ErrorOrAllow = "error",
    on_other_pixels: ErrorOrAllow = "error",
) -> TicketImages:
    """Joins tickets onto a map-style data set; its own transforms are passed over, since a ticket is of one view.

    Every image is matched with its ticket here, before training begins.

    Args:
        images: a torchvision ImageFolder, whose keys are those that `dataltt pack` gives its files; a Hugging Face
            Dataset; or a sequence of (key, encoded bytes, label).
        tickets: the store: a path, a URL, or what `open` gave.
        by: `key`, or `digest`: XXH3-64 of the encoded bytes, for which every image is read once here. By key, images
            whose keys the store does not have are read and joined by their digests; a warning says how many.
        key, image, label: columns of a Hugging Face set.
        training: mirrored and coloured, or the store's views in turn; else the centre view as it is.
        view_mode, num_views, augment, seed, on_other_pixels: as in `dataset`; `warp` needs shards.
        on_missing_ticket: `skip` leaves images without ticket out, and warns of how many.
        on_changed_image: `allow` takes a re-encoded copy of the image that the ticket was made from.

    Raises:
        MissingTicketError: an image has no ticket.
        TicketMismatchError: the store does not have the views asked for; when read, an image that is another one.
        OptionError: options, or a data set, that cannot be meant.
    """
    if by not in ("key", "digest"):
        raise OptionError(f"`by` {by!r} should be 'key' or 'digest'")
    store = tickets if isinstance(tickets, TicketStore) else TicketStore.open(tickets)
    path = store.path
    refuse_adaptive(store.manifest, path, "a loader's own batches need equal numbers; join it with `dataset`")
    asked = LoopViews(
        tickets=path,
        view_mode=view_mode,
        num_views=num_views,
        augment=augment,
        on_other_pixels=on_other_pixels,
        training=training,
    )
    views = shown_views(asked, store.manifest)
    if views.mode == "warp":
        raise OptionError(
            f"views of {path} would be warped, which needs shards; join it with `dataset`, or select the centre view: "
            "dataltt select --augment none"
        )
    return TicketImages(
        encoded_images(images, key=key, image=image, label=label),
        store,
        by=by,
        views=views,
        seed=seed,
        on_missing_ticket=on_missing_ticket,
        on_changed_image=on_changed_image,
    )
