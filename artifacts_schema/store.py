"""Reading a ticket store. Whatever is read is checked before it is returned: a store is somebody else's bytes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from .access.location import Access, Location
from .access.location import storage_options as option_pairs
from .access.remote import RemoteObjects, fetch_objects
from .access.zarr_store import ObjectStore
from .adaptive import Counts
from .bounded_codecs import max_object_bytes
from .chunks import object_names
from .errors import DatalttError, OptionError, SchemaError, UnknownKeyError
from .image_tickets import ImageTickets
from .layout import ROOT_FILE
from .lookup import KeyLookup, iter_row_blocks
from .manifest_file import Root, invalid_store, read_root, root_mark
from .opening import ZARR_ERRORS, missing_objects, open_arrays, reason_of, size_problems
from .strings import MAX_STRING_BYTES, decode_strings
from .tickets import Packed, Ranks, bad_ranks, bad_tickets, mask_to_indices, unpack_mask
from .token_labels import LabelMaps, bad_label_maps, no_token_labels

# Looking for keys like a wrong one takes about a second for so many.
_MAX_NEAR_ROWS = 20_000

# A run of rows (one contiguous read), or any row numbers, int64 [n].
Rows = range | npt.NDArray[np.int64]
ALL_VIEWS = slice(None)


def _selection(rows: Rows) -> slice | npt.NDArray[np.int64]:
    return slice(rows.start, rows.stop) if isinstance(rows, range) else rows


def open_store(
    place: str | Path | Location,
    *,
    storage_options: Mapping[str, object] | None = None,
    cache_dir: str | Path | None = None,
) -> TicketStore:
    """Opens the ticket store in a folder, in a zip file, or behind a URL (http, https, s3, gs, hf), for reading.

    What is read of a URL is downloaded once, checked against its SHA-256, and kept in a cache.

    Args:
        storage_options: of the URL's file system: endpoint_url, anon, profile, token, …
        cache_dir: where the cache is. Default: $DATALTT_CACHE, else dataltt in the user's caches.

    Raises:
        StoreNotFoundError: there is none.
        SchemaError, UnsupportedVersionError: there is one, but it is not valid.
        RemoteError: the URL cannot be reached, or refuses.
    """
    access = Access(
        storage_options=option_pairs(storage_options or {}), cache_dir=None if cache_dir is None else Path(cache_dir)
    )
    return TicketStore.open(place, access)


class TicketStore:
    """A complete store, opened for reading.

    For people: `store[key]` gives the tickets of one image as `ImageTickets`, `store.tickets(rows)` those of some
    rows, `len(store)` the number of images; `key in store` and `for key in store` do what they say. What the store
    was made of stands in `store.manifest`. The methods `read_…` give arrays of many rows at once.

    Open it in the process that reads it: Zarr runs an event-loop thread, which a fork does not carry over.
    """

    def __init__(self, root: Root, arrays: Mapping[str, zarr.Array[Any]]) -> None:
        self.path, self.manifest, self.location = root.location.place, root.manifest, root.location
        self.objects = root.objects
        self._arrays = arrays
        self._root_mark = root.mark

    @classmethod
    def open(cls, place: str | Path | Location, access: Access | None = None) -> TicketStore:
        """Opens the store in a folder, in a zip file, or behind a URL.

        Raises:
            StoreNotFoundError, SchemaError, UnsupportedVersionError, RemoteError
        """
        root = read_root(Location.of(place, access))
        if isinstance(root.objects, RemoteObjects):  # some at a time, where Zarr asks for one after the other
            fetch_objects(root.objects, [name for name in root.manifest.objects if name.endswith(f"/{ROOT_FILE}")])
        zarr_store = ObjectStore(root.objects, root.manifest.objects, root.content)
        try:
            group = zarr.open_group(zarr_store, mode="r", zarr_format=3)
        except ZARR_ERRORS as error:
            message = f"cannot be opened ({reason_of(error)})"
            raise invalid_store(root.location.place, "zarr.json", "zarr", message) from None
        arrays: dict[str, zarr.Array[Any]] = {}
        problems = [*missing_objects(root), *open_arrays(group, root.manifest, arrays)]
        problems = problems or list(size_problems(root, arrays))
        if problems:
            raise SchemaError(root.location.place, problems)
        zarr_store.limits = {path: max_object_bytes(array) for path, array in arrays.items()}
        return cls(root, arrays)

    def _read(self, path: str, selection: Any) -> npt.NDArray[Any]:
        try:
            values: npt.NDArray[Any] = np.asarray(self._arrays[path].oindex[selection])
            self._refuse_other_tickets()
        except DatalttError:
            raise
        except ZARR_ERRORS as error:
            self._refuse_other_tickets()
            way_out = "clear its copy with: dataltt cache --clear" if self.location.is_remote else "fetch it again"
            message = f"cannot be read ({reason_of(error)}); {way_out}"
            raise invalid_store(self.path, path, "damaged", message) from error
        return values

    def _refuse_other_tickets(self) -> None:
        """Looks whether the folder still holds this store: `select` with `overwrite` puts another one in its place.

        Raises:
            TicketMismatchError: it holds other tickets.
        """
        mark = root_mark(self.location)
        if mark == self._root_mark:
            return
        read_root(self.location)  # a card or token labels are no other tickets
        self._root_mark = mark

    def __len__(self) -> int:
        return self.manifest.num_images

    def __iter__(self) -> Iterator[str]:
        for block in iter_row_blocks(len(self)):
            yield from self.read_keys(block)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and int(self._lookup.find([key])[0]) >= 0

    def __getitem__(self, key: str) -> ImageTickets:
        """The tickets of the image of this key.

        Raises:
            UnknownKeyError: the store has no such key.
            SchemaError: the store is damaged.
        """
        if not isinstance(key, str):
            raise OptionError(f"a store is asked by key, and {key!r} is none; for rows there is store.tickets([0, 1])")
        row = int(self._lookup.find([key])[0])
        if row < 0:
            few = self.manifest.num_images <= _MAX_NEAR_ROWS
            raise UnknownKeyError(self.path, key, difflib.get_close_matches(key, self, n=3) if few else ())
        return self.tickets([row])[0]

    def tickets(self, rows: Sequence[int]) -> list[ImageTickets]:
        """The tickets of some rows (a range is one read), in the order asked for.

        Raises:
            OptionError: a row that the store does not have.
            SchemaError: the store is damaged.
        """
        is_run = isinstance(rows, range) and rows.step == 1
        wanted = np.array(rows, dtype=np.int64)
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if outside.size:
            raise OptionError(f"{self.path} has rows 0 to {len(self) - 1}, and not {outside[0]}; ask for others")
        if not wanted.size:
            return []
        # Zarr reads increasing rows; they are put back into the order asked for.
        unique, places = np.unique(wanted, return_inverse=True)
        read = self._image_tickets(range(int(unique[0]), int(unique[-1]) + 1) if is_run else unique)
        return [read[place] for place in places]

    def _image_tickets(self, rows: Rows) -> list[ImageTickets]:
        m = self.manifest
        masks = unpack_mask(self.read_tickets(rows), m.num_patches)
        is_fixed = m.adaptive is None
        kept = mask_to_indices(masks, m.num_keep) if is_fixed else [list(map(np.flatnonzero, views)) for views in masks]
        ranks = self.read_ranks(rows) if m.has_ranks else None
        boxes, flips = self.read_views(rows) or (None, None)
        labels, digests = self.read_labels(rows), self.read_digests(rows)
        runs = [rows] if isinstance(rows, range) else [range(int(row), int(row) + 1) for row in rows]
        keys = [key for run in runs for key in self.read_keys(run)]
        return [
            ImageTickets(
                key=key,
                row=int(row),
                label=None if labels[i] < 0 else int(labels[i]),
                digest=int(digests[i]),
                kept=kept[i],
                ranks=None if ranks is None else ranks[i],
                boxes=None if boxes is None else boxes[i],
                flips=None if flips is None else flips[i].astype(np.bool_),
            )
            for i, (row, key) in enumerate(zip(rows, keys, strict=True))
        ]

    @cached_property
    def _lookup(self) -> KeyLookup:
        return KeyLookup(self)

    @cached_property
    def shard_names(self) -> list[str]:
        """Names of the source shards, in row order."""
        data, offsets = self._read("shards/data", slice(None)), self._read("shards/offsets", slice(None))
        try:
            names = decode_strings(data, offsets)
        except ValueError as error:
            raise invalid_store(self.path, "shards", "strings", str(error)) from None
        if names != self.manifest.dataset.shards:
            raise invalid_store(self.path, "shards", "inconsistent", "are not the shards that the manifest names")
        return names

    @cached_property
    def shard_rows(self) -> npt.NDArray[np.int64]:
        """int64 [S + 1]: rows of shard s are shard_rows[s] up to shard_rows[s + 1]."""
        rows = self._read("shards/rows", slice(None))
        if rows[0] != 0 or rows[-1] != self.manifest.num_images or (np.diff(rows) < 0).any():
            raise invalid_store(self.path, "shards/rows", "inconsistent", "does not divide the rows")
        return rows

    @cached_property
    def _shard_index(self) -> dict[str, int]:
        return {name: s for s, name in enumerate(self.shard_names)}

    def rows_of_shard(self, name: str) -> range | None:
        """The rows of a shard, or None if the store does not know it."""
        s = self._shard_index.get(name)
        return None if s is None else range(int(self.shard_rows[s]), int(self.shard_rows[s + 1]))

    def read_keys(self, rows: range) -> list[str]:
        """The keys of a run of rows."""
        offsets = self._read("keys/offsets", slice(rows.start, rows.stop + 1))
        num_bytes = self._arrays["keys/data"].shape[0]
        first, last = int(offsets[0]), int(offsets[-1])
        if not 0 <= first <= last <= num_bytes or last - first > MAX_STRING_BYTES * len(rows):
            raise invalid_store(self.path, "keys/offsets", "inconsistent", f"is wrong in rows {rows.start}-{rows.stop}")
        data = self._read("keys/data", slice(first, last))
        try:
            return decode_strings(data, offsets - first)
        except ValueError as error:
            where = f"keys[{rows.start}:{rows.stop}]"
            raise invalid_store(self.path, where, "strings", str(error)) from None

    def read_tickets(self, rows: Rows, views: slice = ALL_VIEWS) -> Packed:
        """Packed tickets uint8 [n, V, W], each with exactly K bits (or its own count) and no spare bit set."""
        m = self.manifest
        tickets = self._read("tickets", (_selection(rows), views))
        num_keep = m.num_keep if m.adaptive is None else self.read_counts(rows, views)
        how_many = num_keep if isinstance(num_keep, int) else "as many as counts says,"
        self._refuse("tickets", rows, bad_tickets(tickets, m.num_patches, num_keep), f"not {how_many} patches")
        return tickets

    def read_counts(self, rows: Rows, views: slice = ALL_VIEWS) -> Counts:
        """Patches that each ticket keeps, uint16 [n, V]: K of all but adaptive ones."""
        m = self.manifest
        if m.adaptive is None:
            num_views = len(range(m.num_views)[views])
            return np.full((len(rows), num_views), m.num_keep, dtype=np.uint16)
        counts = self._read("counts", (_selection(rows), views))
        outside = (counts < m.adaptive.least_keep) | (counts > m.num_keep)
        self._refuse("counts", rows, outside, f"not between {m.adaptive.least_keep} and {m.num_keep} patches")
        return counts

    def read_ranks(self, rows: Rows, views: slice = ALL_VIEWS) -> Ranks:
        """Ranks uint8 or uint16 [n, V, P], each a permutation; the store must have them."""
        ranks = self._read("ranks", (_selection(rows), views))
        self._refuse("ranks", rows, bad_ranks(ranks), "not a permutation")
        return ranks

    def read_token_labels(self, rows: Rows, views: slice = ALL_VIEWS) -> LabelMaps:
        """Token labels: ids uint16 and scores float16, [n, V, P, 5] each.

        Raises:
            TicketMismatchError: the store has none.
            SchemaError: they are damaged.
        """
        labeller = self.manifest.token_labels
        if labeller is None:
            raise no_token_labels(self.path)
        selection = (_selection(rows), views)
        maps = LabelMaps(self._read("token_labels/ids", selection), self._read("token_labels/scores", selection))
        why = f"not the likeliest of {labeller.num_classes} classes with their probabilities"
        self._refuse("token_labels", rows, bad_label_maps(maps, labeller.num_classes), why)
        return maps

    def read_labels(self, rows: Rows) -> npt.NDArray[np.int32]:
        """Class indices int32 [n], -1 where unknown."""
        return self._read("labels", _selection(rows))

    def read_digests(self, rows: Rows) -> npt.NDArray[np.uint64]:
        """XXH3-64 of the encoded images, uint64 [n]."""
        return self._read("digests", _selection(rows))

    def _refuse(self, path: str, rows: Rows, bad: npt.NDArray[np.bool_], why: str) -> None:
        """Raises if any of `bad`, bool [n, V], is set."""
        if bad.any():
            row = int(rows[int(np.flatnonzero(bad.any(axis=1))[0])])
            raise invalid_store(self.path, f"{path}[{row}]", "damaged", f"is {why}; fetch the store again")

    def read_views(
        self, rows: Rows, views: slice = ALL_VIEWS
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]] | None:
        """Boxes float32 [n, V, 4] within the image, flips uint8 [n, V]; None for one centre view."""
        if "views/boxes" not in self._arrays:
            return None
        selection = (_selection(rows), views)
        boxes, flips = self._read("views/boxes", selection), self._read("views/flips", selection)
        corner, size = boxes[..., :2], boxes[..., 2:]
        inside = (corner >= 0) & (size > 0) & (corner + size <= 1 + 1e-6)  # false for NaN
        self._refuse("views/boxes", rows, ~inside.all(axis=-1), "a box outside its image")
        self._refuse("views/flips", rows, flips > 1, "neither 0 nor 1")
        return boxes, flips

    def object_names(self, arrays: Collection[str], rows: Sequence[range] | None = None) -> list[str]:
        """Names of the objects of some arrays, of these rows alone where they are given; key bytes are not divided."""
        names: list[str] = []
        for path in arrays:
            # Offsets have one entry more than there are rows, and shard names and key bytes are not rows at all.
            is_of_rows = rows is not None and self._arrays[path].shape[0] == len(self)
            names += [f"{path}/{ROOT_FILE}", *object_names(path, self._arrays[path], rows if is_of_rows else None)]
        return [name for name in names if name in self.manifest.objects]

    def fetch(
        self,
        arrays: Collection[str] | None = None,
        rows: Sequence[range] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Downloads what is not here yet, so that reading it needs no network; nothing of a store on this machine.

        Args:
            arrays: paths of the arrays that are wanted; with tickets come their counts. Default: all.
            rows: runs of rows that are wanted. Default: all.
            on_progress: called with (bytes downloaded, bytes to download).

        Returns:
            Number of bytes downloaded.

        Raises:
            RemoteError: something cannot be had.
        """
        if not isinstance(self.objects, RemoteObjects):
            return 0
        asked = set(self.array_paths if arrays is None else arrays)
        with_counts = asked | {"counts"} if "tickets" in asked else asked  # of adaptive tickets, which need them
        wanted = self.object_names([path for path in self.array_paths if path in with_counts], rows)
        return fetch_objects(self.objects, wanted, on_progress)

    @property
    def array_paths(self) -> tuple[str, ...]:
        """Paths of the arrays that the store has."""
        return tuple(self._arrays)

    def num_stored_bytes(self) -> dict[str, int]:
        """Bytes of each array (its objects, metadata included), by path."""
        sizes = dict.fromkeys(self._arrays, 0)
        for name in self.manifest.objects:
            owner = next((a for a in self._arrays if name.startswith(a + "/")), None)
            if owner is not None:
                sizes[owner] += self.objects.size(name) or 0
        return sizes
