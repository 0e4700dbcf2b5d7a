"""Scores of items that stand near those of a history: a sparse table of weights between items.

Shapes (legend in deeprec/batch.py): X weights in the table, Y weights met by the pairs of a batch,
S items that are scored, user after user.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.model.exporting import is_exporting
from deeprec.model.history import (
    History,
    HistoryWeighting,
    aggregate,
    check_weighting,
    history_weights,
)
from deeprec.model.solved import SolvedModel
from deeprec.model.sparse_input import pair_products

MEET_WEIGHTS, MEET_SCORES = 2**18, 2**22  # weights met and scores held at once: 16 MiB


class NeighbourScores(nn.Module):
    """The sum, over a user's items, of what each says of its neighbours.

    Item i owns `neighbours[starts[i]:starts[i + 1]]` and their weights. How many there are is known
    once the model is solved; before, there are none.

    Args:
        num_items: V.
    """

    starts_V1: Tensor
    neighbours_X: Tensor
    weights_X: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        self.weights_at_once, self.scores_at_once = MEET_WEIGHTS, MEET_SCORES
        self.register_buffer("starts_V1", torch.zeros(num_items + 1, dtype=torch.int64))
        self.register_buffer("neighbours_X", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights_X", torch.zeros(0))

    def fill(self, weights: sparse.csr_array) -> None:
        """Takes over a table [V, V] whose row i is what item i says of others."""
        device = self.starts_V1.device
        self.starts_V1 = torch.from_numpy(weights.indptr.astype(np.int64)).to(device)
        self.neighbours_X = torch.from_numpy(weights.indices.astype(np.int32)).to(device)
        self.weights_X = torch.from_numpy(weights.data.astype(np.float32)).to(device)

    def forward(self, history: History, weights_M: Tensor) -> Encoded:
        """Scores of the neighbours of each history; no other item has one of its own.

        Args:
            history: M pairs of a user and an item.
            weights_M: float32 [M], what each pair weighs.

        Returns:
            Hidden vectors [B, 1] of zeros, and the scores as those that replace the product.
        """
        device, num_users = weights_M.device, history.offsets_B1.shape[0] - 1
        if is_exporting():
            keys_Y, said_Y = self.said(history.items_M, history.users_M, weights_M)
            keys_S, scores_S = summed(keys_Y, said_Y)
            return self.encoded(keys_S, scores_S, num_users)
        lengths_M = self.starts_V1[history.items_M + 1] - self.starts_V1[history.items_M]
        met = torch.zeros(lengths_M.shape[0] + 1, dtype=torch.int64, device=device)
        met[1:] = lengths_M.cumsum(0)  # weights met before each pair
        ends_B = met[history.offsets_B1[1:]]
        keys: list[Tensor] = []
        scores: list[Tensor] = []
        first = 0
        while first < num_users:
            begin = int(history.offsets_B1[first])
            full = met[begin] + self.weights_at_once
            most = min(num_users, first + max(1, self.scores_at_once // self.num_items))
            last = max(first + 1, min(most, int(torch.searchsorted(ends_B, full, right=True))))
            end = int(history.offsets_B1[last])
            users_M = history.users_M[begin:end] - first
            keys_S, scores_S = self.meet(
                history.items_M[begin:end], users_M, weights_M[begin:end], last - first
            )
            keys.append(keys_S + first * self.num_items)
            scores.append(scores_S)
            first = last
        keys_S = torch.cat(keys) if keys else torch.zeros(0, dtype=torch.int64, device=device)
        scores_S = torch.cat(scores) if scores else torch.zeros(0, device=device)
        return self.encoded(keys_S, scores_S, num_users)

    def encoded(self, keys_S: Tensor, scores_S: Tensor, num_users: int) -> Encoded:
        """Scores with `user * V + item` of each, ascending, as of a model without a product."""
        device = scores_S.device
        users_S = torch.div(keys_S, self.num_items, rounding_mode="floor")
        return Encoded(
            torch.zeros(num_users, 1, device=device),
            keys_S - users_S * self.num_items,
            torch.searchsorted(users_S, torch.arange(num_users + 1, device=device)),
            scores_S,
        )

    def said(self, items_M: Tensor, users_M: Tensor, weights_M: Tensor) -> tuple[Tensor, Tensor]:
        """What each pair says of each neighbour of its item, and of whom: `user * V + item`."""
        starts_M = self.starts_V1[items_M]
        lengths_M = self.starts_V1[items_M + 1] - starts_M
        pair_Y = torch.repeat_interleave(lengths_M)
        before_M = lengths_M.cumsum(0) - lengths_M
        places_Y = torch.arange(pair_Y.shape[0], device=weights_M.device)
        at_Y = places_Y + (starts_M - before_M)[pair_Y]
        keys_Y = users_M[pair_Y] * self.num_items + self.neighbours_X[at_Y].long()
        return keys_Y, self.weights_X[at_Y] * weights_M[pair_Y]

    def of(self, item: int) -> tuple[Tensor, Tensor]:
        """The neighbours of one item, and what it says of each."""
        here = slice(int(self.starts_V1[item]), int(self.starts_V1[item + 1]))
        return self.neighbours_X[here], self.weights_X[here]

    def meet(
        self, items_M: Tensor, users_M: Tensor, weights_M: Tensor, num_users: int
    ) -> tuple[Tensor, Tensor]:
        """The scores of a few users, with `user * V + item` of each, ascending."""
        device = weights_M.device
        keys_Y, said_Y = self.said(items_M, users_M, weights_M)
        if keys_Y.shape[0] * 32 < num_users * self.num_items:
            return summed(keys_Y, said_Y)
        # where much of users times catalog is met, to write it out is faster than to sort
        sums = torch.zeros(num_users * self.num_items, device=device).index_add(0, keys_Y, said_Y)
        there = torch.zeros(sums.shape[0], dtype=torch.bool, device=device)
        there[keys_Y] = True
        keys_S = torch.nonzero(there)[:, 0]
        return keys_S, sums[keys_S]


class NeighbourModel(SolvedModel):
    """A solved model that scores what the items of a history say of their neighbours, and no more.

    Args:
        num_items: V.
        neighbours: how many an item has at most.
        history_weighting: as of `Autoencoder`.
        fade_days: as of `Autoencoder`.
    """

    def __init__(
        self,
        num_items: int,
        *,
        neighbours: int,
        history_weighting: HistoryWeighting,
        fade_days: float,
    ) -> None:
        super().__init__(num_items, width=1)
        if neighbours < 1:
            raise ValueError(f"neighbours must be 1 or more, got {neighbours}")
        self.neighbours = neighbours
        check_weighting(history_weighting, fade_days)
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.between_items = NeighbourScores(num_items)

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """What lies near a history; see `Recommender.serving_encoder`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        encoded: Encoded = self.between_items(history, weights_M)
        return encoded

    def said_by(self, item: int) -> tuple[Tensor, Tensor]:
        """See `SaidBetweenItems`."""
        return self.between_items.of(item)


