"""Selectors that score patches: against NumPy written from the papers, and their names and settings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import ModelError, OptionError
from dataltt.stages.data.patches import center_scores
from dataltt.stages.models.registry import create_vit
from dataltt.stages.selection import selectors
from dataltt.stages.selection.scorers import SHIPPED
from dataltt.stages.selection.selectors import NamedSelector, made, named_selector, ordered
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ...helpers import randomize

_Array = npt.NDArray[np.float64]
_SIDE = 16  # of a picture: 16 patches of 4 px
_NAMES = [f"key-{index}" for index in range(3)]


def _vit(**changes: Any) -> VisionTransformer:
    sizes = {"img_size": _SIDE, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    vit = create_vit("vit_tiny_patch16_224", **{**sizes, **changes})
    randomize(vit)
    return vit


def _images() -> Tensor:
    return torch.randn(len(_NAMES), 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(3))


def _scores(name: str, *options: str, vit: VisionTransformer | None = None, labels: Tensor | None = None) -> _Array:
    named = named_selector(name, options)
    assert named is not None
    found = made(named, _vit() if vit is None else vit).scores(_images(), labels, 8, names=_NAMES)
    assert found.shape == (3, 16)
    return found.double().numpy()


# The papers, in NumPy


class _Reference:
    """A ViT's forward pass in NumPy, float64, with a bonus that may be added to the attention of a block."""

    def __init__(self, vit: VisionTransformer) -> None:
        self.vit = vit
        self.of = {name: tensor.double().numpy() for name, tensor in vit.state_dict().items()}

    def tokens(self, image: Tensor) -> _Array:
        """Embedded tokens [N, C] of one image."""
        patches = image.double().numpy().reshape(3, 4, 4, 4, 4).transpose(1, 3, 0, 2, 4).reshape(16, -1)
        kernel = self.of["patch_embed.proj.weight"]
        embedded = patches @ kernel.reshape(len(kernel), -1).T + self.of["patch_embed.proj.bias"]
        joined: _Array = np.concatenate([self.of["cls_token"][0], embedded]) + self.of["pos_embed"][0]
        return joined

    def forward(self, image: Tensor, bonus: dict[int, _Array] | None = None) -> tuple[_Array, list[_Array]]:
        """Logits [classes] and attention [H, N, N] of every block."""
        x, maps = self.tokens(image), []
        for index in range(len(self.vit.blocks)):
            at = f"blocks.{index}."
            heads = self._linear(self._norm(x, at + "norm1"), at + "attn.qkv").reshape(len(x), 3, 2, -1)
            query, key, value = heads.transpose(1, 2, 0, 3)
            logits = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
            exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
            attention = exponents / exponents.sum(axis=-1, keepdims=True) + (bonus or {}).get(index, 0)
            maps.append(attention)
            x = x + self._linear((attention @ value).transpose(1, 0, 2).reshape(x.shape), at + "attn.proj")
            hidden = self._linear(self._norm(x, at + "norm2"), at + "mlp.fc1")
            gelu = nn.functional.gelu(torch.from_numpy(hidden)).numpy()
            x = x + self._linear(gelu, at + "mlp.fc2")
        return self._linear(self._norm(x, "norm")[0], "head"), maps

    def gradient(self, image: Tensor, label: int, block: int) -> _Array:
        """Central differences of a class's logit by the attention of a block, [H, N, N]."""
        found = np.zeros((2, 17, 17))
        for place in np.ndindex(*found.shape):
            step = np.zeros_like(found)
            step[place] = 1e-5
            ends = [self.forward(image, {block: sign * step})[0][label] for sign in (1, -1)]
            found[place] = (ends[0] - ends[1]) / 2e-5
        return found

    def _linear(self, x: _Array, name: str) -> _Array:
        given: _Array = x @ self.of[f"{name}.weight"].T + self.of[f"{name}.bias"]
        return given

    def _norm(self, x: _Array, name: str) -> _Array:
        scaled = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        normed: _Array = scaled * self.of[f"{name}.weight"] + self.of[f"{name}.bias"]
        return normed


def test_attention_is_that_of_the_cls_token_in_the_last_block() -> None:
    vit = _vit()
    expected = [_Reference(vit).forward(image)[1][-1].mean(axis=0)[0, 1:] for image in _images()]
    np.testing.assert_allclose(_scores("attention", vit=vit), expected, rtol=1e-4, atol=1e-7)


