"""From an image to its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.lookup import DigestLookup

from ..schema_helpers import make_store


def test_images_are_found_at_their_first_row(tmp_path: Path) -> None:
    made = make_store(tmp_path, 3, (5, 1, 6), ranks=False)
    digests = made.column("digests")
    lookup = DigestLookup(TicketStore.open(str(made.path)))
    expected = [int(np.flatnonzero(digests == d)[0]) for d in digests]
    assert lookup.find(digests).tolist() == expected
    absent = np.setdiff1d(np.array([1, 2, 3], np.uint64), digests)
    assert lookup.find(absent).tolist() == [-1] * len(absent)
