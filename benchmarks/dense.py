"""The step as it is commonly written in PyTorch: a dense row a user, dense scores, Adam."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.data.store import Part


class Dense(nn.Module):
    """Multi-hot rows through `nn.Linear` layers with tanh to the scores of all items."""

    def __init__(self, dims: list[int], start: Mapping[str, Tensor], dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.load_state_dict(start)
        self.dropout = dropout

    def forward(self, rows_BV: Tensor) -> Tensor:
        hidden = F.dropout(F.normalize(rows_BV), self.dropout, self.training)
        for layer in self.layers[:-1]:
            hidden = torch.tanh(layer(hidden))
        scores_BV: Tensor = self.layers[-1](hidden)
        return scores_BV


class DenseSteps:
    """One step after another on shuffled users.

    Args:
        part: histories of the users.
        dims: items, hidden units, items.
        start: weights to begin with, named as by `Dense`.
        batch_users: users in a step.
        lr: of Adam.
        dropout: of the input.
    """

    def __init__(
        self,
        part: Part,
        dims: list[int],
        start: Mapping[str, Tensor],
        *,
        batch_users: int,
        lr: float,
        dropout: float,
    ) -> None:
        self.part, self.num_items, self.batch_users = part, dims[0], batch_users
        self.model = Dense(dims, start, dropout)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.draw = np.random.default_rng(1)
        self.order = np.zeros(0, np.int64)

    def step(self) -> float:
        """Returns its loss."""
        rows_BV = self.next_rows()
        loss = -(F.log_softmax(self.model(rows_BV), 1) * rows_BV).sum(1).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        self.optimizer.step()
        return loss.item()

    def next_rows(self) -> Tensor:
        """float32 [B, V]: of the next users, all of them shuffled in each pass."""
        if len(self.order) < self.batch_users:
            self.order = self.draw.permutation(len(self.part.lengths))
        users, self.order = self.order[: self.batch_users], self.order[self.batch_users :]
        taken = self.part.take(users)
        rows_BV = torch.zeros(len(users), self.num_items)
        owners = np.repeat(np.arange(len(users)), taken.lengths)
        rows_BV[torch.from_numpy(owners), torch.from_numpy(taken.items.astype(np.int64))] = 1.0
        return rows_BV
