"""Two stores compared: overlap against NumPy, chance, classes, and the images that differ most."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataltt.artifacts_schema import OptionError
from dataltt.artifacts_schema.combining.assembly import Target
from dataltt.artifacts_schema.combining.subset import Wanted, subset_store
from dataltt.artifacts_schema.combining.thin import thin_store
from dataltt.artifacts_schema.tickets import unpack_mask
from dataltt.artifacts_schema.writing.commit import commit
from dataltt.pipeline.reports.diff_figure import diff_figure, iou
from dataltt.stages.analysis import store_diff as store_diff_module
from dataltt.stages.analysis.store_diff import NUM_EXAMPLES, diff_stores

from ...schema_helpers import Made, make_part, make_spec, make_store, write_parts

_SHARDS = ("a.tar", "b.tar", "c.tar")
_COUNTS = (5, 0, 11)


def _store(path: Path, *, seed: int, order: tuple[int, ...] = (0, 1, 2), **changes: Any) -> Made:
    """Sixteen images of three classes, two views each; another seed gives other tickets of the same images."""
    whole = make_spec(shards=_SHARDS, num_views=2)
    labels = np.arange(11, dtype=np.int32) % 3 - 1
    parts = [
        dataclasses.replace(make_part(whole, i, _COUNTS[i], seed=seed), labels=labels[: _COUNTS[i]]) for i in order
    ]
    write_parts(path, parts)
    spec = dataclasses.replace(whole, shards=[_SHARDS[i] for i in order], **changes)
    return Made(path=path, spec=spec, parts=parts, manifest=commit(path, spec))


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return _store(tmp_path_factory.mktemp("a") / "a.zarr", seed=0)


@pytest.fixture(scope="module")
def b(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The same images in other shard order."""
    return _store(tmp_path_factory.mktemp("b") / "b.zarr", seed=1, order=(2, 0, 1))


def _masks(made: Made) -> dict[str, Any]:
    return dict(zip(made.keys, unpack_mask(made.column("tickets"), 15), strict=True))


