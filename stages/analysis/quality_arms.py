"""Arms that are judged side by side: stores, selectors, and what a sceptic would show instead.

Letters: B images of a batch, P patches of the grid, K kept patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...artifacts_schema import Manifest, OptionError, View
from ...artifacts_schema.thinning import mean_kept
from ...artifacts_schema.tickets import pack_ranks, unpack_mask
from ..data.images import normalize
from ..data.patches import PatchChooser, kept_of
from ..models.resizing import resized_px
from ..models.student import Geometry
from ..options import CascadeOptions, Subset
from ..padding import padded
from ..runtime.precision import autocast
from ..selection.choosing import Chooser, checked_selector, chooser_of
from ..selection.selectors import NamedSelector, named_selector
from .config import QualityConfig
from .judged_images import JudgedBatch

CONTROLS = ("random", "center", "resize")


class Point(NamedTuple):
    """Number of patches to keep, and the share that was asked for."""

    num_keep: int
    ratio: float


class Shown(NamedTuple):
    """Patches, int64 [B, K] ascending, that a judge is shown of a batch; or the side of smaller whole pictures.

    Attributes:
        counts: of adaptive tickets, how many each image keeps; what stands after them is padding.
    """

    num_keep: int
    keep_indices: Tensor | None
    image_px: int | None = None
    counts: tuple[int, ...] | None = None


class Arm(Protocol):
    """A way to choose what a judge is shown."""

    @property
    def name(self) -> str:
        """The name that it goes by in tables."""
        ...

    @property
    def weights_sha256(self) -> str | None:
        """The digest of the network that chooses; None where there is none."""
        ...

    def shown(self, batch: JudgedBatch) -> Iterator[Shown]:
        """Patches or pictures that are shown of a batch, for every number of patches that the arm is judged at."""
        ...

    def is_approximate(self, num_keep: int) -> bool:
        """Tells whether so many patches were not what the selector was asked for."""
        ...


@dataclass(frozen=True, slots=True)
class StoredArm:
    """Tickets of store `number`; of another size than its own they follow from the ranks."""

    number: int
    name: str
    manifest: Manifest
    points: Sequence[Point]

    @property
    def weights_sha256(self) -> str | None:
        """The digest that the manifest gives."""
        return self.manifest.selector.weights_sha256

    def shown(self, batch: JudgedBatch) -> Iterator[Shown]:
        """Reads them from the batch's entries."""
        entries, m = batch.tickets[self.number], self.manifest
        for point in self.points:
            if point.num_keep == mean_kept(m):
                packed = np.stack([entry.packed[0] for entry in entries])
            else:
                ranks = [entry.ranks[0] for entry in entries if entry.ranks is not None]
                packed = pack_ranks(np.stack(ranks), point.num_keep)
            kept = [np.flatnonzero(mask) for mask in unpack_mask(packed, m.num_patches)]
            counts = tuple(map(len, kept))
            yield Shown(point.num_keep, padded(kept), counts=counts if len(set(counts)) > 1 else None)

    def is_approximate(self, num_keep: int) -> bool:
        """Compares with what the selector kept."""
        return num_keep != mean_kept(self.manifest) or self.manifest.thinned is not None


@dataclass(frozen=True, slots=True)
class SelectorArm:
    """Selector that is run on the images: once for each number of patches, or once for all."""

    name: str
    choosers: Sequence[Chooser]
    counts: Sequence[int]
    is_same_for_all: bool
    weights_sha256: str | None
    view: View
    device: torch.device
    precision: str

    def shown(self, batch: JudgedBatch) -> Iterator[Shown]:
        """Selects, as `dataltt select` does on a first view."""
        images = normalize(batch.images.to(self.device), self.view)
        names = [f"{key}\x1f0" for key in batch.keys]
        labels = batch.labels.to(self.device)
        order: Tensor | None = None
        for count, chooser in zip(self.counts, self.choosers, strict=True):
            if order is None or not self.is_same_for_all:
                with autocast(self.device, self.precision):
                    order = chooser.order(images, labels, names).order
            yield Shown(count, order[:, :count].sort(dim=1).values)

    def is_approximate(self, num_keep: int) -> bool:
        """It never is."""
        return False


