"""Comparison of two stores' tickets: of which images they are, what selected them, and how far they agree.

Letters: A and B the stores, K_a and K_b their kept patches, P patches of the grid, V views.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...artifacts_schema import OptionError, TicketStore
from ...artifacts_schema.combining.assembly import Place
from ...artifacts_schema.combining.differences import Difference, selector_differences, view_differences
from ...artifacts_schema.lookup import KeyLookup, iter_row_blocks
from ...artifacts_schema.thinning import approximation, kept_in_words, mean_kept
from ...artifacts_schema.tickets import Mask, unpack_mask

NUM_EXAMPLES = 10
_BLOCK_ROWS = 8192
_READ = ("tickets", "keys/data", "keys/offsets", "labels", "digests")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOverlap:
    """An image, and how far its two tickets agree, as a mean over its views."""

    key: str
    label: int | None
    overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOverlap:
    """Mean overlap of the images of one class; None of those without a label."""

    label: int | None
    num_images: int
    overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDiff:
    """Comparison of stores A and B.

    The overlap of two tickets is |A ∩ B| / min(K_a, K_b): the share of the smaller one's patches that the other has.

    Attributes:
        num_images: of A, of B, and of both by key.
        same_images: whether they are of the same keys.
        num_changed: images of both whose encoded bytes differ.
        selector, view: fields of the manifest in which they differ.
        num_keep: K_a and K_b; of adaptive tickets about their mean.
        kept: the same in words.
        num_views: how many views of each image were compared.
        approximate: of A and B, a phrase where tickets were cut down by ranks.
        overlap: mean over images and views.
        num_identical: images all of whose tickets are the same.
        chance: overlap of tickets drawn at random, max(K_a, K_b) / P.
        chance_by_position: overlap of the tickets of unrelated images, from how often A and B keep each position.
        kept_a, kept_b, kept_both: float64 [grid_h, grid_w], shares of the compared views that keep a position.
        by_class: of least overlap first.
        examples: the images that differ most, the worst first.
    """

    num_images: tuple[int, int, int]
    same_images: bool
    num_changed: int
    selector: list[Difference]
    view: list[Difference]
    num_keep: tuple[int, int]
    kept: tuple[str, str]
    num_patches: int
    num_views: int
    approximate: tuple[str | None, str | None]
    overlap: float
    num_identical: int
    chance: float
    chance_by_position: float
    kept_a: npt.NDArray[np.float64]
    kept_b: npt.NDArray[np.float64]
    kept_both: npt.NDArray[np.float64]
    by_class: list[ClassOverlap]
    examples: list[ImageOverlap]


def diff_stores(
    first: Place,
    second: Place,
    on_progress: Callable[[int, int], None] | None = None,
    on_download: Callable[[int, int], None] | None = None,
) -> StoreDiff:
    """Compares the tickets of all images that two stores have by the same key.

    Where both show the same views, as many of them as both have are compared; else the first view of each, which then
    shows other parts of an image, or other colours.

    Args:
        on_progress: called with (images of A compared, images of A).
        on_download: called with (bytes downloaded, bytes to download) where a store is behind a URL.

    Raises:
        OptionError: their grids differ, or they have no image in common.
        StoreNotFoundError, SchemaError, RemoteError
    """
    a, b = TicketStore.open(first), TicketStore.open(second)
    ours, theirs = a.manifest, b.manifest
    if ours.grid != theirs.grid:
        grids = [f"{g[0]}×{g[1]}" for g in (ours.grid, theirs.grid)]
        raise OptionError(
            f"{first} has tickets on a grid of {grids[0]} patches and {second} of {grids[1]}, which do not "
            "compare; give stores of one grid"
        )
    for store in (a, b):
        store.fetch(_READ, on_progress=on_download)
    view = view_differences(ours, theirs)
    num_views = 1 if view else min(ours.num_views, theirs.num_views)
    sums = _Sums(ours.num_patches)
    lookup = KeyLookup(b)
    for block in iter_row_blocks(len(a), _BLOCK_ROWS):
        _add_block(sums, a, b, lookup, block, num_views)
        if on_progress is not None:
            on_progress(block.stop, len(a))
    if not sums.num_images:
        raise OptionError(f"{first} and {second} have no image in common by key; give stores of the same images")
    kept_a, kept_b, both = (counts / (sums.num_images * num_views) for counts in sums.by_position)
    smaller = min(mean_kept(ours), mean_kept(theirs))
    return StoreDiff(
        num_images=(len(a), len(b), sums.num_images),
        same_images=ours.dataset.keys_sha256 == theirs.dataset.keys_sha256,
        num_changed=sums.num_changed,
        selector=selector_differences(ours, theirs),
        view=view,
        num_keep=(mean_kept(ours), mean_kept(theirs)),
        kept=(kept_in_words(ours), kept_in_words(theirs)),
        num_patches=ours.num_patches,
        num_views=num_views,
        approximate=(approximation(ours), approximation(theirs)),
        overlap=sums.total / sums.num_images,
        num_identical=sums.num_identical,
        chance=max(mean_kept(ours), mean_kept(theirs)) / ours.num_patches,
        chance_by_position=float((kept_a * kept_b).sum() / smaller),
        kept_a=kept_a.reshape(ours.grid),
        kept_b=kept_b.reshape(ours.grid),
        kept_both=both.reshape(ours.grid),
        by_class=sums.by_class(),
        examples=sums.examples(),
    )


def _add_block(sums: _Sums, a: TicketStore, b: TicketStore, lookup: KeyLookup, block: range, num_views: int) -> None:
    """Adds those of some rows of A that B has too."""
    keys = a.read_keys(block)
    found = lookup.find(keys)
    mine = np.flatnonzero(found >= 0)
    if not len(mine):
        return
    wanted = found[mine]
    order = np.argsort(wanted)  # a store reads ascending rows
    back = np.argsort(order)
    rows = wanted[order]
    views = slice(0, num_views)
    ours = unpack_mask(a.read_tickets(block, views)[mine], a.manifest.num_patches)
    theirs = unpack_mask(b.read_tickets(rows, views)[back], b.manifest.num_patches)
    sums.add(
        keys=[keys[i] for i in mine],
        labels=a.read_labels(block)[mine],
        is_changed=a.read_digests(block)[mine] != b.read_digests(rows)[back],
        a=ours,
        b=theirs,
    )


class _Sums:
    """Sums over images, so that memory does not grow with them."""

    def __init__(self, num_patches: int) -> None:
        self.by_position = np.zeros((3, num_patches), dtype=np.int64)  # kept by A, by B, by both
        self.num_images = self.num_changed = self.num_identical = 0
        self.total = 0.0
        self._classes: dict[int, tuple[int, float]] = {}
        self._worst: list[tuple[float, int, str, int]] = []  # a heap: the least overlap has the largest key

    def add(
        self,
        *,
        keys: list[str],
        labels: npt.NDArray[np.int32],
        is_changed: npt.NDArray[np.bool_],
        a: Mask,
        b: Mask,
    ) -> None:
        """Adds images: masks bool [n, V, P]."""
        both = a & b
        for counts, mask in zip(self.by_position, (a, b, both), strict=True):
            counts += mask.sum(axis=(0, 1), dtype=np.int64)
        overlaps = (both.sum(axis=2) / np.minimum(a.sum(axis=2), b.sum(axis=2))).mean(axis=1)
        self.num_changed += int(is_changed.sum())
        self.num_identical += int((a == b).all(axis=(1, 2)).sum())
        self.total += float(overlaps.sum())
        for label in np.unique(labels).tolist():
            of_class = overlaps[labels == label]
            count, total = self._classes.get(label, (0, 0.0))
            self._classes[label] = count + len(of_class), total + float(of_class.sum())
        for i in np.argsort(overlaps, kind="stable")[:NUM_EXAMPLES].tolist():
            entry = (-float(overlaps[i]), -(self.num_images + i), keys[i], int(labels[i]))
            (heapq.heappush if len(self._worst) < NUM_EXAMPLES else heapq.heappushpop)(self._worst, entry)
        self.num_images += len(keys)

    def by_class(self) -> list[ClassOverlap]:
        """Means by class, of least overlap first."""
        listed = sorted((total / count, label, count) for label, (count, total) in self._classes.items())
        return [
            ClassOverlap(label=None if label < 0 else label, num_images=count, overlap=overlap)
            for overlap, label, count in listed
        ]

    def examples(self) -> list[ImageOverlap]:
        """The images that differ most, the worst first."""
        return [
            ImageOverlap(key=key, label=None if label < 0 else label, overlap=-overlap)
            for overlap, _, key, label in sorted(self._worst, reverse=True)
        ]
