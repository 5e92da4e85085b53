"""Thinned stores: the best patches by rank, said to be approximate, and in a version that older readers refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import OptionError, SchemaError, TicketStore, parse_manifest
from dataltt.artifacts_schema.combining.assembly import Combined, Target
from dataltt.artifacts_schema.combining.merge import merge_stores
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.artifacts_schema.manifest import Thinned
from dataltt.artifacts_schema.thinning import approximation, num_kept, ratio_of
from dataltt.artifacts_schema.tickets import unpack_mask
from dataltt.artifacts_schema.verify import verify_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...schema_helpers import Made, make_store, read_everything

DATA = Path(__file__).parents[2] / "data"


def _thin(store: Path, out: Path, **options: Any) -> Combined:
    return thin_store(store, Target(path=out), **options)


def _assert_sound(path: Path) -> None:
    assert [c.name for c in verify_store(str(path)) if not c.ok] == []


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.01, 0.4), st.booleans())
def test_it_keeps_the_first_of_each_view_s_order(
    whole: Made, tmp_path_factory: pytest.TempPathFactory, ratio: float, ranks: bool
) -> None:
    out = tmp_path_factory.mktemp("thin") / "out.zarr"
    num_keep = math.ceil(round(15 * ratio, 9))
    if num_keep == 6 and ranks:
        return
    found = _thin(whole.path, out, ratio=ratio, ranks=ranks)
    stored = whole.column("ranks")
    order = np.argsort(stored, axis=-1)[..., :num_keep]
    want = np.zeros(stored.shape, dtype=np.bool_)
    np.put_along_axis(want, order, True, axis=-1)
    got, before = read_everything(out), read_everything(whole.path)
    np.testing.assert_array_equal(unpack_mask(got["tickets"], 15), want)
    assert found.manifest.num_keep == num_keep
    assert (got["ranks"] is not None) == ranks
    for name in ("keys", "labels", "digests", "boxes", "flips", "shard_rows", *(["ranks"] if ranks else [])):
        np.testing.assert_array_equal(got[name], before[name])
    _assert_sound(out)


def test_the_manifest_says_so(whole: Made, tmp_path: Path) -> None:
    found = _thin(whole.path, tmp_path / "out.zarr", ratio=0.2)
    m = TicketStore.open(str(tmp_path / "out.zarr")).manifest
    assert m == found.manifest
    assert (m.schema_version, m.num_keep, m.thinned) == ("2.0", 3, Thinned(selected_num_keep=6))
    assert (m.selector, m.view) == (whole.manifest.selector, whole.manifest.view)
    parent = TicketStore.open(str(whole.path)).manifest.digest
    assert m.parent == [{"ticket_digest": parent, "operation": "thin", "num_keep": 3, "has_ranks": True}]
    said = "approximate: 3 patches, by rank, of the 6 that the selector kept"
    assert (approximation(m), found.notes) == (said, (f"tickets are {said}",))
    assert approximation(whole.manifest) is None


def test_without_ranks_alone_it_is_not_approximate(whole: Made, tmp_path: Path) -> None:
    found = _thin(whole.path, tmp_path / "out.zarr", ranks=False)
    got = read_everything(tmp_path / "out.zarr")
    np.testing.assert_array_equal(got["tickets"], whole.column("tickets"))
    assert got["ranks"] is None
    assert (found.manifest.thinned, found.notes) == (None, ())
    assert found.manifest.schema_version.startswith("1.")
    _assert_sound(tmp_path / "out.zarr")


def test_thinned_twice_it_tells_what_the_selector_kept(whole: Made, tmp_path: Path) -> None:
    _thin(whole.path, tmp_path / "once", ratio=0.3)
    twice = _thin(tmp_path / "once", tmp_path / "twice", ratio=0.2).manifest
    assert (twice.num_keep, twice.thinned) == (3, Thinned(selected_num_keep=6))
    _thin(whole.path, tmp_path / "direct", ratio=0.2)
    same = [read_everything(tmp_path / name)["tickets"] for name in ("twice", "direct")]
    np.testing.assert_array_equal(*same)


def test_thinned_stores_are_cut_and_merged_as_others(whole: Made, tmp_path: Path) -> None:
    whole_thin = _thin(whole.path, tmp_path / "thin", ratio=0.2).manifest
    for name, pattern in (("a", "shard-00[01].tar"), ("b", "shard-00[1-4].tar")):
        subset_store(tmp_path / "thin", Wanted(shards=pattern), Target(path=tmp_path / name))
    merged = merge_stores([tmp_path / "a", tmp_path / "b"], Target(path=tmp_path / "out")).manifest
    assert (merged.objects, merged.thinned) == (whole_thin.objects, whole_thin.thinned)
    assert merged.schema_version == "2.0"
    with pytest.raises(OptionError, match=r"thinned\.selected_num_keep is 6 in the first and None in the second"):
        merge_stores([tmp_path / "a", whole.path], Target(path=tmp_path / "x"))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stores_of_earlier_versions(tmp_path: Path, version: str) -> None:
    old = TicketStore.open(str(DATA / f"store-{version}.zarr"))
    rows = range(len(old))
    _thin(DATA / f"store-{version}.zarr", tmp_path / "out.zarr", ratio=1 / old.manifest.num_patches)
    new = TicketStore.open(str(tmp_path / "out.zarr"))
    assert new.manifest.num_keep == 1
    best = unpack_mask(new.read_tickets(rows), old.manifest.num_patches).argmax(axis=-1)
    np.testing.assert_array_equal(best, old.read_ranks(rows).argmin(axis=-1))
    assert new.manifest.token_labels == old.manifest.token_labels
    _assert_sound(tmp_path / "out.zarr")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "thin it how? give a lower `ratio`, or `ranks=False`"),
        ({"ratio": 0.4}, "keep 6 patches already"),
        ({"ratio": 0.5}, "`ratio=0.5` keeps 8 patches, and tickets of"),
        ({"ratio": 0.0}, "outside (0, 1]"),
        ({"ratio": 1.5}, "outside (0, 1]"),
    ],
)
def test_what_is_no_thinning(whole: Made, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        _thin(whole.path, tmp_path / "out.zarr", **options)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_store_without_ranks(tmp_path: Path) -> None:
    made = make_store(tmp_path, 1, (3,), ranks=False)
    for options, said in (
        ({"ratio": 0.2}, "has no ranks; select again with `ranks=True`"),
        ({"ranks": False}, "no ranks"),
    ):
        with pytest.raises(OptionError) as caught:
            _thin(made.path, tmp_path / "out.zarr", **options)
        assert said in str(caught.value)


@pytest.mark.parametrize("selected", [2, 3])
def test_a_manifest_that_claims_to_be_thinned_and_is_not(whole: Made, tmp_path: Path, selected: int) -> None:
    document = _thin(whole.path, tmp_path / "out.zarr", ratio=0.2).manifest.to_json()
    document["thinned"]["selected_num_keep"] = selected
    document.pop("checksum", None)
    with pytest.raises(SchemaError):
        parse_manifest(document, "x")


@given(st.integers(1, 4096), st.data())
def test_a_ratio_that_keeps_a_number_keeps_it(num_patches: int, data: st.DataObject) -> None:
    num_keep = data.draw(st.integers(1, num_patches))
    assert num_kept(num_patches, ratio_of(num_keep, num_patches)) == num_keep


@pytest.mark.parametrize(("ratio", "count"), [(0.55, 55), (0.07, 7), (0.5, 50), (0.501, 51), (1.0, 100), (0.001, 1)])
def test_shares_are_counted_as_select_counts_them(ratio: float, count: int) -> None:
    assert num_kept(100, ratio) == count
