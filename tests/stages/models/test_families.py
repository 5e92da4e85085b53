"""Students of every family: LV-ViT against hand-derived numbers and loops, Swin's packing against NumPy, zeroing."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from dataltt.artifacts_schema import CheckpointError, ModelError, OptionError
from dataltt.stages.grid import Box
from dataltt.stages.models.cascade import keep_counts
from dataltt.stages.models.cost import count_gmacs, student_gmacs
from dataltt.stages.models.families import FAMILIES, create_student, family_of
from dataltt.stages.models.lvvit import LVViT
from dataltt.stages.models.lvvit_student import LVViTStudent
from dataltt.stages.models.pruned_vit import TokenPrunedViT
from dataltt.stages.models.registry import create_vit
from dataltt.stages.models.selector import TicketSelector
from dataltt.stages.models.student import TokenLogits
from dataltt.stages.models.swin import check_square, pack_patches
from dataltt.stages.models.weights import load_initial_weights, load_weights
from dataltt.stages.models.zeroed import zero_patches
from dataltt.stages.options import CascadeOptions
from dataltt.stages.training.mixing import Mix, Mixed, mix_batch
from dataltt.stages.training.token_loss import TokenTargets, both_losses, image_targets, shown_targets, token_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ...helpers import randomize


def _small_lvvit(**changes: object) -> LVViT:
    """32 px, patches of 8: a 4×4 grid."""
    kwargs = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
    net = LVViT(skip_lam=2.0, **{**kwargs, **changes})
    randomize(net)
    return net


def _images(count: int = 3, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def _keep(count: int, num_keep: int, num_patches: int = 16) -> Tensor:
    scores = torch.rand(count, num_patches, generator=torch.Generator().manual_seed(2))
    return scores.argsort(1)[:, :num_keep].sort(1).values


# --- LV-ViT ---


def _lvvit_parameters(dim: int, depth: int) -> int:
    """Counted by hand from the published description: no bias in qkv, mlp ratio 3, two heads of 1000 classes."""
    norm = 2 * dim
    attention = 3 * dim * dim + dim * dim + dim
    mlp = dim * 3 * dim + 3 * dim + 3 * dim * dim + dim
    stem = 3 * 64 * 7 * 7 + 2 * 64 * 64 * 3 * 3 + 3 * 2 * 64 + 64 * dim * 8 * 8 + dim
    tokens = dim + 197 * dim
    heads = 2 * (1000 * dim + 1000)
    return depth * (2 * norm + attention + mlp) + stem + tokens + norm + heads


@pytest.mark.parametrize(
    ("name", "dim", "depth", "heads", "skip_lam", "millions"),
    [("lvvit_t", 240, 12, 4, 1.0, 8.5), ("lvvit_s", 384, 16, 6, 2.0, 26.2)],
)
def test_lvvit_has_the_published_sizes(
    name: str, dim: int, depth: int, heads: int, skip_lam: float, millions: float
) -> None:
    net = cast(LVViT, create_vit(name))
    count = sum(p.numel() for p in net.parameters())
    assert count == _lvvit_parameters(dim, depth)
    assert count / 1e6 == pytest.approx(millions, abs=0.1)
    assert len(net.blocks) == depth
    assert {block.attn.num_heads for block in net.blocks} == {heads}
    assert all(getattr(block.ls1, "skip_lam", 1.0) == skip_lam for block in net.blocks)


def test_lvvit_shapes_follow_the_stem() -> None:
    net = _small_lvvit()
    images = _images()
    assert net.patch_embed.features(images).shape == (3, 64, 16, 16)
    assert net.patch_embed(images).shape == (3, 16, 24)
    student = LVViTStudent(net, "lvvit_t").train()
    output = student(images, _keep(3, 7))
    assert isinstance(output, TokenLogits)
    assert output.image.shape == (3, 5)
    assert output.tokens.shape == (3, 7, 5)
    assert student.eval()(images, _keep(3, 7)).shape == (3, 5)


def test_lvvit_takes_weights_under_the_published_names() -> None:
    """The names of TokenLabeling's release, written out by hand."""
    dim, depth = 24, 4
    stem = [f"patch_embed.{n}.weight" for n in ("conv1", "conv2", "conv3", "proj")] + ["patch_embed.proj.bias"]
    norms = [
        f"patch_embed.bn{i}.{n}"
        for i in (1, 2, 3)
        for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    block = ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias"]
    block += ["norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"]
    names = {"cls_token", "pos_embed", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    names |= {"aux_head.weight", "aux_head.bias", *stem, *norms}
    names |= {f"blocks.{i}.{n}" for i in range(depth) for n in block}
    net = _small_lvvit(embed_dim=dim, depth=depth)
    assert set(net.state_dict()) == names
    other = LVViT(img_size=32, patch_size=8, embed_dim=dim, depth=depth, num_heads=2, num_classes=5, skip_lam=2.0)
    load_weights(other, net.state_dict(), "here", "lvvit_t")
    assert torch.equal(other.eval()(_images()), net.eval()(_images()))


def test_lvvit_residuals_are_divided() -> None:
    net = _small_lvvit().eval()
    block = net.blocks[0]
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(3))
    half = x + block.attn(block.norm1(x)) / 2
    torch.testing.assert_close(block(x), half + block.mlp(block.norm2(half)) / 2)


def test_lvvit_on_all_patches_is_its_own_forward() -> None:
    net = _small_lvvit().eval()
    student, images = LVViTStudent(net, "lvvit_t").eval(), _images()
    torch.testing.assert_close(student(images), net(images), atol=1e-5, rtol=0)
    every = torch.randperm(16, generator=torch.Generator().manual_seed(4)).expand(3, -1)
    torch.testing.assert_close(student(images, every), net(images), atol=1e-5, rtol=0)


def test_lvvit_tests_with_half_of_the_best_token() -> None:
    net = _small_lvvit().eval()
    normed = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(5))
    expected = net.head(normed[:, 0]) + 0.5 * net.aux_head(normed[:, 1:]).max(dim=1).values
    torch.testing.assert_close(net.forward_head(normed), expected)