@dataclass(frozen=True, slots=True)
class DrawnArm:
    """As many patches of another choice, the same as `dataltt eval` tests on: random ones, or the central ones."""

    name: Subset
    counts: Sequence[int]
    grid: tuple[int, int]
    seed: int
    weights_sha256: str | None = None

    def shown(self, batch: JudgedBatch) -> Iterator[Shown]:
        """Draws, or counts from the centre."""
        chooser = PatchChooser(subset=self.name, view_mode="static", grid=self.grid, seed=self.seed)
        scores = [chooser.scores(key, 0, None, None) for key in batch.keys]
        for count in self.counts:
            kept = np.stack([kept_of(each, count) for each in scores if each is not None])
            yield Shown(count, torch.from_numpy(kept))

    def is_approximate(self, num_keep: int) -> bool:
        """It never is."""
        return False


@dataclass(frozen=True, slots=True)
class ResizedArm:
    """Whole pictures made so small that they have about as many patches."""

    counts: Sequence[int]
    geometry: Geometry
    name: str = "resize"
    weights_sha256: str | None = None

    def shown(self, batch: JudgedBatch) -> Iterator[Shown]:
        """Says how small."""
        for count in self.counts:
            yield Shown(count, None, resized_px(self.geometry, count))

    def is_approximate(self, num_keep: int) -> bool:
        """It never is."""
        return False


def settings_by_selector(config: QualityConfig) -> Mapping[str, tuple[str, ...]]:
    """The settings of each selector that is asked for: every one that it has.

    Raises:
        OptionError: a selector or a setting that there is not, or a selector that is compared with anyway.
    """
    for i, name in enumerate(config.selector):
        if name in CONTROLS:
            raise OptionError(f"`selector={name!r}`: {', '.join(CONTROLS)} are shown beside it anyway; leave it out")
        if name in config.selector[:i]:
            raise OptionError(f"`selector={name!r}` is given twice; give it once")
    if len(config.selector) == 1:
        named_selector(config.selector[0], config.selector_option)
        return {config.selector[0]: config.selector_option}
    asked = {name: named_selector(name, ()) for name in config.selector}
    known = {name: {} if named is None else named.settings for name, named in asked.items()}
    for option in config.selector_option:
        if not any(option.partition("=")[0] in settings for settings in known.values()):
            raise OptionError(f"`selector_option={option!r}` is no setting of {', '.join(known) or 'any `selector`'}")
    found = {
        name: tuple(o for o in config.selector_option if o.partition("=")[0] in settings)
        for name, settings in known.items()
    }
    for name, options in found.items():
        named_selector(name, options)
    return found


def selector_arm(
    name: str,
    options: tuple[str, ...],
    points: Sequence[Point],
    *,
    model: str,
    vit: VisionTransformer,
    sha256: str,
    view: View,
    device: torch.device,
    precision: str,
) -> SelectorArm:
    """A selector with its ViT, at some numbers of patches.

    Args:
        sha256: digest of the ViT's weights.

    Raises:
        OptionError: it would choose by the images' labels.
        ModelError: it does not take this ViT.
    """
    choosers = []
    for point in points:
        kept = CascadeOptions(ratio=point.ratio)
        named = checked_selector(name, options, kept, None)
        chooser = chooser_of(named, kept, vit, model, device)
        if chooser.uses_labels:
            raise OptionError(
                f"the selector {name!r} would choose by the images' labels, which its tickets then give away; leave "
                "`selector_option='labels=true'` out"
            )
        choosers.append(chooser)
    return SelectorArm(
        name=" ".join((name, *options)),
        choosers=choosers,
        counts=[p.num_keep for p in points],
        is_same_for_all=is_same_for_all(named),
        weights_sha256=sha256 if named is None or named.needs_weights else None,
        view=view,
        device=device,
        precision=precision,
    )


def is_same_for_all(named: NamedSelector | None) -> bool:
    """Tells whether a selector (None: the cascade) scores patches alike, however many are kept.

    dataltt's own do; nobody knows of others.
    """
    return named is not None and named.package is None
