"""Numbers of patches that tickets keep: of a share, on average, cut down by ranks; and words for them."""

from __future__ import annotations

import math
from dataclasses import replace

from .errors import OptionError
from .manifest import Manifest, Thinned


def num_kept(num_patches: int, ratio: float) -> int:
    """Patches that a share keeps, ceil(R · P).

    Rounded first, so that 0.55 · 100 is 55 and not the 56 that its binary fraction would give.
    """
    return math.ceil(round(num_patches * ratio, 9))


def kept_in_words(manifest: Manifest) -> str:
    """Words for how many patches tickets keep: 98 of 196 patches (50.0%); of adaptive ones 49 to 147 of 196, …"""
    m = manifest
    if m.adaptive is None:
        return f"{m.num_keep} of {m.num_patches} patches ({m.num_keep / m.num_patches:.1%})"
    return f"{m.adaptive.least_keep} to {m.num_keep} of {m.num_patches} patches ({m.adaptive.budget:.1%} on average)"


def mean_kept(manifest: Manifest) -> int:
    """Patches of a ticket: K, or of adaptive tickets the mean that they were selected for, ceil(budget · P)."""
    m = manifest
    return m.num_keep if m.adaptive is None else num_kept(m.num_patches, m.adaptive.budget)


def refuse_adaptive(manifest: Manifest, store: str, why: str) -> None:
    """Refuses adaptive tickets where all have to keep equal numbers of patches.

    Raises:
        OptionError
    """
    if manifest.adaptive is not None:
        raise OptionError(
            f"{store} has adaptive tickets (`budget={manifest.adaptive.budget:g}`), and {why}; select with `ratio`, "
            "which keeps equally many patches of every image"
        )


def thinned_to(manifest: Manifest, num_keep: int) -> Manifest:
    """The manifest of the same tickets cut down to `num_keep` patches, which says so."""
    if num_keep == manifest.num_keep:
        return manifest
    before = manifest.thinned or Thinned(selected_num_keep=manifest.num_keep)
    return replace(manifest, num_keep=num_keep, thinned=before)


def num_kept_of(manifest: Manifest, store: str, ratio: float) -> int:
    """Patches that a store's tickets keep when they are cut down to a share by their ranks, at most its own number.

    Raises:
        OptionError: the share is none, is larger than the store's, or the store has no ranks.
    """
    if not 0 < ratio <= 1:
        raise OptionError(f"`ratio={ratio}` lies outside (0, 1]; 0.5 keeps half")
    refuse_adaptive(manifest, store, f"`ratio={ratio}` cuts down tickets of one number alone")
    count = num_kept(manifest.num_patches, ratio)
    if count > manifest.num_keep:
        raise OptionError(
            f"`ratio={ratio}` keeps {count} patches, and tickets of {store} have {manifest.num_keep} of "
            f"{manifest.num_patches}; give at most {ratio_of(manifest.num_keep, manifest.num_patches)}, or select again"
        )
    if count < manifest.num_keep and not manifest.has_ranks:
        raise OptionError(
            f"`ratio={ratio}` keeps the best patches by rank, and {store} has no ranks; select again with `ranks=True`"
        )
    return count


def ratio_of(num_keep: int, num_patches: int) -> float:
    """The shortest ratio that keeps exactly `num_keep` patches (of which ceil(ratio · P) are kept)."""
    for digits in range(1, 9):
        ratio: float = math.floor(num_keep / num_patches * 10**digits) / 10**digits
        if num_kept(num_patches, ratio) == num_keep:
            return ratio
    return num_keep / num_patches


def approximation(manifest: Manifest) -> str | None:
    """A phrase about tickets that were cut down by ranks; None of tickets as the selector chose them.

    They are approximate: a selector that keeps so few drops patches earlier, and so ranks the rest differently.
    """
    if manifest.thinned is None:
        return None
    return (
        f"approximate: {manifest.num_keep} patches, by rank, of the {manifest.thinned.selected_num_keep} that the "
        "selector kept"
    )
