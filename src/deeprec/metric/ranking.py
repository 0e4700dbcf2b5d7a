"""What a list is worth to one user, for many users at once.

Every function takes `hits_UK` bool [U, K], whether the item at each position is in the user's
holdout, and `num_relevant_U` int64 [U], h > 0, how many items are in it; K is the cutoff k.
It returns float64 [U] in [0, 1].
"""

import torch
from torch import Tensor


def precision(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """Hits / k.

    Example:
        >>> precision(torch.tensor([[True, False, True, False]]), torch.tensor([3])).tolist()
        [0.5]
    """
    return _count(hits_UK) / hits_UK.shape[1]


def recall(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """Hits / h: below 1 even for the best list where h exceeds k.

    Example:
        >>> recall(torch.tensor([[True, True]]), torch.tensor([8])).tolist()
        [0.25]
    """
    return _count(hits_UK) / num_relevant_U


def recall_capped(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """Hits / min(k, h).

    Example:
        >>> recall_capped(torch.tensor([[True, False]]), torch.tensor([8])).tolist()
        [0.5]

    Reference:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018, which calls
        this recall.
    """
    return _count(hits_UK) / _achievable(hits_UK, num_relevant_U)


def hit(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """1 if any hit, else 0.

    Example:
        >>> hit(torch.tensor([[False, True], [False, False]]), torch.tensor([2, 2])).tolist()
        [1.0, 0.0]
    """
    return hits_UK.any(1).double()


def ndcg(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """Discounted gain / the best this user could get; gain 1, discount 1 / log2(position + 1).

    The best list has min(k, h) hits at its top.

    Example:
        A hit at position 3 alone, of one relevant item, is worth 1 / log2(4):

        >>> ndcg(torch.tensor([[False, False, True]]), torch.tensor([1])).tolist()
        [0.5]

    Reference:
        Jarvelin and Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002, in
        the form with a discount from the second position on.
    """
    positions_K = _positions(hits_UK)
    discount_K = 1 / torch.log2(positions_K + 1)
    best_K = discount_K.cumsum(0)
    return hits_UK.double() @ discount_K / best_K[_achievable(hits_UK, num_relevant_U) - 1]


def map(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """Sum of the precision at each hit / min(k, h).

    Example:
        Hits at positions 1 and 3 of two relevant items: (1/1 + 2/3) / 2.

        >>> map(torch.tensor([[True, False, True]]), torch.tensor([2]))
        tensor([0.8333], dtype=torch.float64)
    """
    precision_UK = hits_UK.double().cumsum(1) / _positions(hits_UK)
    return (precision_UK * hits_UK).sum(1) / _achievable(hits_UK, num_relevant_U)


def mrr(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """1 / position of the first hit, 0 without one.

    Example:
        >>> mrr(torch.tensor([[False, True, True], [False] * 3]), torch.tensor([2, 1])).tolist()
        [0.5, 0.0]
    """
    return (hits_UK.double() / _positions(hits_UK)).amax(1)


def _count(hits_UK: Tensor) -> Tensor:
    return hits_UK.double().sum(1)


def _positions(hits_UK: Tensor) -> Tensor:
    """1, 2, ..., k."""
    return torch.arange(1, hits_UK.shape[1] + 1, dtype=torch.float64, device=hits_UK.device)


def _achievable(hits_UK: Tensor, num_relevant_U: Tensor) -> Tensor:
    """The most hits a list of length k can hold for each user: min(k, h)."""
    return num_relevant_U.clamp(max=hits_UK.shape[1])