def test_rollout_is_abnar_and_zuidemas() -> None:
    vit, expected = _vit(), []
    for image in _images():
        rolled = np.eye(17)
        for attention in _Reference(vit).forward(image)[1]:
            raw = 0.5 * attention.mean(axis=0) + 0.5 * np.eye(17)
            rolled = raw / raw.sum(axis=-1, keepdims=True) @ rolled
        expected.append(rolled[0, 1:])
    np.testing.assert_allclose(_scores("rollout", vit=vit), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("labelled", [False, True])
def test_gradient_is_chefers_by_the_predicted_or_the_true_class(labelled: bool) -> None:
    vit = _vit(depth=2)
    reference, image = _Reference(vit), _images()[0]
    logits, maps = reference.forward(image)
    label = int(logits.argmin() if labelled else logits.argmax())
    relevance = np.eye(17)
    for block, attention in enumerate(maps):
        relevance = relevance + np.maximum(reference.gradient(image, label, block) * attention, 0).mean(0) @ relevance
    options, labels = (["labels=true"], torch.full((3,), label)) if labelled else ([], None)
    found = _scores("gradient", *options, vit=vit, labels=labels)
    np.testing.assert_allclose(found[0], relevance[0, 1:], rtol=1e-3, atol=1e-7)


def test_variance_is_that_of_the_pixels() -> None:
    patches = _images().double().numpy().reshape(3, 3, 4, 4, 4, 4).transpose(0, 2, 4, 1, 3, 5)
    expected = patches.reshape(3, 16, 3, 16).var(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(_scores("variance"), expected, rtol=1e-12)


def test_center_is_the_same_of_every_image() -> None:
    assert (_scores("center") == center_scores((4, 4))).all()


def test_random_depends_on_seed_and_name_alone() -> None:
    named = named_selector("random", ["seed=5"])
    assert named is not None
    scorer = made(named, _vit())
    all_at_once = scorer.scores(_images(), None, 8, names=_NAMES)
    alone = [scorer.scores(_images()[:1], None, 4, names=[name])[0] for name in _NAMES]
    assert torch.equal(all_at_once, torch.stack(alone))
    assert not (all_at_once.numpy() == _scores("random")).any()


@pytest.mark.parametrize("name", ["attention", "rollout"])
def test_a_vit_without_head_will_do(name: str) -> None:
    headless = _vit(num_classes=0)
    headless.load_state_dict({k: v for k, v in _vit().state_dict().items() if not k.startswith("head.")})
    np.testing.assert_array_equal(_scores(name, vit=headless), _scores(name))


def test_gradient_needs_a_head_and_labels_within_it() -> None:
    with pytest.raises(ModelError, match="the selector 'gradient' needs a ViT with a head"):
        _scores("gradient", vit=_vit(num_classes=0))
    with pytest.raises(ModelError, match=r"head has 5 classes, and the images' labels are from -1 to 5; leave"):
        _scores("gradient", "labels=true", labels=torch.tensor([0, 5, -1]))


@pytest.mark.parametrize("name", ["attention", "rollout", "gradient"])
def test_scores_are_fp32_in_bf16_too(name: str) -> None:
    named = named_selector(name, [])
    assert named is not None
    with torch.autocast("cpu", torch.bfloat16):
        found = made(named, _vit()).scores(_images(), None, 8, names=_NAMES)
    assert found.dtype == torch.float32
    assert np.corrcoef(found.numpy().ravel(), _scores(name).ravel())[0, 1] > 0.98


# From scores to orders


class _Given:
    """Scores that are given."""

    def __init__(self, scores: Tensor) -> None:
        self.given = scores

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Tensor:
        """Gives them."""
        return self.given


def _ordered(scores: Any) -> list[list[int]]:
    given = torch.tensor(scores, dtype=torch.float32)
    found = ordered(_Given(given), "given", torch.zeros(1, 3, 4, 4), None, 2, 4, ["a"])
    return [list(map(int, row)) for row in found.order]


@given(st.lists(st.integers(-2, 2), min_size=4, max_size=4))
def test_the_highest_scores_come_first_and_of_equals_the_first(scores: list[int]) -> None:
    assert _ordered([scores]) == [sorted(range(4), key=lambda patch: (-scores[patch], patch))]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[1.0, 2.0, 3.0]], r"gave scores of shape \[1, 3\]; they should be \[1, 4\]"),
        ([1.0, 2.0, 3.0, 4.0], r"gave scores of shape \[4\]; they should be \[1, 4\]"),
        ([[1.0, 2.0, 3.0, float("nan")]], "gave scores that are not finite"),
    ],
)
def test_scores_of_another_kind_are_refused(scores: Any, said: str) -> None:
    with pytest.raises(ModelError, match=f"the selector 'given' {said}"):
        _ordered(scores)


