"""The cascade's counts, the selector against the plainly written reference, and the models that are refused."""

from __future__ import annotations

import math
import tarfile
from typing import Any

import pytest
import torch
from dataltt.artifacts_schema import ModelError, OptionError
from dataltt.stages.data.images import center_crop, decode_image, normalize, to_tensor
from dataltt.stages.data.shards import RawSample
from dataltt.stages.models.cascade import default_drop_blocks, drop_blocks_of, keep_counts
from dataltt.stages.models.registry import (
    ALIASES,
    canonical_name,
    center_view_of,
    check_plain_vit,
    create_vit,
    entry_of,
    geometry_of,
)
from dataltt.stages.models.selector import TicketSelector
from dataltt.stages.models.weights import load_vit
from dataltt.stages.options import CascadeOptions
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import HybridEmbed
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from ...helpers import SHARED, randomize
from ...reference_cascade import reference_keep_counts, reference_order

# METHOD.md's table, for 196 patches: per-stage rate, cascade, kept share in per cent.
_TABLE = [
    (0.95, (187, 178, 170), 86.7),
    (0.9, (177, 160, 144), 73.5),
    (0.85, (167, 142, 121), 61.7),
    (0.8, (157, 126, 101), 51.5),
    (0.75, (147, 111, 84), 42.9),
    (0.7, (138, 97, 68), 34.7),
]
_KEEP_RATES = [rate for rate, _, _ in _TABLE]

_WEIGHTS = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
_PHOTOGRAPHS = SHARED / "data" / "clothing-dataset-small.tar"
_NUM_PHOTOGRAPHS = 4
needs_weights = pytest.mark.skipif(not _WEIGHTS.exists(), reason="no DeiT-Tiny weights here")


# Counts


@pytest.mark.parametrize(("rate", "cascade", "share"), _TABLE)
def test_keep_rates_give_the_papers_cascades(rate: float, cascade: tuple[int, ...], share: float) -> None:
    assert keep_counts(196, CascadeOptions(keep_rate=rate)) == cascade
    assert round(100 * cascade[-1] / 196, 1) == share


@given(num_patches=st.integers(1, 1000), rate=st.floats(0.001, 1))
def test_keep_rates_give_upstreams_chain(num_patches: int, rate: float) -> None:
    assert keep_counts(num_patches, CascadeOptions(keep_rate=rate)) == reference_keep_counts(num_patches, rate)


@pytest.mark.parametrize(
    ("num_patches", "ratio", "counts"),
    [
        (196, 0.5, (156, 124, 98)),  # 155.56…, 123.47…, 98
        (196, 1.0, (196, 196, 196)),
        (196, 0.125, (98, 49, 25)),  # the cube root of an eighth is a half
        (49, 0.5, (39, 31, 25)),
        (100, 0.55, (82, 68, 55)),  # 0.55 · 100 is 55.000000000000007 in floating point
        (196, 1e-9, (1, 1, 1)),
    ],
)
def test_ratios_are_the_final_share(num_patches: int, ratio: float, counts: tuple[int, ...]) -> None:
    assert keep_counts(num_patches, CascadeOptions(ratio=ratio)) == counts


