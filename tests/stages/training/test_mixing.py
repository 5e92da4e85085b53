"""CutMix and Mixup on the patch grid: K stays K, labels say what kept patches show, and timm's numbers where dense."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import OptionError, TicketStore
from dataltt.stages.data.augment import AugmentConfig
from dataltt.stages.data.batches import Batch
from dataltt.stages.data.counting import count_shards
from dataltt.stages.data.join import JoinConfig
from dataltt.stages.data.loader import iterate
from dataltt.stages.data.policies import POLICIES
from dataltt.stages.data.shards import resolve_shards
from dataltt.stages.data.stream_config import StreamConfig, StreamPosition
from dataltt.stages.data.student_stream import SampleStream
from dataltt.stages.grid import Box
from dataltt.stages.models.prune import gather_patches
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.groups import MixingOptions
from dataltt.stages.training.mixing import Mix, Mixed, draw_mix, mix_batch, mix_kept
from dataltt.stages.training.train import train
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import mixup as timm_mixup
from torch import Tensor

from ...helpers import GRID, SmallStore, fashion_samples, make_store

_PATCH_PX = 2
_NUM_CLASSES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A batch and what is to be done with it."""

    grid: tuple[int, int]
    num_keep: int
    images: Tensor  # float32 [B, channels, H, W], no pixel twice
    scores: Tensor  # float32 [B, P]
    labels: Tensor  # int64 [B]

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def mix(self, mix: Mix, *, dense: bool = False) -> Mixed:
        """The mixed batch; what went in stays as it was."""
        before = self.images.clone(), self.scores.clone()
        scores = None if dense else self.scores
        mixed = mix_batch(self.images, scores, mix, grid=self.grid, num_keep=self.num_keep)
        assert torch.equal(self.images, before[0])
        assert torch.equal(self.scores, before[1])
        return mixed


