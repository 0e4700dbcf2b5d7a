"""What a list is worth to one user, for many users at once.

Every function takes the `Hits` of the lists and a cutoff k, looks at the first k places alone, and
returns float64 [U] in [0, 1]; NaN for a user with nothing relevant. A list that is shorter than k
has empty places at its end.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprec.metric.hits import Hits, IntArray

FloatArray = npt.NDArray[np.float64]


def precision(hits: Hits, k: int) -> FloatArray:
    """Hits / k.

    Example:
        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> precision(hits, 3).tolist()
        [0.6666666666666666, 0.0]
    """
    return np.where(hits.num_relevant_U > 0, _count(hits, k) / k, np.nan)


def recall(hits: Hits, k: int) -> FloatArray:
    """Hits / h: below 1 even for the best list where h exceeds k.

    Example:
        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> recall(hits, 1).tolist()
        [0.5, 0.0]
    """
    return share(_count(hits, k), hits.num_relevant_U)


def recall_capped(hits: Hits, k: int) -> FloatArray:
    """Hits / min(k, h).

    Example:
        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> recall_capped(hits, 1).tolist()
        [1.0, 0.0]

    Reference:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018, which calls
        this recall.
    """
    return share(_count(hits, k), _achievable(hits, k))


def hit(hits: Hits, k: int) -> FloatArray:
    """1 if any hit, else 0.

    Example:
        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> hit(hits, 3).tolist()
        [1.0, 0.0]
    """
    return np.where(hits.num_relevant_U > 0, _count(hits, k) > 0, np.nan)


def ndcg(hits: Hits, k: int) -> FloatArray:
    """Discounted gain / the best this user could get; gain 1, discount 1 / log2(position + 1).

    The best list has min(k, h) hits at its top.

    Example:
        (1 / log2(2) + 1 / log2(4)) / (1 / log2(2) + 1 / log2(3)):

        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> ndcg(hits, 3).round(4).tolist()
        [0.9197, 0.0]

    Reference:
        Jarvelin and Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002, in
        the form with a discount from the second position on.
    """
    discount_K = 1 / np.log2(np.arange(2, k + 2))
    best_K = np.cumsum(discount_K)
    near_H = hits.places_H < k
    gain_U = _sum(hits, near_H, discount_K[hits.places_H[near_H]])
    achievable_U = _achievable(hits, k)
    return share(gain_U, np.where(achievable_U > 0, best_K[achievable_U - 1], 0))


def map(hits: Hits, k: int) -> FloatArray:
    """Sum of the precision at each hit / min(k, h).

    Example:
        (1 / 1 + 2 / 3) / 2:

        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> map(hits, 3).round(4).tolist()
        [0.8333, 0.0]
    """
    near_H = hits.places_H < k
    precision_H = hits.order_H[near_H] / (hits.places_H[near_H] + 1)
    return share(_sum(hits, near_H, precision_H), _achievable(hits, k))


def mrr(hits: Hits, k: int) -> FloatArray:
    """1 / position of the first hit, 0 without one.

    Example:
        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> mrr(hits, 3).tolist()
        [1.0, 0.0]
    """
    first_H = (hits.order_H == 1) & (hits.places_H < k)
    found_U = _sum(hits, first_H, 1 / (hits.places_H[first_H] + 1))
    return np.where(hits.num_relevant_U > 0, found_U, np.nan)


def r_precision(hits: Hits, k: int) -> FloatArray:
    """Hits among the first min(k, h) places / h.

    Example:
        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1])
        >>> r_precision(hits, 3).tolist()
        [0.5, 0.0]

    Reference:
        trec_eval's Rprec, of a list that is cut at k.
    """
    near_H = hits.places_H < np.minimum(k, hits.num_relevant_U)[hits.users_H]
    return share(_sum(hits, near_H), hits.num_relevant_U)


def auc(hits: Hits, k: int) -> FloatArray:
    """Share of the pairs of a relevant and another candidate that are in the right order.

    Candidates outside the first k places stand tied behind them, and a tied pair counts one half,
    so that k = number of candidates gives the plain AUC. 1 where everything is relevant.

    Example:
        Of five candidates three are not relevant; the first hit stands above all of them, the
        second above two. Of the other user's four, one is not in the list and ties:

        >>> hits = Hits.at([[1, 3], []], num_relevant=[2, 1], num_candidates=[5, 5])
        >>> auc(hits, 3).round(4).tolist()
        [0.8333, 0.125]

    Raises:
        ValueError: the number of candidates is not known.

    Reference:
        Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve, Radiology 1982.
    """
    if hits.num_candidates_U is None:
        raise ValueError("auc needs num_candidates_U: how many items each list could have held")
    others_U = (hits.num_candidates_U - hits.num_relevant_U).clip(0)
    near_H = hits.places_H < k
    above_H = hits.places_H[near_H] + 1 - hits.order_H[near_H]
    below_H = (others_U[hits.users_H[near_H]] - above_H).clip(0)
    count_U = _count(hits, k)
    unlisted_U = (others_U - (np.minimum(k, hits.lengths_U) - count_U)).clip(0)
    right_U = _sum(hits, near_H, below_H) + (hits.num_relevant_U - count_U) * unlisted_U / 2
    pairs_U = hits.num_relevant_U * others_U
    return np.where(
        hits.num_relevant_U > 0, np.where(others_U > 0, right_U / pairs_U.clip(1), 1.0), np.nan
    )


# what `name@k` of a report means
METRICS: dict[str, Callable[[Hits, int], FloatArray]] = {
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

# one user with h > 0 relevant items; `relevant` is defined in the same protocol
DEFINITIONS = {
    "precision@k": "hits / k",
    "recall@k": "hits / h",
    "recall_capped@k": "hits / min(k, h)",
    "hit@k": "1 if any hit, else 0",
    "ndcg@k": "sum over hits of 1 / log2(position + 1), divided by the same sum of the best list "
    "possible for this user, min(k, h) hits at the top",
    "map@k": "sum over hits of the precision at their position, divided by min(k, h)",
    "mrr@k": "1 / position of the first hit, 0 without one",
    "r_precision@k": "hits among the first min(k, h) places / h",
    "auc@k": "share of pairs of a relevant and another candidate in the right order; candidates "
    "outside the list stand tied behind it, and a tied pair counts one half",
}


def _count(hits: Hits, k: int) -> FloatArray:
    return _sum(hits, hits.places_H < k)


def _sum(
    hits: Hits, kept_H: npt.NDArray[np.bool_], worth: npt.NDArray[Any] | None = None
) -> FloatArray:
    """What the kept hits of each user are worth together; one each where it is not said."""
    users = hits.users_H[kept_H]
    return np.bincount(users, worth, minlength=hits.num_users).astype(np.float64, copy=False)


def share(part_U: FloatArray, whole_U: npt.NDArray[Any]) -> FloatArray:
    """A part of a whole for each user; NaN where there is no whole."""
    share_U = np.full(len(part_U), np.nan)
    np.divide(part_U, whole_U, out=share_U, where=whole_U > 0)
    return share_U


def _achievable(hits: Hits, k: int) -> IntArray:
    """The most hits a list of length k can hold for each user: min(k, h)."""
    return np.minimum(hits.num_relevant_U, k)
