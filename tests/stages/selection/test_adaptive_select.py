"""Selections with a budget: their counts, in any order of work, and what is done with such stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import Manifest, OptionError, SchemaError, TicketStore
from dataltt.artifacts_schema.access.location import Access
from dataltt.artifacts_schema.adaptive import STEPS
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.merge import merge_stores
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.artifacts_schema.tickets import unpack_mask
from dataltt.artifacts_schema.verify import verify_store
from dataltt.artifacts_schema.writing.parts import Part
from dataltt.stages.analysis.store_diff import diff_stores
from dataltt.stages.data.images import decode_image, normalize, to_tensor
from dataltt.stages.data.shards import iter_samples, resolve_shards
from dataltt.stages.models.attention_maps import last_cls_attention
from dataltt.stages.models.weights import load_vit
from dataltt.stages.selection import select as select_module
from dataltt.stages.selection.select import select

from ...far.http_server import FileServer
from ...helpers import (
    MODEL,
    NUM_PATCHES,
    SmallStore,
    file_digests,
    make_store,
    run_cli,
    run_on_two_ranks,
    select_config,
)
from ...schema_helpers import edit_manifest, put

pytestmark = pytest.mark.usefixtures("fixed_time")


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Three shards of 8, 4 and 6 images; 10 to 30 of 49 patches, by CLS attention."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        return make_store(
            tmp_path_factory.mktemp("adaptive"), counts=(8, 4, 6), budget=0.4, selector="attention", ranks=True
        )


def _again(adaptive: SmallStore, out: Path, shards: str | None = None, **changes: Any) -> Manifest:
    given = {"budget": 0.4, "selector": "attention", "ranks": True, **changes}
    manifest = select(select_config(shards or adaptive.shards, adaptive.weights, out, **given))
    assert manifest is not None
    return manifest


def _counts(store: Path | str) -> list[int]:
    opened = TicketStore.open(str(store))
    return opened.read_counts(range(len(opened))).ravel().tolist()


def _faults(store: Path | str) -> dict[str, str]:
    return {check.name: check.detail for check in verify_store(str(store)) if not check.ok}


def test_a_view_keeps_the_fewest_patches_that_hold_the_threshold(adaptive: SmallStore) -> None:
    store = TicketStore.open(adaptive.store)
    a = store.manifest.adaptive
    assert a is not None
    assert (store.manifest.schema_version, store.manifest.num_keep, a.least_keep, a.budget) == ("2.0", 30, 10, 0.4)
    vit = load_vit(MODEL, adaptive.weights, needs_head=False).eval()
    expected: dict[str, set[int]] = {}
    for sample in (s for shard in resolve_shards(adaptive.shards) for s in iter_samples(shard)):
        pixels = to_tensor(decode_image(sample, "L", "pillow", ""))[None]
        with torch.inference_mode():
            weights = last_cls_attention(vit, normalize(pixels, store.manifest.view))[0].double().numpy()
        order = np.argsort(-weights, kind="stable")
        held = weights[order].cumsum() / weights.sum() * STEPS
        count = next((n for n in range(10, 30) if np.floor(held[n - 1]) >= a.steps), 30)
        expected[sample.key] = set(order[:count].tolist())
    assert {key: set(np.flatnonzero(mask).tolist()) for key, mask in adaptive.masks().items()} == expected
    counts = _counts(adaptive.path)
    assert len(set(counts)) > 2
    assert 0.4 * NUM_PATCHES - 0.2 < np.mean(counts) <= 0.4 * NUM_PATCHES
    assert _faults(adaptive.path) == {}


def test_images_have_their_own_numbers(adaptive: SmallStore) -> None:
    image = TicketStore.open(adaptive.store)["train/00003"]
    assert len(image.kept[0]) == _counts(adaptive.path)[3]
    assert image.ranks is not None
    assert sorted(image.ranks[0][image.kept[0]]) == list(range(len(image.kept[0])))


@pytest.mark.parametrize(
    "changes", [{"batch_size": 3}, pytest.param({"workers": 2}, marks=pytest.mark.slow), {"ranks": False}], ids=str
)
def test_any_order_of_work_gives_these_tickets(adaptive: SmallStore, tmp_path: Path, changes: dict[str, Any]) -> None:
    _again(adaptive, tmp_path / "out.zarr", **changes)
    if "ranks" in changes:
        assert _counts(tmp_path / "out.zarr") == _counts(adaptive.path)
        tickets = [TicketStore.open(str(s)).read_tickets(range(18)) for s in (adaptive.path, tmp_path / "out.zarr")]
        np.testing.assert_array_equal(*tickets)
    else:
        assert file_digests(tmp_path / "out.zarr") == file_digests(adaptive.path)


@pytest.mark.slow
def test_two_ranks_find_the_same_threshold(adaptive: SmallStore, tmp_path: Path) -> None:
    options = ("--selector", "attention", "--budget", 0.4, "--ranks", "--workers", 0, "--device", "cpu", "--json")
    given = ("--model", MODEL, "--checkpoint", adaptive.weights, "--shards", adaptive.shards)
    result = run_on_two_ranks(tmp_path, "select", *given, "--out", tmp_path / "out.zarr", *options)
    assert result.code == 0, result.err
    assert file_digests(tmp_path / "out.zarr") == file_digests(adaptive.path)


def test_it_goes_on_where_it_stopped(adaptive: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = select_module.write_part

    class StoppedError(Exception):
        pass

    def cut_off(directory: Path, index: int, part: Part) -> None:
        if index == 1:
            raise StoppedError
        write(directory, index, part)

    monkeypatch.setattr(select_module, "write_part", cut_off)
    with pytest.raises(StoppedError):
        _again(adaptive, tmp_path / "out.zarr")
    monkeypatch.setattr(select_module, "write_part", write)
    _again(adaptive, tmp_path / "out.zarr")
    assert file_digests(tmp_path / "out.zarr") == file_digests(adaptive.path)


def test_the_cascade_and_drawn_views_have_counts_too(adaptive: SmallStore, tmp_path: Path) -> None:
    views = {"selector": "cascade", "augment": "deit", "num_views": 2}
    _again(adaptive, tmp_path / "out.zarr", **views)
    store = TicketStore.open(str(tmp_path / "out.zarr"))
    counts = store.read_counts(range(18))
    assert counts.shape == (18, 2)
    assert (counts[:, 0] != counts[:, 1]).any()
    assert counts.mean() <= 0.4 * NUM_PATCHES
    masks = unpack_mask(store.read_tickets(range(18)), NUM_PATCHES)
    np.testing.assert_array_equal(masks, store.read_ranks(range(18)) < counts[..., None])
    assert store.read_counts(range(2, 4), slice(1, 2)).tolist() == counts[2:4, 1:].tolist()
    assert _faults(tmp_path / "out.zarr") == {}


def test_an_extension_has_the_threshold_of_its_base(adaptive: SmallStore, tmp_path: Path) -> None:
    first = subset_store(adaptive.path, Wanted(shards="train-000000.tar"), Target(path=tmp_path / "a.zarr"))
    assert first.manifest.adaptive == adaptive.manifest.adaptive
    found = _again(adaptive, tmp_path / "out.zarr", extend=str(tmp_path / "a.zarr"))
    assert found.objects == adaptive.manifest.objects
    assert found.digest == adaptive.manifest.digest
    with pytest.raises(OptionError, match=r"adaptive.budget is 0.4 in the first and 0.3 in the second"):
        _again(adaptive, tmp_path / "no.zarr", extend=str(tmp_path / "a.zarr"), budget=0.3)


def test_parts_are_merged_and_other_thresholds_refused(adaptive: SmallStore, tmp_path: Path) -> None:
    for name, shards in (("a", "train-000000.tar"), ("b", "train-00000{1,2}.tar")):
        subset_store(adaptive.path, Wanted(shards=shards), Target(path=tmp_path / name))
    merged = merge_stores([tmp_path / "a", tmp_path / "b"], Target(path=tmp_path / "out.zarr"))
    assert merged.manifest.digest == adaptive.manifest.digest
    assert _faults(tmp_path / "out.zarr") == {}
    last = str(Path(adaptive.shards).parent / "train-000002.tar")
    _again(adaptive, tmp_path / "c", shards=last)
    with pytest.raises(OptionError, match=r"adaptive.threshold is 0"):
        merge_stores([tmp_path / "a", tmp_path / "c"], Target(path=tmp_path / "no.zarr"))


def test_ranks_can_be_left_out_and_tickets_not_cut_down(adaptive: SmallStore, tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"has adaptive tickets \(`budget=0.4`\), and `ratio=0.2` cuts .*; select with"
    ):
        thin_store(adaptive.path, Target(path=tmp_path / "no.zarr"), ratio=0.2)
    found = thin_store(adaptive.path, Target(path=tmp_path / "out.zarr"), ranks=False)
    assert found.manifest.adaptive == adaptive.manifest.adaptive
    assert _counts(tmp_path / "out.zarr") == _counts(adaptive.path)


def test_overlap_with_another_store_is_of_each_smaller_ticket(adaptive: SmallStore, tmp_path: Path) -> None:
    fixed = _again(adaptive, tmp_path / "fixed.zarr", budget=None, ratio=0.4)
    assert fixed.num_keep == 20
    found = diff_stores(adaptive.path, tmp_path / "fixed.zarr")
    # One order of the patches: the smaller ticket is a part of the larger one.
    assert (found.overlap, found.num_keep) == (1.0, (20, 20))
    assert found.num_identical == _counts(adaptive.path).count(20)
    assert {"adaptive.budget", "adaptive.least_keep", "adaptive.threshold"} < {d.field for d in found.selector}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda s: put(s, "counts", (3, 0), 9), "not between 10 and 30 patches"),
        (lambda s: put(s, "counts", (3, 0), 31), "not between 10 and 30 patches"),
        (lambda s: put(s, "counts", (3, 0), 30), "not as many as counts says, patches"),
        (lambda s: edit_manifest(s, lambda m: m["adaptive"].update(least_keep=31)), "should be at most num_keep"),
        (lambda s: edit_manifest(s, lambda m: m.update(schema_version="1.2")), "adaptive: needs schema version 2.0"),
        (lambda s: edit_manifest(s, lambda m: m.pop("adaptive")), "not 30 patches"),
    ],
    ids=["few", "many", "other", "least", "version", "none"],
)
def test_damage_is_named(adaptive: SmallStore, tmp_path: Path, damage: Any, said: str) -> None:
    subset_store(adaptive.path, Wanted(shards="train-000000.tar"), Target(path=tmp_path / "store.zarr"))
    damage(tmp_path / "store.zarr")
    found = _faults(tmp_path / "store.zarr")
    assert any(said in detail for detail in found.values()), found
    if said.startswith("not"):
        with pytest.raises(SchemaError, match=said):
            TicketStore.open(str(tmp_path / "store.zarr")).read_tickets(range(8))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"selector": "random"}, r"`budget=0.4`: scores of the selector 'random' are no weights .*; take cascade, att"),
        ({"selector": "variance"}, "scores of the selector 'variance' are no weights"),
        ({"ratio": 0.5}, "`budget=0.4` stands in place of `ratio` and `keep_rate`; leave these out"),
        ({"keep_rate": 0.5}, "`budget=0.4` stands in place of"),
        ({"budget": 1.0}, r"`budget=1` of 49 patch\(es\) leaves no choice; give `ratio`"),
        ({"budget": 0.02}, r"`budget=0.02` of 49 patch\(es\) leaves no choice; give `ratio`"),
    ],
)
def test_what_does_not_go_together_is_refused(
    adaptive: SmallStore, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(OptionError, match=said):
        _again(adaptive, tmp_path / "no.zarr", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("own_folder")
def test_on_the_command_line(adaptive: SmallStore, tmp_path: Path) -> None:
    result = run_cli(
        *("select", "--model", MODEL, "--checkpoint", adaptive.weights, "--budget", 0.4, "--selector", "attention"),
        *("--shards", adaptive.shards, "--out", tmp_path / "s.zarr", "--device", "cpu", "--workers", 0),
    )
    assert result.code == 0, result.err
    assert "10 to 30 of 49 patches (40.0% on average) of 18 images" in result.out
    shown = run_cli("inspect", tmp_path / "s.zarr").out
    assert "10 to 30 of 49 patches (40.0% on average), 1 view(s)" in shown
    assert "attention of vit_fashion, budget 0.4 (the fewest patches that hold " in shown
    assert run_cli("card", tmp_path / "s.zarr").code == 0
    card = (tmp_path / "s.zarr" / "README.md").read_text(encoding="utf-8")
    assert "which 10 to 30 of 49 patches (40.0 % on average) of each of 18 images" in card
    assert "--selector attention --model vit_fashion --checkpoint WEIGHTS --shards SHARDS --budget 0.4" in card
    view = run_cli("view", tmp_path / "s.zarr", "--out", tmp_path / "view", "--images", 2)
    assert view.code == 0, view.err
    assert "keeps 10 to 30 of 49 patches" in (tmp_path / "view" / "index.html").read_text(encoding="utf-8")
    refused = run_cli("bake", "--tickets", tmp_path / "s.zarr", "--out", tmp_path / "baked")
    assert "has adaptive tickets (--budget 0.4), and a baked folder has equal numbers of patches" in refused.err


@pytest.mark.usefixtures("no_credentials")
def test_counts_come_with_tickets_from_far(adaptive: SmallStore, tmp_path: Path) -> None:
    with FileServer(adaptive.path.parent) as web:
        store = TicketStore.open(f"{web.url}/{adaptive.path.name}", Access(cache_dir=tmp_path))
        store.fetch(["tickets"])
        asked = len(web.requests)
        near = TicketStore.open(adaptive.store).read_tickets(range(18))
        np.testing.assert_array_equal(store.read_tickets(range(18)), near)
        assert len(web.requests) == asked
