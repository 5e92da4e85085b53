"""From an image to its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.lookup import AMBIGUOUS, DigestLookup, keys_at
from dataltt.artifacts_schema.writing.commit import commit

from ..schema_helpers import make_part, make_spec, make_store, write_parts


def test_images_are_found_at_their_first_row(tmp_path: Path) -> None:
    made = make_store(tmp_path, 3, (5, 1, 6), ranks=False)
    digests = made.column("digests")
    lookup = DigestLookup(TicketStore.open(str(made.path)))
    expected = [int(np.flatnonzero(digests == d)[0]) for d in digests]
    assert lookup.find(digests).tolist() == expected
    absent = np.setdiff1d(np.array([1, 2, 3], np.uint64), digests)
    assert lookup.find(absent).tolist() == [-1] * len(absent)


@pytest.mark.parametrize("num_views", [1, 3])
@pytest.mark.parametrize("differing", [None, "tickets", "ranks", "boxes", "flips"])
def test_an_image_of_several_rows_counts_where_all_is_the_same(
    tmp_path: Path, num_views: int, differing: str | None
) -> None:
    """Rows 0, 4 and 9 are of one image, rows 2 and 3 of another."""
    if num_views == 1 and differing in ("boxes", "flips"):
        return
    spec = make_spec(num_views=num_views)
    part = make_part(spec, 0, 10)
    groups = ((0, 4, 9), (2, 3))
    for name in ("digests", "tickets", "ranks", "boxes", "flips"):
        column = getattr(part, name)
        for group in groups if column is not None else ():
            column[list(group)] = column[group[0]]
    if differing == "tickets":
        other = make_part(spec, 0, 10, seed=1)
        part.tickets[9, -1] = other.tickets[9, -1]
        assert part.ranks is not None
        assert other.ranks is not None
        part.ranks[9, -1] = other.ranks[9, -1]
    if differing == "ranks":  # among those that are dropped alone
        assert part.ranks is not None
        swapped = part.ranks[9, -1].copy()
        part.ranks[9, -1][np.argsort(swapped)[-2:]] = np.sort(swapped)[-2:][::-1]
    if differing == "boxes":
        assert part.boxes is not None
        part.boxes[9, -1, 0] += 0.01
    if differing == "flips":
        assert part.flips is not None
        part.flips[9, -1] ^= 1
    write_parts(tmp_path / "store.zarr", [part])
    commit(tmp_path / "store.zarr", spec)
    lookup = DigestLookup(TicketStore.open(str(tmp_path / "store.zarr")))
    first = 0 if differing is None else AMBIGUOUS
    assert lookup.find(part.digests).tolist() == [first, 1, 2, 2, first, 5, 6, 7, 8, first]
    assert lookup.find(part.digests[5:6]).tolist() == [5]


def test_keys_of_rows_far_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_store(tmp_path, 3, (5, 1, 20), ranks=False)
    store = TicketStore.open(str(made.path))
    for block_rows in (1, 4, 1000):
        monkeypatch.setattr("dataltt.artifacts_schema.lookup.BLOCK_ROWS", block_rows)
        for rows in ([], [25], [0, 3, 4, 5, 17, 25], list(range(26))):
            assert keys_at(store, np.array(rows, np.int64)) == [made.keys[row] for row in rows]
