"""Numbers of patches that stay after each drop block, and those blocks. Source: Shen et al. 2023, section 3.2."""

from __future__ import annotations

import math

from ...artifacts_schema import OptionError
from ...artifacts_schema.thinning import num_kept
from ..options import CascadeOptions

NUM_STAGES = 3


def default_drop_blocks(depth: int) -> tuple[int, ...]:
    """Zero-based drop blocks of a ViT: 3, 6, 9 of 12 and 4, 8, 12 of 16 as in the paper, the same quarters else."""
    blocks = tuple(depth * i // (NUM_STAGES + 1) for i in range(1, NUM_STAGES + 1))
    if len(set(blocks)) < NUM_STAGES or blocks[0] == 0:
        raise OptionError(f"a ViT of {depth} blocks has no default drop blocks; give `drop_blocks`")
    return blocks


def drop_blocks_of(cascade: CascadeOptions, depth: int, usual: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Drop blocks as asked for, else the `usual` ones of a model, else those that follow from its depth."""
    if cascade.drop_blocks is not None:
        return cascade.drop_blocks
    return usual or default_drop_blocks(depth)


def keep_counts(num_patches: int, cascade: CascadeOptions, num_stages: int = NUM_STAGES) -> tuple[int, ...]:
    """Patches kept after each drop block, from exactly one of two dials.

    `ratio` is R, the final kept share: the last count is ceil(R·P), earlier ones are geometric, ceil(P·R^(i/3)).
    `keep_rate` is r, upstream's rate per drop block: n → ceil(r·n), block by block.

    Raises:
        OptionError: both or neither are given, or one lies outside (0, 1].
    """
    ratio, keep_rate = cascade.ratio, cascade.keep_rate
    if (ratio is None) == (keep_rate is None):
        raise OptionError("give exactly one of `ratio` (final kept share) and `keep_rate` (share kept per drop block)")
    name, value = ("ratio", ratio) if keep_rate is None else ("keep_rate", keep_rate)
    assert value is not None
    if not 0 < value <= 1:
        raise OptionError(f"`{name}={value}` lies outside (0, 1]; 0.5 keeps half")
    if ratio is not None:
        return tuple(num_kept(num_patches, ratio ** (i / num_stages)) for i in range(1, num_stages + 1))
    counts = []
    kept = num_patches
    for _ in range(num_stages):
        kept = math.ceil(value * kept)  # unrounded, as upstream computes it
        counts.append(kept)
    return tuple(counts)
