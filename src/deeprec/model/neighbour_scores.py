"""Scores of items that stand near those of a history: a sparse table of weights between items.

Shapes (legend in deeprec/batch.py): X weights in the table, Y weights met by the pairs of a batch,
S items that are scored, user after user.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from deeprec.batch import Encoded
from deeprec.model.history import History


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
        starts_M = self.starts_V1[history.items_M]
        lengths_M = self.starts_V1[history.items_M + 1] - starts_M
        pair_Y = torch.repeat_interleave(lengths_M)
        before_M = lengths_M.cumsum(0) - lengths_M
        at_Y = torch.arange(pair_Y.shape[0], device=device) + (starts_M - before_M)[pair_Y]
        keys_Y = history.users_M[pair_Y] * self.num_items + self.neighbours_X[at_Y].long()
        keys_Y, order_Y = torch.sort(keys_Y)
        keys_S, place_Y = torch.unique_consecutive(keys_Y, return_inverse=True)
        said_Y = (self.weights_X[at_Y] * weights_M[pair_Y])[order_Y]
        scores_S = torch.zeros(keys_S.shape[0], device=device).index_add(0, place_Y, said_Y)
        users_S = torch.div(keys_S, self.num_items, rounding_mode="floor")
        return Encoded(
            torch.zeros(num_users, 1, device=device),
            keys_S - users_S * self.num_items,
            torch.searchsorted(users_S, torch.arange(num_users + 1, device=device)),
            scores_S,
        )