# Names and settings


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("centre", [], "`selector='centre'` is not known; there are cascade, random, center, .*; did you mean center?"),
        ("zzz", [], "`selector='zzz'` is not known; .* others come with packages that add them"),
        ("random", ["sed=1"], "`selector_option='sed=1'` is no setting of the selector 'random'; it has seed=0"),
        ("random", ["seed"], "`selector_option='seed'` is no setting of the selector 'random'; it has seed=0"),
        ("center", ["seed=1"], "`selector_option='seed=1'` is no setting of the selector 'center'; it has none"),
        ("random", ["seed=one"], "`selector_option='seed=one'` should be of the kind of seed=0, the default"),
        ("gradient", ["labels=1"], "`selector_option='labels=1'` should be of the kind of labels=False, the default"),
        ("cascade", ["seed=1"], "`selector_option='seed=1'`: the cascade takes none; its options are"),
        ("random", ["seed=1", "seed=2"], "`selector_option='seed=2'`: seed is given twice; give it once"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(name: str, options: list[str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        named_selector(name, options)


def test_settings_that_are_not_given_are_recorded_too() -> None:
    settings = {name: named.settings for name in SHIPPED if (named := named_selector(name, [])) is not None}
    assert {name: given for name, given in settings.items() if given} == {
        "random": {"seed": 0},
        "gradient": {"labels": False},
    }


def test_a_package_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = EntryPoints([EntryPoint("ours", "nowhere.at_all:Ours", selectors.GROUP)])
    monkeypatch.setattr(selectors, "entry_points", lambda **wanted: found.select(**wanted))
    with pytest.raises(OptionError, match=r"`selector='ours'` cannot be loaded from nowhere.at_all:Ours \(ModuleNot"):
        named_selector("ours", [])
    with pytest.raises(OptionError, match="gradient, ours; did you mean ours"):
        named_selector("our", [])


@pytest.mark.parametrize("value", ["nan", "inf", "x"])
def test_settings_of_another_package_are_checked_as_our_own(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    def ours(vit: VisionTransformer, *, rate: float = 0.5) -> _Given:
        return _Given(torch.zeros(1, 4))

    def worse(vit: VisionTransformer, *, rate: Any) -> _Given:
        return _Given(torch.zeros(1, 4))

    monkeypatch.setattr(selectors, "SHIPPED", {"ours": ours, "worse": worse})
    with pytest.raises(OptionError, match=f"`selector_option='rate={value}'` should be of the kind of rate=0.5"):
        named_selector("ours", [f"rate={value}"])
    with pytest.raises(OptionError, match="`selector='worse'`: its setting rate has no default that is"):
        named_selector("worse", [])


class _Failing:
    """Selector of another package that fails where it is told to."""

    uses_labels = True

    def __init__(self, vit: VisionTransformer, *, where: str = "") -> None:
        self.where = where
        if where == "making":
            raise ValueError("no such grid")

    def scores(self, images: Tensor, labels: Tensor | None, num_keep: int, *, names: Sequence[str]) -> Any:
        """Fails, or gives what is no tensor."""
        if self.where == "scoring":
            raise KeyError("block 12")
        return np.zeros((len(images), 49))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("making", r"of ours 1.0 failed \(ValueError: no such grid\); mend it there, or take another"),
        ("scoring", r"of ours 1.0 failed \(KeyError: 'block 12'\); mend it there"),
        ("", "gave ndarray for scores; they should be a torch tensor"),
    ],
)
def test_what_goes_wrong_in_another_package_is_said_to_be_its_own(where: str, said: str) -> None:
    named = NamedSelector(name="ours", make=_Failing, settings={"where": where}, package="ours 1.0")
    with pytest.raises(ModelError, match=f"the selector 'ours' {said}"):
        ordered(made(named, _vit()), "ours", _images(), None, 8, 49, _NAMES)
    if where != "making":
        assert getattr(made(named, _vit()), "uses_labels", False) is True
