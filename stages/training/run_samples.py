"""Samples of a run: its shards, compared with the store before any weight is made, for training and for validating."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...artifacts_schema import Manifest, OptionError, TicketStore, read_manifest
from ..data.class_list import class_list_beside
from ..data.comparing import Comparison, compare_or_count
from ..data.join import JoinConfig
from ..data.shards import Shard, resolve_shards, stored_shards
from ..models.student import Geometry
from ..options import EvalProtocol
from ..runtime.reporting import Reporter
from .adaptive import takes_counts
from .classes import check_labels, check_validation_classes
from .config import TrainConfig
from .eval_stream import check_tickets, compare_for_testing
from .thinning import joined_num_keep
from .view_plan import ViewPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSamples:
    """Samples to train on, and to validate on if there are any, each with its tickets where they are needed."""

    join: JoinConfig | None
    training: Comparison
    validation: Comparison | None

    def to_json(self) -> dict[str, Any]:
        """Counts for the record of a run; none where no ticket is needed."""
        return {} if self.join is None else self.training.to_json()


def training_shards(config: TrainConfig, manifest: Manifest | None) -> list[Shard]:
    """The shards asked for, else those that the store was made from.

    Raises:
        ShardError, OptionError: they are not there, or not said.
    """
    if manifest is not None and config.tickets is not None:
        return stored_shards(config.remote.location(config.tickets), manifest, config.shards)
    if config.shards is None:
        raise OptionError("`control='dense'` without `tickets`: which shards? give `shards`")
    return resolve_shards(config.shards, config.remote.access)


def samples_of_run(
    config: TrainConfig,
    views: ViewPlan,
    protocol: EvalProtocol | None,
    store: TicketStore | None,
    shards: list[Shard],
    reporter: Reporter,
    *,
    classes_asked: int | None,
    any_labels: bool,
    known: Comparison | None = None,
) -> RunSamples:
    """Compares a run's shards with its stores.

    Args:
        known: the training samples, where they need no comparison.
        classes_asked: the number of classes that was given, if any.
        any_labels: do not look at labels.

    Raises:
        DatalttError: samples without tickets, shards that cannot be read, or labels of other classes.
    """
    join = None if store is None else _join(config, views, store)
    training = known or compare_or_count(shards, store, join, reporter, recount=config.joins.recount)
    if not any_labels:
        assert config.data.num_classes is not None
        check_labels(config.data.num_classes, training, store)
    manifest = None if store is None else store.manifest
    validation = _validation(config, manifest, protocol, reporter, classes_asked, shards)
    return RunSamples(join=join, training=training, validation=validation)


def _join(config: TrainConfig, views: ViewPlan, store: TicketStore) -> JoinConfig | None:
    """Options of the join.

    Controls need no tickets; where samples without one are left out, they are shown what the tickets' run is shown.
    """
    c, of_tickets = config, config.control in ("ticket", "inverse")
    skips = c.joins.on_missing_ticket == "skip"
    counts = takes_counts(store.manifest, c.control)
    if not (of_tickets or counts or skips or views.mode == "replay" or c.student.token_labels == "store"):
        return None
    mixes = c.mixing.is_on and store.manifest.has_ranks
    return JoinConfig(
        store=store.location,
        ranks=of_tickets and (c.control == "inverse" or views.mode == "warp" or mixes),
        token_labels=c.student.token_labels == "store",
        labeller=store.manifest.token_labels if c.student.token_labels == "store" else None,
        num_keep=joined_num_keep(store.manifest, store.path, c.ratio),
        on_missing_ticket=c.joins.on_missing_ticket,
        on_changed_image=c.joins.on_changed_image,
    )


def _validation(
    config: TrainConfig,
    manifest: Manifest | None,
    protocol: EvalProtocol | None,
    reporter: Reporter,
    classes_asked: int | None,
    training_shards: list[Shard],
) -> Comparison | None:
    if config.data.val_shards is None or protocol is None:
        return None
    assert config.data.num_classes is not None
    assert config.student.model is not None
    shards = resolve_shards(config.data.val_shards, config.remote.access)
    tickets = None if config.val_tickets is None else config.remote.location(config.val_tickets)
    check_validation_classes(config.data.num_classes, classes_asked, shards, class_list_beside(training_shards))
    if tickets is not None and manifest is not None:
        # The student is not there yet: what the training tickets are of is what it will have to see.
        theirs = read_manifest(tickets)
        check_tickets(theirs, str(tickets), _geometry_of(manifest), manifest.view, config.student.model)
    compared = compare_for_testing(shards, tickets, protocol=protocol, joins=config.joins, reporter=reporter)
    val_store = None if tickets is None else TicketStore.open(tickets)
    check_labels(config.data.num_classes, compared, val_store, doing="validation")
    return compared


def _geometry_of(manifest: Manifest) -> Geometry:
    """The geometry of a student whose tickets these are."""
    return Geometry(
        grid=(manifest.grid[0], manifest.grid[1]),
        patch_px=manifest.patch_px,
        image_px=manifest.image_px,
        mode=manifest.view.mode,
    )
