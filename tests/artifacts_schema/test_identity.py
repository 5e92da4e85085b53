"""The checksum of a manifest, and the digest of what decides its tickets."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataltt.artifacts_schema import Publication, SchemaError, TicketStore, read_manifest
from dataltt.artifacts_schema.identity import canonical_json, checksum_of, sealed, ticket_digest_of
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing.root import replace_manifest
from hypothesis import given
from hypothesis import strategies as st

from ..schema_helpers import Made, edit_manifest, make_store, reseal

Change = Callable[[dict[str, Any]], object]


def document_of(store: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store / "zarr.json").read_text())["attributes"]["dataltt"]
    return found


def test_the_checksum_is_what_the_page_says(made: Made) -> None:
    document = document_of(made.path)
    rest = {name: value for name, value in document.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert document["checksum"] == hashlib.sha256(text.encode()).hexdigest()


def test_the_ticket_digest_is_what_the_page_says(made: Made) -> None:
    document = document_of(made.path)
    deciding = {
        "grid": [3, 5],
        "num_keep": 6,
        "num_views": 2,
        "selector": {k: v for k, v in document["selector"].items() if v is not None},
        "view": document["view"],
        "keys_sha256": document["dataset"]["keys_sha256"],
        "objects": {
            path: sha
            for path, sha in document["objects"].items()
            if path.startswith(("tickets/", "ranks/", "views/", "keys/"))
        },
    }
    text = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert document["ticket_digest"] == hashlib.sha256(text.encode()).hexdigest()
    assert made.manifest.digest == document["ticket_digest"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_does_not_depend_on_order_and_is_read_back(value: Any) -> None:
    def reordered(each: Any) -> Any:
        if isinstance(each, dict):
            return {key: reordered(each[key]) for key in reversed(each)}
        return [reordered(e) for e in each] if isinstance(each, list) else each

    text = canonical_json(value)
    assert canonical_json(reordered(value)) == text
    assert json.loads(text) == value


CHANGES: dict[str, Change] = {
    "mean": lambda m: m["view"]["mean"].__setitem__(0, 0.51),
    "seed of the views": lambda m: m["view"]["augment"].update(seed=1),
    "licence": lambda m: m.update(publication={"license": "CC0-1.0"}),
    "skipped": lambda m: m.update(skipped=[]) or m.update(created="2020-01-01T00:00:00+00:00"),
    "unknown field": lambda m: m.update(later=1),
    "size": lambda m: m["sizes"].update({"labels/c/0": 1}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_whatever_is_changed_in_a_manifest_it_is_not_opened(store: Path, change: Change) -> None:
    edit_manifest(store, change, seal=False)
    with pytest.raises(SchemaError, match="checksum: is not that of this manifest"):
        read_manifest(store)
    assert [check.ok for check in verify_store(str(store))] == [False]


def test_every_bit_of_a_manifest_counts(store: Path) -> None:
    """One bit flipped anywhere in the values of the manifest is found, or the document says the same still."""
    path = store / "zarr.json"
    before = path.read_bytes()
    wanted = read_manifest(store)
    start = before.index(b'"schema_version"')
    for place in range(start, len(before) - 8, 97):
        damaged = bytearray(before)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            found = read_manifest(store)
        except SchemaError:
            continue
        assert found == wanted, before[place - 20 : place + 20]


@pytest.mark.parametrize("name", ["checksum", "ticket_digest", "sizes"])
def test_what_1_2_requires_is_missed(store: Path, name: str) -> None:
    def leave_out(manifest: dict[str, Any]) -> None:
        del manifest[name]
        if name != "checksum":
            manifest["checksum"] = checksum_of(manifest)

    edit_manifest(store, leave_out, seal=False)
    with pytest.raises(SchemaError, match=name):
        read_manifest(store)


DECIDING: dict[str, Change] = {
    "grid": lambda m: m.update(grid=[5, 3]),
    "number kept": lambda m: m.update(num_keep=5),
    "selector": lambda m: m["selector"].update(weights_sha256="1" * 64),
    "view": lambda m: m["view"]["augment"].update(seed=9),
    "keys": lambda m: m["dataset"].update(keys_sha256="2" * 64),
    "tickets": lambda m: m["objects"].update({"tickets/c/0/0/0": "3" * 64}),
    "ranks": lambda m: m["objects"].update({"ranks/c/0/0/0": "3" * 64}),
    "boxes": lambda m: m["objects"].update({"views/boxes/c/0/0/0": "3" * 64}),
}
OTHER: dict[str, Change] = {
    "licence": lambda m: m.update(publication={"license": "CC0-1.0"}),
    "created": lambda m: m.update(created="2020-01-01T00:00:00+00:00"),
    "source": lambda m: m["dataset"].update(source="/home/me/shards"),
    "labels": lambda m: m["objects"].update({"labels/c/0": "3" * 64}),
    "token labels": lambda m: m["objects"].update({"token_labels/ids/c/0/0/0/0": "3" * 64}),
    "version": lambda m: m.update(schema_version="1.9", tool_version="9"),
}


@pytest.mark.parametrize("change", DECIDING.values(), ids=DECIDING.keys())
def test_what_decides_tickets_changes_the_digest(made: Made, change: Change) -> None:
    document = copy.deepcopy(document_of(made.path))
    change(document)
    assert ticket_digest_of(document) != made.manifest.digest


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER.keys())
def test_what_does_not_leaves_it(made: Made, change: Change) -> None:
    document = copy.deepcopy(document_of(made.path))
    change(document)
    assert ticket_digest_of(document) == made.manifest.digest


def test_old_stores_have_a_digest_that_their_upgrade_keeps() -> None:
    for version in ("1.0", "1.1"):
        path = Path(__file__).parents[1] / "data" / f"store-{version}.zarr"
        manifest = read_manifest(path)
        assert manifest.ticket_digest is None
        upgraded = manifest.upgraded({name: (path / name).stat().st_size for name in manifest.objects})
        assert (upgraded.schema_version, upgraded.dataset.source) == ("1.2", "")
        assert upgraded.to_json()["ticket_digest"] == manifest.digest


def test_a_manifest_is_replaced_with_what_a_later_version_added(tmp_path: Path) -> None:
    made = make_store(tmp_path)

    def add(manifest: dict[str, Any]) -> None:
        manifest.update(schema_version="1.9", later={"a": 1})
        manifest["view"]["later"] = "sRGB"
        reseal(manifest)

    edit_manifest(made.path, add)
    before = read_manifest(made.path)
    replace_manifest(made.path, dataclasses.replace(before, publication=Publication(license="CC0-1.0")))
    document = document_of(made.path)
    assert (document["later"], document["view"]["later"]) == ({"a": 1}, "sRGB")
    after = TicketStore.open(made.path).manifest
    assert (after.publication, after.digest) == (Publication(license="CC0-1.0"), before.digest)


def test_sealing_twice_is_sealing_once(made: Made) -> None:
    document = document_of(made.path)
    assert sealed(document) == document
