"""Images of a store as the selector saw them, with all that the store holds of them, for people to look at.

They are spread evenly over the store, or they are all of one class. Letters: V views, W ticket bytes, P patches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...artifacts_schema import Location, OptionError, TicketMismatchError, TicketStore, read_manifest
from ...artifacts_schema.geometry import Box
from ...artifacts_schema.tickets import Packed, Ranks
from ..data.images import decode_image, size_of
from ..data.join import JoinConfig, TicketJoin
from ..data.shards import RawSample, Shard, is_url, iter_samples, stored_shards
from ..options import ErrorOrAllow, nearest
from ..runtime.randomness import generator_of
from ..runtime.reporting import Reporter
from .views_of_store import Colours, ViewsOfStore

# Shards that a spread choice is taken from: a shard is read from its start, and a data set may have thousands.
_MAX_SHARDS = 16
_SHOWN_ARRAYS = {"ranks", "views/boxes", "views/flips", "labels", "digests", "keys/data", "keys/offsets"}

_MEND = "mend the shard: its ticket was made from a sound image"

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownImage:
    """An image of a store in its first V views.

    Attributes:
        key, row, label: its name, its place in the store, its class index (None where that is unknown).
        shard: name of the shard that holds it.
        size_px: width and height of the whole image.
        views: what the selector saw, V images of `image_px` squared.
        packed: tickets, uint8 [V, W].
        ranks: uint8 or uint16 [V, P], 0 the most informative; None where the store has none.
        boxes: float32 [V, 4] (y0, x0, height, width as fractions), flips: uint8 [V]; None of a centre view alone.
    """

    key: str
    row: int
    label: int | None
    shard: str
    size_px: tuple[int, int]
    views: list[Image.Image]
    packed: Packed
    ranks: Ranks | None
    boxes: Box | None
    flips: npt.NDArray[np.uint8] | None


class ShownImages:
    """Chooses images of a store and reads them from its shards.

    Args:
        store: where it is; shards behind URLs are reached as it is.
        shards: braces or a glob, or a URL; None for those that the store was made from.
        num_views: how many views to show, the first ones; more than the store has are not meant.
        on_changed_image: "allow" shows images with other bytes than the tickets were made from.

    Raises:
        DatalttError: the store or its shards cannot be opened.
    """

    def __init__(
        self,
        store: str | Location,
        shards: str | None,
        *,
        num_views: int = 1,
        on_changed_image: ErrorOrAllow = "error",
    ) -> None:
        self.manifest = read_manifest(store)
        self.num_views = min(num_views, self.manifest.num_views)
        self.shards = stored_shards(store, self.manifest, shards)
        self.class_names = class_names(self.shards)
        self._name = str(store)
        self._views = ViewsOfStore(self.manifest, self._name)
        self._join = TicketJoin(
            JoinConfig(
                store=store,
                ranks=self.manifest.has_ranks,
                geometry=True,
                views=range(self.num_views),
                on_changed_image=on_changed_image,
            )
        )

    @property
    def store(self) -> TicketStore:
        """The opened store."""
        return self._join.store

    @property
    def colours(self) -> Colours:
        """Tells how colours of replayed views are shown."""
        return self._views.colours

    def label_of(self, name: str) -> int:
        """The class index that is meant by a class's name, or by the index as text.

        Raises:
            OptionError: there is no such class.
        """
        found = [index for index, known in self.class_names.items() if known == name]
        if found:
            return found[0]
        if name.isdecimal():
            return int(name)
        why = nearest(name, self.class_names.values()) if self.class_names else "; without classes.json give its number"
        raise OptionError(f"`only_class={name!r}` is no class of these shards{why}")

    def choose(self, count: int | None, *, seed: int = 0, label: int | None = None) -> Rows:
        """Rows of images in these shards, ascending int64 [n]: all of a class, or `count` spread evenly.

        At most 16 shards are read for a spread choice, where these hold enough. Where no shard has a name that the
        store knows, any row may be chosen.

        Raises:
            OptionError: the shards hold no image of this class.
        """
        store = self.store
        known = [run for s in self.shards if (run := store.rows_of_shard(s.name)) is not None]
        runs = [np.arange(run.start, run.stop, dtype=np.int64) for run in known or [range(len(store))]]
        rows: Rows = np.unique(np.concatenate(runs))
        if label is not None:
            rows = rows[store.read_labels(range(len(store)))[rows] == label]
            if not len(rows):
                raise OptionError(f"`only_class`: {self._name} has no image of class {label} in these shards")
        return rows if count is None else spread_rows(rows, store.shard_rows, count, seed)

    def fetch(self, rows: Rows, reporter: Reporter) -> None:
        """Downloads what showing these rows, and a map of all tickets, reads of a remote store; says how far it is.

        Raises:
            RemoteError: something cannot be had.
        """
        bounds = self.store.shard_rows
        shards = np.unique(np.searchsorted(bounds, rows, side="right") - 1)
        here = [range(int(bounds[s]), int(bounds[s + 1])) for s in shards]
        arrays = set(self.store.array_paths)
        _download(self.store, ["tickets"], None, reporter)
        _download(self.store, sorted(arrays & _SHOWN_ARRAYS), here, reporter)

    def read(self, rows: Rows) -> Iterator[ShownImage]:
        """Yields these rows' images, shard by shard; those that the shards do not hold are left out.

        Raises:
            BadImageError: one cannot be decoded.
            TicketMismatchError: one has other bytes than its ticket was made from, or none is in these shards.
        """
        left = self._wanted(rows)
        num_read = 0
        for shard in self.shards:
            is_known = self.store.rows_of_shard(shard.name) is not None
            wanted = left.pop(shard.name, {}) if is_known else {k: r for of in left.values() for k, r in of.items()}
            if not wanted:
                continue
            for shown in self._read_shard(shard, wanted):
                num_read += 1
                if not is_known:
                    for of in left.values():
                        of.pop(shown.key, None)
                yield shown
        if not num_read:
            raise TicketMismatchError(
                f"none of the {len(rows)} chosen images of {self._name} is in these shards; pass the `shards` that it "
                "was made from"
            )

    def _wanted(self, rows: Rows) -> dict[str, dict[str, int]]:
        """Row by key of the chosen rows, by shard name."""
        wanted: dict[str, dict[str, int]] = {}
        for name in self.store.shard_names:
            of_shard = self.store.rows_of_shard(name)
            assert of_shard is not None
            here = rows[(rows >= of_shard.start) & (rows < of_shard.stop)]
            if len(here):
                keys = self.store.read_keys(of_shard)
                wanted[name] = {keys[row - of_shard.start]: int(row) for row in here}
        return wanted

    def _read_shard(self, shard: Shard, wanted: dict[str, int]) -> Iterator[ShownImage]:
        of_class = self.store.read_labels(np.array(sorted(wanted.values()), dtype=np.int64))
        labels = dict(zip(sorted(wanted.values()), of_class.tolist(), strict=True))
        for sample, ticket in self._join.join(shard, _only(shard, wanted)):
            view = self.manifest.view
            image = decode_image(sample, view.mode, view.decoder_name, _MEND)
            row = wanted[sample.key]
            yield ShownImage(
                key=sample.key,
                row=row,
                label=None if labels[row] < 0 else labels[row],
                shard=shard.name,
                size_px=size_of(image),
                views=[self._views.show(image, sample.key, ticket, v) for v in range(self.num_views)],
                packed=ticket.packed,
                ranks=ticket.ranks,
                boxes=ticket.boxes,
                flips=ticket.flips,
            )


def _download(store: TicketStore, arrays: list[str], rows: list[range] | None, reporter: Reporter) -> None:
    seen = 0

    def advance(done: int, total: int) -> None:
        nonlocal seen
        if not seen:
            reporter.start("downloading tickets", total // 1000 or None, "kB")
        reporter.advance((done - seen) // 1000)
        seen = done

    store.fetch(arrays, rows, advance)
    if seen:
        reporter.finish()


def _only(shard: Shard, keys: dict[str, int]) -> Iterator[RawSample]:
    """Samples of these keys; the shard is read no further than the last of them."""
    left = set(keys)
    for sample in iter_samples(shard):
        if sample.key in left:
            left.remove(sample.key)
            yield sample
        if not left:
            return


def spread_rows(rows: Rows, shard_rows: Rows, count: int, seed: int) -> Rows:
    """Chooses `count` of ascending rows, spread evenly over few shards: one drawn from each of `count` equal runs.

    Args:
        shard_rows: int64 [S + 1], where the shards begin.

    Returns:
        Ascending int64 [n]; fewer than `count` where there are fewer.
    """
    shard_of = np.searchsorted(shard_rows, rows, side="right") - 1
    present = np.unique(shard_of)
    num_shards = min(_MAX_SHARDS, len(present))
    pool = rows
    while num_shards < len(present):
        pool = rows[np.isin(shard_of, present[_spread(len(present), num_shards, seed, "shards")])]
        if len(pool) >= count:
            break
        num_shards, pool = min(2 * num_shards, len(present)), rows
    return pool[_spread(len(pool), min(count, len(pool)), seed, "rows")]


def _spread(num: int, count: int, *names: object) -> Rows:
    """One number of each of `count` equal runs of 0 … num - 1, ascending int64 [count]."""
    edges = np.arange(count + 1) * num // count
    return generator_of(*names).integers(edges[:-1], edges[1:])


def class_names(shards: Sequence[Shard]) -> dict[int, str]:
    """Names by class index, of the classes.json beside local shards; none where there is no such file.

    Raises:
        OptionError: it does not give names their numbers.
    """
    path = Path(shards[0].url).parent / "classes.json"
    if is_url(shards[0].url) or not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        named = document.items() if isinstance(document, dict) else ((name, i) for i, name in enumerate(document))
        return {int(index): str(name) for name, index in named}
    except (ValueError, TypeError) as error:
        raise OptionError(f"{path} does not list classes ({error}); mend it, or move it away") from None
