"""Warped scores: hand-computed crops, an exact reference, the prior, and streams whose tickets follow fresh crops."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import TicketStore, geometry
from dataltt.artifacts_schema import summary as summary_module
from dataltt.artifacts_schema.geometry import center_box, warp_scores
from dataltt.artifacts_schema.summary import position_prior
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.counting import count_shards
from dataltt.stages.data.drawing import DrawnView, PolicyViews
from dataltt.stages.data.images import to_tensor
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.loader import iterate
from dataltt.stages.data.policies import POLICIES
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream
from dataltt.stages.runtime.reporting import SilentReporter
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ...helpers import GRID, NUM_PATCHES, Sample, SmallStore, encode, fashion, fashion_samples, make_store
from ...schema_helpers import make_store as make_synthetic_store
from ...schema_helpers import put

_WHOLE = (0.0, 0.0, 1.0, 1.0)
_LEFT = (0.0, 0.0, 1.0, 0.5)
_DEIT = POLICIES["deit"]

Numbers = Sequence[float] | npt.NDArray[Any]


def _warp(
    scores: Sequence[Numbers] | npt.NDArray[Any],
    to_box: Numbers,
    *,
    grid: tuple[int, int] = (2, 2),
    boxes: Sequence[Numbers] | npt.NDArray[Any] = (_WHOLE,),
    flips: Sequence[int] | npt.NDArray[Any] | None = None,
    to_flip: bool = False,
    prior: Numbers | float = 0.0,
) -> npt.NDArray[np.float32]:
    """One view, which shows the whole image as it is, unless told otherwise."""
    result = warp_scores(
        np.array(scores, dtype=np.float32),
        np.array(boxes, dtype=np.float32),
        np.zeros(len(scores), dtype=np.uint8) if flips is None else np.array(flips, dtype=np.uint8),
        to_box=np.array(to_box, dtype=np.float32),
        to_flip=to_flip,
        grid=grid,
        prior=np.broadcast_to(np.array(prior, dtype=np.float32), (grid[0] * grid[1],)),
    )
    assert result.dtype == np.float32
    assert result.shape == (grid[0] * grid[1],)
    return result


# By hand


@pytest.mark.parametrize("box", [_WHOLE, _LEFT, (0.25, 0.125, 0.5, 0.625)], ids=str)
@pytest.mark.parametrize("prior", [0.0, 7.5])
def test_the_view_itself_keeps_its_scores(box: Numbers, prior: float) -> None:
    scores = np.random.default_rng(0).permutation(16)
    np.testing.assert_allclose(_warp([scores], box, grid=(4, 4), boxes=[box], prior=prior), scores, atol=1e-5)
    np.testing.assert_allclose(
        _warp([scores], box, grid=(4, 4), boxes=[box], flips=[1], to_flip=True, prior=prior), scores, atol=1e-5
    )


def test_the_left_half_of_two_by_two_cells() -> None:
    assert _warp([[1, 2, 3, 4]], _LEFT).tolist() == [1, 1, 3, 3]


def test_the_left_half_of_four_by_four_cells() -> None:
    rows = np.arange(16).reshape(4, 4)
    assert _warp([rows.ravel()], _LEFT, grid=(4, 4)).reshape(4, 4).tolist() == rows[:, [0, 0, 1, 1]].tolist()


def test_the_lower_right_quarter_of_four_by_four_cells() -> None:
    rows = np.arange(16).reshape(4, 4)
    found = _warp([rows.ravel()], (0.5, 0.5, 0.5, 0.5), grid=(4, 4)).reshape(4, 4)
    assert found.tolist() == rows[[2, 2, 3, 3]][:, [2, 2, 3, 3]].tolist()


@pytest.mark.parametrize(
    ("flip", "to_flip", "expected"),
    [
        (0, False, [1, 1, 3, 3]),
        (0, True, [1, 1, 3, 3]),
        # The mirrored source has its right column on the image's left.
        (1, False, [2, 2, 4, 4]),
        (1, True, [2, 2, 4, 4]),
    ],
)
def test_flips_of_the_left_half(flip: int, to_flip: bool, expected: list[int]) -> None:
    assert _warp([[1, 2, 3, 4]], _LEFT, flips=[flip], to_flip=to_flip).tolist() == expected


@pytest.mark.parametrize(("flip", "to_flip"), [(0, True), (1, False)])
def test_the_mirrored_image_has_the_mirrored_scores(flip: int, to_flip: bool) -> None:
    rows = np.arange(12).reshape(3, 4)
    found = _warp([rows.ravel()], _WHOLE, grid=(3, 4), flips=[flip], to_flip=to_flip)
    np.testing.assert_allclose(found.reshape(3, 4), rows[:, ::-1], atol=1e-5)


def test_flips_of_an_uneven_crop() -> None:
    """The left three quarters of four columns: cells of the target cover 3/4 of a column each."""
    rows = np.array([[0, 12, 24, 36], [1, 13, 25, 37], [2, 14, 26, 38], [3, 15, 27, 39]])
    plain = [0, (1 * 0 + 2 * 12) / 3, (2 * 12 + 1 * 24) / 3, 24]
    found = _warp([rows.ravel()], (0, 0, 1, 0.75), grid=(4, 4)).reshape(4, 4)
    np.testing.assert_allclose(found, np.array(plain) + np.arange(4)[:, None], atol=1e-5)
    mirrored = _warp([rows.ravel()], (0, 0, 1, 0.75), grid=(4, 4), to_flip=True).reshape(4, 4)
    np.testing.assert_allclose(mirrored, found[:, ::-1], atol=1e-5)


@pytest.mark.parametrize("cell", range(16))
def test_a_crop_of_one_cell_has_that_cells_score_everywhere(cell: int) -> None:
    scores = np.arange(16) * 3.0
    row, column = divmod(cell, 4)
    found = _warp([scores], (row / 4, column / 4, 1 / 4, 1 / 4), grid=(4, 4), prior=20.0)
    np.testing.assert_allclose(found, scores[cell], atol=1e-5)


def test_a_cell_across_two_cells_has_their_mean_by_area() -> None:
    # Columns [1/8, 3/8] and [3/8, 5/8] of the image: the second lies half in each of the source's columns.
    np.testing.assert_allclose(_warp([[1, 3, 10, 30]], (0, 0.125, 1, 0.5)), [1, 2, 10, 20], atol=1e-6)
    # The same across rows.
    np.testing.assert_allclose(_warp([[1, 3, 10, 30]], (0.125, 0, 0.5, 1)), [1, 3, 5.5, 16.5], atol=1e-5)
    # A quarter of the second column in one, three in the other.
    np.testing.assert_allclose(_warp([[0, 4, 0, 4]], (0, 0.1875, 1, 0.5)), [0, 3, 0, 3], atol=1e-6)


def test_a_cell_across_four_cells_has_their_mean_by_area() -> None:
    found = _warp([[1, 3, 10, 30]], (0.125, 0.125, 0.5, 0.5)).tolist()
    np.testing.assert_allclose(found, [1, 2, 5.5, 11], atol=1e-6)


def test_a_larger_view_than_the_known_one() -> None:
    """Seen: the left half. Each cell on the left holds two source columns, those on the right none."""
    found = _warp([[1, 3, 10, 30]], _WHOLE, boxes=[_LEFT], prior=5.0)
    np.testing.assert_allclose(found, [2, 5, 20, 5], atol=1e-5)


def test_two_views_of_the_same_part_are_averaged() -> None:
    scores = [[0, 1, 2, 3], [3, 7, 0, 1]]
    for boxes, to_box in (([_WHOLE, _WHOLE], _WHOLE), ([_LEFT, _LEFT], _LEFT)):
        np.testing.assert_allclose(_warp(scores, to_box, boxes=boxes, prior=1.5), [1.5, 4, 1, 2], atol=1e-6)
    mirrored = _warp(scores, _WHOLE, boxes=[_WHOLE, _WHOLE], flips=[0, 1], prior=1.5)
    np.testing.assert_allclose(mirrored, [3.5, 2, 1.5, 1.5], atol=1e-6)


def test_views_count_by_how_well_they_agree() -> None:
    """The whole image (agreement 1) and its left half (1/2), seen from the whole: weights 2/3 and 1/3."""
    found = _warp([[0, 3, 6, 9], [9, 3, 0, 12]], _WHOLE, boxes=[_WHOLE, _LEFT], prior=3.0)
    left = [2 / 3 * 0 + 1 / 3 * 6, 2 / 3 * 6 + 1 / 3 * 6]
    share = (2 / 3) * 1.05 / (2 / 3 + 0.05)  # what the prior leaves to a cell that two thirds of the weight looks at
    right = [3 + share * 0, 3 + share * 6]
    np.testing.assert_allclose(found, [left[0], right[0], left[1], right[1]], atol=1e-5)


def test_cells_that_no_view_looks_at_have_the_prior() -> None:
    prior = [4.0, 5.0, 6.0, 7.0]
    right = (0, 0.5, 1, 0.5)
    assert _warp([[0, 1, 2, 3]], right, boxes=[_LEFT], prior=prior).tolist() == prior
    assert _warp([[0, 1, 2, 3]], right, boxes=[_LEFT], flips=[1], to_flip=True, prior=prior).tolist() == prior
    half = _warp([[0, 1, 2, 3]], (0, 0.25, 1, 0.5), boxes=[_LEFT], prior=prior)
    assert half[[1, 3]].tolist() == [5, 7]
    assert half[[0, 2]].tolist() != [4, 6]


def test_what_a_view_says_is_what_it_says_beyond_the_prior() -> None:
    """A view that says what was to be expected says nothing of any other view."""
    prior = [1.0, 5.0, 2.0, 9.0]
    np.testing.assert_allclose(_warp([prior], (0.1, 0.2, 0.4, 0.6), prior=prior), prior, atol=1e-6)
    # One that expects 4 more at one place carries these 4, not the score, to another place of the grid.
    found = _warp([[5, 5, 2, 9]], (0, 0, 0.5, 0.5), prior=prior)
    np.testing.assert_allclose(found, [5, 9, 6, 13], atol=1e-5)


# Against exact arithmetic


def _interval(start: Fraction, length: Fraction, cell: int, cells: int) -> tuple[Fraction, Fraction]:
    return start + length * cell / cells, start + length * (cell + 1) / cells


def _shared(a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction]) -> Fraction:
    return max(min(a[1], b[1]) - max(a[0], b[0]), Fraction(0))


def _cells(
    box: Numbers, flip: bool, grid: tuple[int, int]
) -> Iterator[tuple[tuple[Fraction, Fraction], tuple[Fraction, Fraction]]]:
    """Which rows and columns of the image each cell of a view covers, in the order of the patches."""
    y0, x0, height, width = (Fraction(float(n)) for n in box)
    for row in range(grid[0]):
        for column in range(grid[1]):
            place = grid[1] - 1 - column if flip else column
            yield _interval(y0, height, row, grid[0]), _interval(x0, width, place, grid[1])


def _agreement(a: Numbers, b: Numbers) -> Fraction:
    """Intersection over union."""
    ours, theirs = (next(_cells(box, False, (1, 1))) for box in (a, b))
    both = _shared(ours[0], theirs[0]) * _shared(ours[1], theirs[1])
    areas = [(rows[1] - rows[0]) * (columns[1] - columns[0]) for rows, columns in (ours, theirs)]
    return both / (areas[0] + areas[1] - both)


def _reference(
    scores: npt.NDArray[Any],
    boxes: npt.NDArray[np.float32],
    flips: Sequence[int] | npt.NDArray[Any],
    to_box: npt.NDArray[np.float32],
    to_flip: bool,
    grid: tuple[int, int],
    prior: npt.NDArray[Any],
) -> list[float]:
    """Cell by cell and view by view, in rational numbers."""
    agreements = [_agreement(box, to_box) for box in boxes]
    total = sum(agreements, Fraction(0))
    share = Fraction(geometry._PRIOR_SHARE)
    result = []
    for patch, (rows, columns) in enumerate(_cells(to_box, to_flip, grid)):
        area = (rows[1] - rows[0]) * (columns[1] - columns[0])
        said = covered = Fraction(0)
        for v, box in enumerate(boxes):
            if not agreements[v]:
                continue
            for source, (from_rows, from_columns) in enumerate(_cells(box, bool(flips[v]), grid)):
                part = _shared(rows, from_rows) * _shared(columns, from_columns) / area * agreements[v] / total
                said += part * (Fraction(float(scores[v, source])) - Fraction(float(prior[source])))
                covered += part
        result.append(float(Fraction(float(prior[patch])) + said * (1 + share) / (covered + share)))
    return result


@st.composite
def _box(draw: st.DrawFn, denominator: int) -> tuple[float, float, float, float]:
    """A box within the unit square whose edges are multiples of 1/denominator."""
    height, width = draw(st.integers(1, denominator)), draw(st.integers(1, denominator))
    y0, x0 = draw(st.integers(0, denominator - height)), draw(st.integers(0, denominator - width))
    return y0 / denominator, x0 / denominator, height / denominator, width / denominator


# Edges that meet the cells' often, and some that hardly ever do.
_any_box = st.sampled_from([8, 16, 24, 997]).flatmap(_box)


@given(data=st.data(), grid=st.tuples(st.integers(1, 4), st.integers(1, 4)), num_views=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_warping_is_the_exact_computation(data: st.DataObject, grid: tuple[int, int], num_views: int) -> None:
    boxes = np.array([data.draw(_any_box) for _ in range(num_views)], dtype=np.float32)
    to_box = np.array(data.draw(st.one_of(_any_box, st.sampled_from(list(map(tuple, boxes))))), dtype=np.float32)
    flips, to_flip = [data.draw(st.integers(0, 1)) for _ in range(num_views)], data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    num_patches = grid[0] * grid[1]
    scores = rng.uniform(0, num_patches, (num_views, num_patches)).astype(np.float32)
    prior = rng.uniform(0, num_patches, num_patches).astype(np.float32)
    if data.draw(st.booleans()):
        prior[:] = num_patches / 2
    found = _warp(scores, to_box, grid=grid, boxes=boxes, flips=flips, to_flip=to_flip, prior=prior)
    expected = _reference(scores, boxes, flips, to_box, to_flip, grid, prior)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@given(data=st.data(), num_views=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_warped_scores_stay_within_what_the_views_say(data: st.DataObject, num_views: int) -> None:
    """With a prior between the lowest and the highest score, up to 5 per cent."""
    boxes = [data.draw(_any_box) for _ in range(num_views)]
    scores = np.random.default_rng(data.draw(st.integers(0, 1000))).uniform(-1, 1, (num_views, 9))
    found = _warp(scores, data.draw(_any_box), grid=(3, 3), boxes=boxes)
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1.05 * np.abs(scores).max() + 1e-6


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_views_does_not_matter(data: st.DataObject) -> None:
    boxes = np.array([data.draw(_any_box) for _ in range(3)])
    scores = np.random.default_rng(data.draw(st.integers(0, 1000))).uniform(0, 9, (3, 9))
    flips = np.array([0, 1, data.draw(st.integers(0, 1))])
    to_box = data.draw(_any_box)
    first = _warp(scores, to_box, grid=(3, 3), boxes=boxes, flips=flips, prior=4.0)
    order = [2, 0, 1]
    second = _warp(scores[order], to_box, grid=(3, 3), boxes=boxes[order], flips=flips[order], prior=4.0)
    np.testing.assert_allclose(first, second, atol=1e-4)


# The prior


def test_the_prior_of_crops_is_the_mean_over_rows_and_views(tmp_path: Path) -> None:
    made = make_synthetic_store(tmp_path, num_views=3)
    prior = position_prior(TicketStore.open(str(made.path)))
    ranks = made.column("ranks")
    expected = [14 - sum(int(r) for r in ranks[:, :, p].ravel()) / 33 for p in range(15)]
    assert prior.dtype == np.float32
    np.testing.assert_allclose(prior, expected, rtol=1e-6)
    assert np.ptp(prior) > 1
    assert prior.mean() == pytest.approx(7)


def test_the_prior_is_that_of_the_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary_module, "_PRIOR_ROWS", 5)
    made = make_synthetic_store(tmp_path, num_views=2)
    expected = 14 - made.column("ranks")[:5].astype(float).mean(axis=(0, 1))
    np.testing.assert_allclose(position_prior(TicketStore.open(str(made.path))), expected, rtol=1e-6)


def test_centre_views_have_no_preferred_position(tmp_path: Path) -> None:
    made = make_synthetic_store(tmp_path)
    assert position_prior(TicketStore.open(str(made.path))).tolist() == [7.0] * 15


def test_views_of_the_same_part_have_no_preferred_position(tmp_path: Path) -> None:
    made = make_synthetic_store(tmp_path, num_views=2)
    box = np.array([0.0, 0.125, 1.0, 0.75], dtype=np.float32)
    put(made.path, "views/boxes", slice(None), np.broadcast_to(box, (11, 2, 4)))
    store = TicketStore.open(str(made.path))
    assert position_prior(store).tolist() == [7.0] * 15
    # One box of another kind makes crops of them.
    put(made.path, "views/boxes", (10, 1), np.array([0.0, 0.25, 1.0, 0.75], dtype=np.float32))
    assert np.ptp(position_prior(TicketStore.open(str(made.path)))) > 1


def test_the_mirrored_centre_view_has_no_preferred_position(tmp_path: Path) -> None:
    """Boxes of centre views differ where the images' shapes do; they are no crops for that."""
    made = make_store(tmp_path, counts=(4,), samples=_wide_samples(), num_views=2)
    read = TicketStore.open(made.store).read_views(range(4))
    assert read is not None
    assert np.ptp(read[0].reshape(-1, 4), axis=0).any()
    assert position_prior(TicketStore.open(made.store)).tolist() == [24.0] * 49


