"""Stores that earlier versions wrote are still read. Never rewrite the data: add newer ones beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import TicketStore
from dataltt.artifacts_schema.verify import verify_store

# What follows the dash is what is special of a store.
VERSIONS = ["1.0", "1.1", "1.2", "2.0", "2.0-decoder", "2.0-adaptive"]
DATA = Path(__file__).parents[1] / "data"


def _opened(version: str) -> tuple[TicketStore, dict[str, Any]]:
    expected = json.loads((DATA / f"store-{version}.json").read_text(encoding="utf-8"))
    return TicketStore.open(str(DATA / f"store-{version}.zarr")), expected


@pytest.mark.parametrize("version", VERSIONS)
def test_its_rows_are_those_that_were_written(version: str) -> None:
    store, expected = _opened(version)
    rows = range(len(expected["keys"]))
    assert store.manifest.schema_version == version.partition("-")[0]
    assert store.manifest.num_images == len(rows)
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


def test_token_labels_of_1_1_are_those_that_were_written() -> None:
    store, expected = _opened("1.1")
    labels = store.read_token_labels(range(6))
    assert hashlib.sha256(labels.ids.tobytes()).hexdigest() == expected["token_label_ids_sha256"]
    assert hashlib.sha256(labels.scores.tobytes()).hexdigest() == expected["token_label_scores_sha256"]
    assert labels.ids[0, 0, 0].tolist() == expected["first_token_labels"]["ids"]
    assert labels.scores[0, 0, 0].tolist() == expected["first_token_labels"]["scores"]
    for name, value in expected["manifest"].items():
        assert getattr(store.manifest, name) == value, name


def test_counts_of_2_0_are_those_that_were_written() -> None:
    store, expected = _opened("2.0-adaptive")
    assert store.read_counts(range(6)).tolist() == expected["counts"]


@pytest.mark.parametrize("version", ["1.2", "2.0", "2.0-decoder", "2.0-adaptive"])
def test_the_manifest_says_what_it_said(version: str) -> None:
    store, expected = _opened(version)
    document = store.manifest.to_json()
    assert {name: document[name] for name in expected["manifest"]} == expected["manifest"]
    assert store.manifest.digest == expected["manifest"]["ticket_digest"]


@pytest.mark.parametrize("version", VERSIONS)
def test_it_passes_every_check(version: str) -> None:
    assert [c.name for c in verify_store(str(DATA / f"store-{version}.zarr")) if not c.ok] == []
