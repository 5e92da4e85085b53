"""Networks for images of another size than their own: timm's numbers, the same digest, and refusals in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from dataltt.artifacts_schema import CheckpointError, ModelError, OptionError
from dataltt.stages.models.dense_labels import DenseLabeller
from dataltt.stages.models.families import create_student
from dataltt.stages.models.lvvit import LVViT
from dataltt.stages.models.pruned_vit import TokenPrunedViT
from dataltt.stages.models.registry import center_view_of, create_vit
from dataltt.stages.models.resampling import resampled, resampled_in_words
from dataltt.stages.models.weight_bounds import sketched
from dataltt.stages.models.weights import load_initial_weights, load_vit, read_weights, weights_sha256
from safetensors.torch import save_file
from torch import Tensor, nn

from ...helpers import MODEL, randomize, save_selector_weights

_TIMM = "vit_tiny_patch16_224"
_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 2},
    "cls not embedded": {"reg_tokens": 2, "no_embed_class": True},
}


def _small(**changes: Any) -> dict[str, Any]:
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
    return {**sizes, **changes}


def _saved(net: nn.Module, path: Path) -> Path:
    save_file(net.state_dict(), path)
    return path


def _images(px: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, px, px, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("px", [48, 24])
@pytest.mark.parametrize("kind", _KINDS)
def test_logits_are_those_of_timms_network_of_that_size(kind: str, px: int, tmp_path: Path) -> None:
    published = timm.create_model(_TIMM, **_small(**_KINDS[kind]))
    randomize(published)
    file = _saved(published, tmp_path / "weights.safetensors")
    own = {"file": str(file), "num_classes": 5}
    sizes = _small(**_KINDS[kind], img_size=px)
    theirs = timm.create_model(_TIMM, pretrained=True, pretrained_cfg_overlay=own, **sizes).eval()
    plain = {k: v for k, v in _small(**_KINDS[kind]).items() if k not in ("img_size", "num_classes")}
    ours = load_vit(_TIMM, file, image_px=px, **plain).eval()
    student = create_student(_TIMM, image_px=px, num_classes=5, **plain).eval()
    assert load_initial_weights(student.net, read_weights(file), "here", _TIMM) == []
    every = torch.arange((px // 4) ** 2).flip(0).expand(2, -1)
    with torch.no_grad():
        expected = theirs(_images(px))
        assert torch.equal(ours(_images(px)), expected)
        assert torch.equal(student(_images(px)), expected)
        torch.testing.assert_close(student(_images(px), every), expected)
    assert (student.geometry.image_px, student.geometry.grid) == (px, (px // 4, px // 4))


def test_the_same_file_is_the_same_selector_at_any_size(tmp_path: Path) -> None:
    file = save_selector_weights(tmp_path / "weights.safetensors")
    weights, own = read_weights(file), load_vit(MODEL, file)
    larger = load_vit(MODEL, file, image_px=40)
    assert weights_sha256(larger, weights) == weights_sha256(own, weights) == weights_sha256(own)
    assert weights_sha256(larger) != weights_sha256(own)
    assert resampled_in_words(larger, weights) == "position embeddings resampled from 7×7 to 10×10 patches"
    assert resampled_in_words(own, weights) == ""
    assert resampled(own, weights) is weights


def test_the_centre_view_follows_timms_rule() -> None:
    vit = sketched(lambda: create_vit("deit_t", image_px=288))
    assert center_view_of(vit).resize_px == int(288 / 0.9) == 320


@pytest.mark.parametrize(
    ("name", "px", "sentence"),
    [
        ("deit_t", 230, "`image_px=230` is no multiple of the 16-px patches of deit_t; give 224 or 240"),
        ("deit_t", 10, "`image_px=10` is no multiple of the 16-px patches of deit_t; give 16"),
        ("resnet50", 230, "3×230×230; tickets of 16-px patches need squares of a multiple of 16 px"),
        ("lvvit_t", 230, "img_size 230 should be a multiple of patch_size 16"),
        ("vit_fashion", 4096, "1024×1024 patches; a ticket has at most 65536, so give a smaller `image_px`"),
    ],
)
def test_sizes_that_patches_do_not_divide_are_refused(name: str, px: int, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        sketched(lambda: create_student(name, image_px=px))


@pytest.mark.parametrize("patch_input", ["zero", "small-dense"])
def test_swin_has_one_size(patch_input: Any) -> None:
    def make(px: int) -> nn.Module:
        return sketched(lambda: create_student("swin_t", image_px=px, num_keep=100, patch_input=patch_input))

    with pytest.raises(OptionError, match="`image_px=288`: swin_t takes images of 224 px alone; train a plain ViT, or"):
        make(288)
    make(224)


def test_a_resnet_takes_larger_images() -> None:
    student = create_student("resnet18", image_px=96, num_classes=3).eval()
    assert (student.geometry.image_px, student.geometry.grid) == (96, (6, 6))
    with torch.no_grad():
        assert torch.equal(student(_images(96)), student.net(_images(96)))
        student(_images(96), torch.tensor([[0, 35], [1, 2]]))
    assert DenseLabeller(
        create_student("resnet18", image_px=96, num_classes=5).net, "resnet18"
    ).input_format.size_px == (
        96,
        96,
    )


def test_lvvits_position_embeddings_are_resampled_too() -> None:
    small = {"embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
    published = cast(LVViT, create_vit("lvvit_t", image_px=64, **small))
    randomize(published)
    larger = create_student("lvvit_t", image_px=96, **small).eval()
    load_initial_weights(larger.net, published.state_dict(), "here", "lvvit_t")
    assert larger.geometry.grid == (6, 6)
    expected = TokenPrunedViT(_plain_of(published))  # timm resamples a plain ViT of the same embeddings
    expected.net.set_input_size(img_size=96)
    assert torch.equal(cast(LVViT, larger.net).pos_embed, cast(Tensor, expected.net.pos_embed))
    with torch.no_grad():
        assert larger(_images(96)).shape == (2, 5)


def _plain_of(net: LVViT) -> Any:
    plain = timm.create_model(_TIMM, img_size=64, embed_dim=24, depth=1, num_heads=2)
    plain.pos_embed.data.copy_(net.pos_embed)
    return plain


def test_a_vit_labels_at_the_size_it_was_made_for() -> None:
    labeller = DenseLabeller(create_vit(_TIMM, **_small(img_size=48)), "the ViT")
    assert labeller.input_format.size_px == (48, 48)


def test_embeddings_that_are_no_square_grid_are_not_the_models(tmp_path: Path) -> None:
    file = save_selector_weights(tmp_path / "weights.safetensors")
    weights = read_weights(file)
    for changed in (weights["pos_embed"][:, :-1], weights["pos_embed"][:, :1], weights["pos_embed"][..., :-1]):
        save_file({**weights, "pos_embed": changed.contiguous()}, file)
        with pytest.raises(CheckpointError, match=r"1 of another shape \(first: pos_embed\)"):
            load_vit(MODEL, file, image_px=40)
