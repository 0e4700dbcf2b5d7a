"""Intervals agree with theory and with scipy's own bootstrap."""

import numpy as np
import pytest
from scipy import stats

from deeprec.metric import interval
from deeprec.metric.interval import bootstrap_interval, bootstrap_intervals

VALUES = np.random.default_rng(5).beta(2, 5, 400)


def test_the_interval_is_that_of_the_normal_theory() -> None:
    mean, low, high = bootstrap_interval(VALUES, samples=4000)
    half = 1.96 * VALUES.std() / np.sqrt(len(VALUES))
    assert mean == pytest.approx(VALUES.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=half / 10)


def test_the_interval_is_that_of_scipy() -> None:
    truth = stats.bootstrap((VALUES,), np.mean, n_resamples=4000, method="percentile", rng=1)
    _, low, high = bootstrap_interval(VALUES, samples=4000)
    width = truth.confidence_interval.high - truth.confidence_interval.low
    assert (low, high) == pytest.approx(tuple(truth.confidence_interval), abs=width / 15)


def test_the_same_seed_gives_the_same_interval_whatever_is_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = bootstrap_interval(VALUES, seed=7)
    monkeypatch.setattr(interval, "BLOCK_DRAWS", 10)
    # a matrix product of another shape may round its last bit otherwise
    assert bootstrap_interval(VALUES, seed=7) == pytest.approx(whole, rel=1e-12)
    assert bootstrap_interval(VALUES, seed=8)[1:] != pytest.approx(whole[1:], rel=1e-6)


def test_many_at_once_are_each_alone() -> None:
    columns = np.stack([VALUES, VALUES[::-1], VALUES > 0.3], 1).astype(np.float64)
    together = bootstrap_intervals(columns, samples=200, seed=3)
    for column, of_column in zip(columns.T, together.T, strict=True):
        alone = bootstrap_interval(column, samples=200, seed=3)
        assert of_column.tolist() == pytest.approx(list(alone), rel=1e-12)


def test_the_draws_are_those_of_plain_resampling() -> None:
    few, draw = VALUES[:7], np.random.default_rng(11)
    means = [few[draw.integers(7, size=7)].mean() for _ in range(40)]
    _, low, high = bootstrap_interval(few, samples=40, seed=11)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_no_users_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        bootstrap_interval(np.array([]))
