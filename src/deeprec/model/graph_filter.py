"""GF-CF: a history filtered on the graph of users and items, by a linear and a low-pass filter."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from deeprec.batch import Batch, Encoded
from deeprec.console import console
from deeprec.model.history import (
    FADE_DAYS,
    HistoryWeighting,
    aggregate,
    check_weighting,
    history_weights,
)
from deeprec.model.item_to_item import FIT_BLOCK_PAIRS, strongest, taken_together
from deeprec.model.neighbour_scores import NeighbourScores, on_the_product, with_own_items
from deeprec.model.solved import OF_POPULARITY, SolvedModel, largest_of, powers, scaled_histories
from deeprec.model.sparse_input import weighted_sum
from deeprec.model.svd import leading_vectors, looking_bytes


class GraphFilter(SolvedModel):
    """What lies one step away on the graph, and what the smoothest signals on it say.

    With X the histories, n the items of a user and p the users of an item,

        R = diag(n ** -user_power) X diag(p ** -item_power)        V: its first D right vectors
        scores of x = x (R'R + low_pass diag(p ** -item_power) V V' diag(p ** item_power))

    R'R is kept sparse: per item its `neighbours` largest entries, besides its own. The low-pass
    filter is a product with a catalog table. So the model takes V (D + neighbours) numbers.

    Args:
        num_items: V, known from the data.
        width: D of the low-pass filter.
        low_pass: its share; 0: only neighbours.
        neighbours: entries kept per item.
        user_power: how much less each event of a long history weighs.
        item_power: how much less popular items weigh.
        history_weighting: weight of each distinct item of a history, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.

    Raises:
        ValueError: width or neighbours is below 1, or low_pass below 0.

    Example:
        >>> from deeprec.batch import Jagged
        >>> model = GraphFilter(2, width=1, low_pass=0.0)
        >>> users = Batch(torch.arange(1), Jagged(torch.tensor([0, 1]), torch.tensor([0, 2])))
        >>> losses = list(model.solve(users, 0, torch.Generator()))
        >>> none = torch.zeros(0)
        >>> encoded = model.encode(torch.tensor([0]), torch.tensor([0, 1]), none, {})
        >>> encoded.repeat_scores_M
        tensor([0.5000, 0.5000])

    Reference:
        Shen et al., How Powerful is Graph Convolution for Recommendation?, CIKM 2021, with powers
        1/2 and low_pass 0.3. Differs: the largest entries of R'R in place of all, and vectors from
        subspace iteration.
    """

    weighs_users = True

    input_scale_V: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        low_pass: float = 1.0,
        neighbours: int = 50,
        user_power: float = 0.5,
        item_power: float = 0.5,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
    ) -> None:
        for name, value in (("width", width), ("neighbours", neighbours)):
            if value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if low_pass < 0.0:
            raise ValueError(f"low_pass must be 0 or more, got {low_pass}")
        super().__init__(num_items, width)
        self.low_pass, self.neighbours = low_pass, neighbours
        self.user_power, self.item_power = user_power, item_power
        check_weighting(history_weighting, fade_days)
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.register_buffer("input_scale_V", torch.ones(num_items))
        self.between_items = NeighbourScores(num_items)

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """Filters each history; see `Recommender.serving_encoder`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        near: Encoded = self.between_items(history, weights_M)
        scaled_M = self.low_pass * weights_M * self.input_scale_V[history.items_M]
        hidden_BD = weighted_sum(self.item_weight, history.items_M, history.offsets_B1, scaled_M)
        return on_the_product(near, hidden_BD, self.item_weight, self.item_bias)

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Counts pairs and finds the directions; see `Solvable.solve`."""
        scaled, popularity_V, *_ = scaled_histories(
            users,
            self.num_items,
            self.history_weighting,
            self.fade_days,
            user_power=self.user_power,
            item_power=self.item_power,
        )
        out_V = torch.from_numpy(powers(popularity_V, self.item_power, OF_POPULARITY)).float()
        scale_V = powers(popularity_V, -2.0 * self.item_power, OF_POPULARITY)
        with console.status("counting pairs of items"):
            self.between_items.fill(with_own_items(_largest_products(scaled, self.neighbours)))
        with console.status(f"looking for {self.item_weight.shape[1]} directions"):
            vectors_VD = leading_vectors(scaled, self.item_weight.shape[1], draw)
        self.item_weight.copy_(torch.from_numpy(vectors_VD).mul_(out_V[:, None]))
        self.input_scale_V.copy_(torch.from_numpy(scale_V))
        self.settle_ties(popularity_V, largest_of(self.item_weight))
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """Blocks of pairs, neighbours while they are put together, and vectors on both sides."""
        of_vectors = looking_bytes(self.item_weight, num_users, num_events)
        return of_vectors + 24 * FIT_BLOCK_PAIRS + 24 * self.neighbours * self.num_items


def _largest_products(scaled: sparse.csr_array, neighbours: int) -> sparse.csr_array:
    """Of the products of all pairs of columns the largest of each, and that with itself."""
    kept = [strongest(first, said, neighbours) for first, said in taken_together(scaled)]
    lengths, others, products = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_array((products, others, offsets), (scaled.shape[1], scaled.shape[1]))
