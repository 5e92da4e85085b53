"""Baked patches to batches, in the order that the run on their source shards would have.

What is shuffled is the places of samples; a sample is read when its turn has come, from where it lies in its tar.

Letters: P patches of the grid, M of a baked sample, K kept patches, p patch side in pixels, C channels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ...artifacts_schema.baked import BakedManifest
from ...artifacts_schema.geometry import Scores
from ...artifacts_schema.tickets import pack_mask, ranks_dtype
from .augment import draw_erasing, erase_patches
from .baked_tar import BakedFormat, BakedSample, BakedTar
from .batches import Shown
from .join import Ticket
from .patch_pixels import Pixels, image_of, patches_of
from .patches import kept_of
from .student_stream import StreamWorker, check_label


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedSource:
    """Baked folder as loader processes need it.

    Attributes:
        files: paths inside the folder of each source shard's views, by the shard's name.
        num_samples: by the shard's name.
    """

    folder: Path
    form: BakedFormat
    files: dict[str, tuple[str, ...]]
    num_samples: dict[str, int]

    @classmethod
    def of(cls, folder: Path, manifest: BakedManifest) -> BakedSource:
        """The source that a folder is."""
        return cls(
            folder=folder,
            form=BakedFormat.of(manifest),
            files={shard.name: tuple(file.path for file in shard.files) for shard in manifest.shards},
            num_samples={shard.name: shard.num_samples for shard in manifest.shards},
        )

    def open(self, shard: str, view: int) -> BakedTar:
        """A shard of one view.

        Raises:
            BakedError: it is not there, or damaged.
        """
        return BakedTar(self.folder / self.files[shard][view], self.form, self.num_samples[shard])


# Tars that a loader process has open: each is a file descriptor, and some hundred bytes a sample.
_NUM_OPEN = 64


class _Place(NamedTuple):
    """A sample's place in its shard, and the number of the view that is shown of it."""

    shard: str
    number: int
    view: int


class BakedWorker(StreamWorker):
    """Share of one worker in one epoch of a baked folder."""

    def _dealt(self, run: tuple[int, int]) -> Iterator[_Place]:
        for piece in self._pieces(run):
            for (shard, number), repeats in self._places(*piece):
                yield from (_Place(shard, number, self._repeats.view(repeat)) for repeat in repeats)

    def _places(self, start: int, stop: int) -> Iterator[tuple[tuple[str, int], Sequence[int]]]:
        """The samples of a piece, by shard and number, each with its repeats."""
        once = self.config.repeats == 1
        spans, repeats = (
            (self._spans(start, stop), itertools.repeat([0])) if once else self._repeated_spans(start, stop)
        )
        numbers = (
            (span.counted.shard.name, number)
            for span in spans
            for number in (range(span.first, span.stop) if span.chosen is None else span.chosen.tolist())
        )
        yield from zip(numbers, repeats, strict=False)

    def _processed(self, items: Iterable[_Place]) -> Iterator[Shown]:
        source, num_views = self.config.baked, self.config.num_views
        assert source is not None

        @functools.lru_cache(_NUM_OPEN)
        def opened(shard: str, view: int) -> BakedTar:
            return source.open(shard, view)

        for place in items:
            yield self._shown(place, opened(place.shard, place.view % num_views).read(place.number))

    def _shown(self, place: _Place, sample: BakedSample) -> Shown:
        c = self.config
        check_label(place.shard, sample.key, sample.label, c.num_classes)
        assert c.baked is not None
        form = c.baked.form
        scores = self._chooser.scores(sample.key, place.view, _ticket_of(sample, form), None)
        if form.is_whole:
            image = torch.from_numpy(image_of(sample.patches, c.grid))
            if c.random_erasing > 0:
                image = erase_patches(image, c.grid, c.view, c.random_erasing, c.seed, place.view, sample.key)
            return Shown(key=sample.key, image=image, label=sample.label, scores=scores)
        assert scores is not None
        patches, positions = sample.patches, sample.positions
        if not c.mixing and len(positions) > c.num_keep:
            is_kept = np.isin(positions, kept_of(scores, c.num_keep))
            patches, positions = patches[is_kept], positions[is_kept]
        if c.random_erasing > 0:
            patches = self._erased(patches, positions, place.view, sample.key)
        return Shown(
            key=sample.key,
            image=torch.from_numpy(patches),
            label=sample.label,
            scores=_only_at(scores, positions),
            positions=positions,
        )

    def _erased(self, patches: Pixels, positions: npt.NDArray[np.int64], view: int, key: str) -> Pixels:
        """Patches [M, p, p, C] with the noise that random erasing would put there in the whole image."""
        c = self.config
        _, patch_px, _, channels = patches.shape
        erased = draw_erasing(c.grid, patch_px, channels, c.view, c.random_erasing, c.seed, view, key)
        if erased is None:
            return patches
        noise = patches_of(np.ascontiguousarray(erased.pixels.transpose(1, 2, 0)), patch_px)
        height, width = (side // patch_px for side in erased.pixels.shape[1:])
        rows, columns = positions // c.grid[1] - erased.top, positions % c.grid[1] - erased.left
        is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        patches = patches.copy()
        patches[is_inside] = noise[(rows * width + columns)[is_inside]]
        return patches


def _ticket_of(sample: BakedSample, form: BakedFormat) -> Ticket:
    """The ticket of a sample; patches that are not there are ranked last."""
    ranks = None
    if sample.ranks is not None:
        ranks = np.full((1, form.num_patches), form.num_patches - 1, ranks_dtype(form.num_patches))
        ranks[0, sample.positions] = sample.ranks
    return Ticket(packed=pack_mask(sample.kept)[None], ranks=ranks)


def _only_at(scores: Scores, positions: npt.NDArray[np.int64]) -> Scores:
    """Scores float32 [P] with -inf where there is no patch."""
    found = np.full_like(scores, -np.inf)
    found[positions] = scores[positions]
    return found
