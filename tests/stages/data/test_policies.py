"""Policies: which stores can be replayed here, digests of pixels, colours, erased patches, refusals of bad input."""

from __future__ import annotations

import functools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import timm.data.auto_augment as timm_ops
import torch
from dataltt.artifacts_schema import OptionError, TicketMismatchError, TicketStore, View
from dataltt.stages.data import augment as augment_module
from dataltt.stages.data import policies as policies_module
from dataltt.stages.data.augment import PHOTOMETRIC_OPS, AugmentConfig, PhotometricAugment, erase_patches
from dataltt.stages.data.decoders import decoded_by
from dataltt.stages.data.drawing import PolicyViews
from dataltt.stages.data.policies import POLICIES, Policy, describe, pixels_digest, policy_of, replayed_policy
from dataltt.stages.data.tensor_colours import TENSOR_OPS
from dataltt.stages.runtime.distributed import Process
from dataltt.stages.runtime.reporting import SilentReporter
from dataltt.stages.selection.select import select
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.plan import plan_run
from dataltt.stages.training.view_plan import default_mode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import ColorJitter

from ...helpers import (
    MODEL,
    CliResult,
    SmallStore,
    fashion,
    make_store,
    run_cli,
    select_config,
)
from ...schema_helpers import edit_manifest

pytestmark = pytest.mark.usefixtures("own_folder")

