"""Order of a shard's samples, from several lists that each hold some of them in that order."""

from __future__ import annotations

from collections.abc import Sequence


class UnknownOrderError(ValueError):
    """Lists that do not fit together, or that leave open which of two samples comes first."""


def interleave(first: Sequence[str], second: Sequence[str]) -> list[tuple[bool, int]]:
    """All keys of two lists, in the one order that both allow: (whether it is of the second list alone, its index).

    Keys that both have are given as those of the first list.

    Raises:
        UnknownOrderError: the lists have keys in different orders, or both have keys of their own between two that
            they share, so that nothing says how those lie.
    """
    places = {key: i for i, key in enumerate(first)}
    merged: list[tuple[bool, int]] = []
    done = start = 0  # first[:done] and second[:start] are merged
    for j, key in enumerate((*second, None)):
        anchor = len(first) if key is None else places.get(key)
        if anchor is None:
            continue
        if anchor < done:
            raise UnknownOrderError
        if anchor > done and j > start:
            raise UnknownOrderError
        merged += [(False, i) for i in range(done, anchor)]
        merged += [(True, i) for i in range(start, j)]
        if key is not None:
            merged.append((False, anchor))
        done, start = anchor + 1, j + 1
    return merged
