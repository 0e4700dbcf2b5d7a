"""What a model knows of an item because this very user had it: how often, how long ago.

Scriptable and of plain aten operations. Shapes as in deeprec/batch.py.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import ByItem, Encoded
from deeprec.model.history import History

NUM_FEATURES = 4


def pair_features(history: History, popularity_V: Tensor) -> Tensor:
    """float32 [M, 4]: count, days since the last and the first event, popularity.

    Each lies about between -1 and 1 on daily purchases. Where times are unknown the two of time
    are constant.

    Args:
        history: M pairs.
        popularity_V: float32 [V], the feature of each item.
    """
    return torch.stack(
        [
            torch.log1p(history.counts_M) - 1.0,
            torch.log1p(history.latest_M) / 2.0 - 2.0,
            torch.log1p(history.first_M) / 2.0 - 2.3,
            popularity_V[history.items_M],
        ],
        dim=1,
    )


class RepeatScores(nn.Module):
    """The score of each item of a user's own history, from what its events say.

    One hidden layer over `pair_features`, plus a learned number per item: how readily it is taken
    again.

    Args:
        num_items: V.
        log_odds_V: float32 [V], of a user having the item; None: no item differs.
        hidden_units: width of the hidden layer.
    """

    popularity_V: Tensor

    def __init__(
        self, num_items: int, log_odds_V: Tensor | None = None, *, hidden_units: int = 32
    ) -> None:
        super().__init__()
        log_odds = torch.zeros(num_items) if log_odds_V is None else log_odds_V
        self.register_buffer("popularity_V", (log_odds - log_odds.mean()) / 2.0)
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, hidden_units), nn.ReLU(), nn.Linear(hidden_units, 1)
        )
        self.item_bias = nn.Parameter(torch.zeros(num_items))

    def forward(self, history: History) -> Tensor:
        """float32 [M]: the score of each pair of `history`."""
        return self._scores(history, self.item_bias[history.items_M])

    def trained(self, history: History, by_item: ByItem) -> Tensor:
        """The same; the gradient of `item_bias` holds the items of the batch alone.

        Args:
            history: M pairs.
            by_item: its items, transposed.
        """
        bias_M: Tensor = _Read.apply(self.item_bias, history.items_M, by_item)  # type: ignore[no-untyped-call]  # torch leaves it so
        return self._scores(history, bias_M)

    def _scores(self, history: History, bias_M: Tensor) -> Tensor:
        features = pair_features(history, self.popularity_V)
        scores_M: Tensor = self.layers(features).squeeze(1) + bias_M
        return scores_M


class _Read(torch.autograd.Function):
    """Numbers of items, with a gradient that is sparse and, without a look at it, coalesced."""

    @staticmethod
    def forward(ctx: Any, numbers_V: Tensor, items_M: Tensor, by_item: ByItem) -> Tensor:
        ctx.num_items, ctx.by_item = len(numbers_V), by_item
        return numbers_V.index_select(0, items_M)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        by_item = ctx.by_item
        gradient_R = F.embedding_bag(
            by_item.order,
            gradients[0][:, None],
            by_item.offsets,
            mode="sum",
            include_last_offset=True,
        ).squeeze(1)
        if by_item.places is not None:  # what stands again changes as it does
            gradient_R = gradient_R.index_select(0, by_item.places)
        sparse = torch.sparse_coo_tensor(
            by_item.distinct[None],
            gradient_R,
            (ctx.num_items,),
            check_invariants=False,
            is_coalesced=True,
        )
        return sparse, None, None


class NoRepeat(nn.Module):
    """Stands where a model has no repeat scores, so that scripting finds a module."""

    def forward(self, history: History) -> Tensor:
        return torch.zeros(0)


def without_repeat(hidden_BD: Tensor) -> Encoded:
    device = hidden_BD.device
    offsets_B1 = torch.zeros(hidden_BD.shape[0] + 1, dtype=torch.int64, device=device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return Encoded(hidden_BD, none, offsets_B1, torch.zeros(0, device=device))


def with_repeat(hidden_BD: Tensor, history: History, scores_M: Tensor) -> Encoded:
    return Encoded(hidden_BD, history.items_M, history.offsets_B1, scores_M)
