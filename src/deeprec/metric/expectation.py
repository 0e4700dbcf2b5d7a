"""What a random order of the candidates is worth to one user, on average; no order is drawn.

The floor under every figure: a system that finds no more knows nothing. Every function takes the
number of relevant items h and of candidates c of each user, int64 [U], h of them among the c, and a
cutoff k, and returns float64 [U], the mean of the metric of that name in ranking.py over all orders
of the candidates; NaN for a user with nothing relevant.

Each is a sum of positive terms, so that a chance of one in ten million keeps its digits.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from deeprec.metric.ranking import share

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def precision(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """Each place that is filled holds a relevant item with probability h / c.

    Example:
        >>> precision(np.array([2]), np.array([8]), 4).tolist()
        [0.25]
    """
    share_U = _hits(num_relevant_U, num_candidates_U, k) / k
    return _where_relevant(share_U, num_relevant_U)


def recall(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """Each relevant item is in the list with probability k / c.

    Example:
        >>> recall(np.array([2]), np.array([8]), 4).tolist()
        [0.5]
    """
    return share(_hits(num_relevant_U, num_candidates_U, k), num_relevant_U)


def recall_capped(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """Expected hits / min(k, h).

    Example:
        >>> recall_capped(np.array([6]), np.array([8]), 4).tolist()
        [0.75]
    """
    return share(_hits(num_relevant_U, num_candidates_U, k), np.minimum(k, num_relevant_U))


def hit(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """The chance of any hit, 1 - C(c - h, k) / C(c, k), as the sum of where the first one may be.

    Example:
        1 - C(3, 2) / C(5, 2):

        >>> hit(np.array([2]), np.array([5]), 2).round(12).tolist()
        [0.7]
    """
    chance_U = np.zeros(len(num_relevant_U))
    for first_U in _first(num_relevant_U, num_candidates_U, k):
        chance_U += first_U
    return _where_relevant(chance_U, num_relevant_U)


def ndcg(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """Each filled place is worth h / c of its discount; over the best list possible.

    Example:
        1 / 4 of (1 + 1 / log2(3)) over 1:

        >>> ndcg(np.array([1]), np.array([4]), 2).round(4).tolist()
        [0.4077]
    """
    total_K1 = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    gain_U = _chance(num_relevant_U, num_candidates_U) * total_K1[np.minimum(k, num_candidates_U)]
    return share(gain_U, total_K1[np.minimum(k, num_relevant_U)])


def map(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """Sum over filled places i of h / c (1 + (i - 1) (h - 1) / (c - 1)) / i, over min(k, h).

    Example:
        A hit at the first place is worth 1, one at the second 1 / 2:

        >>> map(np.array([1]), np.array([4]), 2).tolist()
        [0.375]
    """
    harmonic_K1 = np.concatenate([[0], np.cumsum(1 / np.arange(1, k + 1))])
    filled_U = np.minimum(k, num_candidates_U)
    alone_U = harmonic_K1[filled_U]
    another_U = (num_relevant_U - 1) / (num_candidates_U - 1).clip(1)
    worth_U = alone_U + another_U * (filled_U - alone_U)
    total_U = _chance(num_relevant_U, num_candidates_U) * worth_U
    return share(total_U, np.minimum(k, num_relevant_U))


def mrr(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """The chance that the first hit is at a place / its position, over all places.

    Example:
        >>> mrr(np.array([1]), np.array([4]), 2).tolist()
        [0.375]
    """
    worth_U = np.zeros(len(num_relevant_U))
    for place, first_U in enumerate(_first(num_relevant_U, num_candidates_U, k)):
        worth_U += first_U / (place + 1)
    return _where_relevant(worth_U, num_relevant_U)


def r_precision(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """min(k, h) / c.

    Example:
        >>> r_precision(np.array([2]), np.array([8]), 4).tolist()
        [0.25]
    """
    hits_U = _chance(num_relevant_U, num_candidates_U) * np.minimum(k, num_relevant_U)
    return share(hits_U, num_relevant_U)


def auc(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """One half, at any cutoff: a pair is as likely in one order as in the other, or tied.

    Example:
        >>> auc(np.array([2, 3]), np.array([8, 3]), 4).tolist()
        [0.5, 1.0]
    """
    _check(num_relevant_U, num_candidates_U)
    value_U = np.where(num_candidates_U > num_relevant_U, 0.5, 1.0)
    return _where_relevant(value_U, num_relevant_U)


# the metrics of ranking.METRICS, by the same names
EXPECTED: dict[str, Callable[[IntArray, IntArray, int], FloatArray]] = {
    "precision": precision,
    "recall": recall,
    "recall_capped": recall_capped,
    "hit": hit,
    "ndcg": ndcg,
    "map": map,
    "mrr": mrr,
    "r_precision": r_precision,
    "auc": auc,
}


def _hits(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> FloatArray:
    """Expected hits among the places that are filled."""
    hits_U: FloatArray = _chance(num_relevant_U, num_candidates_U) * np.minimum(k, num_candidates_U)
    return hits_U


def _chance(num_relevant_U: IntArray, num_candidates_U: IntArray) -> FloatArray:
    """The chance, h / c, that a given place holds a relevant item."""
    _check(num_relevant_U, num_candidates_U)
    chance_U: FloatArray = num_relevant_U / num_candidates_U.clip(1)
    return chance_U


def _first(num_relevant_U: IntArray, num_candidates_U: IntArray, k: int) -> Iterator[FloatArray]:
    """Place after place, the chance that the first hit is there."""
    _check(num_relevant_U, num_candidates_U)
    none_U = np.ones(len(num_relevant_U))  # the chance of no hit so far
    for place in range(min(k, int(num_candidates_U.max(initial=0)))):
        # it is 1 where only relevant items are left, and what comes after that is worth 0
        chance_U = num_relevant_U / (num_candidates_U - place).clip(1)
        yield none_U * chance_U
        none_U *= 1 - chance_U


def _check(num_relevant_U: IntArray, num_candidates_U: IntArray) -> None:
    if (num_relevant_U > num_candidates_U).any():
        worst = int((num_relevant_U - num_candidates_U).argmax())
        raise ValueError(
            f"every relevant item must be a candidate, got {num_relevant_U[worst]} relevant of "
            f"{num_candidates_U[worst]} candidates"
        )


def _where_relevant(value_U: FloatArray, num_relevant_U: IntArray) -> FloatArray:
    return np.where(num_relevant_U > 0, value_U, np.nan)