def test_mixed_tokens_are_those_of_the_other_image() -> None:
    """MixToken against tokens that are embedded whole and exchanged one by one."""
    net = _small_lvvit().eval()
    student, images, box = LVViTStudent(net, "lvvit_t"), _images(), Box(1, 3, 0, 2)
    tokens = net.patch_embed(images)
    mixed = tokens.clone()
    for image in range(3):
        for row in range(1, 3):
            for column in range(2):
                mixed[image, 4 * row + column] = tokens[2 - image, 4 * row + column]
    positions = net.pos_embed[:, 1:]
    torch.testing.assert_close(student._tokens(images, None, box), mixed + positions, atol=1e-5, rtol=0)
    keep = _keep(3, 6)
    expected = torch.stack([(mixed + positions)[i, keep[i]] for i in range(3)])
    torch.testing.assert_close(student._tokens(images, keep, box), expected, atol=1e-5, rtol=0)


def test_lvvit_selects_and_can_be_its_own_selector() -> None:
    net = create_vit("lvvit_s", img_size=32, embed_dim=48, num_classes=5)
    randomize(net)
    counts = keep_counts(4, CascadeOptions(ratio=0.5))
    order = TicketSelector(net, (4, 8, 12), counts)(_images())
    assert order.sort(1).values.tolist() == [list(range(4))] * 3
    student = LVViTStudent(cast(LVViT, net), "lvvit_s").train()
    net.requires_grad_(True)
    assert torch.equal(student.order_patches(_images(), 2)[:, :2], order[:, :2])
    assert student.training
    assert all(p.requires_grad for p in net.parameters())


# --- token labels ---


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    num_keep=st.integers(1, 12),
    box=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 2), st.integers(1, 2)),
)
def test_token_labels_follow_mix_and_ticket(
    seed: int, batch: int, num_keep: int, box: tuple[int, int, int, int] | None
) -> None:
    """Against loops: each kept token's label is that of the image which its position shows."""
    grid, generator = (3, 4), torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 7, (batch, 12, 2), generator=generator)
    scores = torch.rand(batch, 12, 2, generator=generator) + 0.01
    mix = Mix() if box is None else Mix(box=Box(box[0], min(3, box[0] + box[2]), box[1], min(4, box[1] + box[3])))
    images = torch.zeros(batch, 3, 12, 16)
    mixed = mix_batch(
        images, torch.rand(batch, 12, generator=generator), mix, grid=grid, num_keep=num_keep, on_tokens=True
    )
    found = shown_targets(TokenTargets(ids, scores), mixed, grid)
    assert mixed.keep_indices is not None
    for i in range(batch):
        shown_own = 0
        for k, position in enumerate(mixed.keep_indices[i].tolist()):
            row, column = divmod(position, 4)
            b = mix.box
            other = b is not None and b.top <= row < b.bottom and b.left <= column < b.right
            shown_own += not other
            source = batch - 1 - i if other else i
            assert found.ids[i, k].tolist() == ids[source, position].tolist()
            torch.testing.assert_close(found.scores[i, k], scores[source, position] / scores[source, position].sum())
        assert float(mixed.weights[i]) == pytest.approx(shown_own / num_keep)
        assert 0 <= float(mixed.weights[i]) <= 1


