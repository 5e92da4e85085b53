"""Brace expressions such as t-{000..009}.tar, counted before they are written out."""

from __future__ import annotations

import re

import braceexpand

MAX_NAMES = 1_000_000
_MAX_LENGTH = 65_536
_MAX_CHARACTERS = 1 << 28  # of all names together, about
_MAX_DEPTH = 50
# Python makes no number of more than 4300 digits, and neither does braceexpand.
_NUMBERS = re.compile(r"(-?\d{1,4000})\.\.(-?\d{1,4000})(?:\.\.(-?\d{1,4000}))?")
_LETTERS = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?")


class TooManyNamesError(ValueError):
    """A brace expression that stands for more names than anybody has files."""


def expand_braces(pattern: str) -> list[str]:
    """All names that a brace expression stands for, as bash would write them.

    Raises:
        TooManyNamesError: they are more than `MAX_NAMES`.
        ValueError: braces that do not match.
    """
    if len(pattern) > _MAX_LENGTH:
        raise TooManyNamesError(f"has {len(pattern)} characters")
    count = _count(pattern)
    if count > MAX_NAMES or count * len(pattern) > _MAX_CHARACTERS:
        raise TooManyNamesError(f"stands for {_shown(count)} names; at most {MAX_NAMES:,} are read")
    return list(braceexpand.braceexpand(pattern))


def _count(pattern: str) -> int:
    """Number of names: the product of what stands one after the other, the sum of what commas part."""
    # Of each brace that is open: the sum before its last comma, the product after it, and where it begins.
    open_braces: list[tuple[int, int, int]] = []
    total, product, start, at = 0, 1, 0, 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif character == "{":
            if len(open_braces) == _MAX_DEPTH:
                raise TooManyNamesError(f"has braces in more than {_MAX_DEPTH} braces")
            open_braces.append((total, product, start))
            total, product, start = 0, 1, at + 1
        elif character == "," and open_braces:
            total, product = total + product, 1
        elif character == "}" and open_braces:
            inner = total + product if total or product > 1 else _count_range(pattern[start:at])
            total, product, start = open_braces.pop()
            product *= inner
        at += 1
    for before, outer, _ in reversed(open_braces):  # braceexpand refuses what is left open
        product, total = outer * (total + product), before
    return total + product


def _count_range(text: str) -> int:
    """Number of names of a range such as 000..009 or a..f; of what is none, 1."""
    if numbers := _NUMBERS.fullmatch(text):
        first, last, step = (int(n) if n else 1 for n in numbers.groups())
        return abs(last - first) // max(1, abs(step)) + 1
    return 52 if _LETTERS.fullmatch(text) else 1


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**18 else "more than 10^18"
