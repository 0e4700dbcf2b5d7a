"""How far a figure moves from seed to seed, which no number of users tells.

An interval over users says how another holdout of such users might differ; this one says how
another training run of the same config might.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds of one config.

    Args:
        mean: over seeds, of the mean over users.
        deviation: standard deviation between seeds; None with one seed, which tells nothing of it.
        low, high: 95 % interval of what a seed gives on average, by Student's t; None likewise.
    """

    seeds: int
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


def spread(means: Sequence[float]) -> Spread:
    """Of the mean over users that each seed gave.

    Example:
        >>> found = spread([0.30, 0.32, 0.31])
        >>> round(found.deviation, 3), round(found.low, 3), round(found.high, 3)
        (0.01, 0.285, 0.335)
    """
    mean = float(np.mean(means))
    if len(means) < 2:
        return Spread(len(means), mean)
    deviation = float(np.std(means, ddof=1))
    half = stats.t.ppf((1 + LEVEL) / 2, len(means) - 1) * deviation / np.sqrt(len(means))
    return Spread(len(means), mean, deviation, float(mean - half), float(mean + half))


def apart(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float, float]:
    """Whether two configs differ by more than their seeds do.

    Args:
        first, second: the mean over users that each seed gave, two seeds or more of each.

    Returns:
        (mean difference, low, high, p), by Welch's t test.

    Example:
        >>> difference, low, high, p = apart([0.30, 0.32, 0.31], [0.20, 0.21, 0.22])
        >>> round(difference, 3), p < 0.01
        (0.1, True)
    """
    found = stats.ttest_ind(first, second, equal_var=False)
    interval = found.confidence_interval(LEVEL)
    difference = float(np.mean(first) - np.mean(second))
    return difference, float(interval.low), float(interval.high), float(found.pvalue)
