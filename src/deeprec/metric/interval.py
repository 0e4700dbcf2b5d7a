"""How sure a mean over users is: bootstrap intervals, alone and many at once.

U users, M metrics of each of them.
"""

import numpy as np
import numpy.typing as npt

BLOCK_DRAWS = 4_000_000  # draws held at once: 32 MB of int64


def bootstrap_interval(
    values_U: npt.NDArray[np.float64], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean over users, and the percentile bootstrap interval of that mean.

    Args:
        values_U: float64 [U], one value a user, at least one.
        samples: how often the users are drawn anew, with replacement.
        seed: of the draws; the same seed gives the same interval.
        level: share of the bootstrap means inside the interval.

    Returns:
        (mean, low, high).

    Raises:
        ValueError: there is no user.

    Example:
        >>> bootstrap_interval(np.array([0.5, 0.5, 0.5]))
        (0.5, 0.5, 0.5)

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    mean, low, high = bootstrap_intervals(values_U[:, None], samples, seed, level)[:, 0].tolist()
    return mean, low, high


def bootstrap_intervals(
    values_UM: npt.NDArray[np.float64], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> npt.NDArray[np.float64]:
    """As `bootstrap_interval`, for many metrics with the same draws: users are drawn only once.

    Returns:
        float64 [3, M]: mean, low and high of each metric.
    """
    num_users, num_metrics = values_UM.shape
    if num_users == 0:
        raise ValueError("an interval needs at least one user, got none")
    draw = np.random.default_rng(seed)
    means = np.empty((samples, num_metrics))
    block = max(1, BLOCK_DRAWS // num_users)
    for start in range(0, samples, block):
        size = min(block, samples - start)
        drawn = draw.integers(num_users, size=(size, num_users))
        drawn += np.arange(size)[:, None] * num_users
        counts = np.bincount(drawn.ravel(), minlength=size * num_users).reshape(size, num_users)
        means[start : start + size] = counts.astype(np.float64) @ values_UM / num_users
    bounds = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    mean_M = values_UM.mean(0)  # which rounds otherwise than a product: inside all the same
    return np.stack([mean_M, np.minimum(bounds[0], mean_M), np.maximum(bounds[1], mean_M)])