@pytest.mark.parametrize("block_rows", [1, 3, 8192])
def test_every_figure_is_numpy_s(a: Made, b: Made, monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr(store_diff_module, "_BLOCK_ROWS", block_rows)
    seen: list[tuple[int, int]] = []
    found = diff_stores(str(a.path), str(b.path), lambda *done: seen.append(done))
    assert seen[-1] == (16, 16)
    of_a, of_b = _masks(a), _masks(b)
    first, second = (np.stack([m[k] for k in a.keys]) for m in (of_a, of_b))
    both = first & second
    overlaps = both.sum(-1).mean(-1) / 6
    assert (found.num_images, found.same_images, found.num_changed) == ((16, 16, 16), True, 0)
    assert (found.selector, found.view, found.num_keep, found.num_views) == ([], [], (6, 6), 2)
    assert found.overlap == pytest.approx(overlaps.mean())
    assert found.num_identical == int((first == second).all(axis=(1, 2)).sum())
    assert found.chance == pytest.approx(6 / 15)
    np.testing.assert_allclose(found.kept_a, first.mean(axis=(0, 1)).reshape(3, 5))
    np.testing.assert_allclose(found.kept_b, second.mean(axis=(0, 1)).reshape(3, 5))
    np.testing.assert_allclose(found.kept_both, both.mean(axis=(0, 1)).reshape(3, 5))
    by_position = (first.mean(axis=(0, 1)) * second.mean(axis=(0, 1))).sum() / 6
    assert found.chance_by_position == pytest.approx(by_position)
    labels = a.column("labels")
    want = sorted((overlaps[labels == x].mean(), -1 if x < 0 else int(x), int((labels == x).sum())) for x in (-1, 0, 1))
    got = [(c.overlap, -1 if c.label is None else c.label, c.num_images) for c in found.by_class]
    assert got == [(pytest.approx(o), x, n) for o, x, n in want]
    worst = np.argsort(overlaps, kind="stable")[:NUM_EXAMPLES]
    assert [e.key for e in found.examples] == [a.keys[i] for i in worst]
    assert [e.overlap for e in found.examples] == pytest.approx(overlaps[worst].tolist())


def test_a_store_is_as_itself(a: Made) -> None:
    found = diff_stores(str(a.path), str(a.path))
    assert (found.overlap, found.num_identical) == (1.0, 16)
    np.testing.assert_array_equal(found.kept_both, found.kept_a)
    assert len(found.examples) == NUM_EXAMPLES


def test_smaller_tickets_are_wholly_in_those_they_were_cut_from(a: Made, tmp_path: Path) -> None:
    thin_store(a.path, Target(path=tmp_path / "thin"), ratio=0.2)
    found = diff_stores(str(a.path), str(tmp_path / "thin"))
    assert (found.num_keep, found.overlap, found.chance) == ((6, 3), 1.0, 6 / 15)
    assert found.approximate == (None, "approximate: 3 patches, by rank, of the 6 that the selector kept")
    back = diff_stores(str(tmp_path / "thin"), str(a.path))
    assert (back.overlap, back.num_keep) == (1.0, (3, 6))


def test_images_that_one_has_alone_do_not_count(a: Made, b: Made, tmp_path: Path) -> None:
    subset_store(b.path, Wanted(shards="a.tar"), Target(path=tmp_path / "part"))
    found = diff_stores(str(a.path), str(tmp_path / "part"))
    assert (found.num_images, found.same_images) == ((16, 5, 5), False)
    assert sum(c.num_images for c in found.by_class) == 5


def test_other_views_are_compared_by_the_first(a: Made, tmp_path: Path) -> None:
    view = dataclasses.replace(a.spec.view, augment={**(a.spec.view.augment or {}), "seed": 7})
    selector = dataclasses.replace(a.spec.selector, precision="bf16")
    other = _store(tmp_path / "o.zarr", seed=2, view=view, selector=selector)
    found = diff_stores(str(a.path), str(other.path))
    assert [d.field for d in found.view] == ["view.augment.seed"]
    assert [(d.field, d.first, d.second) for d in found.selector] == [("selector.precision", "fp32", "bf16")]
    of_a, of_o = _masks(a), _masks(other)
    want = np.mean([(of_a[k][0] & of_o[k][0]).sum() / 6 for k in a.keys])
    assert found.num_views == 1
    assert found.overlap == pytest.approx(want)


def test_other_bytes_under_a_key_are_counted(a: Made, tmp_path: Path) -> None:
    spec = make_spec(shards=_SHARDS[:1], num_views=2)
    part = make_part(spec, 0, 5)
    digests = part.digests.copy()
    digests[[1, 4]] += np.uint64(1)
    write_parts(tmp_path / "o.zarr", [dataclasses.replace(part, digests=digests)])
    commit(tmp_path / "o.zarr", spec)
    assert diff_stores(str(a.path), str(tmp_path / "o.zarr")).num_changed == 2


def test_grids_that_do_not_compare(a: Made, tmp_path: Path) -> None:
    other = make_store(tmp_path, 1, (2,), grid=(5, 3))
    with pytest.raises(OptionError, match=r"grid of 3×5 patches and .* of 5×3, which do not compare"):
        diff_stores(str(a.path), str(other.path))


def test_stores_of_other_images(a: Made, tmp_path: Path) -> None:
    spec = make_spec(shards=_SHARDS[:2], num_views=2)
    write_parts(tmp_path / "o.zarr", [make_part(spec, i, n) for i, n in ((0, 0), (1, 3))])
    commit(tmp_path / "o.zarr", spec)
    with pytest.raises(OptionError, match="no image in common"):
        diff_stores(str(a.path), str(tmp_path / "o.zarr"))


def test_agreement_by_position() -> None:
    a, b, both = np.array([[0.5, 0.0]]), np.array([[0.25, 0.0]]), np.array([[0.25, 0.0]])
    np.testing.assert_array_equal(iou(both, a, b), [[0.5, 0.0]])


@pytest.mark.long
def test_the_picture_names_both_and_the_figures(a: Made, b: Made, tmp_path: Path) -> None:
    found = diff_stores(str(a.path), str(b.path))
    figure = diff_figure(found, "first.zarr", "x" * 80)
    maps = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title() for axes in maps]
    assert titles[0] == "A keeps\nfirst.zarr"
    assert titles[1].startswith("B keeps\nxxx")
    assert "…" in titles[1]
    np.testing.assert_array_equal(maps[0].images[0].get_array(), found.kept_a)
    figure.savefig(tmp_path / "d.png")
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")
