"""Tickets that a run cuts down by their ranks in passing, and what it says and records of its tickets."""

from __future__ import annotations

from typing import Any

from ...artifacts_schema import Manifest
from ...artifacts_schema.thinning import approximation, mean_kept, num_kept_of, thinned_to
from ...artifacts_schema.token_labels import FOLDER


def cut_down(manifest: Manifest, tickets: str, ratio: float | None) -> Manifest:
    """The manifest of the tickets as they are shown: cut down to a share by their ranks, or as they are.

    Raises:
        OptionError: the store has no ranks, or keeps less.
    """
    return manifest if ratio is None else thinned_to(manifest, num_kept_of(manifest, tickets, ratio))


def joined_num_keep(manifest: Manifest, tickets: str, ratio: float | None) -> int | None:
    """Patches of each ticket that a join keeps by rank; None for all.

    Raises:
        OptionError: the store has no ranks, or keeps less.
    """
    num_keep = cut_down(manifest, tickets, ratio).num_keep
    return num_keep if num_keep < manifest.num_keep else None


def kept_share(manifest: Manifest) -> float | None:
    """Share of the patches in tickets that were cut down or are adaptive (the mean); None of those of the selector's
    own number.
    """
    if manifest.thinned is None and manifest.adaptive is None:
        return None
    return mean_kept(manifest) / manifest.num_patches


def recorded_tickets(stored: Manifest, shown: Manifest, *, learns_labels: bool) -> dict[str, Any]:
    """Entry of a run's record about its tickets: the digest of the stored ones, and how those shown are approximate.

    Args:
        learns_labels: whether the run learns the store's token labels, which the digest leaves out.
    """
    said = approximation(shown)
    entry: dict[str, Any] = {"digest": stored.digest} | ({} if said is None else {"approximate": said})
    if learns_labels:
        entry["token_labels"] = {p: sha for p, sha in stored.objects.items() if p.startswith(f"{FOLDER}/")}
    return entry