@st.composite
def _cases(draw: st.DrawFn, *, min_size: int = 1, even: bool = False) -> Case:
    side = draw(st.integers(1, 7))
    grid = (side, side) if draw(st.booleans()) else (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    size = 2 * draw(st.integers(1, 3)) if even else draw(st.integers(min_size, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    num_patches = grid[0] * grid[1]
    shape = (size, draw(st.sampled_from([1, 3])), grid[0] * _PATCH_PX, grid[1] * _PATCH_PX)
    images = torch.from_numpy(rng.permutation(int(np.prod(shape))).reshape(shape)).float()
    ranks = np.argsort(rng.random((size, num_patches)), axis=1)
    scores: npt.NDArray[Any] = num_patches - 1 - ranks
    if draw(st.booleans()):  # without ranks: kept patches before dropped ones, ties broken by less than that
        scores = (ranks < draw(st.integers(1, num_patches))) + 1e-3 * rng.random((size, num_patches))
    labels = torch.from_numpy(rng.integers(0, _NUM_CLASSES, size))
    return Case(
        grid=grid,
        num_keep=draw(st.integers(1, num_patches)),
        images=images,
        scores=torch.from_numpy(scores.astype(np.float32)),
        labels=labels,
    )


@st.composite
def _boxes(draw: st.DrawFn, grid: tuple[int, int]) -> Box:
    """Any box on a grid, empty and whole ones too."""
    top, left = draw(st.integers(0, grid[0])), draw(st.integers(0, grid[1]))
    return Box(top, draw(st.integers(top, grid[0])), left, draw(st.integers(left, grid[1])))


@st.composite
def _mixes(draw: st.DrawFn, grid: tuple[int, int]) -> Mix:
    if draw(st.booleans()):
        return Mix(box=draw(_boxes(grid)))
    return Mix(lam=draw(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))))


def _inside(case: Case, box: Box) -> npt.NDArray[np.bool_]:
    """Which patches lie in the box, cell by cell."""
    height, width = case.grid
    cells = [
        box.top <= row < box.bottom and box.left <= column < box.right
        for row in range(height)
        for column in range(width)
    ]
    return np.array(cells)


def _pixels_of(images: npt.NDArray[Any], grid: tuple[int, int], patch: int) -> npt.NDArray[Any]:
    """A patch of one image [channels, H, W]."""
    row, column = divmod(patch, grid[1])
    y, x = row * _PATCH_PX, column * _PATCH_PX
    return images[:, y : y + _PATCH_PX, x : x + _PATCH_PX]


def _best(scores: Sequence[float], num_keep: int) -> list[int]:
    """The K of highest score, of equals the first."""
    return sorted(sorted(range(len(scores)), key=lambda p: (-scores[p], p))[:num_keep])


# What is drawn


_configs = st.builds(
    MixingOptions,
    mixup=st.sampled_from([0.0, 0.1, 0.8, 1.0, 5.0]),
    cutmix=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    mix_prob=st.sampled_from([0.0, 0.5, 1.0]),
    mix_switch=st.sampled_from([0.0, 0.5, 1.0]),
)


@given(_configs, st.tuples(st.integers(1, 16), st.integers(1, 16)), st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_a_draw_is_what_the_numbers_ask_for(config: MixingOptions, grid: tuple[int, int], step: int) -> None:
    mix = draw_mix(config, grid, 0, step, 0)
    assert 0 <= mix.lam <= 1
    if mix.box is not None:
        assert 0 <= mix.box.top <= mix.box.bottom <= grid[0]
        assert 0 <= mix.box.left <= mix.box.right <= grid[1]
        assert mix.lam == 1
        assert config.cutmix > 0
        assert config.mix_switch > 0 or config.mixup == 0
    elif mix.lam < 1:
        assert config.mixup > 0
        assert config.mix_switch < 1 or config.cutmix == 0
    if not config.is_on:
        assert mix == Mix()
    assert draw_mix(config, grid, 0, step, 0) == mix


def _draws(count: int = 400, **changes: Any) -> list[Mix]:
    return [draw_mix(MixingOptions(**changes), GRID, 0, step, 0) for step in range(count)]


@pytest.mark.parametrize(
    "changes", [{"mixup": 0.0, "cutmix": 0.0}, {"mix_prob": 0.0}, {"mixup": 0.0, "mix_prob": 0.0}], ids=str
)
def test_nothing_is_mixed_where_mixing_is_off(changes: dict[str, Any]) -> None:
    assert not MixingOptions(**changes).is_on
    assert set(_draws(100, **changes)) == {Mix()}


@pytest.mark.parametrize("changes", [{"mix_switch": 0.0}, {"cutmix": 0.0}, {"cutmix": 0.0, "mix_switch": 1.0}], ids=str)
def test_mixup_alone(changes: dict[str, Any]) -> None:
    mixes = _draws(**changes)
    assert {m.box for m in mixes} == {None}
    assert len({m.lam for m in mixes}) == 400


@pytest.mark.parametrize("changes", [{"mix_switch": 1.0}, {"mixup": 0.0}, {"mixup": 0.0, "mix_switch": 0.0}], ids=str)
def test_cutmix_alone(changes: dict[str, Any]) -> None:
    mixes = _draws(**changes)
    assert all(m.box is not None for m in mixes)
    assert {m.lam for m in mixes} == {1.0}
    assert len({m.box for m in mixes}) > 100


def test_both_are_drawn_as_often_as_switch_says() -> None:
    assert 160 <= sum(m.box is not None for m in _draws()) <= 240
    assert 70 <= sum(m.box is not None for m in _draws(mix_switch=0.25)) <= 130


def test_batches_are_mixed_as_often_as_the_probability_says() -> None:
    assert 70 <= sum(m != Mix() for m in _draws(mix_prob=0.25)) <= 130
    assert sum(m == Mix() for m in _draws(mix_switch=0.0)) == 0


def test_lambda_is_of_its_beta_distribution() -> None:
    """Mean 1/2, variance 1 / (4 (2 α + 1))."""
    for alpha in (0.2, 0.8, 4.0):
        lams = np.array([m.lam for m in _draws(2000, mixup=alpha, cutmix=0.0)])
        assert lams.mean() == pytest.approx(0.5, abs=0.04)
        assert lams.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("names", [(1, 0, 0), (0, 1, 0), (0, 0, 1), ("0", "0")], ids=str)
def test_other_names_give_other_draws(names: tuple[object, ...]) -> None:
    for config in (MixingOptions(mix_switch=0.0), MixingOptions(mix_switch=1.0)):
        ours = [draw_mix(config, (64, 64), *names, i) for i in range(5)]
        assert ours == [draw_mix(config, (64, 64), *names, i) for i in range(5)]
        assert all(
            a != b for a, b in zip(ours, (draw_mix(config, (64, 64), 0, 0, 0, i) for i in range(5)), strict=True)
        )


def _states() -> tuple[object, ...]:
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:], torch.get_rng_state().numpy().tobytes()


def test_global_generators_neither_matter_nor_change() -> None:
    found = []
    for seed in range(3):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = _states()
        found.append([draw_mix(MixingOptions(), GRID, 0, step) for step in range(20)])
        assert _states() == before
    assert found[0] == found[1] == found[2]


# What comes of any mix


@given(data=st.data(), case=_cases(), dense=st.booleans(), smoothing=st.sampled_from([0.0, 0.1, 0.9]))
@settings(max_examples=200, deadline=None)
def test_what_holds_of_every_mixed_batch(data: st.DataObject, case: Case, dense: bool, smoothing: float) -> None:
    mixed = case.mix(data.draw(_mixes(case.grid)), dense=dense)
    size = len(case.images)
    assert mixed.images.shape == case.images.shape
    assert mixed.images.dtype == torch.float32
    if dense:
        assert mixed.keep_indices is None
    else:
        assert mixed.keep_indices is not None
        assert mixed.keep_indices.dtype == torch.int64
        assert mixed.keep_indices.shape == (size, case.num_keep)
        for keep in mixed.keep_indices.tolist():
            assert keep == sorted(set(keep))
            assert keep[0] >= 0
            assert keep[-1] < case.num_patches
    assert mixed.weights.shape == (size,)
    assert mixed.weights.dtype == torch.float32
    assert ((mixed.weights >= 0) & (mixed.weights <= 1)).all()

    targets = mixed.targets(case.labels, _NUM_CLASSES, smoothing)
    assert targets.shape == (size, _NUM_CLASSES)
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(size), rtol=0, atol=1e-5)


