"""Exact top-k over the catalog in blocks: the one ranking of evaluation, serving and baselines.

An item excluded for a user, and an item whose score is minus infinity, is never in the list; a list
with fewer than k candidates is padded with item -1 and score -inf. Equal scores rank by lower item
index. A NaN score is an error. Everything here is plain aten and can be scripted.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from deeprec.batch import Encoded

BLOCK_ITEMS = 16_384  # 16 MiB of scores for 256 users in float32


def top_k(
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    k: int,
    exclude_items_N: Tensor,
    exclude_offsets_B1: Tensor,
    block_items: int = BLOCK_ITEMS,
) -> tuple[Tensor, Tensor]:
    """The k items of highest score for each user, best first.

    Peak memory is O(B * (block_items + k)), whatever the size of the catalog.

    Args:
        encoded: what a model said of the users.
        item_weight_VD: float32 [V, D].
        item_bias_V: float32 [V].
        k: at least 1.
        exclude_items_N: int64 [N], items that user b must not get, in [0, V); repeats are fine.
        exclude_offsets_B1: int64 [B + 1], user b owns `exclude_items[offsets[b]:offsets[b + 1]]`.
        block_items: items scored at once.

    Returns:
        items int64 [B, k], padded with -1, and scores float32 [B, k], padded with -inf.

    Raises:
        RuntimeError: a score is NaN, or k is below 1.

    Example:
        >>> one_user = Encoded(torch.tensor([[1.0]]), torch.tensor([0]), torch.tensor([0, 1]),
        ...                    torch.tensor([9.0]))
        >>> weight, bias = torch.tensor([[1.0], [5.0], [5.0]]), torch.zeros(3)
        >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        >>> top_k(one_user, weight, bias, 2, *none)
        (tensor([[0, 1]]), tensor([[9., 5.]]))
    """
    hidden_BD = encoded.hidden_BD
    num_items = item_weight_VD.shape[0]
    items_BK, scores_BK = no_items(hidden_BD.shape[0], k, hidden_BD)
    exclude = by_item(exclude_items_N, exclude_offsets_B1)
    repeat = by_item(encoded.repeat_items_M, encoded.repeat_offsets_B1)
    repeat_scores_M = encoded.repeat_scores_M[repeat[2]]
    for start in range(0, num_items, block_items):
        stop = min(start + block_items, num_items)
        bias_C, weight_CD = item_bias_V[start:stop], item_weight_VD[start:stop]
        scores_BC = torch.addmm(bias_C, hidden_BD, weight_CD.t()).float()
        here = within(repeat[0], start, stop)
        scores_BC[repeat[1][here], repeat[0][here] - start] = repeat_scores_M[here].float()
        items_BK, scores_BK = merge(items_BK, scores_BK, scores_BC, start, k, exclude)
    return items_BK, scores_BK


def top_k_of_blocks(
    score_block: Callable[[int, int], Tensor],
    num_items: int,
    num_users: int,
    k: int,
    exclude_items_N: Tensor,
    exclude_offsets_B1: Tensor,
    block_items: int = BLOCK_ITEMS,
) -> tuple[Tensor, Tensor]:
    """As `top_k`, for whoever scores items in another way.

    Args:
        score_block: (start, stop) -> float32 [B, stop - start], scores of these items.
    """
    items_BK, scores_BK = no_items(num_users, k, torch.zeros(0))
    exclude = by_item(exclude_items_N, exclude_offsets_B1)
    for start in range(0, num_items, block_items):
        scores_BC = score_block(start, min(start + block_items, num_items)).float()
        items_BK, scores_BK = merge(items_BK, scores_BK, scores_BC, start, k, exclude)
    return items_BK, scores_BK


def no_items(num_users: int, k: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Lists with nothing in them yet, on the device of `like`."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    items_BK = torch.full([num_users, k], -1, dtype=torch.int64, device=like.device)
    scores_BK = torch.full([num_users, k], float("-inf"), device=like.device)
    return items_BK, scores_BK


def by_item(items_N: Tensor, offsets_B1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(item, user) pairs in the order of items, so that a block owns one slice; and that order."""
    users_N = torch.repeat_interleave(offsets_B1[1:] - offsets_B1[:-1])
    sorted_N, order_N = torch.sort(items_N, stable=True)
    return sorted_N, users_N[order_N], order_N


def within(sorted_N: Tensor, start: int, stop: int) -> Tensor:
    """Positions of the values in [start, stop), int64."""
    bounds = torch.tensor([start, stop], dtype=sorted_N.dtype, device=sorted_N.device)
    first_last = torch.searchsorted(sorted_N, bounds)
    return torch.arange(int(first_last[0]), int(first_last[1]), device=sorted_N.device)


def merge(
    items_BK: Tensor,
    scores_BK: Tensor,
    scores_BC: Tensor,
    start: int,
    k: int,
    exclude: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The best k of the lists so far and of one more block, whose first item is `start`."""
    if bool(torch.isnan(scores_BC).any()):
        raise RuntimeError("a score is NaN; a list cannot be made from it")
    here = within(exclude[0], start, start + scores_BC.shape[1])
    excluded = torch.tensor(float("-inf"), device=scores_BC.device)
    scores_BC[exclude[1][here], exclude[0][here] - start] = excluded
    best_BK = select(scores_BC, min(k, scores_BC.shape[1]))
    scores = torch.cat([scores_BK, scores_BC.gather(1, best_BK)], 1)
    items = torch.cat([items_BK, best_BK + start], 1)
    items = torch.where(scores == float("-inf"), torch.full_like(items, -1), items)
    # two stable sorts: by item, then by score, so that equal scores stay in the order of items
    items, order = torch.sort(items, dim=1, stable=True)
    scores, order = torch.sort(scores.gather(1, order), dim=1, descending=True, stable=True)
    return items.gather(1, order)[:, :k], scores[:, :k]


def select(scores_BC: Tensor, k: int) -> Tensor:
    """Positions of each row's k best, equal scores by lower position; in no particular order."""
    if k == scores_BC.shape[1]:
        return torch.arange(k, device=scores_BC.device).repeat(scores_BC.shape[0], 1)
    values, positions = torch.topk(scores_BC, k + 1, dim=1)
    # torch.topk breaks ties in no stable order: where the k-th equals the next, choose again
    tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > float("-inf"))
    positions = positions[:, :k]
    if bool(tied.any()):
        rows = torch.nonzero(tied).flatten()
        positions[rows] = select_tied(scores_BC[rows], k)
    return positions


def select_tied(scores_BC: Tensor, k: int) -> Tensor:
    """As `select`: all above the k-th best, and of those equal to it the first that find room."""
    kth_B1 = torch.topk(scores_BC, k, dim=1)[0][:, k - 1 :]
    above_BC, equal_BC = scores_BC > kth_B1, scores_BC == kth_B1
    room_B1 = k - above_BC.sum(1, keepdim=True)
    chosen_BC = above_BC | (equal_BC & (equal_BC.cumsum(1) <= room_B1))
    return torch.nonzero(chosen_BC)[:, 1].reshape(-1, k)
