"""The step as it is commonly written in PyTorch: a dense row a user, dense scores, Adam."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.data.prefetch import ahead
from deeprec.data.store import Part

CPU = torch.device("cpu")


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


class Rows(NamedTuple):
    """Histories of some users."""

    owners: Tensor  # int64 [N], in [0, B)
    items: Tensor  # int64 [N]
    offsets: Tensor  # int64 [B + 1]

    def to(self, device: torch.device) -> "Rows":
        return Rows(*(each.to(device, non_blocking=True) for each in self))

    def multi_hot(self, num_items: int) -> Tensor:
        """float32 [B, V], written where the indices are."""
        one = torch.ones((), device=self.items.device)
        rows_BV = one.new_zeros(len(self.offsets) - 1, num_items)
        return rows_BV.index_put_((self.owners, self.items), one)


def shuffled(part: Part, batch_users: int) -> Iterator[npt.NDArray[np.int64]]:
    """The users of one batch after the other, all of them shuffled in each pass."""
    draw, order = np.random.default_rng(1), np.zeros(0, np.int64)
    while True:
        if len(order) < batch_users:
            order = draw.permutation(len(part.lengths))
        yield order[:batch_users]
        order = order[batch_users:]


def rows_of(part: Part, users: npt.NDArray[np.int64], *, pinned: bool) -> Rows:
    """On the host; in page-locked memory if a GPU is to fetch them."""
    taken = part.take(users)
    owners = np.repeat(np.arange(len(users)), taken.lengths)
    columns = (owners, taken.items.astype(np.int64), taken.offsets)
    found = Rows(*(torch.from_numpy(column) for column in columns))
    return Rows(*(each.pin_memory() for each in found)) if pinned else found


def batches(part: Part, *, batch_users: int, device: torch.device, prefetch: int) -> Iterator[Rows]:
    """Rows of shuffled users, on the host, made ahead as ours are."""
    make = partial(rows_of, part, pinned=device.type == "cuda")
    return ahead(make, shuffled(part, batch_users), prefetch)


class DenseSteps:
    """One step after another on shuffled users.

    On a GPU rows are written there from their indices, and Adam is torch's fused one: both take
    less than what torch does when nothing is said.

    Args:
        part: histories of the users.
        dims: items, hidden units, items.
        start: weights to begin with, named as by `Dense`.
        batch_users: users in a step.
        lr: of Adam.
        dropout: of the input.
        narrow: products in bfloat16, by autocast.
        device: where the model is.
        prefetch: batches made ahead by a thread of their own.
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
        narrow: bool = False,
        device: torch.device = CPU,
        prefetch: int = 0,
    ) -> None:
        self.num_items, self.narrow, self.device = dims[0], narrow, device
        self.model = Dense(dims, start, dropout).to(device)
        fused = True if device.type == "cuda" else None
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr, fused=fused)
        self.batches = batches(part, batch_users=batch_users, device=device, prefetch=prefetch)
        self.losses: list[Tensor] = []

    def step(self) -> float:
        """Returns its loss."""
        self.advance()
        return self.loss()

    def advance(self) -> None:
        """A step whose loss is not looked at, for which a GPU would be waited for."""
        self.take(self.ready())

    def ready(self) -> Rows:
        """The next batch, on the device."""
        return next(self.batches).to(self.device)

    def take(self, rows: Rows) -> None:
        """A step on these users."""
        rows_BV = rows.multi_hot(self.num_items)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.narrow):
            loss = -(F.log_softmax(self.model(rows_BV), 1) * rows_BV).sum(1).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        self.optimizer.step()
        self.losses.append(loss.detach())

    def loss(self) -> float:
        """The mean over the steps since it was asked for last."""
        found = torch.stack(self.losses).mean().item()
        self.losses.clear()
        return found
