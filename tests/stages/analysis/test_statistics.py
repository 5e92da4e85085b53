"""The overlap of tickets that chance gives, and what differences over seeds tell of claims."""

from __future__ import annotations

import itertools

import pytest
from dataltt.stages.analysis.statistics import Claim, Paired, Verdict, chance_iou, paired, verdict


@pytest.mark.parametrize(("num_keep", "num_patches"), [(1, 1), (1, 5), (3, 5), (4, 8), (7, 8), (8, 8)])
def test_chance_is_the_mean_over_all_pairs(num_keep: int, num_patches: int) -> None:
    subsets = [frozenset(c) for c in itertools.combinations(range(num_patches), num_keep)]
    ious = [len(subsets[0] & other) / len(subsets[0] | other) for other in subsets]
    assert chance_iou(num_keep, num_patches) == pytest.approx(sum(ious) / len(ious), abs=1e-9)


def test_chance_of_half_of_deits_patches() -> None:
    assert chance_iou(98, 196) == pytest.approx(0.33409437, abs=1e-8)
    assert 0 < chance_iou(32_768, 65_536) < 0.34


@pytest.mark.parametrize(
    ("low", "high", "claim", "expected"),
    [
        (0.1, 3.0, "above", "shown"),
        (-0.1, 3.0, "above", "not shown"),
        (-3.0, -0.1, "above", "contradicted"),
        (-2.0, 0.9, "no worse", "shown"),  # at most a point
        (0.2, 0.9, "no worse", "shown"),
        (0.2, 1.1, "no worse", "not shown"),
        (1.1, 3.0, "no worse", "contradicted"),
    ],
)
def test_a_claim_is_judged_by_the_whole_interval(low: float, high: float, claim: Claim, expected: Verdict) -> None:
    assert verdict(Paired(mean=(low + high) / 2, low=low, high=high, num_seeds=3), claim) == expected


def test_one_seed_shows_nothing() -> None:
    one = paired({0: 90.0}, {0: 10.0})
    assert [verdict(one, claim) for claim in ("above", "no worse")] == ["not shown", "not shown"]
