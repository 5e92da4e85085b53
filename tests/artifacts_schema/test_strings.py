"""Strings as the two buffers of an Arrow array."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import xxhash
from dataltt.artifacts_schema.strings import (
    MAX_STRING_BYTES,
    decode_strings,
    encode_strings,
    hash_string,
    hash_strings,
)
from hypothesis import given
from hypothesis import strategies as st

# Whatever UTF-8 can say: all code points but the surrogates.
texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=30)


def data_of(text: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text, dtype=np.uint8)


def test_strings_stand_end_to_end_and_offsets_say_where_each_begins() -> None:
    data, offsets = encode_strings(["ab", "", "é", "图"])
    assert data.dtype == np.uint8
    assert offsets.dtype == np.int64
    assert data.tobytes() == "abé图".encode()
    assert offsets.tolist() == [0, 2, 2, 4, 7]


@given(texts)
def test_strings_come_back(strings: list[str]) -> None:
    data, offsets = encode_strings(strings)
    assert data.tobytes() == "".join(strings).encode()
    assert offsets.tolist() == [len("".join(strings[:n]).encode()) for n in range(len(strings) + 1)]
    assert decode_strings(data, offsets) == strings


@given(texts, st.integers(0, 30), st.integers(0, 30), st.sampled_from([pa.string(), pa.large_string()]))
def test_a_slice_of_an_arrow_array_is_encoded_from_offset_zero(
    strings: list[str], start: int, length: int, kind: pa.DataType
) -> None:
    start = min(start, len(strings))
    array = pa.array(strings, type=kind).slice(start, length)
    data, offsets = encode_strings(array)
    assert offsets[0] == 0
    assert offsets[-1] == len(data)
    assert decode_strings(data, offsets) == strings[start : start + length]


@pytest.mark.parametrize(
    ("data", "offsets", "why"),
    [
        (b"abc", [1, 3], "do not divide"),
        (b"abc", [0, 2], "do not divide"),
        (b"abc", [0, 4], "do not divide"),
        (b"abc", [0, 3, 2, 3], "do not divide"),
        (b"abc", [0, -1, 3], "do not divide"),
        (b"a\xffc", [0, 3], "UTF8"),
        ("é".encode(), [0, 1, 2], "UTF8"),
        (b"x" * (MAX_STRING_BYTES + 1), [0, MAX_STRING_BYTES + 1], "longer than 4096 bytes"),
    ],
    ids=[
        "starts late",
        "ends early",
        "ends late",
        "decreases",
        "negative",
        "not UTF-8",
        "splits a character",
        "too long",
    ],
)
def test_buffers_that_hold_no_strings_are_refused(data: bytes, offsets: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_strings(data_of(data), np.array(offsets, dtype=np.int64))


def test_a_string_may_have_exactly_the_greatest_length() -> None:
    longest = "é" * (MAX_STRING_BYTES // 2)
    assert decode_strings(*encode_strings([longest])) == [longest]


def test_hashes_are_xxh3_64_of_the_utf8_bytes() -> None:
    assert hash_string("") == 0x2D06800538D394C2  # the published value for no input and seed 0
    strings = ["a", "n01440764/é图", ""]
    hashes = hash_strings(strings)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [xxhash.xxh3_64(s.encode()).intdigest() for s in strings]
    assert len(hash_strings([])) == 0
