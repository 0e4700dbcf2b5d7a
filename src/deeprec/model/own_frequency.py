"""More of the same: each user's own most frequent items, hard to beat where people buy again."""

from collections.abc import Iterator

import torch
from torch import Tensor

from deeprec.batch import Batch, Encoded
from deeprec.model.history import aggregate
from deeprec.model.solved import SolvedModel, weighted_histories


class OwnFrequency(SolvedModel):
    """Recommends what the user took most often, then what is popular.

    Items of the history come first: by number of events, then by the latest event (where times are
    unknown, what stands later is later), then by popularity. The rest of the list is filled with
    the most popular other items. Scores state the order only: an own item's score is above 0, any
    other's is 0 or below.

    Args:
        num_items: V, known from the data.
    """

    place_V: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__(num_items, width=1)
        self.register_buffer("place_V", torch.arange(num_items))  # 0 is the most popular item

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """Own items above all others; see `Recommender.serving_encoder`."""
        latest_N = since_or_order(ages_N, offsets_B1, items_N.shape[0])
        history = aggregate(items_N, offsets_B1, latest_N, self.num_items)
        # by the least important reason first: each sort keeps the order of those before it
        order_M = torch.argsort(self.place_V[history.items_M], stable=True)
        order_M = order_M[torch.argsort(history.latest_M[order_M], stable=True)]
        order_M = order_M[torch.argsort(-history.counts_M[order_M], stable=True)]
        order_M = order_M[torch.argsort(history.users_M[order_M], stable=True)]
        ends_M = history.offsets_B1[history.users_M + 1]
        places_M = torch.arange(order_M.shape[0], device=items_N.device)
        scores_M = torch.zeros(order_M.shape[0], device=items_N.device)
        scores_M[order_M] = (ends_M - places_M).float()
        hidden_BD = torch.zeros(offsets_B1.shape[0] - 1, 1, device=items_N.device)
        return Encoded(hidden_BD, history.items_M, history.offsets_B1, scores_M)

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Counts, per item, the users whose history holds it; see `Solvable.solve`."""
        known = weighted_histories(users, self.num_items)
        popularity_V = torch.bincount(known.values, minlength=self.num_items)
        order_V = torch.argsort(popularity_V, descending=True, stable=True)
        place_V = torch.empty_like(order_V)
        place_V[order_V] = torch.arange(self.num_items)
        self.place_V.copy_(place_V)
        self.item_bias.copy_(-place_V)
        yield float("nan")


def since_or_order(ages_N: Tensor, offsets_B1: Tensor, num_events: int) -> Tensor:
    """float32 [N]: ages; of a user whose ages are unknown, less for what stands later.

    Args:
        ages_N: float32 [N], days; empty [0] where unknown, or -1.
        offsets_B1: int64 [B + 1].
        num_events: N.

    Example:
        >>> ages = torch.tensor([3.0, 1.0, -1.0, -1.0])
        >>> since_or_order(ages, torch.tensor([0, 2, 4]), 4).tolist()
        [3.0, 1.0, 2.0, 1.0]
    """
    ages = ages_N
    if ages_N.shape[0] == 0:
        ages = torch.full([num_events], -1.0, device=offsets_B1.device)
    lengths_B = offsets_B1[1:] - offsets_B1[:-1]
    users_N = torch.repeat_interleave(lengths_B, output_size=num_events)
    oldest_B = torch.full([lengths_B.shape[0]], -1.0, device=ages.device)
    oldest_B = oldest_B.scatter_reduce(0, users_N, ages, "amax")
    order_N = num_events - torch.arange(num_events, device=ages.device).float()
    return torch.where(oldest_B[users_N] >= 0, ages, order_N)
