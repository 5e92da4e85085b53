"""Whole views made smaller: their side, timm's own network of that size, and what cannot be shown them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from dataltt.artifacts_schema import OptionError
from dataltt.stages.data.patches import center_scores, kept_of
from dataltt.stages.models.cost import student_gmacs
from dataltt.stages.models.families import create_student
from dataltt.stages.models.pruned_vit import TokenPrunedViT
from dataltt.stages.models.registry import create_vit
from dataltt.stages.models.resizing import check_resizable, resize_images, resized_px, resized_side
from dataltt.stages.models.student import Student
from dataltt.stages.models.weight_bounds import sketched
from dataltt.stages.training.config import TrainConfig
from dataltt.stages.training.student_plan import check_student
from hypothesis import given
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...helpers import randomize


def _images(px: int, channels: int = 3) -> Tensor:
    return torch.randn(3, channels, px, px, generator=torch.Generator().manual_seed(3))


@given(st.integers(1, 40), st.data())
def test_the_side_whose_square_is_nearest(side: int, data: st.DataObject) -> None:
    num_keep = data.draw(st.integers(1, side * side))
    found = resized_side(num_keep, (side, side))
    assert 1 <= found <= side
    assert abs(found**2 - num_keep) == min(abs(n * n - num_keep) for n in range(1, side + 1))


def test_sides_of_usual_tickets() -> None:
    sides = {25: 5, 15: 4, 35: 6, 49: 7}
    assert {k: resized_side(k, (7, 7)) for k in sides} == sides
    sides = {170: 13, 144: 12, 121: 11, 101: 10, 98: 10, 59: 8, 196: 14, 1: 1, 2: 1}
    assert {k: resized_side(k, (14, 14)) for k in sides} == sides


def test_resized_images_are_torchvisions() -> None:
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    images = _images(28)
    theirs = resize(images, [20, 20], InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(resize_images(images, 20), theirs)
    assert resize_images(images, 28) is images
    assert resize_images(images, None) is images


@pytest.mark.parametrize("kind", [{}, {"reg_tokens": 2, "no_embed_class": True}, {"class_token": False}])
@pytest.mark.parametrize("px", [20, 24])
def test_a_vit_shown_a_smaller_picture_is_timms_of_that_size(kind: dict[str, object], px: int) -> None:
    pooling = {"global_pool": "avg"} if kind.get("class_token") is False else {}
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
    vit = VisionTransformer(**{**sizes, **kind, **pooling})
    randomize(vit)
    student = TokenPrunedViT(vit).eval()
    smaller = copy.deepcopy(vit).eval()
    smaller.set_input_size(img_size=px)
    with torch.no_grad():
        torch.testing.assert_close(student(_images(px)), smaller(_images(px)))
    student(_images(px)).sum().backward()
    assert vit.pos_embed is not None
    assert vit.pos_embed.grad is not None  # those of its own grid learn
    assert vit.pos_embed.grad.abs().sum() > 0


def test_a_smaller_picture_costs_what_as_many_patches_cost() -> None:
    student = TokenPrunedViT(create_vit("vit_fashion"))
    assert resized_px(student.geometry, 25) == 20
    assert student_gmacs(student, None, image_px=20) == pytest.approx(student_gmacs(student, 25))
    assert student_gmacs(student, None, image_px=28) == student_gmacs(student, None)


def test_a_packed_swin_and_a_resnet_take_smaller_pictures() -> None:
    swin = create_student("swin_t", num_keep=4, patch_input="small-dense", num_classes=3).eval()
    images = _images(32)
    with torch.no_grad():
        torch.testing.assert_close(swin(images), swin.net(images))
    check_resizable(swin, "swin_t", "`control='resize'`")
    resnet = sketched(lambda: create_student("resnet50"))
    assert isinstance(resnet, Student)
    check_resizable(resnet, "resnet50", "`control='resize'`")


@pytest.mark.parametrize(
    ("name", "kind", "way_out"),
    [("swin_t", "zero", "small-dense"), ("lvvit_t", None, "learns a label at each patch")],
)
def test_networks_of_one_size_are_refused(name: str, kind: object, way_out: str) -> None:
    student = sketched(lambda: create_student(name, patch_input=kind))  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=f"`control='resize'`: {name} cannot be shown smaller pictures; .*{way_out}"):
        check_resizable(student, name, "`control='resize'`")


def test_a_packed_swin_cannot_end_on_all_patches() -> None:
    student = sketched(lambda: create_student("swin_t", num_keep=100, patch_input="small-dense"))
    config = TrainConfig.of(out=Path(), tickets="s.zarr", dense_epochs=1)
    with pytest.raises(OptionError, match=r"`dense_epochs=1` shows 196 patches, .* built for images packed from 100"):
        check_student(student, config, "swin_t")


@given(st.integers(1, 16), st.data())
def test_central_patches_are_squares_or_nearly(side: int, data: st.DataObject) -> None:
    scores = center_scores((side, side))
    assert sorted(scores.tolist()) == list(range(side * side))
    inner = data.draw(st.integers(0, (side - 1) // 2).map(lambda n: side - 2 * n))
    rim = (side - inner) // 2
    square = np.arange(side * side).reshape(side, side)[rim : rim + inner, rim : rim + inner]
    assert kept_of(scores, inner * inner).tolist() == square.ravel().tolist()


def test_central_patches_by_hand() -> None:
    assert kept_of(center_scores((7, 7)), 1).tolist() == [24]
    assert kept_of(center_scores((7, 7)), 5).tolist() == [17, 23, 24, 25, 31]
    assert kept_of(center_scores((2, 4)), 4).tolist() == [1, 2, 5, 6]