@given(num_patches=st.integers(1, 1000), percent=st.integers(1, 100))
def test_the_last_count_of_a_ratio_is_rounded_up(num_patches: int, percent: int) -> None:
    counts = keep_counts(num_patches, CascadeOptions(ratio=percent / 100))
    assert counts[-1] == -(-num_patches * percent // 100)
    assert num_patches >= counts[0] >= counts[1] >= counts[2] >= 1


@given(num_patches=st.integers(1, 1000), ratio=st.floats(0.01, 1), num_stages=st.integers(1, 5))
def test_earlier_counts_are_geometric(num_patches: int, ratio: float, num_stages: int) -> None:
    counts = keep_counts(num_patches, CascadeOptions(ratio=ratio), num_stages)
    assert len(counts) == num_stages
    for i, count in enumerate(counts, start=1):
        exact = num_patches * ratio ** (i / num_stages)
        assert exact - 1e-6 <= count < exact + 1 + 1e-6


@pytest.mark.parametrize(("ratio", "keep_rate"), [(None, None), (0.5, 0.8)])
def test_exactly_one_dial(ratio: float | None, keep_rate: float | None) -> None:
    with pytest.raises(OptionError, match=r"exactly one of `ratio` .* and `keep_rate`"):
        keep_counts(196, CascadeOptions(ratio=ratio, keep_rate=keep_rate))


@pytest.mark.parametrize("value", [0.0, -0.5, 1.0001, 50.0, math.nan, math.inf])
def test_dials_outside_their_range(value: float) -> None:
    with pytest.raises(OptionError, match=r"`ratio=.*` (lies outside \(0, 1\]|should be a finite number)"):
        keep_counts(196, CascadeOptions(ratio=value))
    with pytest.raises(OptionError, match=r"`keep_rate=.*` (lies outside \(0, 1\]|should be a finite number)"):
        keep_counts(196, CascadeOptions(keep_rate=value))


def test_default_drop_blocks() -> None:
    assert default_drop_blocks(12) == (3, 6, 9)
    assert default_drop_blocks(16) == (4, 8, 12)
    assert default_drop_blocks(6) == (1, 3, 4)
    assert default_drop_blocks(4) == (1, 2, 3)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_too_few_blocks_for_a_default(depth: int) -> None:
    with pytest.raises(OptionError, match="`drop_blocks`"):
        default_drop_blocks(depth)


# Parity

_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"reg_tokens": 3},
    "layer scale": {"init_values": 0.1},
    "qk-norm": {"qk_norm": True},
    "no embedding for prefix tokens": {"no_embed_class": True, "reg_tokens": 2},
    "norm before the blocks": {"pre_norm": True},
    "no bias": {"qkv_bias": False, "proj_bias": False},
    "norm within": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "average pooling": {"global_pool": "avg"},
    "grey": {"in_chans": 1},
}


def _small_vit(seed: int = 0, **changes: Any) -> VisionTransformer:
    """96 px, 36 patches, 12 blocks, random weights."""
    defaults: dict[str, Any] = {"img_size": 96, "patch_size": 16, "embed_dim": 32, "depth": 12, "num_heads": 2}
    vit = VisionTransformer(**{**defaults, "num_classes": 5, **changes}).eval()
    randomize(vit, seed)
    return vit


def _noise(count: int, image_px: int, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, image_px, image_px, generator=torch.Generator().manual_seed(seed))