def test_token_loss_is_cross_entropy_with_dense_labels() -> None:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(2, 3, 5, generator=generator)
    ids = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(6)]).view(2, 3, 2)
    scores = torch.tensor([0.75, 0.25]).expand(2, 3, 2)
    dense = torch.zeros(2, 3, 5).scatter_(2, ids, scores)
    for smoothing in (0.0, 0.1):
        target = (1 - smoothing) * dense + smoothing / 5
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1))
        torch.testing.assert_close(token_loss(logits, TokenTargets(ids, scores), smoothing), expected)


def test_both_losses_weigh_tokens_by_half() -> None:
    generator = torch.Generator().manual_seed(7)
    logits = TokenLogits(torch.randn(2, 5, generator=generator), torch.randn(2, 3, 5, generator=generator))
    labels = torch.tensor([4, 1])
    mixed = Mixed(images=torch.zeros(2, 3, 4, 4), keep_indices=None, weights=torch.ones(2))
    targets = shown_targets(image_targets(labels, 3), mixed, (1, 3))
    image = torch.nn.functional.cross_entropy(logits.image, labels)
    tokens = torch.nn.functional.cross_entropy(logits.tokens.flatten(0, 1), labels.repeat_interleave(3))
    torch.testing.assert_close(both_losses(logits, mixed.targets(labels, 5), targets), image + 0.5 * tokens)


# --- Swin and ResNet ---


def _packed_by_numpy(image: npt.NDArray[np.float32], keep: list[int], width: int, p: int) -> npt.NDArray[np.float32]:
    side = math.isqrt(len(keep))
    packed = np.empty((image.shape[0], side * p, side * p), np.float32)
    for i, patch in enumerate(sorted(keep)):
        (to_y, to_x), (y, x) = divmod(i, side), divmod(patch, width)
        packed[:, to_y * p : (to_y + 1) * p, to_x * p : (to_x + 1) * p] = image[
            :, y * p : (y + 1) * p, x * p : (x + 1) * p
        ]
    return packed


@settings(max_examples=30, deadline=None)
@given(
    side=st.integers(1, 3), height=st.integers(3, 5), width=st.integers(3, 5), p=st.integers(1, 4), seed=st.integers()
)
def test_packing_against_numpy(side: int, height: int, width: int, p: int, seed: int) -> None:
    rng = np.random.default_rng(abs(seed))
    images = rng.random((2, 3, height * p, width * p), dtype=np.float32)
    keep = [rng.permutation(height * width)[: side * side].tolist() for _ in range(2)]
    found = pack_patches(torch.from_numpy(images), torch.tensor(keep), (height, width))
    expected = np.stack([_packed_by_numpy(i, k, width, p) for i, k in zip(images, keep, strict=True)])
    assert np.array_equal(found.numpy(), expected)


def test_zeroing_leaves_the_kept_patches_alone() -> None:
    images, keep = _images(), _keep(3, 5)
    found = zero_patches(images, keep, (4, 4))
    for i in range(3):
        for patch in range(16):
            y, x = divmod(patch, 4)
            part = (i, slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
            expected = images[part] if patch in keep[i].tolist() else torch.zeros(3, 8, 8)
            assert torch.equal(found[part], expected)


@pytest.mark.parametrize(("num_keep", "px", "window"), [(196, 224, 7), (144, 192, 6), (100, 160, 5), (81, 144, 5)])
def test_small_dense_swin_is_a_swin_of_packed_images(num_keep: int, px: int, window: int) -> None:
    student = create_student(
        "swin_t", num_keep=num_keep, patch_input="small-dense", num_classes=4, embed_dim=24, depths=(1, 1, 1, 1)
    ).eval()
    assert student.net.patch_embed.img_size == (px, px)  # type: ignore[union-attr]
    assert student.net.layers[0].blocks[0].window_size == (window, window)  # type: ignore[index, union-attr]
    images, keep = _images(1, 224), _keep(1, num_keep, 196)
    packed = pack_patches(images, keep, (14, 14))
    assert torch.equal(student(images, keep), student.net(packed))
    if num_keep == 196:
        assert torch.equal(student(images, keep), student(images))
    else:
        with pytest.raises(ModelError, match=f"built for {num_keep} packed patches, not 196"):
            student(images)


def test_no_square_names_the_nearest_squares_and_their_ratios() -> None:
    with pytest.raises(OptionError, match=r"98 is no square; select 81 \(`ratio=0\.41`\) or 100 \(`ratio=0\.51`\)"):
        check_square(98, 196)
    for num_keep in range(1, 197):
        if math.isqrt(num_keep) ** 2 == num_keep:
            assert check_square(num_keep, 196) == math.isqrt(num_keep)
            continue
        with pytest.raises(OptionError) as caught:
            check_square(num_keep, 196)
        words = str(caught.value).split("select ")[1].split(",")[0].split(" or ")
        for word in words:
            near, ratio = int(word.split()[0]), float(word.split("=")[1].rstrip("`)"))
            assert keep_counts(196, CascadeOptions(ratio=ratio))[-1] == near
            assert math.isqrt(near) in (math.isqrt(num_keep), math.isqrt(num_keep) + 1)


@pytest.mark.parametrize("name", ["swin_t", "resnet50"])
def test_zeroed_students_save_nothing(name: str) -> None:
    small = {"embed_dim": 24, "depths": (1, 1, 1, 1)} if name == "swin_t" else {"layers": (1, 1, 1, 1)}
    student = create_student(name, num_keep=98, num_classes=4, **small).eval()
    assert not student.saves_compute
    assert student_gmacs(student, 98) == student_gmacs(student, None)
    images, keep = _images(1, 224), _keep(1, 98, 196)
    assert torch.equal(student(images, keep), student.net(zero_patches(images, keep, (14, 14))))
    assert torch.equal(student(images), student.net(images))
    with pytest.raises(ModelError, match="no CLS token"):
        student.order_patches(images, 98)


# --- the registry ---


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("deit_t", "ViT"),
        ("vit_fashion", "ViT"),
        ("vit_small_patch16_224", "ViT"),
        ("deit_b_576", "ViT"),
        ("lvvit_s", "LV-ViT"),
        ("swin_b", "Swin"),
        ("swin_tiny_patch4_window7_224", "Swin"),
        ("resnet50", "ResNet"),
        ("resnet18", "ResNet"),
    ],
)
def test_every_name_has_its_family(name: str, family: str) -> None:
    assert family_of(name).name == family


