"""Thinning of a store: tickets cut down to fewer patches by their ranks, or a store without its ranks."""

from __future__ import annotations

from dataclasses import replace

from ..errors import OptionError
from ..store import TicketStore
from ..thinning import approximation, num_kept_of, thinned_to
from ..tickets import pack_ranks
from .assembly import Columns, Combined, Place, Target, parent_entry, shards_of, write_store
from .rows import all_rows


def thin_store(store: Place, target: Target, *, ratio: float | None = None, ranks: bool = True) -> Combined:
    """Writes a store's tickets with fewer patches, or without ranks, or both, as a new store.

    Args:
        ratio: share of the patches to keep, those of the lowest ranks: ceil(R · P) as `select` counts them.
        ranks: whether the new store has ranks.

    Raises:
        OptionError: the store has no ranks to go by, or its tickets are no larger.
        OutputExistsError, LockedError, StoreNotFoundError, SchemaError, RemoteError
    """
    if ratio is None and ranks:
        raise OptionError("thin it how? give a lower `ratio`, or `ranks=False`, or both")
    with target.held("dataltt store thin"):
        return _thinned(store, target, ratio=ratio, ranks=ranks)


def _thinned(store: Place, target: Target, *, ratio: float | None, ranks: bool) -> Combined:
    opened = TicketStore.open(store)
    m = opened.manifest
    if not ranks and not m.has_ranks:
        raise OptionError(f"{opened.path} has no ranks already; leave `ranks=False` out")
    num_keep = m.num_keep if ratio is None else num_kept_of(m, opened.path, ratio)
    if ranks and num_keep == m.num_keep:
        raise OptionError(
            f"`ratio={ratio}`: tickets of {opened.path} keep {num_keep} patches already; give a lower one"
        )
    manifest = replace(
        thinned_to(m, num_keep),
        has_ranks=ranks,
        parent=[parent_entry(opened, "thin", num_keep=num_keep, has_ranks=ranks)],
    )

    def change(columns: Columns) -> Columns:
        if num_keep < m.num_keep:
            columns["tickets"] = pack_ranks(columns["ranks"], num_keep)
        return columns

    written = write_store(target, [opened], all_rows(opened), manifest, shards=shards_of(opened), change=change)
    said = approximation(written)
    return Combined(manifest=written, notes=() if said is None else (f"tickets are {said}",))
