"""The student on kept patches: equal to timm with all of them, and blind to the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dataltt.stages.models.pruned_vit import TokenPrunedViT
from dataltt.stages.models.registry import create_vit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ...helpers import randomize

_PATCH_PX = 8
_GRID = 4
_IMAGE_PX = _PATCH_PX * _GRID
_NUM_PATCHES = _GRID * _GRID
_NUM_KEEP = 7

_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 3},
    "layer scale": {"init_values": 0.1},
    "qk-norm": {"qk_norm": True},
    "no embedding for prefix tokens": {"no_embed_class": True},
    "registers without embedding": {"no_embed_class": True, "reg_tokens": 2},
    "norm before the blocks": {"pre_norm": True},
    "average pooling": {"global_pool": "avg"},
    "attention pooling": {"global_pool": "map"},
    "norm in the head": {"fc_norm": True, "global_pool": "avg"},
    "grey": {"in_chans": 1},
}


def _vit(variant: str) -> VisionTransformer:
    defaults: dict[str, Any] = {
        "img_size": _IMAGE_PX,
        "patch_size": _PATCH_PX,
        "embed_dim": 32,
        "depth": 4,
        "num_heads": 2,
        "num_classes": 6,
    }
    vit = VisionTransformer(**{**defaults, **_VARIANTS[variant]}).eval()
    randomize(vit)
    return vit


def _images(variant: str, count: int = 3) -> Tensor:
    channels = _VARIANTS[variant].get("in_chans", 3)
    return torch.randn(count, channels, _IMAGE_PX, _IMAGE_PX, generator=torch.Generator().manual_seed(1))


def _keep(count: int, num_keep: int, seed: int = 2) -> Tensor:
    """Patches in no order, other ones for every image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(_NUM_PATCHES, generator=generator)[:num_keep] for _ in range(count)])


def _pixels_of(keep: Tensor) -> Tensor:
    """Which pixels belong to the kept patches, bool [B, 1, H, W], by counting rows and columns."""
    mask = torch.zeros(len(keep), 1, _IMAGE_PX, _IMAGE_PX, dtype=torch.bool)
    for image, patches in enumerate(keep.tolist()):
        for patch in patches:
            top, left = patch // _GRID * _PATCH_PX, patch % _GRID * _PATCH_PX
            mask[image, 0, top : top + _PATCH_PX, left : left + _PATCH_PX] = True
    return mask


def _gradients(vit: VisionTransformer, logits: Tensor) -> dict[str, Tensor]:
    vit.zero_grad()
    logits.square().sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in vit.named_parameters()}


@pytest.mark.parametrize("variant", _VARIANTS)
def test_all_patches_in_any_order_are_timms_forward(variant: str) -> None:
    vit, images = _vit(variant), _images(variant)
    student = TokenPrunedViT(vit)
    expected = vit(images)
    in_order = torch.arange(_NUM_PATCHES).expand(len(images), -1)
    for keep in (in_order, in_order.flip(1), _keep(len(images), _NUM_PATCHES)):
        torch.testing.assert_close(student(images, keep), expected, rtol=0, atol=1e-5)
    assert torch.equal(student(images), expected)


@pytest.mark.parametrize("variant", _VARIANTS)
def test_gradients_of_all_patches_are_timms(variant: str) -> None:
    vit, images = _vit(variant), _images(variant)
    expected = _gradients(vit, vit(images))
    found = _gradients(vit, TokenPrunedViT(vit)(images, _keep(len(images), _NUM_PATCHES)))
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=name)


def _reference(vit: VisionTransformer, images: Tensor, keep: Tensor) -> Tensor:
    """Embeds everything, adds all positions, then picks the kept tokens, image by image."""
    rows = []
    for image, patches in zip(images, keep, strict=True):
        tokens = vit._pos_embed(vit.patch_embed(image[None]))
        x = torch.cat([tokens[:, : vit.num_prefix_tokens], tokens[:, vit.num_prefix_tokens + patches]], dim=1)
        x = vit.norm_pre(x)
        for block in vit.blocks:
            x = block(x)
        rows.append(vit.forward_head(vit.norm(x))[0])
    return torch.stack(rows)


@pytest.mark.parametrize("num_keep", [1, _NUM_KEEP, _NUM_PATCHES - 1])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_subset_is_the_reference(variant: str, num_keep: int) -> None:
    vit, images = _vit(variant), _images(variant)
    keep = _keep(len(images), num_keep)
    found = TokenPrunedViT(vit)(images, keep)
    torch.testing.assert_close(found, _reference(vit, images, keep), rtol=0, atol=1e-5)
    assert not torch.allclose(found, vit(images), atol=1e-2)


@pytest.mark.parametrize("variant", _VARIANTS)
def test_the_order_of_kept_patches_makes_no_difference(variant: str) -> None:
    vit, images = _vit(variant), _images(variant)
    keep = _keep(len(images), _NUM_KEEP)
    student = TokenPrunedViT(vit)
    torch.testing.assert_close(student(images, keep), student(images, keep.sort(dim=1).values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", _VARIANTS)
def test_only_kept_pixels_influence_the_logits(variant: str) -> None:
    student, images = TokenPrunedViT(_vit(variant)), _images(variant)
    keep = _keep(len(images), _NUM_KEEP)
    kept = _pixels_of(keep)
    expected = student(images, keep)
    assert torch.equal(student(torch.where(kept, images, 100.0), keep), expected)
    assert not torch.allclose(student(torch.where(kept, 0.5 * images, images), keep), expected, atol=1e-3)


@pytest.mark.parametrize("variant", _VARIANTS)
def test_the_gradient_of_dropped_pixels_is_zero(variant: str) -> None:
    student = TokenPrunedViT(_vit(variant))
    images = _images(variant).requires_grad_()
    keep = _keep(len(images), _NUM_KEEP)
    student(images, keep).square().sum().backward()
    assert images.grad is not None
    kept = _pixels_of(keep).expand_as(images)
    assert torch.equal(images.grad[~kept], torch.zeros_like(images.grad[~kept]))
    assert (images.grad[kept] != 0).all()


def test_the_small_model_has_timms_names() -> None:
    vit = create_vit("vit_fashion")
    student = TokenPrunedViT(vit)
    assert list(student.state_dict()) == [f"net.{name}" for name in vit.state_dict()]
    images, keep = torch.randn(2, 1, 28, 28), torch.arange(25).expand(2, -1)
    assert student(images, keep).shape == (2, 10)


def test_dropout_and_stochastic_depth_act_in_training_alone() -> None:
    vit = VisionTransformer(
        img_size=_IMAGE_PX, patch_size=_PATCH_PX, embed_dim=32, depth=4, num_heads=2, drop_path_rate=0.5
    )
    randomize(vit)
    student, images, keep = TokenPrunedViT(vit), _images("plain"), _keep(3, _NUM_KEEP)
    student.eval()
    assert torch.equal(student(images, keep), student(images, keep))
    student.train()
    assert not torch.equal(student(images, keep), student(images, keep))
