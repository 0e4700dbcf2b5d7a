"""Intervals hold the truth as often as they say, and agree with theory and with scipy's own."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from deeprec.metric import interval
from deeprec.metric.interval import bootstrap_intervals

VALUES = np.random.default_rng(5).beta(2, 5, 400)
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def of(values: np.ndarray, **settings: object) -> list[float]:
    """Mean, low and high of one metric."""
    return bootstrap_intervals(values[:, None].astype(float), **settings)[:, 0].tolist()  # type: ignore[arg-type]


# --- how often the truth is inside ---


def some_score(share: float) -> Draw:
    """Ndcg of a share of the users is beta distributed, of the others 0."""
    return lambda draw, size: np.where(draw.random(size) < share, draw.beta(0.8, 3, size), 0)


def hit(share: float) -> Draw:
    return lambda draw, size: (draw.random(size) < share).astype(float)


def revenue(draw: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    return np.where(draw.random(size) < 0.3, draw.lognormal(0, 1, size), 0)


def difference(draw: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    both = draw.beta(0.8, 3, size) - draw.beta(0.8, 3.3, size)
    return np.where(draw.random(size) < 0.4, both, 0)


BETA = 0.8 / 3.8
# how a metric is drawn, its true mean, and per number of users the least and most % of 4,000
# simulated holdouts whose 95 % interval may hold it; chance moves these by .35
COVERAGE = {
    "ndcg, 70 % score 0": (some_score(0.3), 0.3 * BETA, {30: (92, 95), 100: (94, 96)}),
    "ndcg, 90 % score 0": (some_score(0.1), 0.1 * BETA, {30: (82, 95), 100: (92, 95)}),
    "hit of 3 in 10": (hit(0.3), 0.3, {30: (94, 99), 100: (94, 98)}),
    "hit of 1 in 20": (hit(0.05), 0.05, {30: (75, 95), 100: (94, 99), 1000: (94, 97)}),
    "revenue": (revenue, 0.3 * np.exp(0.5), {30: (88, 95), 100: (90, 95), 1000: (93, 96)}),
    "difference": (difference, 0.4 * (BETA - 0.8 / 4.1), {30: (91.5, 95), 100: (93.5, 96)}),
}


@pytest.mark.parametrize("name", COVERAGE)
def test_the_truth_is_inside_as_often_as_stated(name: str) -> None:
    drawn, truth, bounds = COVERAGE[name]
    for users, (least, most) in ({1000: (94, 96)} | bounds).items():
        values = drawn(np.random.default_rng([users, 1]), (users, 4000))  # a column a holdout
        _, low, high = bootstrap_intervals(values, symmetric=name == "difference")
        inside = 100 * ((low <= truth) & (truth <= high)).mean()
        assert least < inside < most, f"{users} users"


def test_it_misses_on_both_sides_alike_where_the_percentile_interval_does_not() -> None:
    drawn, truth, _ = COVERAGE["ndcg, 90 % score 0"]
    values = drawn(np.random.default_rng(2), (1000, 4000))
    _, low, high = bootstrap_intervals(values)
    _, plain_low, plain_high = bootstrap_intervals(values, symmetric=True)
    assert 0.6 < (truth < low).mean() / (truth > high).mean() < 1.7
    assert (truth < plain_low).mean() / (truth > plain_high).mean() < 0.6


# --- what it is ---


def test_of_many_users_it_is_that_of_the_normal_theory() -> None:
    mean, low, high = of(VALUES, samples=4000)
    half = 1.96 * VALUES.std() / np.sqrt(len(VALUES))
    assert mean == pytest.approx(VALUES.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=half / 10)


@pytest.mark.parametrize("users", [12, 40])
def test_it_is_scipys_bca_at_the_level_that_students_t_asks_for(users: int) -> None:
    values = np.where(np.arange(users) % 3 == 0, VALUES[:users], 0)
    half = stats.t.ppf(0.975, users - 1) * np.sqrt(users / (users - 1))
    truth = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        method="BCa",
        confidence_level=2 * stats.norm.cdf(half) - 1,
        rng=1,
    ).confidence_interval
    percentile = of(values, samples=20_000, symmetric=True)
    _, low, high = of(values, samples=20_000)
    width = truth.high - truth.low
    assert (low, high) == pytest.approx((truth.low, truth.high), abs=width / 40)
    assert min(low - percentile[1], high - percentile[2]) > width / 30  # and not by being lax


def test_the_draws_are_those_of_plain_resampling() -> None:
    few, draw = VALUES[:7], np.random.default_rng(11)
    means = [few[draw.integers(7, size=7)].mean() for _ in range(40)]
    beyond = stats.norm.cdf(stats.t.ppf(0.025, 6) * np.sqrt(7 / 6))
    _, low, high = of(few, samples=40, seed=11, symmetric=True)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [beyond, 1 - beyond])))


def test_the_same_seed_gives_the_same_interval_whatever_is_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = of(VALUES, seed=7)
    monkeypatch.setattr(interval, "BLOCK_DRAWS", 10)
    # a matrix product of another shape may round its last bit otherwise
    assert of(VALUES, seed=7) == pytest.approx(whole, rel=1e-12)
    assert of(VALUES, seed=8)[1:] != pytest.approx(whole[1:], rel=1e-6)


def test_many_at_once_are_each_alone() -> None:
    columns = np.stack([VALUES, VALUES[::-1], VALUES > 0.3], 1).astype(np.float64)
    together = bootstrap_intervals(columns, samples=200, seed=3)
    for column, of_column in zip(columns.T, together.T, strict=True):
        assert of_column.tolist() == pytest.approx(of(column, samples=200, seed=3), rel=1e-12)


@pytest.mark.parametrize(
    "values", [[0.3], [0.1] * 9, [1e-200, 0.0], [5e-324, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
def test_an_interval_stays_within_what_users_score(values: list[float]) -> None:
    mean, low, high = of(np.array(values))
    assert low <= mean <= high
    assert min(values) - 1e-15 <= low
    assert high <= max(values) + 1e-15


def test_no_users_have_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one user"):
        of(np.array([]))


def test_a_metric_has_the_same_interval_whatever_stands_beside_it_and_however_it_lies() -> None:
    """A product of matrices adds in an order that depends on both, but sums here are exact."""
    values = np.random.default_rng(3).random((60, 12)) * 10.0 ** np.arange(-6, 6)
    alone = [bootstrap_intervals(values[:, [metric]])[:, 0] for metric in range(12)]
    for other in (values, np.asfortranarray(values), values[:, ::-1][:, ::-1]):
        assert np.array_equal(bootstrap_intervals(other), np.transpose(alone))
