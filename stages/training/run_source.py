"""Source of a run, known before an image is read: its tickets, stored or baked, and its shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...artifacts_schema import Manifest, TicketStore
from ...artifacts_schema.thinning import approximation
from ..data.comparing import Comparison
from ..data.shards import Shard
from ..runtime.reporting import Reporter
from .baked_run import BakedRun
from .classes import classes_of_run
from .config import TrainConfig
from .run_samples import training_shards
from .thinning import cut_down, recorded_tickets


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """Tickets and shards of a run.

    Attributes:
        baked: the baked folder that it reads, if it does.
        store: that samples are joined with; None without tickets, and of baked samples, which have theirs already.
        stored: manifest of the tickets as they are kept; None without tickets.
        manifest: the same of the tickets as they are shown, cut down where that is asked for.
        shards: to train on.
    """

    baked: BakedRun | None
    store: TicketStore | None
    stored: Manifest | None
    manifest: Manifest | None
    shards: list[Shard]

    def announce(self, config: TrainConfig, reporter: Reporter) -> None:
        """Says so where tickets that the run shows are approximate."""
        said = None if self.manifest is None else approximation(self.manifest)
        if said and config.control in ("ticket", "inverse"):
            reporter.message(f"tickets are {said}")

    def num_classes(self, asked: int | None, reporter: Reporter) -> int:
        """Classes of the head, as asked or as the shards and the labels say.

        Raises:
            OptionError: none of these says it.
        """
        highest = None if self.baked is None else self.baked.baked.highest_label
        return classes_of_run(asked, self.store, self.shards, reporter, highest_label=highest)

    @property
    def known_samples(self) -> Comparison | None:
        """Its samples, where they need no comparison with a store."""
        return None if self.baked is None else self.baked.samples

    def recorded(self, config: TrainConfig) -> dict[str, Any]:
        """Entry of the run's record about its tickets; empty without any."""
        if self.stored is None or self.manifest is None:
            return {}
        return recorded_tickets(self.stored, self.manifest, learns_labels=config.student.token_labels == "store")


def source_of(config: TrainConfig, baked: BakedRun | None) -> RunSource:
    """Finds what a run trains on.

    Raises:
        DatalttError: a store or shards that are not there, or tickets that cannot be cut down as asked.
    """
    has_store = config.tickets is not None and baked is None
    store = TicketStore.open(config.remote.location(str(config.tickets))) if has_store else None
    stored = baked.manifest if baked is not None else None if store is None else store.manifest
    manifest = None if stored is None else cut_down(stored, str(config.tickets), config.ratio)
    shards = training_shards(config, manifest) if baked is None else baked.shards
    return RunSource(baked=baked, store=store, stored=stored, manifest=manifest, shards=shards)
