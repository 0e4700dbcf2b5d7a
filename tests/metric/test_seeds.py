"""Spread between seeds and Welch's test, as scipy has them, and where no seed changes anything."""

import pytest
from scipy import stats

from deeprec.metric.seeds import Apart, apart, spread


@pytest.mark.parametrize("second", [[0.21, 0.2, 0.24], [0.3, 0.3]])  # the last: deterministic
def test_two_configs_are_told_apart_as_welch_does(second: list[float]) -> None:
    first = [0.31, 0.28, 0.3, 0.35]
    found = apart(first, second)
    variances = [stats.tstd(means) ** 2 if len(set(means)) > 1 else 0 for means in (first, second)]
    truth = stats.ttest_ind_from_stats(
        *(0.31, variances[0] ** 0.5, 4),
        *(sum(second) / len(second), variances[1] ** 0.5, len(second)),
        equal_var=False,
    )
    assert found.p == pytest.approx(truth.pvalue)
    assert found.mean == pytest.approx(0.31 - sum(second) / len(second))
    assert found.low is not None
    assert found.high is not None
    assert (found.low + found.high) / 2 == pytest.approx(found.mean)
    if len(second) == 3:
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_where_no_seed_changes_anything_there_is_no_spread_to_test_by() -> None:
    assert apart([0.1] * 3, [0.1] * 3) == Apart(0.0)
    assert apart([0.1 + 1e-16, 0.1], [0.7, 0.7]).p is None
    assert spread([0.1] * 3).deviation == 0
