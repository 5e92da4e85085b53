"""Images of a batch that keep different numbers of patches: each gets the logits that it gets alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from dataltt.artifacts_schema import ModelError
from dataltt.stages.models.families import create_student
from dataltt.stages.models.prune import PrunedViT, prune
from dataltt.stages.padding import NO_PATCH, PatchesShown, groups_of, padded
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ...helpers import randomize

_COUNTS = (3, 16, 7, 7, 1, 9, 12, 7, 5, 16, 2)


def _vit(**changes: Any) -> PrunedViT:
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    vit = timm.create_model("vit_tiny_patch16_224", **{**sizes, **changes})
    randomize(vit)
    return prune(vit.eval())


def _inputs() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(1)
    kept = [np.sort(rng.permutation(16)[:count]) for count in _COUNTS]
    return torch.randn(len(_COUNTS), 3, 16, 16, generator=torch.Generator().manual_seed(2)), padded(kept)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False, "num_classes": 3},
        {"global_pool": "avg", "pool_include_prefix": True},
        {"reg_tokens": 2, "no_embed_class": True},
    ],
    ids=["cls", "avg", "avg without cls", "avg with cls", "registers"],
)
@pytest.mark.parametrize("fused", [True, False])
def test_a_padded_batch_gives_each_image_the_logits_that_it_gets_alone(changes: dict[str, Any], fused: bool) -> None:
    vit = _vit(**changes)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    images, keep = _inputs()
    alone = [vit(images[i : i + 1], keep[i : i + 1, :count]) for i, count in enumerate(_COUNTS)]
    torch.testing.assert_close(vit(images, keep, _COUNTS), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_images_alone_with_and_without_checkpointing() -> None:
    images, keep = _inputs()
    found = []
    for way in ("alone", "padded", "checkpointed"):
        vit = _vit(global_pool="avg")
        vit.set_grad_checkpointing(way == "checkpointed")
        if way == "alone":
            logits = torch.cat([vit(images[i : i + 1], keep[i : i + 1, :n]) for i, n in enumerate(_COUNTS)])
        else:
            logits = vit(images, keep, _COUNTS)
        logits.square().sum().backward()
        found.append([p.grad for p in vit.parameters()])
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            assert ours is not None
            torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def test_a_student_takes_pixels_of_kept_patches_too() -> None:
    student = create_student("vit_fashion").eval()
    keep = padded([np.arange(n) for n in (5, 9)])
    patches = torch.randn(2, 9, 1, 4, 4)
    alone = [student(patches[i : i + 1, :n], keep[i : i + 1, :n]) for i, n in enumerate((5, 9))]
    torch.testing.assert_close(student(patches, keep, (5, 9)), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_vit_that_would_pool_over_padding_is_refused() -> None:
    images, keep = _inputs()
    with pytest.raises(ModelError, match="pools by its CLS token or by the mean"):
        _vit(global_pool="max")(images, keep, _COUNTS)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=100))
def test_groups_have_each_image_once_and_hold_the_largest(counts: list[int]) -> None:
    groups = groups_of(counts)
    assert sorted(i for group in groups for i in group.images) == list(range(len(counts)))
    for images, num_patches, is_even in groups:
        assert num_patches == max(counts[i] for i in images)
        assert is_even == (len({counts[i] for i in images}) == 1)
    assert len(groups) <= 8


def test_what_is_shown_is_summed_with_its_padding() -> None:
    shown = PatchesShown()
    shown.add([4, 2, 3])
    shown.add([1] * 8 + [6] * 8)
    assert (shown.num_images, shown.kept) == (19, 65)
    assert (shown.padded, shown.padded_squares) == (3 * 4 + 8 + 48, 3 * 16 + 8 + 8 * 36)
    assert padded([np.array([2]), np.array([0, 3])]).tolist() == [[2, NO_PATCH], [0, 3]]
