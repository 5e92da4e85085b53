"""A store that an earlier version wrote is still read. Never rewrite the data: add newer ones beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.verify import verify_store

DATA = Path(__file__).parent / "data"


def test_a_store_of_schema_1_0_is_read() -> None:
    expected = json.loads((DATA / "store-1.0.json").read_text(encoding="utf-8"))
    store = TicketStore.open(str(DATA / "store-1.0.zarr"))
    rows = range(5)
    assert store.manifest.schema_version == "1.0"
    assert store.shard_names == expected["shards"]
    assert store.shard_rows.tolist() == expected["shard_rows"]
    assert store.read_keys(rows) == expected["keys"]
    assert store.read_labels(rows).tolist() == expected["labels"]
    assert [str(d) for d in store.read_digests(rows)] == expected["digests"]
    assert store.read_tickets(rows).tolist() == expected["tickets"]
    assert store.read_ranks(rows).tolist() == expected["ranks"]
    views = store.read_views(rows)
    assert views is not None
    assert np.array_equal(views[0], np.array(expected["boxes"], dtype=np.float32))
    assert views[1].tolist() == expected["flips"]


def test_it_passes_every_check() -> None:
    assert [c.name for c in verify_store(str(DATA / "store-1.0.zarr")) if not c.ok] == []