_VIEW = View(kind="center", resize_px=28, crop_share=1.0, interpolation="bicubic", mean=[0.2860], std=[0.3530])
_RGB_VIEW = replace(_VIEW, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
_STORE = "some/store.zarr"


def _mode(view: View) -> str:
    return "L" if len(view.mean) == 1 else "RGB"


def _replay_view(policy: Policy, view: View = _VIEW, **changes: Any) -> View:
    """The view of a manifest of a store that was made here, as JSON keeps it, with some entries changed."""
    augment = json.loads(json.dumps(describe(policy, view, 0)))
    return replace(view, kind="replay", augment={**augment, **changes})


def _refusal(view: View, **options: Any) -> str:
    """The one sentence with which a store is refused."""
    with pytest.raises(TicketMismatchError) as caught:
        replayed_policy(view, _STORE, **options)
    said = str(caught.value)
    assert said.startswith(_STORE)
    assert "\n" not in said
    assert "dataltt select --augment deit" in said
    assert "`view_mode='warp'`" in said
    return said


# What a store says of its views


@pytest.mark.parametrize("view", [_VIEW, _RGB_VIEW], ids=["grey", "colour"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_comes_back_from_its_description(name: str, view: View) -> None:
    replayed = _replay_view(POLICIES[name], view)
    assert (replayed.augment or {})["libraries"]["timm"] == version("timm")
    assert replayed_policy(replayed, _STORE) == POLICIES[name]


@pytest.mark.parametrize("min_crop", [1e-4, 0.08, 0.35, 0.5000001, 1.0])
def test_the_smallest_crop_comes_back(min_crop: float) -> None:
    policy = policy_of("deit3", min_crop=min_crop)
    assert policy.crop_scale == (min_crop, 1.0)
    assert replayed_policy(_replay_view(policy), _STORE) == policy


def test_an_unknown_policy() -> None:
    said = _refusal(_replay_view(POLICIES["deit"], name="deit4"))
    assert "holds views of policy 'deit4', which this version does not know (it has deit, deit3, crop, whole)" in said


@pytest.mark.parametrize("number", [0, 2, 10**30, -1])
def test_another_version_of_a_policy(number: int) -> None:
    said = _refusal(_replay_view(POLICIES["deit"], version=number))
    assert f"version {number} of policy 'deit', and this dataltt draws version 1" in said


_OTHER_NUMBERS: list[dict[str, Any]] = [
    {"hflip": 0.4},
    {"auto_augment": "none"},
    {"auto_augment": "rand-m9-mstd0.5"},
    {"color_jitter": 0.3},
    {"crop_ratio": [0.5, 2.0]},
    {"crop_scale": None},
    {"crop_scale": [0.08, 1.1]},
    {"crop_scale": [0.0, 1.0]},
    {"crop_scale": [0.08]},
    {"blur": 0.1},
]


@pytest.mark.parametrize("changes", _OTHER_NUMBERS, ids=str)
def test_other_numbers_of_a_policy(changes: dict[str, Any]) -> None:
    numbers = {**POLICIES["deit"].to_json(), **changes}
    assert "'deit' with numbers that are not this version's" in _refusal(
        _replay_view(POLICIES["deit"], parameters=numbers)
    )


@pytest.mark.parametrize("name", POLICIES["deit"].to_json())
def test_a_number_that_is_not_there(name: str) -> None:
    numbers = POLICIES["deit"].to_json()
    del numbers[name]
    if name == "crop_scale":
        numbers["crop"] = None
    assert "with numbers that are not this version's" in _refusal(_replay_view(POLICIES["deit"], parameters=numbers))


# Pixels


@pytest.mark.parametrize("digest", ["0" * 16, "", None, 7, ["0"]], ids=str)
def test_other_pixels(digest: Any) -> None:
    view = _replay_view(POLICIES["deit"], pixels_xxh3=digest)
    said = _refusal(view)
    assert "policy 'deit' gives other pixels here than where its views were drawn" in said
    assert "with the same library versions" in said
    assert "`on_other_pixels='allow'`" in said
    assert replayed_policy(view, _STORE, allow_other_pixels=True) == POLICIES["deit"]


def test_library_versions_that_differ_are_named() -> None:
    view = _replay_view(POLICIES["deit"], pixels_xxh3="0" * 16)
    libraries = dict((view.augment or {})["libraries"])
    assert set(libraries) == {"numpy", "pillow", "timm", "torch", "torchvision"}
    libraries["timm"] = "0.4.12"
    del libraries["pillow"]
    said = _refusal(replace(view, augment={**(view.augment or {}), "libraries": libraries}))
    differences = f"pillow unknown there, {version('pillow')} here; timm 0.4.12 there, {version('timm')} here"
    assert f"({differences})" in said


def test_other_libraries_that_give_the_same_pixels_will_do() -> None:
    view = _replay_view(POLICIES["deit"], libraries={"timm": "0.4.12"})
    assert replayed_policy(view, _STORE) == POLICIES["deit"]


def test_other_pixels_do_not_excuse_other_numbers() -> None:
    numbers = {**POLICIES["deit"].to_json(), "hflip": 0.4}
    _refusal(_replay_view(POLICIES["deit"], parameters=numbers), allow_other_pixels=True)
    _refusal(_replay_view(POLICIES["deit"], version=2), allow_other_pixels=True)
    _refusal(_replay_view(POLICIES["deit"], name="gone"), allow_other_pixels=True)


@pytest.mark.parametrize("view", [_VIEW, _RGB_VIEW], ids=["grey", "colour"])
def test_the_digest_of_pixels_is_the_same_again_and_of_the_policy(view: View) -> None:
    random.seed(1)
    digests = [pixels_digest(POLICIES[name], view) for name in ("deit", "deit3", "crop")]
    random.seed(2)
    assert [pixels_digest(POLICIES[name], view) for name in ("deit", "deit3", "crop")] == digests
    assert len(set(digests)) == 3
    assert all(len(d) == 16 and int(d, 16) >= 0 for d in digests)


def test_the_digest_is_of_the_interpolation_and_the_channels() -> None:
    digests = [pixels_digest(POLICIES["deit"], replace(_VIEW, interpolation=i)) for i in ("bicubic", "bilinear")]
    assert len({*digests, pixels_digest(POLICIES["deit"], _RGB_VIEW)}) == 3


def _altered(operation: Any) -> Callable[..., Image.Image]:
    """The operation, but for the lowest bit of one pixel of its result."""

    def altered(*args: Any, **options: Any) -> Image.Image:
        pixels = np.array(operation(*args, **options))
        pixels[5, 7] ^= 1
        return Image.fromarray(pixels)

    return altered


@pytest.mark.parametrize("view", [_VIEW, _RGB_VIEW], ids=["grey", "colour"])
@pytest.mark.parametrize(
    ("policy", "operation"),
    [("deit", op) for op in PHOTOMETRIC_OPS] + [("deit3", op) for op in ("Solarize", "Desaturate", "GaussianBlurRand")],
)
def test_one_pixel_of_one_operation_changes_the_digest(
    monkeypatch: pytest.MonkeyPatch, policy: str, operation: str, view: View
) -> None:
    before = pixels_digest(POLICIES[policy], view)
    if operation == "PosterizeIncreasing":  # the one that is not timm's
        monkeypatch.setattr(augment_module, "_posterize", _altered(augment_module._posterize))
    else:
        monkeypatch.setitem(timm_ops.NAME_TO_OP, operation, _altered(timm_ops.NAME_TO_OP[operation]))
    assert pixels_digest(POLICIES[policy], view) != before
    assert pixels_digest(POLICIES["crop"], view) == pixels_digest(POLICIES["whole"], view)


@pytest.mark.parametrize("name", ["decode_bytes", "cut_view"])
def test_decoding_and_cutting_change_the_digest(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = pixels_digest(POLICIES["crop"], _VIEW)
    monkeypatch.setattr(policies_module, name, _altered(getattr(policies_module, name)))
    assert pixels_digest(POLICIES["crop"], _VIEW) != before


def test_jitter_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = pixels_digest(POLICIES["deit3"], _VIEW)
    monkeypatch.setattr(ColorJitter, "forward", _altered(ColorJitter.forward))
    assert pixels_digest(POLICIES["deit3"], _VIEW) != before


@pytest.mark.parametrize("name", ["decode_bytes", "cut_view"])
def test_a_decoder_that_gives_other_pixels_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    view = _replay_view(POLICIES["deit"], decoded_by(_RGB_VIEW, "torchvision"))
    assert replayed_policy(view, _STORE) == POLICIES["deit"]
    by_torchvision = (view.augment or {})["pixels_xxh3"]
    assert by_torchvision != (_replay_view(POLICIES["deit"], _RGB_VIEW).augment or {})["pixels_xxh3"]
    module_own = getattr(policies_module, name)
    monkeypatch.setattr(policies_module, name, lambda *a, **k: module_own(*a, **k) ^ 1)
    assert "policy 'deit' gives other pixels here" in _refusal(view)
    assert replayed_policy(view, _STORE, allow_other_pixels=True) == POLICIES["deit"]


@pytest.mark.parametrize("operation", ["Invert", "AutoContrast", "SharpnessIncreasing", "SolarizeAdd"])
def test_an_operation_on_tensors_that_gives_other_pixels_is_noticed(
    monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    view = _replay_view(POLICIES["deit"], decoded_by(_RGB_VIEW, "torchvision"))
    own = TENSOR_OPS[operation]
    monkeypatch.setitem(cast(dict[str, Any], TENSOR_OPS), operation, lambda *a, **k: own(*a, **k) ^ 1)
    assert "gives other pixels here" in _refusal(view)


def test_operations_that_give_other_pixels_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a version of timm would that rounds otherwise."""
    view = _replay_view(POLICIES["deit"])
    assert replayed_policy(view, _STORE) == POLICIES["deit"]
    monkeypatch.setitem(timm_ops.NAME_TO_OP, "Invert", _altered(timm_ops.NAME_TO_OP["Invert"]))
    assert "gives other pixels here" in _refusal(view)


# Manifests of other people


@functools.cache
def _deit_view() -> View:
    return _replay_view(POLICIES["deit"])


def _with_deits_numbers(changes: dict[str, Any]) -> View:
    """The view of a store of policy deit with some entries changed; parameters that are a dict add to deit's."""
    numbers = changes.get("parameters")
    if isinstance(numbers, dict):
        changes = {**changes, "parameters": {**POLICIES["deit"].to_json(), **numbers}}
    return replace(_deit_view(), augment={**(_deit_view().augment or {}), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": None},
        {"parameters": []},
        {"parameters": [["crop_scale", [0.08, 1.0]]]},
        {"parameters": {"crop_scale": "0.08"}},
        {"parameters": {"crop_scale": ["0.08", "1.0"]}},
        {"parameters": {"crop_scale": [float("nan"), 1.0]}},
        {"parameters": {"crop_scale": [1e308, float("inf")]}},
        {"parameters": {"crop_scale": [10**400, 10**400]}},
        {"parameters": {"crop_scale": [[0.08], {}]}},
        {"parameters": {"crop_scale": [True, True]}},
        {"parameters": {"hflip": float("nan")}},
        {"version": "1"},
        {"version": float("nan")},
        {"pixels_xxh3": {}, "libraries": None},
        {"pixels_xxh3": {}, "libraries": ["timm"]},
        {"pixels_xxh3": {}, "libraries": {"timm": {"a": [float("nan")]}}},
        {"pixels_xxh3": {}, "libraries": {"timm": "1.0\ndataltt: all is well"}},
    ],
    ids=lambda changes: ascii(changes)[:60],
)
def test_what_a_manifest_may_not_say(changes: dict[str, Any]) -> None:
    _refusal(_with_deits_numbers(changes))


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(categories=["L", "N"]), max_size=6)
    | st.just([0.08, 1.0])
    | st.just(POLICIES["deit"].to_json()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["crop_scale", "crop_ratio", "hflip", "timm", "x"]), inner, max_size=4)
    ),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("version", "parameters", "pixels_xxh3", "libraries", "seed"), _JSON)
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_manifest_says_is_replayed_or_refused_by_a_sentence(changes: dict[str, Any]) -> None:
    view = _with_deits_numbers(changes)
    said, good = view.augment or {}, _deit_view().augment or {}
    try:
        policy = replayed_policy(view, _STORE)
    except TicketMismatchError:
        _refusal(view)
    else:
        assert policy.to_json() == said["parameters"]
        assert (said["version"], said["pixels_xxh3"]) == (good["version"], good["pixels_xxh3"])


@pytest.mark.parametrize("augment", [None, {}, {"name": None}, {"name": ""}, {"version": 1}], ids=str)
def test_a_manifest_that_names_no_policy(augment: dict[str, Any] | None) -> None:
    assert "which this version does not know" in _refusal(replace(_VIEW, kind="replay", augment=augment))


# Policies by name


def test_a_name_that_is_no_policy() -> None:
    with pytest.raises(OptionError, match=r"`augment='deit5'` is not a policy .* it has deit, deit3, crop, whole$"):
        policy_of("deit5")


@pytest.mark.parametrize("min_crop", [0.0, -0.5, 1.0001, float("nan"), float("inf")])
def test_a_smallest_crop_that_cannot_be_meant(min_crop: float) -> None:
    with pytest.raises(OptionError, match=rf"`min_crop={min_crop}` lies outside \(0, 1\]"):
        policy_of("deit", min_crop=min_crop)


def test_whole_images_have_no_smallest_crop() -> None:
    with pytest.raises(OptionError, match=r"`min_crop=0\.5`: `augment='whole'` shows whole images; choose another"):
        policy_of("whole", min_crop=0.5)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_itself_without_a_smallest_crop(name: str) -> None:
    assert policy_of(name) is POLICIES[name]


def test_a_smallest_crop_is_kept_to() -> None:
    views = PolicyViews(policy_of("crop", min_crop=0.6), _VIEW, 28)
    image = Image.fromarray(fashion("train")[0][0]).resize((400, 400))
    areas = [float(np.prod(views.draw(image, 0, "key", v).box[2:])) for v in range(200)]
    assert 0.59 < min(areas) < 0.65
    assert max(areas) > 0.9


# Colours

_DEIT3 = AugmentConfig(auto_augment="3a", color_jitter=0.3)


def _image(channels: int) -> Image.Image:
    shape = (24, 20, 3) if channels == 3 else (24, 20)
    return Image.fromarray(np.random.default_rng(channels).integers(40, 200, shape, dtype=np.uint8))


def _states() -> tuple[object, ...]:
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tobytes(), numpy_state[2:], torch.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("config", [_DEIT3, replace(_DEIT3, color_jitter=0.0)], ids=["with jitter", "without"])
@pytest.mark.parametrize("channels", [1, 3])
def test_deit3s_colours_depend_on_names_alone(config: AugmentConfig, channels: int) -> None:
    image = _image(channels)
    pixels = image.tobytes()
    one, two = (PhotometricAugment(config, [0.5] * channels) for _ in range(2))
    results = []
    before = _states()
    for i in range(40):
        first = one(image, 0, f"key {i}", i)
        two(image, 0, "another key", i)
        assert two(image, 0, f"key {i}", i).tobytes() == first.tobytes()
        assert (first.mode, first.size) == (image.mode, image.size)
        results.append(first.tobytes())
    assert _states() == before
    assert image.tobytes() == pixels
    assert len(set(results)) > (30 if config.color_jitter else 10)


def test_deit3_greys_solarises_or_blurs() -> None:
    """Each about as often as the others, and one of them always."""
    image = _image(3)
    pixels = np.asarray(image)
    augment = PhotometricAugment(replace(_DEIT3, color_jitter=0.0), [0.5] * 3)
    counts = {"grey": 0, "solarised": 0, "blurred": 0}
    for i in range(300):
        result = np.asarray(augment(image, i))
        if (result == result[..., :1]).all():
            counts["grey"] += 1
        elif np.array_equal(result, np.where(pixels < 128, pixels, 255 - pixels)):
            counts["solarised"] += 1
        else:
            assert result.std() < pixels.std()
            counts["blurred"] += 1
    assert all(75 <= n <= 125 for n in counts.values()), counts


def test_jitter_is_left_out_beside_randaugment() -> None:
    """As in timm; jitter beside 3a is not."""
    image = _image(3)

    def results(name: str, jitter: float) -> list[bytes]:
        augment = PhotometricAugment(AugmentConfig(auto_augment=name, color_jitter=jitter), [0.5] * 3)
        return [augment(image, i).tobytes() for i in range(10)]

    assert results("rand-m9-mstd0.5-inc1", 0.4) == results("rand-m9-mstd0.5-inc1", 0.0)
    assert results("3a", 0.4) != results("3a", 0.0)
    assert results("none", 0.4) != results("none", 0.0)


# Erased patches


def _pixels(channels: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(9).integers(0, 256, (channels, 28, 28), dtype=np.uint8))


def _erased_patches(before: Tensor, after: Tensor) -> npt.NDArray[np.bool_]:
    """Which patches of a 7 × 7 grid differ anywhere, bool [7, 7]."""
    changed = (before != after).any(dim=0).numpy()
    return np.asarray(changed.reshape(7, 4, 7, 4).any(axis=(1, 3)))


@pytest.mark.parametrize(("view", "channels"), [(_VIEW, 1), (_RGB_VIEW, 3)])
def test_whole_patches_of_a_rectangle_are_erased(view: View, channels: int) -> None:
    image = _pixels(channels)
    copy = image.clone()
    shapes, num_same = set(), 0
    for i in range(200):
        erased = erase_patches(image, (7, 7), view, 1.0, 0, i, "key")
        assert torch.equal(image, copy)
        assert (erased.shape, erased.dtype) == (image.shape, torch.uint8)
        patches = _erased_patches(image, erased)
        rows, columns = np.flatnonzero(patches.any(axis=1)), np.flatnonzero(patches.any(axis=0))
        assert len(rows) > 0
        rectangle = np.zeros((7, 7), dtype=bool)
        rectangle[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert np.array_equal(patches, rectangle)
        changed = (erased != image).any(dim=0)
        for lines, cells in ((changed.any(dim=1), rows), (changed.any(dim=0), columns)):  # to the patches' very edges
            assert lines.nonzero().flatten().tolist() == list(range(4 * cells[0], 4 * cells[-1] + 4))
        inside = torch.from_numpy(rectangle.repeat(4, axis=0).repeat(4, axis=1))
        assert torch.equal(erased[:, ~inside], image[:, ~inside])
        num_same += int((erased[:, inside] == image[:, inside]).sum())
        shapes.add((len(rows), len(columns)))
        assert 1 <= rectangle.sum() <= 20  # timm's share of the area: 1/50 to 1/3, rounded to patches
    assert len(shapes) > 6
    assert num_same < 0.05 * 200 * 20 * 16 * channels  # noise meets what was there now and then


def test_erased_patches_are_noise_around_the_mean() -> None:
    view = replace(_RGB_VIEW, mean=[0.3, 0.5, 0.7], std=[0.1, 0.05, 0.02])
    image = torch.zeros(3, 28, 28, dtype=torch.uint8)
    pixels = torch.cat(
        [e[:, (e > 0).all(dim=0)] for e in (erase_patches(image, (7, 7), view, 1.0, i) for i in range(60))], 1
    )
    assert pixels.shape[1] > 3000
    assert (pixels.float().mean(dim=1) / 255).tolist() == pytest.approx(view.mean, abs=0.01)
    assert (pixels.float().std(dim=1) / 255).tolist() == pytest.approx(view.std, rel=0.1)


def test_erasing_depends_on_names_alone() -> None:
    image = _pixels()
    before = _states()
    first = [erase_patches(image, (7, 7), _VIEW, 1.0, 0, 3, f"key {i}") for i in range(20)]
    again = [erase_patches(image, (7, 7), _VIEW, 1.0, 0, 3, f"key {i}") for i in reversed(range(20))][::-1]
    assert _states() == before
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({e.numpy().tobytes() for e in first}) == 20
    other_epoch = [erase_patches(image, (7, 7), _VIEW, 1.0, 0, 4, f"key {i}") for i in range(20)]
    assert not any(torch.equal(a, b) for a, b in zip(first, other_epoch, strict=True))


def test_nothing_is_erased_at_probability_0() -> None:
    image = _pixels()
    assert all(torch.equal(erase_patches(image, (7, 7), _VIEW, 0.0, i), image) for i in range(200))


def test_the_share_of_erased_images_is_the_probability() -> None:
    image = _pixels()
    count = sum(
        not torch.equal(erase_patches(image, (7, 7), _VIEW, 0.25, 0, 1, f"key {i}"), image) for i in range(1000)
    )
    assert 190 <= count <= 310


@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (2, 2), (14, 14)], ids=str)
def test_erasing_on_other_grids(grid: tuple[int, int]) -> None:
    """Where a grid is too small for timm's rectangles, nothing is erased, and nothing fails."""
    image = torch.zeros(1, 4 * grid[0], 4 * grid[1], dtype=torch.uint8)
    for i in range(50):
        erased = erase_patches(image, grid, _VIEW, 1.0, i)
        patches = (erased > 0).numpy().reshape(grid[0], 4, grid[1], 4).any(axis=(1, 3))
        assert patches.sum() < patches.size or patches.size == 1