def summed(keys_Y: Tensor, said_Y: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct keys, ascending, and the sum of what was said at each."""
    keys_Y, order_Y = torch.sort(keys_Y)
    keys_S, place_Y = torch.unique_consecutive(keys_Y, return_inverse=True)
    zeros_S = torch.zeros(keys_S.shape[0], device=said_Y.device)
    return keys_S, zeros_S.index_add(0, place_Y, said_Y[order_Y])


def with_own_items(weights: sparse.csr_array) -> sparse.csr_array:
    """The same table, in which each item says something of itself, if only 0.

    So every item of a history has a score beside those of its neighbours.
    """
    num_items = weights.shape[0]
    lengths, items = np.diff(weights.indptr), np.arange(num_items)
    rows = np.concatenate([np.repeat(items, lengths), items])
    columns = np.concatenate([weights.indices, items])
    data = np.concatenate([weights.data, np.zeros(num_items, weights.data.dtype)])
    return sparse.csr_array((data, (rows, columns)), weights.shape)


def on_the_product(
    near: Encoded, hidden_BD: Tensor, item_weight_VD: Tensor, item_bias_V: Tensor
) -> Encoded:
    """What neighbours say on top of the product with the catalog table. Scriptable.

    Args:
        near: scores of neighbours.
        hidden_BD: float32 [B, D].
        item_weight_VD: float32 [V, D].
        item_bias_V: float32 [V].

    Returns:
        Scores `hidden . item_weight + item_bias`, plus that of `near` for items which have one.
    """
    items_S, offsets_B1 = near.repeat_items_M, near.repeat_offsets_B1
    users_S = torch.repeat_interleave(offsets_B1.diff())
    product_S = pair_products(hidden_BD, item_weight_VD, items_S, offsets_B1, users_S)
    scores_S = product_S + item_bias_V[items_S] + near.repeat_scores_M
    return Encoded(hidden_BD, items_S, offsets_B1, scores_S)
