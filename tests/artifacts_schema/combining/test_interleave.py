"""The one order that several lists allow, against all orders tried."""

from __future__ import annotations

import itertools

import pytest
from dataltt.artifacts_schema.combining.interleave import UnknownOrderError, interleave
from hypothesis import given
from hypothesis import strategies as st


def _keys(first: str, second: str) -> str:
    return "".join(second[i] if new else first[i] for new, i in interleave(first, second))


def _all_orders(first: str, second: str) -> set[str]:
    """Every order of all keys that has both lists in it."""

    def holds(order: str, some: str) -> bool:
        return "".join(key for key in order if key in some) == some

    orders = map("".join, itertools.permutations(sorted({*first, *second})))
    return {order for order in orders if holds(order, first) and holds(order, second)}


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("abc", "abc", "abc"),
        ("abc", "", "abc"),
        ("", "abc", "abc"),
        ("abcd", "bd", "abcd"),
        ("bd", "abcd", "abcd"),
        ("abe", "bce", "abce"),
        ("ab", "bc", "abc"),
    ],
)
def test_lists_that_leave_no_doubt(first: str, second: str, merged: str) -> None:
    assert _keys(first, second) == merged


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("ab", "ba"), ("abe", "ace"), ("xa", "ya"), ("ax", "ay")])
def test_lists_that_leave_doubt_or_contradict(first: str, second: str) -> None:
    with pytest.raises(UnknownOrderError):
        interleave(first, second)


_LISTS = st.lists(st.sampled_from("abcde"), unique=True).map("".join)


@given(_LISTS, _LISTS)
def test_it_is_found_if_there_is_one_alone(first: str, second: str) -> None:
    orders = _all_orders(first, second)
    if len(orders) == 1:
        assert _keys(first, second) == orders.pop()
    else:
        with pytest.raises(UnknownOrderError):
            interleave(first, second)


@given(_LISTS, _LISTS)
def test_keys_that_both_have_are_given_once_as_the_first_list_s(first: str, second: str) -> None:
    try:
        merged = interleave(first, second)
    except UnknownOrderError:
        return
    assert [i for new, i in merged if not new] == list(range(len(first)))
    assert [second[i] for new, i in merged if new] == [key for key in second if key not in first]
