"""Counts of adaptive tickets: against their definition, view by view, in floats."""

from __future__ import annotations

import numpy as np
import pytest
from dataltt.artifacts_schema.adaptive import (
    STEPS,
    Adaptive,
    ThresholdFinder,
    counts_of,
    least_and_most,
    mask_of,
    shares_of,
)
from hypothesis import given
from hypothesis import strategies as st


def _weights(num_views: int, num_patches: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).random((num_views, num_patches)) ** 4
    return -np.sort(-drawn, axis=1)


@pytest.mark.parametrize(
    ("num_patches", "budget", "expected"),
    [(196, 0.5, (49, 147)), (49, 0.5, (13, 37)), (49, 0.8, (20, 49)), (4, 0.01, (1, 2)), (1, 1, (1, 1))],
)
def test_a_view_keeps_half_the_budget_to_half_as_much_again(
    num_patches: int, budget: float, expected: tuple[int, int]
) -> None:
    assert least_and_most(num_patches, budget) == expected


@given(st.integers(0, 2**16), st.sampled_from([0.2, 0.5, 0.9]))
def test_counts_are_the_fewest_patches_that_hold_the_threshold(seed: int, budget: float) -> None:
    weights = _weights(40, 30, seed)
    least, most = least_and_most(30, budget)
    shares = shares_of(weights, least, most)
    finder = ThresholdFinder()
    for some in (shares[:7], shares[7:]):
        finder.add(some)
    adaptive = Adaptive(
        budget=budget, least_keep=least, threshold=finder.threshold(num_patches=30, budget=budget, least=least)
    )
    counts = counts_of(shares, adaptive)
    held = np.floor(weights.cumsum(axis=1) / weights.sum(axis=1, keepdims=True) * STEPS)
    for row, count in zip(held, counts.tolist(), strict=True):
        fewest = next((n for n in range(least, most) if row[n - 1] >= adaptive.steps), most)
        assert count == fewest
    # The highest such threshold: with the next one the mean would be above the budget.
    assert counts.mean() <= 30 * budget
    higher = Adaptive(budget=budget, least_keep=least, threshold=(adaptive.steps + 1) / STEPS)
    assert adaptive.steps == STEPS or counts_of(shares, higher).mean() > 30 * budget


def test_the_mean_comes_near_the_budget_and_any_order_of_views_gives_it() -> None:
    shares = shares_of(_weights(500, 49, 1), 13, 37)
    found = []
    for order in (np.arange(500), np.random.default_rng(2).permutation(500)):
        finder = ThresholdFinder()
        for part in np.array_split(shares[order], 3):
            finder.add(part)
        found.append(finder.threshold(num_patches=49, budget=0.5, least=13))
    assert found[0] == found[1]
    mean = counts_of(shares, Adaptive(budget=0.5, least_keep=13, threshold=found[0])).mean()
    assert 24.4 < mean <= 24.5


def test_views_without_any_weight_keep_as_many_as_even_weights_would() -> None:
    assert (shares_of(np.zeros((1, 10)), 2, 8) == shares_of(np.ones((1, 10)), 2, 8)).all()


def test_a_threshold_is_read_as_it_was_written() -> None:
    for steps in range(0, STEPS + 1, 17):
        assert Adaptive(budget=0.5, least_keep=1, threshold=steps / STEPS).steps == steps


def test_a_mask_has_the_lowest_ranks() -> None:
    mask = mask_of(np.array([[2, 0, 1], [0, 1, 2]], np.uint8), np.array([1, 3], np.uint16))
    assert mask.tolist() == [[False, True, False], [True, True, True]]
