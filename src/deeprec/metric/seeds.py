"""How far a figure moves from seed to seed, which no number of users tells.

An interval over users says how another holdout of such users might differ; this one says how
another training run of the same config might.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
ROUNDING = 1e-12  # of a mean over users; figures lie in [0, 1]


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
    deviation = _deviation(means)
    half = _reach(len(means) - 1) * deviation / np.sqrt(len(means))
    return Spread(len(means), mean, deviation, float(mean - half), float(mean + half))


@dataclass(frozen=True)
class Apart:
    """What two configs differ by over their seeds, the first minus the second.

    Args:
        low, high: 95 % interval of the difference; None where no seed changes either config, so
            that nothing is known of a spread.
        p: of Welch's t test; None likewise.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def apart(first: Sequence[float], second: Sequence[float]) -> Apart:
    """Whether two configs differ by more than their seeds do, by Welch's t test.

    Args:
        first, second: the mean over users that each seed gave, two seeds or more of each.

    Example:
        >>> found = apart([0.30, 0.32, 0.31], [0.20, 0.21, 0.22])
        >>> round(found.mean, 3), found.p < 0.01
        (0.1, True)
        >>> apart([0.5, 0.5], [0.25, 0.25])
        Apart(mean=0.25, low=None, high=None, p=None)

    Reference:
        Welch, The Generalization of "Student's" Problem, Biometrika 1947.
    """
    mean = float(np.mean(first) - np.mean(second))
    errors = np.array([_deviation(means) ** 2 / len(means) for means in (first, second)])
    error = float(np.sqrt(errors.sum()))
    if not error:
        return Apart(mean)
    freedom = error**4 / (errors**2 / [len(first) - 1, len(second) - 1]).sum()
    half = _reach(freedom) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Apart(mean, float(mean - half), float(mean + half), p)


def _deviation(means: Sequence[float]) -> float:
    """Standard deviation between seeds; 0 where the figures are equal but for their rounding."""
    return float(np.std(means, ddof=1)) if np.ptp(means) > ROUNDING else 0.0


def _reach(freedom: float) -> float:
    """Standard errors to either side that hold 95 % of Student's t."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))
