"""Mixing of baked patches: that of whole images where all are at hand, and what docs/method.md says where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dataltt.stages.grid import Box
from dataltt.stages.training.mixing import Mix, mix_batch
from dataltt.stages.training.patch_mixing import mix_patches
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

GRID, P, PX = (3, 4), 12, 2
_BOXES = st.builds(
    lambda top, h, left, w: Box(top, top + h, left, left + w), *(st.integers(0, n) for n in (2, 1, 2, 2))
)
_MIXES = st.one_of(
    st.just(Mix()), st.floats(0, 1, width=32).map(lambda lam: Mix(lam=lam)), _BOXES.map(lambda b: Mix(box=b))
)


def _batch(seed: int, size: int, num_baked: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, the patches that are at hand, their positions, and the scores of all, -inf where there is none."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.standard_normal((size, 3, GRID[0] * PX, GRID[1] * PX), dtype=np.float32))
    scores = torch.from_numpy(np.stack([rng.permutation(P) for _ in range(size)]).astype(np.float32))
    positions = scores.argsort(dim=1, descending=True)[:, :num_baked].sort(dim=1).values
    known = torch.full_like(scores, -torch.inf).scatter(1, positions, scores.gather(1, positions))
    return images, _at(images, positions), positions, known


def _at(images: Tensor, positions: Tensor) -> Tensor:
    tiles = images.unflatten(2, (GRID[0], PX)).unflatten(4, (GRID[1], PX)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    return tiles[torch.arange(len(images))[:, None], positions]


@given(seed=st.integers(0, 99), size=st.integers(1, 5), num_keep=st.integers(1, P), mix=_MIXES)
def test_with_all_patches_it_is_the_mixing_of_images(seed: int, size: int, num_keep: int, mix: Mix) -> None:
    images, patches, positions, scores = _batch(seed, size, P)
    whole = mix_batch(images, scores, mix, grid=GRID, num_keep=num_keep)
    found = mix_patches(patches, positions, scores, mix, grid=GRID, num_keep=num_keep)
    assert whole.keep_indices is not None
    assert found.keep_indices is not None
    assert torch.equal(found.keep_indices, whole.keep_indices)
    assert torch.equal(found.images, _at(whole.images, whole.keep_indices))
    torch.testing.assert_close(found.weights, whole.weights, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 99), size=st.integers(1, 5), num_baked=st.integers(1, P), box=_BOXES, data=st.data())
def test_cutmix_takes_what_is_there(seed: int, size: int, num_baked: int, box: Box, data: st.DataObject) -> None:
    num_keep = data.draw(st.integers(1, num_baked))
    images, patches, positions, scores = _batch(seed, size, num_baked)
    found = mix_patches(patches, positions, scores, Mix(box=box), grid=GRID, num_keep=num_keep)
    assert found.keep_indices is not None
    for i in range(size):
        own, other = (set(positions[j].tolist()) for j in (i, size - 1 - i))
        inside = {y * GRID[1] + x for y in range(box.top, box.bottom) for x in range(box.left, box.right)}
        as_said = (own - inside) | (other & inside)
        kept = found.keep_indices[i].tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == num_keep
        assert set(kept) <= own | other
        # First what is as the box says; others only where these do not suffice.
        assert set(kept) <= as_said or as_said <= set(kept)
        num_own = 0
        for slot, p in enumerate(kept):
            from_other = p in other and (p in inside or p not in own)
            source = size - 1 - i if from_other else i
            assert torch.equal(found.images[i, slot], _at(images[source : source + 1], torch.tensor([[p]]))[0, 0])
            num_own += not from_other
        assert float(found.weights[i]) == pytest.approx(num_own / num_keep)


def test_mixup_counts_what_is_not_there_as_the_mean_colour() -> None:
    patches = torch.tensor([[1.0, 2.0], [10.0, 20.0]])[:, :, None, None, None]
    positions = torch.tensor([[0, 1], [1, 2]])
    scores = torch.full((2, P), -torch.inf)
    scores[0, :2], scores[1, 1:3] = torch.tensor([11.0, 10.0]), torch.tensor([11.0, 10.0])
    mixed = mix_patches(patches, positions, scores, Mix(lam=0.75), grid=GRID, num_keep=2)
    # The first: 0 has .75 · 11, 1 has .75 · 10 + .25 · 11, 2 has .25 · 10. The second: 8.25 · …
    assert mixed.keep_indices is not None
    assert mixed.keep_indices.tolist() == [[0, 1], [1, 2]]
    assert mixed.images.flatten(1).tolist() == [[0.75, 0.75 * 2 + 0.25 * 10], [0.75 * 10 + 0.25 * 2, 0.75 * 20]]
    assert mixed.weights.tolist() == pytest.approx([1.5 / 1.75, 1.5 / 1.75])
