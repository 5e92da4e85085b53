"""A store as people read it: by key, or by rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataltt.artifacts_schema import OptionError, TicketStore, UnknownKeyError, open_store
from dataltt.artifacts_schema.tickets import unpack_mask

from ..schema_helpers import Made, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_store(tmp_path_factory.mktemp("replayed"), 3, (5, 1, 6), num_views=2)


@pytest.fixture(scope="module")
def store(made: Made) -> TicketStore:
    return open_store(made.path)


def test_a_key_gives_what_was_written_of_it(made: Made, store: TicketStore) -> None:
    for row in (0, 5, 11):
        found = store[made.keys[row]]
        assert (found.key, found.row) == (made.keys[row], row)
        mask = unpack_mask(made.column("tickets")[row], 15)
        assert found.kept.dtype == np.int64
        assert found.kept.tolist() == [np.flatnonzero(m).tolist() for m in mask]
        assert found.ranks is not None
        assert found.ranks.tolist() == made.column("ranks")[row].tolist()
        assert found.boxes is not None
        assert found.boxes.tolist() == made.column("boxes")[row].tolist()
        assert found.flips is not None
        assert found.flips.dtype == np.bool_
        assert found.flips.tolist() == made.column("flips")[row].astype(bool).tolist()
        assert found.digest == made.column("digests")[row]
        label = made.column("labels")[row]
        assert found.label == (None if label < 0 else label)


def test_rows_come_in_the_order_asked_for(made: Made, store: TicketStore) -> None:
    assert [t.key for t in store.tickets([7, 2, 7])] == [made.keys[7], made.keys[2], made.keys[7]]
    assert [t.row for t in store.tickets(range(4, 9))] == [4, 5, 6, 7, 8]
    assert [t.row for t in store.tickets(range(9, 0, -4))] == [9, 5, 1]
    assert store.tickets([]) == []
    one, same = store.tickets([3])[0], store[made.keys[3]]
    assert one.kept.tolist() == same.kept.tolist()


def test_a_store_is_a_collection_of_keys(made: Made, store: TicketStore) -> None:
    assert len(store) == 12
    assert list(store) == made.keys
    assert made.keys[4] in store
    assert "nothing" not in store
    assert 4 not in store


def test_of_one_centre_view_without_ranks_there_is_no_more_than_the_ticket(tmp_path: Path) -> None:
    made = make_store(tmp_path, 1, (4,), ranks=False)
    found = open_store(made.path)[made.keys[2]]
    assert found.kept.shape == (1, 6)
    assert (found.ranks, found.boxes, found.flips) == (None, None, None)


def test_an_unknown_key_is_told_of_the_nearest(made: Made, store: TicketStore) -> None:
    with pytest.raises(UnknownKeyError) as caught:
        store[made.keys[3] + "x"]
    assert f"has no ticket of key {made.keys[3] + 'x'!r}; did you mean " in str(caught.value)
    assert repr(made.keys[3]) in str(caught.value)
    with pytest.raises(UnknownKeyError, match="`for key in store` gives those it has"):
        store["☃" * 40]


@pytest.mark.parametrize("rows", [[-1], [12], range(10, 13)])
def test_rows_outside_the_store_are_refused(store: TicketStore, rows: list[int]) -> None:
    with pytest.raises(OptionError, match="has rows 0 to 11, and not"):
        store.tickets(rows)


def test_a_row_is_no_key(store: TicketStore) -> None:
    with pytest.raises(OptionError, match=r"store\.tickets"):
        store[3]  # type: ignore[index]
