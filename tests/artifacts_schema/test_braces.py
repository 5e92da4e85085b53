"""Brace expressions: the count that is made first is that of what comes out."""

from __future__ import annotations

import braceexpand
import pytest
from dataltt.artifacts_schema.braces import MAX_NAMES, TooManyNamesError, _count, expand_braces
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text("ab-,", max_size=3)
RANGE = st.builds(
    "{{{}..{}{}}}".format, st.integers(-9, 20), st.integers(-9, 20), st.sampled_from(["", "..2", "..-3", "..0"])
)
PATTERNS = st.recursive(
    TEXT | RANGE,
    lambda inner: (
        st.lists(inner, max_size=3).map("".join) | st.lists(inner, max_size=3).map(lambda s: f"{{{','.join(s)}}}")
    ),
    max_leaves=6,
)


@given(PATTERNS)
def test_names_are_counted_right(pattern: str) -> None:
    expected = list(braceexpand.braceexpand(pattern))
    assert _count(pattern) == len(expected)
    assert expand_braces(pattern) == expected


@given(st.text("{},.\\019a", max_size=30))
def test_any_text_is_names_or_a_value_error(pattern: str) -> None:
    try:
        names = expand_braces(pattern)
    except ValueError:
        return
    assert len(names) <= max(_count(pattern), 1)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{0..100000000}", "stands for 100,000,001 names; at most 1,000,000 are read"),
        ("{1..2}" * 100, "stands for more than 10\\^18 names"),
        ("{0..9999999999999999999999999}", "more than 10\\^18"),
        ("x" * 70_000, "has 70000 characters"),
        ("x" * 60_000 + "{1..9999}", "stands for 9,999 names"),
    ],
)
def test_more_than_anybody_has_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(TooManyNamesError, match=says):
        expand_braces(pattern)


def test_a_large_range_is_written_out() -> None:
    assert _count(f"{{1..{MAX_NAMES}}}") == MAX_NAMES
    assert len(expand_braces("{1..50000}")) == 50_000
