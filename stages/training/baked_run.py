"""Training on a baked folder: what a run takes from it instead of from a store and its shards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ...artifacts_schema import BakedError, Manifest, OptionError, TicketMismatchError, read_manifest
from ...artifacts_schema.baked import BakedManifest, read_baked
from ..data.baked_stream import BakedSource
from ..data.comparing import Comparison
from ..data.shards import Shard
from ..data.spans import CountedShard
from ..models.student import Student
from .config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedRun:
    """A baked folder that a run trains on. `manifest` is that of its tickets."""

    folder: Path
    baked: BakedManifest
    manifest: Manifest

    @property
    def shards(self) -> list[Shard]:
        """Its shards by their sources' names; a view's file is told by the epoch."""
        return [Shard(url=str(self.folder / Path(s.files[0].path).name), name=s.name) for s in self.baked.shards]

    @property
    def samples(self) -> Comparison:
        """Its samples, all of which have tickets."""
        counted = zip(self.shards, self.baked.shards, strict=True)
        shards = tuple(CountedShard(shard=shard, num_samples=own.num_samples) for shard, own in counted)
        return Comparison(shards=shards, highest_label=self.baked.highest_label)

    @property
    def source(self) -> BakedSource:
        """It as loader processes need it."""
        return BakedSource.of(self.folder, self.baked)

    def completed(self, config: TrainConfig) -> TrainConfig:
        """The configuration with what follows from the folder: its tickets, views and their number."""
        return config.but(
            tickets=config.tickets or str(self.folder),
            view_mode="replay",
            num_views=config.num_views or self.baked.num_views,
        )

    def check_student(self, student: Student, model: str) -> None:
        """Refuses a network that needs whole images where only some patches were baked.

        Raises:
            OptionError
        """
        if not self.baked.is_whole and not student.takes_patches:
            raise OptionError(
                f"{model} needs whole images, and {self.folder} has {self.baked.num_baked} of "
                f"{self.manifest.num_patches} patches; train a plain ViT, or bake with `patches='all'`"
            )


def open_baked(config: TrainConfig) -> BakedRun | None:
    """The baked folder of a run, if it has one, with every file there in its size.

    Raises:
        BakedError: it is none, or something of it is missing.
        OptionError: options that need what it does not have.
        TicketMismatchError: it is of other tickets than those given.
    """
    if config.baked is None:
        return None
    folder, baked = config.baked, read_baked(config.baked)
    _check_options(config, folder, baked)
    if config.tickets not in (None, str(folder)):
        digest = read_manifest(config.remote.location(config.tickets)).digest
        if digest != baked.tickets.digest:
            raise TicketMismatchError(
                f"{folder} was baked of other tickets than those of {config.tickets} (another ticket digest); give "
                "their store, or leave `tickets` out"
            )
    _check_files(folder, baked)
    # Token labels stay in the store.
    return BakedRun(folder=folder, baked=baked, manifest=replace(baked.tickets, token_labels=None))


def _check_options(config: TrainConfig, folder: Path, baked: BakedManifest) -> None:
    if config.shards is not None:
        raise OptionError("`shards` beside `baked`: the folder has its own; leave one of them out")
    if config.views.view_mode not in (None, "replay"):
        raise OptionError(f"`view_mode={config.views.view_mode!r}`: a baked folder replays its views; leave it out")
    if config.student.token_labels == "store":
        raise OptionError(
            f"`token_labels='store'`: {folder} has none; train on the store and its shards, or give "
            "`token_labels='image'`"
        )
    if config.num_views is not None and config.num_views > baked.num_views:
        raise OptionError(f"`num_views={config.num_views}`: {folder} has {baked.num_views}; ask for at most so many")
    others = f"`dense_epochs={config.dense_epochs}`" if config.control == "ticket" else f"`control={config.control!r}`"
    if (config.control != "ticket" or config.dense_epochs) and not baked.is_whole:
        raise OptionError(
            f"{others} needs other patches than the {baked.num_baked} of "
            f"{baked.tickets.num_patches} in {folder}; bake with `patches='all'`, or train on the store and its shards"
        )


def _check_files(folder: Path, baked: BakedManifest) -> None:
    for shard in baked.shards:
        for file in shard.files[: baked.num_views]:
            path = folder / file.path
            try:
                num_bytes = path.stat().st_size
            except OSError:
                raise BakedError(f"{path} is not there; copy the folder again, or bake it again") from None
            if num_bytes != file.num_bytes:
                raise BakedError(
                    f"{path} has {num_bytes} bytes and was written with {file.num_bytes}; copy it again, or bake it "
                    "again"
                )
