"""Reading a ticket store. Whatever is read is checked before it is returned: a store is somebody else's bytes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import StorePath, WrapperStore

from .codecs import codec_problems
from .errors import OptionError, Problem, SchemaError, UnknownKeyError
from .image_tickets import ImageTickets
from .layout import array_specs
from .lookup import KeyLookup, iter_row_blocks
from .manifest import Manifest
from .manifest_file import invalid_store, read_manifest
from .strings import MAX_STRING_BYTES, decode_strings
from .tickets import Packed, Ranks, bad_ranks, bad_tickets, mask_to_indices, unpack_mask
from .token_labels import LabelMaps, bad_label_maps, no_token_labels

# What Zarr raises on bytes that are not what they should be.
_ZARR_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, ArithmeticError, AssertionError)
# A store of fewer stored bytes per thousand rows than this is made up: a digest alone is 8 bytes that do not compress.
_MIN_BYTES_PER_1000_ROWS = 1000
# Looking for keys like a wrong one takes about a second for so many.
_MAX_NEAR_ROWS = 20_000

# A run of rows (one contiguous read), or any row numbers, int64 [n].
Rows = range | npt.NDArray[np.int64]
ALL_VIEWS = slice(None)


def _selection(rows: Rows) -> slice | npt.NDArray[np.int64]:
    return slice(rows.start, rows.stop) if isinstance(rows, range) else rows


class _NoFillValues(WrapperStore[Store]):
    """A chunk that is not there, or is empty, is an error: Zarr would read it as fill values."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if "/c/" in key and not found:
            raise FileNotFoundError(f"{key} is missing or empty")
        return found


def open_store(path: str | Path) -> TicketStore:
    """Opens the ticket store at a local path or fsspec URL, for reading.

    Raises:
        StoreNotFoundError: there is none.
        SchemaError, UnsupportedVersionError: there is one, but it is not valid.
    """
    return TicketStore.open(str(path))


class TicketStore:
    """A complete store, opened for reading.

    For people: `store[key]` gives the tickets of one image as `ImageTickets`, `store.tickets(rows)` those of some
    rows, `len(store)` the number of images; `key in store` and `for key in store` do what they say. What the store
    was made of stands in `store.manifest`. The methods `read_…` give arrays of many rows at once.

    Open it in the process that reads it: Zarr runs an event-loop thread, which a fork does not carry over.
    """

    def __init__(self, path: str, manifest: Manifest, group: zarr.Group) -> None:
        self.path, self.manifest = path, manifest
        self._arrays: dict[str, zarr.Array[Any]] = {}
        problems = [*self._missing_objects(), *self._open_arrays(group)]
        if problems:
            raise SchemaError(path, problems)

    @classmethod
    def open(cls, path: str) -> TicketStore:
        """Opens the store at a local path or fsspec URL.

        Raises:
            StoreNotFoundError, SchemaError, UnsupportedVersionError
        """
        path = str(path)
        manifest = read_manifest(path)
        try:
            plain = zarr.open_group(path, mode="r", zarr_format=3)
            strict = StorePath(_NoFillValues(plain.store), plain.store_path.path)
            group = zarr.open_group(strict, mode="r", zarr_format=3)
        except _ZARR_ERRORS as error:
            raise invalid_store(path, "zarr.json", "zarr", f"cannot be opened ({error})") from None
        return cls(path, manifest, group)

    def _missing_objects(self) -> Iterator[Problem]:
        fs, root = fsspec.core.url_to_fs(self.path)
        sizes = {f[len(root) :].lstrip("/"): info["size"] for f, info in fs.find(root, detail=True).items()}
        for name in sorted(set(self.manifest.objects) - set(sizes)):
            yield Problem(where=name, kind="missing", message="is missing from the store")
        if sum(sizes.values()) * 1000 < self.manifest.num_images * _MIN_BYTES_PER_1000_ROWS:
            message = f"is {self.manifest.num_images}, more than {sum(sizes.values())} stored bytes can hold"
            yield Problem(where="num_images", kind="too_large", message=message)

    def _open_arrays(self, group: zarr.Group) -> Iterator[Problem]:
        m = self.manifest
        specs = array_specs(
            num_images=m.num_images,
            num_views=m.num_views,
            num_patches=m.num_patches,
            num_shards=len(m.dataset.shards),
            num_shard_name_bytes=sum(len(s.encode()) for s in m.dataset.shards),
            has_ranks=m.has_ranks,
            has_views=m.num_views > 1 or m.view.kind == "replay",
            has_token_labels=m.token_labels is not None,
        )
        for path, spec in specs.items():
            try:
                array = group[path]
            except _ZARR_ERRORS as error:
                yield Problem(where=path, kind="zarr", message=f"cannot be opened ({error})")
                continue
            if not isinstance(array, zarr.Array):
                yield Problem(where=path, kind="array_type", message="should be an array")
                continue
            shape_ok = len(array.shape) == len(spec.shape) and all(
                want is None or want == got for want, got in zip(spec.shape, array.shape, strict=True)
            )
            if not shape_ok:
                want = "[" + ", ".join("bytes" if n is None else str(n) for n in spec.shape) + "]"
                yield Problem(where=path, kind="shape", message=f"has shape {list(array.shape)}, should be {want}")
            if array.dtype != spec.dtype:
                yield Problem(where=path, kind="dtype", message=f"is {array.dtype}, should be {spec.dtype}")
            yield from codec_problems(path, array)
            self._arrays[path] = array

    def _read(self, path: str, selection: Any) -> npt.NDArray[Any]:
        try:
            values: npt.NDArray[Any] = np.asarray(self._arrays[path].oindex[selection])
        except _ZARR_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise invalid_store(self.path, path, "damaged", f"cannot be read ({reason}); fetch it again") from error
        return values

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
        kept = mask_to_indices(unpack_mask(self.read_tickets(rows), m.num_patches), m.num_keep)
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
        """Packed tickets uint8 [n, V, W], each with exactly K bits and no spare bit set."""
        m = self.manifest
        tickets = self._read("tickets", (_selection(rows), views))
        self._refuse("tickets", rows, bad_tickets(tickets, m.num_patches, m.num_keep), f"not {m.num_keep} patches")
        return tickets

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

    def num_stored_bytes(self) -> dict[str, int]:
        """Bytes on disk of each array (its objects, metadata included), by path."""
        fs, root = fsspec.core.url_to_fs(self.path)
        sizes = dict.fromkeys(self._arrays, 0)
        for file, info in fs.find(root, detail=True).items():
            name = file[len(root) :].lstrip("/")
            owner = next((a for a in self._arrays if name.startswith(a + "/")), None)
            if owner is not None:
                sizes[owner] += info["size"]
        return sizes
