"""Digests of keys come out in order and are told apart, however few of them memory holds."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from dataltt.artifacts_schema.key_hashes import KeyHashes
from dataltt.artifacts_schema.strings import keys_digest
from hypothesis import given, settings
from hypothesis import strategies as st


def test_what_waits_on_disk_is_put_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 10_000, dtype=np.uint64)
    hashes[7000], hashes[9999] = hashes[3], hashes[12]
    collected = KeyHashes(tmp_path / "not there yet", held=1000)
    for first in range(0, 10_000, 777):
        collected.add(hashes[first : first + 777])
    summary = collected.summary()
    assert summary.sha256 == keys_digest(np.sort(hashes))
    assert summary.repeated.tolist() == sorted(hashes[[3, 12]].tolist())
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0, 1, 2**56 - 1, 2**56, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)),
    held=st.integers(1, 9),
    step=st.integers(1, 7),
)
def test_any_numbers_in_any_pieces(values: list[int], held: int, step: int) -> None:
    hashes = np.array(values, dtype=np.uint64)
    collected = KeyHashes(Path(tempfile.gettempdir()), held=held)
    for first in range(0, len(hashes), step):
        collected.add(hashes[first : first + step])
    summary = collected.summary()
    assert summary.sha256 == keys_digest(np.sort(hashes))
    assert summary.repeated.tolist() == sorted(v for v in set(values) if values.count(v) > 1)
