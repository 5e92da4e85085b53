"""Selection of the shards that a store lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...artifacts_schema import OptionError, TicketStore
from ...artifacts_schema.combining.extend import check_extends
from ...artifacts_schema.writing.commit import StoreSpec
from ..data.shards import Shard
from ..runtime.reporting import Reporter
from .config import SelectConfig


def lacking(base: TicketStore, shards: Sequence[Shard]) -> list[Shard]:
    """The shards that a store does not know by name.

    Raises:
        OptionError: it knows all of them.
    """
    found = [shard for shard in shards if base.rows_of_shard(shard.name) is None]
    if not found:
        raise OptionError(
            f"{base.path} has tickets for all {len(shards)} shard(s) that `shards` names; there is nothing to select"
        )
    return found


def extending(base: TicketStore, spec: StoreSpec, config: SelectConfig, reporter: Reporter) -> StoreSpec:
    """The spec of a selection that extends a store, by whose names it goes; says what it does.

    Raises:
        OptionError: its tickets would be of another kind than the store's.
    """
    check_extends(base, spec)
    m = base.manifest
    reporter.message(f"{base.path} has {len(m.dataset.shards)} shard(s); {len(spec.shards)} more to select")
    if m.token_labels is not None:
        reporter.message(
            f"token labels of {base.path} are left out, since new images have none; write them with: dataltt label"
        )
    return replace(spec, dataset_name=config.name or m.dataset.name, split=config.split or m.dataset.split)