@given(data=st.data(), case=_cases(), smoothing=st.sampled_from([0.0, 0.1]))
@settings(max_examples=100, deadline=None)
def test_targets_are_the_labels_by_their_weights(data: st.DataObject, case: Case, smoothing: float) -> None:
    mixed = case.mix(data.draw(_mixes(case.grid)))
    targets = mixed.targets(case.labels, _NUM_CLASSES, smoothing).numpy()
    labels, weights = case.labels.tolist(), mixed.weights.tolist()
    for i, (own, other) in enumerate(zip(labels, labels[::-1], strict=True)):
        expected = np.full(_NUM_CLASSES, smoothing / _NUM_CLASSES)
        expected[own] += (1 - smoothing) * weights[i]
        expected[other] += (1 - smoothing) * (1 - weights[i])
        np.testing.assert_allclose(targets[i], expected, atol=1e-6)


# CutMix


@given(data=st.data(), case=_cases())
@settings(max_examples=150, deadline=None)
def test_cutmix_takes_pixels_and_score_of_a_patch_from_one_image(data: st.DataObject, case: Case) -> None:
    box = data.draw(_boxes(case.grid))
    mixed, inside = case.mix(Mix(box=box)), _inside(case, box)
    assert mixed.keep_indices is not None
    images, scores = case.images.numpy(), case.scores.numpy()
    for i in range(len(images)):
        partner = len(images) - 1 - i
        for patch in range(case.num_patches):
            expected = _pixels_of(images[partner if inside[patch] else i], case.grid, patch)
            assert np.array_equal(_pixels_of(mixed.images[i].numpy(), case.grid, patch), expected)
        mixed_scores = [float(scores[partner if inside[p] else i, p]) for p in range(case.num_patches)]
        assert mixed.keep_indices[i].tolist() == _best(mixed_scores, case.num_keep)