def _in_batches(selector: TicketSelector, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([selector(batch) for batch in images.split(batch_size)])


def _check_is_permutation(order: Tensor, num_patches: int) -> None:
    assert order.dtype == torch.int64
    assert torch.equal(order.sort(dim=1).values, torch.arange(num_patches).expand(len(order), -1))


@pytest.mark.parametrize("rate", _KEEP_RATES)
@pytest.mark.parametrize("variant", _VARIANTS)
def test_the_order_is_the_references(variant: str, rate: float) -> None:
    options = _VARIANTS[variant]
    vit = _small_vit(**options)
    images = _noise(4, 96, options.get("in_chans", 3))
    counts = keep_counts(36, CascadeOptions(keep_rate=rate))
    expected = reference_order(vit, images, (3, 6, 9), counts)
    selector = TicketSelector(vit, (3, 6, 9), counts)
    for batch_size in (1, 4):
        order = _in_batches(selector, images, batch_size)
        _check_is_permutation(order, 36)
        assert torch.equal(order, expected)


@pytest.mark.parametrize(
    ("blocks", "counts"),
    [((0,), (7,)), ((11,), (36,)), ((0, 1, 2, 3), (30, 20, 20, 1)), ((5, 11), (36, 18)), ((2, 10), (1, 1))],
)
def test_the_order_is_the_references_for_other_blocks(blocks: tuple[int, ...], counts: tuple[int, ...]) -> None:
    vit, images = _small_vit(seed=1), _noise(5, 96, seed=1)
    order = TicketSelector(vit, blocks, counts)(images)
    _check_is_permutation(order, 36)
    assert torch.equal(order, reference_order(vit, images, blocks, counts))


def test_survivors_of_each_stage_come_first() -> None:
    """What is kept at one stage is decided before what is kept of it at the next."""
    vit, images = _small_vit(seed=2), _noise(6, 96, seed=2)
    three = TicketSelector(vit, (3, 6, 9), (30, 20, 10))(images)
    two = TicketSelector(vit, (3, 6), (30, 20))(images)
    one = TicketSelector(vit, (3,), (30,))(images)
    for row in range(len(images)):
        assert set(three[row, :20].tolist()) == set(two[row, :20].tolist())
        assert set(three[row, :30].tolist()) == set(one[row, :30].tolist())
        assert three[row, 20:].tolist() == two[row, 20:].tolist()
        assert three[row, 30:].tolist() == one[row, 30:].tolist()


def test_the_selector_leaves_gradients_and_dropout_out() -> None:
    vit = VisionTransformer(img_size=32, patch_size=16, embed_dim=32, depth=4, num_heads=2, drop_path_rate=0.9)
    randomize(vit)
    selector = TicketSelector(vit.train(), (1, 2, 3), (3, 2, 1))
    images = _noise(3, 32)
    assert torch.equal(selector(images), selector(images))
    assert not any(p.requires_grad for p in selector.parameters())


@pytest.fixture(scope="module")
def deit() -> VisionTransformer:
    return load_vit("deit_t", _WEIGHTS).eval()


def _photographs(deit: VisionTransformer) -> Tensor:
    view, found = center_view_of(deit), []
    with tarfile.open(_PHOTOGRAPHS) as tar:
        for member in tar:
            if not member.name.lower().endswith((".jpg", ".jpeg", ".png")):
                continue
            file = tar.extractfile(member)
            assert file is not None
            sample = RawSample(shard="photographs", key=member.name, image=file.read(), label=-1)
            found.append(to_tensor(center_crop(decode_image(sample, "RGB", "pillow", ""), view, 224)))
            if len(found) == _NUM_PHOTOGRAPHS:
                break
    return normalize(torch.stack(found), view)


@pytest.fixture(scope="module")
def deit_images(deit: VisionTransformer) -> Tensor:
    """16 images: a few photographs where they are at hand, and noise."""
    photographs = _photographs(deit) if _PHOTOGRAPHS.exists() else torch.empty(0, 3, 224, 224)
    return torch.cat([photographs, _noise(16 - len(photographs), 224)])


@needs_weights
@pytest.mark.parametrize("rate", _KEEP_RATES)
def test_the_order_of_deit_is_the_references(deit: VisionTransformer, deit_images: Tensor, rate: float) -> None:
    counts = keep_counts(196, CascadeOptions(keep_rate=rate))
    expected = reference_order(deit, deit_images, (3, 6, 9), counts)
    selector = TicketSelector(deit, (3, 6, 9), counts)
    alone = [0, 1, _NUM_PHOTOGRAPHS, 15]
    for rows, order in ((range(16), selector(deit_images)), (alone, _in_batches(selector, deit_images[alone], 1))):
        _check_is_permutation(order, 196)
        theirs = expected[list(rows)]
        assert torch.equal(order[:, : counts[-1]].sort(dim=1).values, theirs[:, : counts[-1]].sort(dim=1).values)
        # Beyond the set, patches of all but equal attention may change places with their neighbours.
        moved = (order.argsort(dim=1) - theirs.argsort(dim=1)).abs()
        assert int(moved.max()) <= 1
        assert float((moved > 0).float().mean()) < 0.01


# Refusals


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["blocks.2.mlp.fc1.weight", "blocks.3.attn.qkv.weight", "patch_embed.proj.bias"])
def test_weights_that_are_not_finite(poison: float, name: str) -> None:
    vit = _small_vit()
    with torch.no_grad():
        vit.get_parameter(name).flatten()[0] = poison
    with pytest.raises(ModelError, match="not finite"):
        TicketSelector(vit, (3, 6, 9), (30, 20, 10))(_noise(2, 96))


