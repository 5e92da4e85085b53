"""Changes of documents and bytes, as Hypothesis draws them."""

from __future__ import annotations

import copy
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES_VARIABLE = "DATALTT_FUZZ_EXAMPLES"
few = settings(
    max_examples=int(os.environ.get(EXAMPLES_VARIABLE, "40")),
    deadline=None,
    derandomize=EXAMPLES_VARIABLE not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

_NUMBERS = st.sampled_from([0, -1, 1, 2, 255, 2**31, 2**40, 2**63, 2**64, 10**30, 0.0, -0.5, 1e300, 1.0000001])
_ODD = st.sampled_from(["", "\0", "\ud800", "\x1b[31m", "../..", "/dev/zero", "1.2", "2.0", "3.0", "NaN", "a" * 5000])
VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _ODD | st.text(max_size=8) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values of a document but itself."""
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    return [place for key, each in items for place in ((*path, key), *_places(each, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """A JSON document of which some values are others, gone, doubled, or exchanged."""
    result = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(result)
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        owner = result
        for key in path:
            owner = owner[key]
        kind = draw(st.sampled_from(["value", "value", "gone", "added", "exchanged", "nested"]))
        if kind == "value":
            owner[last] = draw(VALUES)
        elif kind == "gone":
            del owner[last]
        elif kind == "added" and isinstance(owner, dict):
            owner[draw(st.text(max_size=8))] = draw(VALUES)
        elif kind == "added":
            owner.extend([owner[last]] * draw(st.integers(1, 3)))
        elif kind == "nested":
            owner[last] = [owner[last]]
        else:
            *other_path, other = draw(st.sampled_from(places))
            found: Any = result
            for key in (*other_path, other):
                found = found[key] if isinstance(found, dict | list) and _has(found, key) else None
            owner[last] = copy.deepcopy(found)
    return result


def _has(owner: Any, key: Any) -> bool:
    return key in owner if isinstance(owner, dict) else isinstance(key, int) and key < len(owner)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are others, gone, doubled or zero."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(result)))
        stop = min(len(result), first + draw(st.sampled_from([1, 1, 2, 4, 8, 64, 512, 4096])))
        kind = draw(st.sampled_from(["flipped", "other", "gone", "zeros", "doubled", "cut"]))
        if kind == "flipped" and first < len(result):
            result[first] ^= 1 << draw(st.integers(0, 7))
        elif kind == "other":
            result[first:stop] = draw(st.binary(min_size=stop - first, max_size=stop - first))
        elif kind == "gone":
            del result[first:stop]
        elif kind == "zeros":
            result[first:stop] = bytes(stop - first)
        elif kind == "doubled":
            result[first:first] = result[first:stop]
        elif kind == "cut":
            del result[first:]
    return bytes(result)
