"""The bootstrap over images: against NumPy, and against SciPy's own."""

from __future__ import annotations

import numpy as np
import pytest
from dataltt.stages.analysis import bootstrap as bootstrap_module
from dataltt.stages.analysis.bootstrap import bootstrap_means, figure_of
from scipy.stats import bootstrap


def _values(num_images: int, num_columns: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(num_images, num_columns))


@pytest.mark.parametrize("num_images", [1, 2, 37])
@pytest.mark.parametrize("max_draws", [1, 100, 1 << 22])
def test_means_are_numpy_s_of_the_same_draws(monkeypatch: pytest.MonkeyPatch, num_images: int, max_draws: int) -> None:
    monkeypatch.setattr(bootstrap_module, "_MAX_DRAWS", max_draws)
    values = _values(num_images, 3)
    found = bootstrap_means(values, np.random.default_rng(0), 50)
    generator = np.random.default_rng(0)  # the same numbers, however many are drawn at a time
    drawn = generator.integers(num_images, size=(50, num_images))
    assert found == pytest.approx(values[drawn].mean(axis=1), abs=1e-12)


def test_an_interval_is_scipy_s_up_to_chance() -> None:
    a, b = _values(400, 2).T
    resampled = bootstrap_means(np.stack([a, b], axis=1), np.random.default_rng(0), 4000)
    found = figure_of(a - b, resampled[:, 0] - resampled[:, 1])
    theirs = bootstrap((a - b,), np.mean, n_resamples=4000, method="percentile").confidence_interval
    assert found.mean == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_columns_are_drawn_together() -> None:
    """What all images have in common has no spread, however much the images differ."""
    values = _values(30, 1)
    resampled = bootstrap_means(np.concatenate([values, values + 2], axis=1), np.random.default_rng(0))
    difference = figure_of(values[:, 0] + 2 - values[:, 0], resampled[:, 1] - resampled[:, 0])
    assert (difference.low, difference.mean, difference.high) == pytest.approx((2, 2, 2))
    assert f"{difference}" == "2.0 [2.0, 2.0]"