@pytest.mark.parametrize(
    ("blocks", "counts"),
    [((3, 6), (30, 20, 10)), ((6, 3), (30, 20)), ((3, 3), (30, 20)), ((3, 12), (30, 20)), ((-1, 3), (30, 20))],
)
def test_blocks_that_cannot_be_meant(blocks: tuple[int, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="drop blocks"):
        TicketSelector(_small_vit(), blocks, counts)


def test_no_blocks_at_all() -> None:
    with pytest.raises(ModelError):
        TicketSelector(_small_vit(), (), ())


def _gated() -> nn.Module:
    from timm.layers import Attention

    class Gated(Attention):
        pass

    vit = _small_vit(depth=2)
    vit.blocks[1].attn = Gated(32, num_heads=2)
    return vit


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"class_token": False, "global_pool": "avg"}, "no CLS token"),
        ({"class_token": False, "global_pool": "avg", "reg_tokens": 4}, "no CLS token"),
        ({"block_fn": ResPostBlock, "init_values": 0.1}, "not a plain ViT"),
        ({"block_fn": ParallelScalingBlock}, "not a plain ViT"),
        ({"img_size": (96, 64)}, "no fixed square image size"),
        ({"dynamic_img_size": True}, "no fixed square image size"),
        ({"pos_embed": "none"}, "no absolute position embeddings"),
    ],
)
def test_vits_that_cannot_be_taken_apart(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelError, match=f"the-name .*{why}"):
        check_plain_vit(_small_vit(**options), "the-name")


def test_other_modules_in_a_vits_place() -> None:
    with pytest.raises(ModelError, match="not a plain ViT"):
        check_plain_vit(_gated(), "the-name")
    with pytest.raises(ModelError, match="not a plain ViT"):
        check_plain_vit(nn.Linear(2, 2), "the-name")
    hybrid = _small_vit()
    hybrid.patch_embed = HybridEmbed(_Backbone(), img_size=96, embed_dim=32)
    with pytest.raises(ModelError, match="does not embed separate patches"):
        check_plain_vit(hybrid, "the-name")


def test_channels_that_images_do_not_have() -> None:
    with pytest.raises(ModelError, match="takes 4 channels"):
        geometry_of(_small_vit(in_chans=4), "the-name")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vit_wee_patch16_reg1_gap_256", "no CLS token"),
        ("swin_tiny_patch4_window7_224", "not a plain ViT"),
        ("resnet18", "not a plain ViT"),
    ],
)
def test_models_refused_by_name(name: str, why: str) -> None:
    with pytest.raises(ModelError, match=f"{name} .*{why}.*try deit_s"):
        create_vit(name)


@pytest.mark.parametrize("name", ["deit_q", "", "vit", "DEIT_S"])
def test_unknown_names(name: str) -> None:
    aliases = ", ".join(ALIASES)
    with pytest.raises(ModelError, match=rf"neither an alias \({aliases}\) nor a timm model"):
        create_vit(name)


def test_a_near_name_is_offered() -> None:
    with pytest.raises(ModelError, match="did you mean vit_small_patch16_"):
        create_vit("vit_small_patch16")


def test_names_of_aliases() -> None:
    assert entry_of("deit_s").timm_name == "deit_small_patch16_224"
    assert canonical_name("deit_s") == canonical_name("deit_small_patch16_224") == "deit_small_patch16_224"
    assert canonical_name("vit_fashion") == "vit_fashion"
    geometry = geometry_of(create_vit("vit_fashion"), "vit_fashion")
    assert (geometry.grid, geometry.patch_px, geometry.image_px, geometry.mode) == ((7, 7), 4, 28, "L")


def test_drop_blocks_are_those_asked_for_else_the_models_else_by_depth() -> None:
    asked = CascadeOptions(drop_blocks=(2, 4))
    assert drop_blocks_of(asked, 12, (1, 3, 5)) == (2, 4)
    assert drop_blocks_of(CascadeOptions(), 12, (1, 3, 5)) == (1, 3, 5)
    assert drop_blocks_of(CascadeOptions(), 12) == (3, 6, 9)
    assert drop_blocks_of(CascadeOptions(drop_blocks=()), 12) == ()  # for the selector to refuse
