"""What a model reads from the raw events of a user: its distinct items, how often, how long ago.

Scriptable and of plain aten operations, so that training and serving run the same code.
Shapes as in deeprec/batch.py.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from deeprec.batch import Batch

HistoryWeighting = Literal["binary", "log_count", "decayed"]
HISTORY_WEIGHTINGS = get_args(HistoryWeighting)
SECOND = 1.0 / 86_400  # days
FADE_DAYS = 90.0  # of every model that is told nothing else


class History(NamedTuple):
    """The distinct (user, item) pairs of a batch, ascending, with what their events say."""

    items_M: Tensor  # int64 [M], ascending inside a user
    users_M: Tensor  # int64 [M], position of the user in the batch
    offsets_B1: Tensor  # int64 [B + 1]
    counts_M: Tensor  # float32 [M], events of the pair, >= 1
    latest_M: Tensor  # float32 [M], days since the pair's last event; 0 where times are unknown
    first_M: Tensor  # float32 [M], days since the pair's first event; 0 where times are unknown
    recent_M: Tensor  # float32 [M], sum over the pair's events of exp(-age / fade_days)


def aggregate(
    items_N: Tensor,
    offsets_B1: Tensor,
    ages_N: Tensor,
    num_items: int,
    fade_days: float = FADE_DAYS,
) -> History:
    """Gathers the events of each (user, item) pair.

    Args:
        items_N: int64 [N], in [0, num_items), user after user.
        offsets_B1: int64 [B + 1].
        ages_N: float32 [N], days before the moment of prediction; empty [0] where unknown, which
            makes every age 0, as -1 makes one.
        num_items: V.
        fade_days: days after which an event counts 1/e in `recent`.

    Example:
        >>> history = aggregate(
        ...     torch.tensor([4, 2, 4]), torch.tensor([0, 3, 3]), torch.tensor([9.0, 5.0, 1.0]), 6
        ... )
        >>> history.items_M.tolist(), history.counts_M.tolist(), history.offsets_B1.tolist()
        ([2, 4], [1.0, 2.0], [0, 2, 2])
        >>> history.latest_M.tolist(), history.first_M.tolist()
        ([5.0, 1.0], [5.0, 9.0])
    """
    num_users = offsets_B1.shape[0] - 1
    users = torch.arange(num_users, device=items_N.device)
    users_N = users.repeat_interleave(offsets_B1.diff(), output_size=items_N.shape[0])
    pairs_N, order_N = torch.sort(users_N * num_items + items_N)
    pairs_M, pair_N, counts_M = torch.unique_consecutive(
        pairs_N, return_inverse=True, return_counts=True
    )
    users_M = torch.div(pairs_M, num_items, rounding_mode="floor")
    items_M, counts_M = pairs_M - users_M * num_items, counts_M.to(torch.float32)
    rows = torch.arange(num_users + 1, device=items_N.device)
    offsets_B1 = torch.searchsorted(users_M, rows)
    zeros_M = torch.zeros(pairs_M.shape[0], device=items_N.device)
    if ages_N.shape[0] == 0:
        return History(items_M, users_M, offsets_B1, counts_M, zeros_M, zeros_M, counts_M)
    ages = ages_N[order_N].clamp(min=0.0)
    return History(
        items_M=items_M,
        users_M=users_M,
        offsets_B1=offsets_B1,
        counts_M=counts_M,
        latest_M=zeros_M.scatter_reduce(0, pair_N, ages, "amin", include_self=False),
        first_M=zeros_M.scatter_reduce(0, pair_N, ages, "amax", include_self=False),
        recent_M=zeros_M.index_add(0, pair_N, torch.exp(-ages / fade_days)),
    )


def aggregated(batch: Batch, ages_N: Tensor, num_items: int, fade_days: float) -> History:
    """`aggregate` of a batch's histories; of its target, where that is the same, without a sort.

    Args:
        ages_N: those of the batch, or none.
        num_items: as of `aggregate`.
        fade_days: likewise.
    """
    history, target = batch.history, batch.target
    one_of_each = target is not None and len(target.values) == len(history.values)
    if target is None or not (batch.own_target and one_of_each) or len(ages_N):
        return aggregate(history.values, history.offsets, ages_N, num_items, fade_days)
    users = torch.arange(batch.num_users)
    users_M = users.repeat_interleave(target.offsets.diff(), output_size=len(target.values))
    zeros_M, ones_M = torch.zeros(len(users_M)), torch.ones(len(users_M))
    return History(target.values, users_M, target.offsets, ones_M, zeros_M, zeros_M, ones_M)


def history_weights(history: History, weighting: str) -> Tensor:
    """float32 [M]: the weight of each distinct item of a history, at least 1e-30."""
    if weighting == "log_count":
        return torch.log1p(history.counts_M)
    if weighting == "decayed":  # never 0: all that somebody had who was idle for long fades alike
        return torch.log1p(history.recent_M).clamp(min=1e-30)
    return torch.ones_like(history.counts_M)


def ages_read(ages_N: Tensor, weighting: str) -> Tensor:
    """The ages, or none of them if no weight asks for any: a batch is made faster without."""
    return ages_N if weighting == "decayed" else ages_N[:0]


def normalized(weights_M: Tensor, users_M: Tensor, num_users: int) -> Tensor:
    """The weights over the root of their user's summed squares; an empty user has none.

    In float64, which holds the squares of what has faded.
    """
    zeros_B = torch.zeros(num_users, dtype=torch.float64, device=weights_M.device)
    squares_B = zeros_B.index_add(0, users_M, weights_M.double().square())
    return (weights_M / squares_B.clamp(min=1e-60).sqrt()[users_M]).float()


def check_weighting(weighting: str, fade_days: float) -> None:
    """Raises ValueError if histories cannot be weighted so."""
    if not fade_days >= SECOND:
        raise ValueError(
            f"fade_days must be {SECOND:.2g} or more, a second, as times are whole seconds, got "
            f"{fade_days}"
        )
    if weighting not in HISTORY_WEIGHTINGS:
        raise ValueError(
            f"history_weighting must be one of {', '.join(HISTORY_WEIGHTINGS)}; got {weighting!r}"
        )