@given(data=st.data(), case=_cases())
@settings(max_examples=100, deadline=None)
def test_cutmix_weighs_a_label_by_the_kept_patches_that_show_it(data: st.DataObject, case: Case) -> None:
    box = data.draw(_boxes(case.grid))
    mixed, inside = case.mix(Mix(box=box)), _inside(case, box)
    assert mixed.keep_indices is not None
    for weight, keep in zip(mixed.weights.tolist(), mixed.keep_indices.tolist(), strict=True):
        own = sum(1 for patch in keep if not inside[patch])
        assert weight == pytest.approx(own / case.num_keep, abs=1e-6)


def test_a_box_in_which_nothing_is_kept_has_no_label() -> None:
    """The left column of two images that keep what is on their right, and are cut there."""
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 2.0, 1.0, 3.0]])
    images = torch.arange(2 * 16).reshape(2, 1, 4, 4).float()
    left, right = Box(0, 2, 0, 1), Box(0, 2, 1, 2)
    mixed = mix_batch(images, scores, Mix(box=left), grid=(2, 2), num_keep=2)
    assert mixed.keep_indices is not None
    assert (mixed.keep_indices.tolist(), mixed.weights.tolist()) == ([[1, 3], [1, 3]], [1, 1])
    mixed = mix_batch(images, scores, Mix(box=right), grid=(2, 2), num_keep=2)
    assert mixed.keep_indices is not None
    assert (mixed.keep_indices.tolist(), mixed.weights.tolist()) == ([[1, 3], [1, 3]], [0, 0])


@given(data=st.data(), case=_cases())
@settings(max_examples=60, deadline=None)
def test_dense_cutmix_weighs_by_area(data: st.DataObject, case: Case) -> None:
    box = data.draw(_boxes(case.grid))
    mixed = case.mix(Mix(box=box), dense=True)
    outside = 1 - _inside(case, box).mean()
    assert mixed.weights.tolist() == pytest.approx([outside] * len(case.images), abs=1e-6)
    assert torch.equal(mixed.images, case.mix(Mix(box=box)).images)


# Of the kept patches alone


@given(data=st.data(), case=_cases(), is_cut=st.booleans(), lam=st.one_of(st.just(1.0), st.floats(0, 1)))
@settings(max_examples=100, deadline=None)
def test_gathered_first_it_is_the_same_bit_for_bit(data: st.DataObject, case: Case, is_cut: bool, lam: float) -> None:
    mix = Mix(box=data.draw(_boxes(case.grid))) if is_cut else Mix(lam=lam)
    pixels = (case.images % 256).to(torch.uint8)

    def normalize(values: Tensor) -> Tensor:
        return values.float().div(255).sub(0.4).div(0.3)

    sizes = {"grid": case.grid, "num_keep": case.num_keep}
    whole = mix_batch(normalize(pixels), case.scores, mix, **sizes)
    kept = mix_kept(pixels, case.scores, mix, normalize=normalize, **sizes)
    assert whole.keep_indices is not None
    assert kept.keep_indices is not None
    assert torch.equal(kept.keep_indices, whole.keep_indices)
    assert torch.equal(kept.weights, whole.weights)
    assert torch.equal(kept.images, gather_patches(whole.images, whole.keep_indices, case.grid))


# Mixup


@given(case=_cases(), lam=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_mixup_adds_pixels_and_scores(case: Case, lam: float) -> None:
    mixed = case.mix(Mix(lam=lam))
    images = case.images.numpy().astype(np.float64)
    np.testing.assert_allclose(mixed.images, lam * images + (1 - lam) * images[::-1], rtol=1e-5, atol=1e-4)
    assert mixed.weights.tolist() == pytest.approx([lam] * len(images), abs=1e-6)
    scores = case.scores.numpy().astype(np.float64)
    added = lam * scores + (1 - lam) * scores[::-1]
    assert mixed.keep_indices is not None
    for of_image, keep in zip(added, mixed.keep_indices.tolist(), strict=True):
        # Equals in exact numbers may be told apart by rounding.
        lowest, others = of_image[keep].min(), np.delete(of_image, keep)
        assert not len(others) or lowest >= others.max() - 1e-4


def test_mixup_by_hand() -> None:
    scores = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 3.0, 2.0, 1.0]])
    images = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 8.0)])
    mixed = mix_batch(images, scores, Mix(lam=0.75), grid=(2, 2), num_keep=2)
    assert mixed.images.flatten(1).unique(dim=1).tolist() == [[2], [6]]
    assert mixed.keep_indices is not None
    assert mixed.keep_indices.tolist() == [[0, 3], [1, 2]]
    assert mixed.weights.tolist() == [0.75, 0.75]
    labels = torch.tensor([0, 2])
    assert mixed.targets(labels, 3).tolist() == [[0.75, 0, 0.25], [0.25, 0, 0.75]]


