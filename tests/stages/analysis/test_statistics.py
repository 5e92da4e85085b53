"""The overlap of tickets that chance gives."""

from __future__ import annotations

import itertools

import pytest
from dataltt.stages.analysis.statistics import chance_iou


@pytest.mark.parametrize(("num_keep", "num_patches"), [(1, 1), (1, 5), (3, 5), (4, 8), (7, 8), (8, 8)])
def test_chance_is_the_mean_over_all_pairs(num_keep: int, num_patches: int) -> None:
    subsets = [frozenset(c) for c in itertools.combinations(range(num_patches), num_keep)]
    ious = [len(subsets[0] & other) / len(subsets[0] | other) for other in subsets]
    assert chance_iou(num_keep, num_patches) == pytest.approx(sum(ious) / len(ious), abs=1e-9)


def test_chance_of_half_of_deits_patches() -> None:
    assert chance_iou(98, 196) == pytest.approx(0.33409437, abs=1e-8)
    assert 0 < chance_iou(32_768, 65_536) < 0.34
