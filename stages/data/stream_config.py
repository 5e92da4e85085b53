"""Options of a stream, and the place in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...artifacts_schema import View
from ..options import ErrorOrSkip, Subset, ViewMode
from .augment import AugmentConfig
from .join import JoinConfig
from .layouts import Shuffle, Stretch
from .policies import Policy
from .spans import CountedShard

if TYPE_CHECKING:
    from .baked_stream import BakedSource


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamConfig:
    """Options of a stream: what to read, and which patches of each image to keep."""

    shards: tuple[CountedShard, ...]
    view: View
    image_px: int
    mode: str
    grid: tuple[int, int]
    subset: Subset
    num_keep: int
    own_counts: bool = False  # each image keeps as many patches as its ticket, and `num_keep` is about their mean
    batch_size: int
    num_classes: int
    seed: int
    join: JoinConfig | None = None
    skipped_keys: frozenset[str] = frozenset()  # left out at selection, of whatever subset is streamed
    view_mode: ViewMode = "static"
    augment: AugmentConfig | None = None  # of static views; None: no flip, no colours
    policy: Policy | None = None  # of replayed and warped views
    num_views: int = 1  # V: how many of the store's views are replayed, or make up the map that is warped
    views_seed: int = 0  # what replayed views were drawn from
    random_erasing: float = 0.0
    mixing: bool = False  # give scores instead of kept patches
    token_labels: bool = False  # give the store's
    on_bad_image: ErrorOrSkip = "error"
    shuffle_buffer: int = 2000
    repeats: int = 1  # views of a picture that an epoch shows
    training: bool = True
    student_px: int | None = None  # side that the student's pictures are made smaller to, once mixed
    baked: BakedSource | None = None  # replayed views that are read instead of drawn; `shards` then name its parts

    @property
    def num_samples(self) -> int:
        """Number of samples that all shards give."""
        return sum(s.num_samples for s in self.shards)

    @property
    def num_shown(self) -> int:
        """Number of views that an epoch deals out."""
        return self.num_samples // self.repeats * self.repeats

    @property
    def num_missing(self) -> int:
        """Number of samples that are passed over, since they have no ticket."""
        return sum(s.num_missing for s in self.shards)

    def shuffle(self, position: StreamPosition) -> Shuffle:
        """The draw of an epoch's order."""
        return Shuffle(seed=self.seed, epoch=position.epoch, buffer=self.shuffle_buffer)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPosition:
    """Position in a run, by epoch and part of it: set anew for every epoch, and for the step to resume at.

    Attributes:
        taken: what other layouts took of this epoch before.
        first_step: of this layout; it counts from what they took.
    """

    epoch: int = 0
    taken: tuple[Stretch, ...] = ()
    first_step: int = 0
    rank: int = 0
    world_size: int = 1