# What changes nothing


@given(data=st.data(), case=_cases(), dense=st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_empty_box_and_a_lambda_of_one_change_nothing(data: st.DataObject, case: Case, dense: bool) -> None:
    top, left = data.draw(st.integers(0, case.grid[0])), data.draw(st.integers(0, case.grid[1]))
    empty = [Box(top, top, 0, case.grid[1]), Box(0, case.grid[0], left, left), Box(top, top, left, left)]
    for mix in (Mix(), Mix(lam=1.0), *(Mix(box=b) for b in empty)):
        mixed = case.mix(mix, dense=dense)
        assert torch.equal(mixed.images, case.images)
        assert mixed.weights.tolist() == [1] * len(case.images)
        if not dense:
            assert mixed.keep_indices is not None
            assert mixed.keep_indices.tolist() == [_best(s, case.num_keep) for s in case.scores.tolist()]
        targets = mixed.targets(case.labels, _NUM_CLASSES)
        assert torch.equal(targets, torch.nn.functional.one_hot(case.labels, _NUM_CLASSES).float())


@given(case=_cases())
@settings(max_examples=40, deadline=None)
def test_the_whole_box_and_a_lambda_of_none_swap_the_images(case: Case) -> None:
    for mix in (Mix(lam=0.0), Mix(box=Box(0, case.grid[0], 0, case.grid[1]))):
        mixed = case.mix(mix)
        assert torch.equal(mixed.images, case.images.flip(0))
        assert mixed.weights.tolist() == [0] * len(case.images)
        assert mixed.keep_indices is not None
        assert mixed.keep_indices.tolist() == [_best(s, case.num_keep) for s in case.scores.flip(0).tolist()]


@given(data=st.data(), size=st.sampled_from([1, 3, 5]))
@settings(max_examples=40, deadline=None)
def test_the_middle_image_of_an_odd_batch_is_mixed_with_itself(data: st.DataObject, size: int) -> None:
    case = data.draw(_cases(min_size=5).map(lambda c: replace(c, images=c.images[:size], scores=c.scores[:size])))
    mixed = case.mix(data.draw(_mixes(case.grid)))
    middle = size // 2
    torch.testing.assert_close(mixed.images[middle], case.images[middle], rtol=1e-5, atol=1e-4)
    labels = torch.arange(size)
    assert mixed.targets(labels, size)[middle].tolist() == pytest.approx([float(i == middle) for i in range(size)])


# timm, where all patches are kept


def _timm(monkeypatch: pytest.MonkeyPatch, case: Case, mix: Mix, smoothing: float) -> tuple[Tensor, Tensor]:
    """timm's Mixup, made to draw this λ or this box."""
    mixer = timm_mixup.Mixup(label_smoothing=smoothing, num_classes=_NUM_CLASSES)
    monkeypatch.setattr(mixer, "_params_per_batch", lambda: (mix.lam if mix.box is None else 0.5, mix.box is not None))
    if mix.box is not None:
        box_px = tuple(n * _PATCH_PX for n in mix.box)
        monkeypatch.setattr(timm_mixup, "rand_bbox", lambda *args, **options: box_px)
    images, targets = mixer(case.images.clone(), case.labels)
    return images, targets


@given(data=st.data(), case=_cases(even=True), smoothing=st.sampled_from([0.0, 0.1]))
@settings(max_examples=100, deadline=None)
def test_dense_mixing_is_timms(data: st.DataObject, case: Case, smoothing: float) -> None:
    mix = data.draw(_mixes(case.grid))
    mixed = case.mix(mix, dense=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        images, targets = _timm(monkeypatch, case, mix, smoothing)
    torch.testing.assert_close(mixed.images, images, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(mixed.targets(case.labels, _NUM_CLASSES, smoothing), targets, rtol=0, atol=1e-6)


# Streams of scores


def _store(factory: pytest.TempPathFactory, **changes: Any) -> SmallStore:
    samples = [replace(s, label=i) for i, s in enumerate(fashion_samples(12))]
    return make_store(factory.mktemp("store"), counts=(7, 5), samples=samples, **changes)


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return _store(tmp_path_factory)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return _store(tmp_path_factory, augment="deit", num_views=3)


def _stream(made: SmallStore, *, ranks: bool = False, **changes: Any) -> StreamConfig:
    store = TicketStore.open(made.store)
    is_replay = made.manifest.view.kind == "replay"
    defaults: dict[str, Any] = {
        "shards": count_shards(resolve_shards(made.shards), store, SilentReporter()),
        "view": made.manifest.view,
        "image_px": 28,
        "mode": "L",
        "grid": GRID,
        "subset": "ticket",
        "num_keep": made.manifest.num_keep,
        "batch_size": 4,
        "num_classes": 12,
        "seed": 0,
        "join": JoinConfig(store=made.store, ranks=ranks),
        "view_mode": "replay" if is_replay else "static",
        "augment": None if is_replay else AugmentConfig(),
        "policy": POLICIES["deit"] if is_replay else None,
        "num_views": made.manifest.num_views,
    }
    return StreamConfig(**{**defaults, **changes})


def _run(config: StreamConfig, epoch: int = 0) -> list[Batch]:
    return list(iterate(SampleStream(config, StreamPosition(epoch=epoch)), 0))


def _top(scores: Tensor, num_keep: int) -> list[list[int]]:
    return [_best(s, num_keep) for s in scores.tolist()]


def _spelt(store: str, changes: dict[str, Any]) -> str:
    what = [str(changes.get(name, "")) for name in ("view_mode", "subset")]
    return "-".join([store, *what, "ranks" if "ranks" in changes else ""])


_STREAMS: list[tuple[str, dict[str, Any]]] = [
    ("center", {}),
    ("center", {"ranks": True}),
    ("center", {"ranks": True, "subset": "inverse"}),
    ("center", {"subset": "random"}),
    ("center", {"subset": "fixed-random"}),
    ("center", {"ranks": True, "view_mode": "warp", "policy": POLICIES["deit"], "augment": None}),
    ("replayed", {}),
    ("replayed", {"ranks": True}),
    ("replayed", {"ranks": True, "subset": "inverse"}),
    ("replayed", {"subset": "fixed-random"}),
    ("replayed", {"ranks": True, "view_mode": "warp"}),
]


@pytest.mark.parametrize(("store", "changes"), _STREAMS, ids=[_spelt(*s) for s in _STREAMS])
def test_scores_of_a_stream_are_those_of_its_tickets(
    request: pytest.FixtureRequest, store: str, changes: dict[str, Any]
) -> None:
    made: SmallStore = request.getfixturevalue(store)
    for epoch in range(3):
        plain = _run(_stream(made, **changes), epoch)
        scored = _run(_stream(made, mixing=True, **changes), epoch)
        assert len(plain) == len(scored) == 3
        for ours, theirs in zip(scored, plain, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
            assert ours.keep_indices is None
            assert theirs.scores is None
            assert ours.scores is not None
            assert theirs.keep_indices is not None
            assert (ours.scores.dtype, ours.scores.shape) == (torch.float32, (4, 49))
            assert _top(ours.scores, 25) == theirs.keep_indices.tolist()
            mixed = mix_batch(ours.images.float(), ours.scores, Mix(), grid=GRID, num_keep=25)
            assert mixed.keep_indices is not None
            assert torch.equal(mixed.keep_indices, theirs.keep_indices)


@pytest.mark.long
def test_without_ranks_scores_are_the_ticket_and_ties_drawn_by_epoch(replayed: SmallStore) -> None:
    def scores(epoch: int, **changes: Any) -> dict[int, list[float]]:
        batches = _run(_stream(replayed, mixing=True, num_views=1, **changes), epoch)
        return {
            label: of_image
            for b in batches
            if b.scores is not None
            for label, of_image in zip(b.labels.tolist(), b.scores.tolist(), strict=True)
        }

    first = scores(0)
    masks = replayed.masks(0)
    for label, of_image in first.items():
        mask = masks[replayed.samples[label].key]
        assert all((s >= 1) == kept and 0 <= s - kept < 0.01 for s, kept in zip(of_image, mask.tolist(), strict=True))
        assert len(set(of_image)) == 49
    assert scores(0, batch_size=3, shuffle_buffer=1) == first
    assert all(scores(1)[label] != of_image for label, of_image in first.items())
    assert all(scores(0, seed=1)[label] != of_image for label, of_image in first.items())


def test_a_dense_stream_has_no_scores(replayed: SmallStore) -> None:
    for batch in _run(_stream(replayed, mixing=True, subset="dense")):
        assert batch.scores is None
        assert batch.keep_indices is None


# Runs


def _train(made: SmallStore, out: Path, **changes: Any) -> int:
    defaults: dict[str, Any] = {"epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu", "num_classes": 12}
    return train(TrainConfig.of(out=out, tickets=made.store, **{**defaults, **changes})).step


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[Mixed]:
    """What the batches of a run are mixed into."""
    from dataltt.stages.training import losses

    seen: list[Mixed] = []

    def recorded(*args: Any, **options: Any) -> Mixed:
        seen.append(mix_batch(*args, **options))
        return seen[-1]

    def recorded_kept(pixels: Tensor, *args: Any, normalize: Callable[[Tensor], Tensor], **options: Any) -> Mixed:
        recorded(normalize(pixels), *args, **options)  # whole images, to be compared
        return mix_kept(pixels, *args, normalize=normalize, **options)

    monkeypatch.setattr(losses, "mix_batch", recorded)
    monkeypatch.setattr(losses, "mix_kept", recorded_kept)
    return seen


def _kept(mixed: Iterable[Mixed]) -> Counter[int | None]:
    return Counter(None if m.keep_indices is None else m.keep_indices.shape[1] for m in mixed)


@pytest.mark.long
def test_every_control_is_mixed_alike(replayed: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By seed and step; what differs is which patches are kept, and so the labels' weights under CutMix."""
    seen = _spied(monkeypatch)
    drawn = [draw_mix(MixingOptions(), GRID, 0, step, 0) for step in range(6)]
    assert len({m.box is None for m in drawn}) == 2
    pixels: list[bytes] = []
    controls: list[Any] = ["ticket", "random", "fixed-random", "inverse", "center", "resize", "dense"]
    for control in controls:
        seen.clear()
        assert _train(replayed, tmp_path / control, control=control, epochs=2, random_erasing=0.0) == 6
        assert _kept(seen) == {(None if control in ("dense", "resize") else 25): 6}
        pixels.append(b"".join(m.images.numpy().tobytes() for m in seen))
        for mixed, mix in zip(seen, drawn, strict=True):
            if mix.box is None:
                assert mixed.weights.tolist() == pytest.approx([mix.lam] * 4)
            elif control in ("dense", "resize"):
                area = (mix.box.bottom - mix.box.top) * (mix.box.right - mix.box.left)
                assert mixed.weights.tolist() == pytest.approx([1 - area / 49] * 4)
    assert len(set(pixels)) == 1


def test_a_run_without_mixing_mixes_nothing(
    replayed: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _spied(monkeypatch)
    assert _train(replayed, tmp_path / "run", mixup=0.0, cutmix=0.0) == 3
    assert _train(replayed, tmp_path / "another", mix_prob=0.0) == 3
    assert seen == []


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_numbers_that_no_distribution_has(replayed: SmallStore, tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"`{name}="):
        _train(replayed, tmp_path / "run", **{name: value})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["mix_prob", "mix_switch"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_probabilities_out_of_range(replayed: SmallStore, tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"`{name}=.*` should (lie between 0 and 1|be a finite number)"):
        _train(replayed, tmp_path / "run", **{name: value})