# Bad input, and what is said of it


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Three views of each of twelve images, without ranks."""
    folder = tmp_path_factory.mktemp("replayed")
    return make_store(folder, counts=(12,), augment="deit", num_views=3, ranks=False)


@pytest.fixture(scope="module")
def center(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("center"), counts=(12,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    return make_store(tmp_path_factory.mktemp("whole"), counts=(12,), augment="whole")


def _check_sentence(result: CliResult, *parts: str) -> None:
    """One line on standard error and nothing else, and exit code 1."""
    assert result.code == 1, result
    assert result.out == ""
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("dataltt: ")
    for part in parts:
        assert part in result.err


def _train(store: str, out: Path, *args: object) -> CliResult:
    options = ("--out", out, "--batch-size", 6, "--epochs", 1, "--workers", 0, "--device", "cpu")
    return run_cli("train", "--tickets", store, *options, *args)


def _spelt(*words: object) -> str:
    return " ".join(str(w) for w in words)


_REPLAYED = "3 views of policy 'deit'"
_BAD_OPTIONS: list[tuple[str, tuple[object, ...], tuple[str, ...]]] = [
    ("center", ("--view-mode", "replay"), ("1 view (centre)", "dataltt select --augment deit")),
    ("center", ("--view-mode", "static", "--num-views", 1), ("--num-views has no effect with --view-mode static",)),
    ("center", ("--view-mode", "static", "--min-crop", 0.5), ("--min-crop has no effect with --view-mode static",)),
    ("center", ("--view-mode", "warp", "--num-views", 2), ("--num-views 2", "1 view (centre)", "--num-views 2")),
    ("center", ("--augment", "deit9"), ("--augment deit9 is not a policy", "it has deit, deit3, crop, whole")),
    (
        "center",
        ("--view-mode", "warp", "--augment", "none"),
        ("--augment none is not a policy", "it has deit, deit3, crop, whole"),
    ),
    ("center", ("--view-mode", "warp", "--min-crop", 3), ("--min-crop 3 should be above 0 and at most 1",)),
    ("replayed", ("--num-views", 9), (_REPLAYED, "dataltt select --augment deit --num-views 9")),
    (
        "replayed",
        ("--view-mode", "warp"),
        (_REPLAYED, "without them; select again with: dataltt select --augment deit --ranks"),
    ),
    ("replayed", ("--view-mode", "static"), (_REPLAYED, "--view-mode replay", "dataltt select --augment none")),
    ("replayed", ("--control", "inverse"), ("--control inverse needs ranks", "--ranks")),
    (
        "replayed",
        ("--view-mode", "replay", "--hflip", 0.5),
        ("--hflip has no effect with --view-mode replay", "'deit'"),
    ),
    ("replayed", ("--hflip", 0), ("--hflip has no effect with --view-mode replay", "'deit'")),
    ("replayed", ("--augment", "deit"), ("--augment has no effect with --view-mode replay", "'deit'")),
    ("replayed", ("--min-crop", 0.5), ("--min-crop has no effect with --view-mode replay", "'deit'")),
    ("replayed", ("--auto-augment", "none"), ("--auto-augment has no effect with --view-mode replay", "'deit'")),
    ("replayed", ("--color-jitter", 0.3), ("--color-jitter has no effect with --view-mode replay", "'deit'")),
    ("replayed", ("--model", "deit_t"), ("7×7 patches of 4 px (28 px)", "14×14 patches of 16 px (224 px)", "select")),
    ("whole", ("--view-mode", "static"), ("1 view of policy 'whole'", "dataltt select --augment none")),
]


@pytest.mark.parametrize(
    ("store", "args", "said"), _BAD_OPTIONS, ids=[_spelt(store, *args) for store, args, _ in _BAD_OPTIONS]
)
def test_options_that_do_not_fit_the_store(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, args: tuple[object, ...], said: tuple[str, ...]
) -> None:
    made: SmallStore = request.getfixturevalue(store)
    _check_sentence(_train(made.store, tmp_path / "run", *args), *said)
    assert not (tmp_path / "run").exists()


def test_views_to_replay_without_a_store(center: SmallStore, tmp_path: Path) -> None:
    result = run_cli(
        *("train", "--control", "dense", "--shards", center.shards, "--model", MODEL, "--view-mode", "replay"),
        *("--out", tmp_path / "run", "--device", "cpu"),
    )
    _check_sentence(result, "--view-mode replay", "--tickets", "--view-mode warp")


def test_validation_on_a_store_of_drawn_views(center: SmallStore, replayed: SmallStore, tmp_path: Path) -> None:
    validation = ("--val-shards", replayed.shards, "--val-tickets", replayed.store)
    for args in (("--test", "ticket"), ()):
        result = _train(center.store, tmp_path / "run", *validation, *args)
        _check_sentence(result, replayed.store, "3 view(s) drawn by policy 'deit'", "dataltt select --augment none")
    assert not (tmp_path / "run").exists()
    assert _train(center.store, tmp_path / "run", *validation, "--test", "random").code == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--augment", "deit9"), ("--augment deit9", "it has none, deit, deit3, crop, whole")),
        (("--num-views", 3), ("--num-views 3: without random crops an image has 2 views", "--augment deit")),
        (("--augment", "whole", "--num-views", 3), ("--num-views 3: without random crops", "--augment deit")),
        (("--augment", "deit", "--num-views", 0), ("--num-views 0 should lie between 1 and 4096",)),
        (("--augment", "deit", "--num-views", 4097), ("--num-views 4097 should lie between 1 and 4096",)),
        (("--min-crop", 0.5), ("--min-crop 0.5 needs random crops, e.g. --augment deit",)),
        (("--augment", "deit", "--min-crop", 1.5), ("--min-crop 1.5 should be above 0 and at most 1",)),
        (("--augment", "whole", "--min-crop", 0.5), ("--augment whole shows whole images",)),
    ],
    ids=str,
)
def test_views_that_cannot_be_selected(
    center: SmallStore, tmp_path: Path, args: tuple[object, ...], said: tuple[str, ...]
) -> None:
    out = tmp_path / "store.zarr"
    options = ("--shards", center.shards, "--checkpoint", center.weights, "--ratio", 0.5, "--out", out)
    _check_sentence(run_cli("select", "--model", MODEL, *options, "--device", "cpu", *args), *said)
    assert list(tmp_path.iterdir()) == []


def _edited(made: SmallStore, folder: Path, change: Callable[[Any], object]) -> str:
    path = Path(shutil.copytree(made.path, folder / "copy.zarr"))
    edit_manifest(path, change)
    return str(path)


def test_a_store_whose_pixels_are_not_drawn_here(replayed: SmallStore, tmp_path: Path) -> None:
    store = _edited(
        replayed,
        tmp_path,
        lambda m: m["view"]["augment"].update(pixels_xxh3="0" * 16, libraries={"pillow": "1.1.7"}),
    )
    said = f"pillow 1.1.7 there, {version('pillow')} here"
    _check_sentence(_train(store, tmp_path / "run"), store, "'deit' gives other pixels here", said, "dataltt select")
    assert not (tmp_path / "run").exists()
    assert _train(store, tmp_path / "run", "--on-other-pixels", "allow").code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "deit4"},
        {"version": 2},
        {"parameters": None},
        {"parameters": [1]},
        {"parameters": {}},
        {"parameters": {**POLICIES["deit"].to_json(), "crop_scale": ["a", "b"]}},
        {"parameters": {**POLICIES["deit"].to_json(), "crop_scale": [1e300, 1e300]}},
        {"pixels_xxh3": None, "libraries": [1, 2]},
    ],
    ids=str,
)
def test_manifests_of_other_people(replayed: SmallStore, tmp_path: Path, changes: dict[str, Any]) -> None:
    store = _edited(replayed, tmp_path, lambda m: m["view"]["augment"].update(changes))
    _check_sentence(_train(store, tmp_path / "run"), store, "'deit", "dataltt select --augment deit")


@pytest.mark.parametrize(
    "changes", [{"name": []}, {"name": {}}, {"version": "1"}, {"version": True}, {"seed": 1.5}, {"seed": None}], ids=str
)
def test_manifests_that_are_not_valid(replayed: SmallStore, tmp_path: Path, changes: dict[str, Any]) -> None:
    store = _edited(replayed, tmp_path, lambda m: m["view"]["augment"].update(changes))
    _check_sentence(_train(store, tmp_path / "run"), store, "view.augment: should give the name (text), version")


@pytest.mark.parametrize("mean", [[1e308], [-1e308], [1e30], [0.5, 0.5], [0.5] * 16], ids=str)
def test_a_manifest_whose_mean_is_no_pixel_value(replayed: SmallStore, tmp_path: Path, mean: list[float]) -> None:
    """Nothing but a sentence may come of a store that somebody else made."""
    store = _edited(replayed, tmp_path, lambda m: m["view"].update(mean=mean, std=[0.5] * len(mean)))
    result = _train(store, tmp_path / "run", "--on-other-pixels", "allow")
    assert result.code == 1, result
    assert result.err.splitlines()[-1].startswith("dataltt: ")


# Which views a run shows where nothing is said


def _plan(made: SmallStore | None, **changes: Any) -> Any:
    process = Process(rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"))
    tickets = None if made is None else made.store
    config = TrainConfig.of(out=Path("nowhere"), tickets=tickets, batch_size=6, workers=0, device="cpu", **changes)
    return plan_run(config, process, SilentReporter())


def test_the_store_decides_which_views_are_shown(center: SmallStore, replayed: SmallStore, whole: SmallStore) -> None:
    modes = [default_mode(made.manifest) for made in (center, replayed, whole)]
    assert modes == ["static", "replay", "warp"]
    assert default_mode(None) == "warp"
    plans = [
        _plan(center),
        _plan(replayed),
        _plan(whole),
        _plan(None, control="dense", shards=center.shards, model=MODEL),
    ]
    assert [p.stream.view_mode for p in plans] == ["static", "replay", "warp", "warp"]
    assert [p.config.views.view_mode for p in plans] == ["static", "replay", "warp", "warp"]
    assert [p.stream.num_views for p in plans] == [1, 3, 1, 1]
    assert [p.stream.policy and p.stream.policy.name for p in plans] == [None, "deit", "deit", "deit"]


def test_single_numbers_of_a_policy_may_be_changed(whole: SmallStore) -> None:
    stream = _plan(whole, augment="deit3", hflip=0.1, color_jitter=0.0, min_crop=0.5).stream
    expected = AugmentConfig(auto_augment="3a", hflip=0.1, color_jitter=0.0)
    assert stream.policy == replace(POLICIES["deit3"], augment=expected, crop_scale=(0.5, 1.0))


def test_a_store_of_larger_crops_is_replayed_as_it_is(center: SmallStore, tmp_path: Path) -> None:
    options = {"augment": "deit", "num_views": 2, "min_crop": 0.4}
    manifest = select(select_config(center.shards, center.weights, tmp_path / "store.zarr", **options))
    assert manifest is not None
    store = TicketStore.open(str(tmp_path / "store.zarr"))
    views = store.read_views(range(12))
    assert views is not None
    areas = views[0][..., 2:].prod(axis=-1)
    assert areas.min() > 0.36
    made = replace(center, path=tmp_path / "store.zarr", manifest=manifest)
    assert _plan(made).stream.policy == policy_of("deit", min_crop=0.4)


def test_two_views_of_whole_images_are_the_image_and_its_mirror_image(center: SmallStore, tmp_path: Path) -> None:
    """As --num-views says; two equal views would be half the work for nothing."""
    options = {"augment": "whole", "num_views": 2, "ranks": True}
    select(select_config(center.shards, center.weights, tmp_path / "store.zarr", **options))
    views = TicketStore.open(str(tmp_path / "store.zarr")).read_views(range(12))
    assert views is not None
    assert np.array_equal(views[0], np.broadcast_to(np.array([0, 0, 1, 1], np.float32), (12, 2, 4)))
    assert views[1].tolist() == [[0, 1]] * 12


def test_a_store_carries_the_digest_of_its_own_mode(replayed: SmallStore) -> None:
    augment = replayed.manifest.view.augment or {}
    assert augment["pixels_xxh3"] == pixels_digest(POLICIES["deit"], replayed.manifest.view)