def test_epochs_are_the_families() -> None:
    assert {f.name: f.epochs for f in FAMILIES} == {"ViT": 300, "LV-ViT": 300, "Swin": 300, "ResNet": 90}


def test_what_is_of_no_family_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"`model='convnext_tiny'`: tickets reach ViT, LV-ViT, Swin, ResNet models.*try deit_s"
    ):
        family_of("convnext_tiny")
    with pytest.raises(ModelError, match="neither an alias"):
        family_of("deit_huge")


def test_inputs_belong_to_families() -> None:
    with pytest.raises(OptionError, match="`swin_input='zero'`: deit_t computes on kept patches alone"):
        create_student("deit_t", num_keep=98, patch_input="zero")
    with pytest.raises(
        OptionError,
        match="resnet50 is given zeroed patches in any case; it is for Swin",
    ):
        create_student("resnet50", num_keep=100, patch_input="small-dense")


def test_the_576_wide_deit_b() -> None:
    net = create_vit("deit_b_576")
    assert (net.embed_dim, len(net.blocks), net.blocks[0].attn.num_heads) == (576, 12, 9)


def test_initial_weights_leave_a_head_of_other_classes_alone() -> None:
    source, target = _small_lvvit(num_classes=5), _small_lvvit(num_classes=3)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    randomize(source, seed=9)
    fresh = load_initial_weights(target, source.state_dict(), "here", "lvvit_t")
    assert fresh == ["aux_head.bias", "aux_head.weight", "head.bias", "head.weight"]
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name] if name in fresh else source.state_dict()[name])
    del source.norm
    with pytest.raises(CheckpointError, match=r"missing \(first: norm\.bias\)"):
        load_initial_weights(target, source.state_dict(), "here", "lvvit_t")


# --- cost ---


def test_gmacs_of_the_method_are_reproduced() -> None:
    """METHOD's figures embed all patches first; what is spared by gathering pixels is added back to compare."""
    student = cast(TokenPrunedViT, create_student("deit_s", num_keep=101))
    dense = student_gmacs(student, None)
    assert dense == pytest.approx(4.60, rel=0.01)
    embedding = 16 * 16 * 3 * 384 / 1e9
    for num_keep, share in ((170, 0.861), (144, 0.724), (121, 0.606), (101, 0.504), (84, 0.420)):
        found = student_gmacs(student, num_keep)
        assert (found + (196 - num_keep) * embedding) / dense == pytest.approx(share, rel=0.01)
        assert found / dense < share


def test_gmacs_of_a_layer_by_hand() -> None:
    layer = torch.nn.Linear(30, 70)
    assert count_gmacs(lambda: layer(torch.zeros(5, 30))) == pytest.approx(5 * 30 * 70 / 1e9)
    q = torch.zeros(2, 3, 7, 11)
    attention = count_gmacs(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert attention == pytest.approx(2 * (2 * 3 * 7 * 7 * 11) / 1e9)