# Streams


def _wide_samples() -> list[Sample]:
    """Images of 40 × 28, 28 × 56, 28 × 28 and 60 × 44 px, each with a class of its own."""
    images = fashion("train")[0]
    pixels = [
        np.hstack([images[0], images[1][:, :12]]),
        np.vstack([images[2], images[3]]),
        images[4],
        np.asarray(Image.fromarray(images[5]).resize((60, 44))),
    ]
    return [Sample(key=f"k{i}", image=encode(p), label=i) for i, p in enumerate(pixels)]


def _named_by_class(samples: Sequence[Sample]) -> list[Sample]:
    return [replace(s, label=i) for i, s in enumerate(samples)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Three views of each of twelve images."""
    folder = tmp_path_factory.mktemp("drawn")
    samples = _named_by_class(fashion_samples(12))
    return make_store(folder, counts=(7, 5), samples=samples, augment="deit", num_views=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    folder = tmp_path_factory.mktemp("whole")
    return make_store(folder, counts=(4,), samples=_wide_samples(), augment="whole")


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("center"), counts=(4,), samples=_wide_samples())


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("mirrored"), counts=(4,), samples=_wide_samples(), num_views=2)


def _stream(made: SmallStore, **changes: Any) -> StreamConfig:
    store = TicketStore.open(made.store)
    defaults: dict[str, Any] = {
        "shards": count_shards(resolve_shards(made.shards), store, SilentReporter()),
        "view": made.manifest.view,
        "image_px": 28,
        "mode": "L",
        "grid": GRID,
        "subset": "ticket",
        "num_keep": made.manifest.num_keep,
        "batch_size": 4,
        "num_classes": len(made.samples),
        "seed": 3,
        "join": JoinConfig(store=made.store, ranks=True),
        "view_mode": "warp",
        "policy": _DEIT,
        "num_views": made.manifest.num_views,
    }
    return StreamConfig(**{**defaults, **changes})


def _run(config: StreamConfig, num_workers: int = 0, **position: int) -> list[Batch]:
    return list(iterate(SampleStream(config, StreamPosition(**position)), num_workers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What one image of a stream should come to: a fresh view, and exact scores of its patches."""

    shown: DrawnView
    scores: npt.NDArray[np.float64]


def _exact_scores(
    scores: npt.NDArray[Any], boxes: Any, flips: Any, shown: DrawnView, prior: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """As `_reference`, of which rows and columns are separate sums: 7 × 7 cells take that one too long."""
    agreements = np.array([float(_agreement(box, shown.box)) for box in boxes])
    weights = agreements / agreements.sum() if agreements.any() else agreements
    said, covered = np.zeros(GRID), np.zeros(GRID)
    for v, box in enumerate(boxes):
        rows, columns = np.zeros((7, 7)), np.zeros((7, 7))
        targets = list(_cells(shown.box, shown.flip, GRID))
        sources = list(_cells(box, bool(flips[v]), GRID))
        for i in range(7):
            for j in range(7):
                row, column = targets[7 * i][0], targets[i][1]
                rows[i, j] = _shared(row, sources[7 * j][0]) / (row[1] - row[0])
                columns[i, j] = _shared(column, sources[j][1]) / (column[1] - column[0])
        said += weights[v] * (rows @ (scores[v] - prior).reshape(7, 7) @ columns.T)
        covered += weights[v] * rows.sum(axis=1)[:, None] * columns.sum(axis=1)
    share = geometry._PRIOR_SHARE
    result: npt.NDArray[np.float64] = (said * (1 + share) / (covered + share)).ravel() + prior
    return result


def _expected(
    made: SmallStore, boxes: npt.NDArray[Any], flips: npt.NDArray[Any], *, epoch: int = 0, num_views: int = 99
) -> list[Expected]:
    """By label, from the store's ranks and the boxes and flips of its views."""
    store = TicketStore.open(made.store)
    rows = range(len(made.samples))
    scores = NUM_PATCHES - 1 - store.read_ranks(rows).astype(float)
    crops = made.manifest.view.kind == "replay" and np.ptp(boxes.reshape(-1, 4), axis=0).any()
    prior = scores.mean(axis=(0, 1)) if crops else np.full(NUM_PATCHES, 24.0)
    drawing = PolicyViews(_DEIT, made.manifest.view, 28)
    result = []
    for row, sample in enumerate(made.samples):
        shown = drawing.draw(Image.open(io.BytesIO(sample.image)), 3, epoch, sample.key)
        seen = slice(0, num_views)
        exact = _exact_scores(scores[row, seen], boxes[row, seen], flips[row, seen], shown, prior)
        result.append(Expected(shown=shown, scores=exact))
    return result


def _check(batches: Sequence[Batch], expected: Sequence[Expected], num_keep: int, *, inverse: bool = False) -> None:
    """Pixels are those of the fresh view; the K patches kept are the K best, however equals are told apart."""
    labels: list[int] = []
    for batch in batches:
        assert batch.keep_indices is not None
        assert batch.keep_indices.shape == (len(batch.images), num_keep)
        for image, label, keep in zip(batch.images, batch.labels.tolist(), batch.keep_indices.numpy(), strict=True):
            each = expected[label]
            assert torch.equal(image, to_tensor(each.shown.image))
            assert (np.diff(keep) > 0).all()
            assert keep[0] >= 0
            assert keep[-1] < NUM_PATCHES
            scores = -each.scores if inverse else each.scores
            assert scores[keep].min() >= np.delete(scores, keep).max() - 1e-4
            labels.append(label)
    assert sorted(labels) == list(range(len(expected)))


def _views_of(made: SmallStore) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    read = TicketStore.open(made.store).read_views(range(len(made.samples)))
    assert read is not None
    return read


@pytest.mark.parametrize("num_keep", [1, 25, 48])
def test_tickets_follow_fresh_crops(drawn: SmallStore, num_keep: int) -> None:
    for epoch in range(3):
        batches = _run(_stream(drawn, num_keep=num_keep), epoch=epoch)
        _check(batches, _expected(drawn, *_views_of(drawn), epoch=epoch), num_keep)


def test_fresh_crops_and_their_tickets_differ_between_epochs(drawn: SmallStore) -> None:
    """Else the test above would prove little."""
    runs = [_run(_stream(drawn), epoch=e) for e in range(3)]
    pixels = {image.numpy().tobytes() for run in runs for batch in run for image in batch.images}
    keeps = {tuple(k) for run in runs for b in run if b.keep_indices is not None for k in b.keep_indices.tolist()}
    assert len(pixels) == 36
    assert len(keeps) == 36


@pytest.mark.parametrize("num_views", [1, 2])
def test_the_first_views_alone(drawn: SmallStore, num_views: int) -> None:
    expected = _expected(drawn, *_views_of(drawn), num_views=num_views)
    _check(_run(_stream(drawn, num_views=num_views)), expected, 25)


def test_inverse_tickets_follow_too(drawn: SmallStore) -> None:
    _check(_run(_stream(drawn, subset="inverse")), _expected(drawn, *_views_of(drawn)), 25, inverse=True)


def test_workers_warp_the_same(drawn: SmallStore) -> None:
    _check(_run(_stream(drawn), 2, epoch=1), _expected(drawn, *_views_of(drawn), epoch=1), 25)

    def by_label(batches: Sequence[Batch]) -> dict[int, tuple[bytes, list[int]]]:
        return {
            label: (image.numpy().tobytes(), keep)
            for b in batches
            if b.keep_indices is not None
            for image, label, keep in zip(b.images, b.labels.tolist(), b.keep_indices.tolist(), strict=True)
        }

    alone = by_label(_run(_stream(drawn)))
    assert len(alone) == 12
    assert by_label(_run(_stream(drawn), 2)) == alone
    assert by_label(_run(_stream(drawn, batch_size=3, shuffle_buffer=1))) == alone
    halves = [by_label(_run(_stream(drawn, batch_size=3), rank=r, world_size=2)) for r in range(2)]
    assert halves[0] | halves[1] == alone


def test_resuming_gives_the_rest_of_the_epoch(drawn: SmallStore) -> None:
    whole, rest = _run(_stream(drawn), epoch=1), _run(_stream(drawn), epoch=1, first_step=1)
    assert len(rest) == 2
    for ours, theirs in zip(rest, whole[1:], strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert ours.keep_indices is not None
        assert theirs.keep_indices is not None
        assert torch.equal(ours.keep_indices, theirs.keep_indices)


def test_maps_of_whole_images_are_warped(whole: SmallStore) -> None:
    boxes, flips = _views_of(whole)
    assert boxes.tolist() == [[[0, 0, 1, 1]]] * 4
    for epoch in range(3):
        _check(_run(_stream(whole), epoch=epoch), _expected(whole, boxes, flips, epoch=epoch), 25)


def test_a_store_of_one_centre_view_is_warped(center: SmallStore) -> None:
    """It holds no boxes: where its view lies follows from the size of each image."""
    assert TicketStore.open(center.store).read_views(range(4)) is None
    sizes = [(40, 28), (28, 56), (28, 28), (60, 44)]
    assert [Image.open(io.BytesIO(s.image)).size for s in center.samples] == sizes
    boxes = np.stack([center_box(*size, resize_px=28, crop_px=28)[None] for size in sizes])
    assert boxes[0, 0].tolist() == pytest.approx([0, 0.15, 1, 0.7])
    for epoch in range(3):
        expected = _expected(center, boxes, np.zeros((4, 1)), epoch=epoch)
        _check(_run(_stream(center), epoch=epoch), expected, 25)


def test_a_store_of_the_centre_view_and_its_mirror_image_is_warped(mirrored: SmallStore) -> None:
    boxes, flips = _views_of(mirrored)
    assert flips.tolist() == [[0, 1]] * 4
    for epoch in range(3):
        _check(_run(_stream(mirrored), epoch=epoch), _expected(mirrored, boxes, flips, epoch=epoch), 25)


@pytest.mark.parametrize("subset", ["random", "fixed-random", "dense"])
def test_controls_see_the_same_crops(drawn: SmallStore, subset: Any) -> None:
    expected = {e.shown.image.numpy().tobytes() for e in _expected(drawn, *_views_of(drawn), epoch=2)}
    batches = _run(_stream(drawn, subset=subset, join=None), epoch=2)
    assert {image.numpy().tobytes() for batch in batches for image in batch.images} == expected
    if subset == "dense":
        assert all(b.keep_indices is None for b in batches)
    else:
        keeps = [k for b in batches if b.keep_indices is not None for k in b.keep_indices.tolist()]
        assert len({tuple(k) for k in keeps}) == 12
        assert {len(set(k)) for k in keeps} == {25}
