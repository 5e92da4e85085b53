"""Baking of whole shards in loader processes: each image is decoded once, and all its views are drawn and written.

Letters: V views, P patches of the grid, M of a baked sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.tariterators import base_plus_ext

from ...artifacts_schema import BadImageError, DatalttError, Manifest, SampleError
from ...artifacts_schema.baked import BakedFile, BakedShard, view_folder
from ...artifacts_schema.files import replacing, writing
from ...artifacts_schema.tickets import ranks_dtype, unpack_mask
from ..data.baked_tar import BakedFormat, BakedTarWriter, encoded_positions
from ..data.drawing import DrawnView
from ..data.images import decode_image, to_tensor
from ..data.join import JoinConfig, Ticket, TicketJoin
from ..data.loader import Failure
from ..data.patch_pixels import encode_mosaic, patches_of
from ..data.policies import Policy
from ..data.shards import RawSample
from ..data.span_samples import samples_of_span
from ..data.spans import CountedShard, ShardSpan
from ..data.view_modes import ViewShower
from ..options import ErrorOrSkip

_IMAGES_PER_REPORT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedPart:
    """A source shard that is baked whole.

    Attributes:
        num_skipped: images that cannot be decoded and were left out, as asked.
    """

    shard: BakedShard
    highest_label: int
    num_skipped: int


class BakeReport(NamedTuple):
    """Report of a loader process: images that it baked since the last one, and its shard where that is whole."""

    number: int
    num_images: int
    part: BakedPart | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeRecipe:
    """Recipe of the pixels and members of a baked folder.

    Attributes:
        names: of the files of each source shard, without folder.
    """

    out: Path
    manifest: Manifest
    policy: Policy
    num_views: int
    form: BakedFormat
    quality: int
    join: JoinConfig
    names: tuple[str, ...]
    on_bad_image: ErrorOrSkip


class ShardBakes(IterableDataset[Any]):
    """Writes the tars of its shards, `(number, counted shard)` each, and reports as it goes."""

    def __init__(self, shards: Sequence[tuple[int, CountedShard]], recipe: BakeRecipe) -> None:
        super().__init__()
        self.shards, self.recipe = shards, recipe

    def __iter__(self) -> Iterator[BakeReport | Failure]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        try:
            baker = _Baker(self.recipe)
            for index, counted in self.shards[first::step]:
                yield from baker.bake(index, counted)
        except DatalttError as error:
            yield Failure(error)


class _Baker:
    """Writer of one process."""

    def __init__(self, recipe: BakeRecipe) -> None:
        self._recipe = recipe
        self._join = TicketJoin(recipe.join)
        m = recipe.manifest
        assert m.view.seed is not None
        self._shower = ViewShower(
            "replay",
            m.view,
            image_px=m.image_px,
            augment=None,
            policy=recipe.policy,
            seed=0,
            stored_seed=m.view.seed,
            num_views=recipe.num_views,
        )

    def bake(self, index: int, counted: CountedShard) -> Iterator[BakeReport]:
        """Writes a shard's tars, all or none."""
        r = self._recipe
        paths = [r.out / view_folder(v) / f"{r.names[index]}.tar" for v in range(r.num_views)]
        with writing(r.out), ExitStack() as stack:
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            files: list[IO[bytes]] = [
                stack.enter_context(stack.enter_context(replacing(path)).open("xb")) for path in paths
            ]
            writers = [BakedTarWriter(file) for file in files]
            num_done = num_samples = num_skipped = 0
            highest = 0
            for sample, ticket in self._samples(counted):
                assert ticket is not None
                if self._add(sample, ticket, writers):
                    num_samples, highest = num_samples + 1, max(highest, sample.label)
                else:
                    num_skipped += 1
                if (num_samples + num_skipped) % _IMAGES_PER_REPORT == 0:
                    yield BakeReport(index, _IMAGES_PER_REPORT, None)
                    num_done += _IMAGES_PER_REPORT
            hashes = [writer.finish() for writer in writers]
        written = [
            BakedFile(path=path.relative_to(r.out).as_posix(), num_bytes=writer.num_bytes, sha256=sha256)
            for path, writer, sha256 in zip(paths, writers, hashes, strict=True)
        ]
        shard = BakedShard(name=counted.shard.name, num_samples=num_samples, files=written)
        part = BakedPart(shard=shard, highest_label=highest, num_skipped=num_skipped)
        yield BakeReport(index, num_samples + num_skipped - num_done, part)

    def _samples(self, counted: CountedShard) -> Iterator[tuple[RawSample, Ticket | None]]:
        span = ShardSpan(counted=counted, first=0, stop=counted.num_samples)
        return samples_of_span(span, self._join, self._recipe.manifest.skipped_keys)

    def _add(self, sample: RawSample, ticket: Ticket, writers: Sequence[BakedTarWriter]) -> bool:
        """Writes a sample; returns False where its image cannot be decoded and is left out, as asked."""
        r = self._recipe
        _check_sample(sample)
        try:
            image = decode_image(
                sample,
                r.manifest.view.mode,
                r.manifest.view.decoder_name,
                "mend the shard, or pass `on_bad_image='skip'`",
            )
        except BadImageError:
            if r.on_bad_image == "error":
                raise
            return False
        for view, writer in enumerate(writers):
            shown = self._shower.show(image, sample.key, view, ticket.of_view(view))
            writer.add(sample.key, self._members(sample.label, shown, *self._ticket(ticket, view)))
        return True

    def _ticket(self, ticket: Ticket, view: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.integer] | None]:
        """The kept patches bool [P] and ranks [P] of a view."""
        kept = unpack_mask(ticket.packed[view], self._recipe.form.num_patches)
        return kept, None if ticket.ranks is None else ticket.ranks[view]

    def _members(
        self,
        label: int,
        shown: DrawnView,
        kept: npt.NDArray[np.bool_],
        ranks: npt.NDArray[np.integer] | None,
    ) -> list[tuple[str, bytes]]:
        form = self._recipe.form
        patches = patches_of(to_tensor(shown.image).permute(1, 2, 0).numpy(), form.patch_px)
        is_baked = kept if ranks is None else ranks < form.num_baked
        positions = np.arange(form.num_patches) if form.is_whole else np.flatnonzero(is_baked)
        baked = patches[positions]
        members = [("patches", baked.tobytes())] if form.encoding == "raw" else []
        members += [("jpg", encode_mosaic(baked, self._recipe.quality))] if form.encoding == "jpeg" else []
        if not form.is_whole:
            members.append(("idx", encoded_positions(positions)))
        if ranks is not None:
            kind = ranks_dtype(form.num_patches).newbyteorder("<")
            members.append(("ranks", ranks[positions].astype(kind).tobytes()))
        elif form.is_whole:
            members.append(("kept", encoded_positions(np.flatnonzero(kept))))
        return [*members, ("cls", str(label).encode())]


def _check_sample(sample: RawSample) -> None:
    """Refuses a sample that a baked shard could not hold.

    Raises:
        SampleError
    """
    if sample.label < 0:
        raise SampleError(
            f"{sample.shard}: sample {sample.key!r} has no .cls, and baked samples are for training; repack the shard "
            "with labels"
        )
    if base_plus_ext(f"{sample.key}.cls") != (sample.key, "cls"):
        raise SampleError(
            f"{sample.shard}: sample {sample.key!r} has a dot in its name, after which webdataset would look for its "
            "extension; select tickets under other keys"
        )
