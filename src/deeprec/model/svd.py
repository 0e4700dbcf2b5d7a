"""PureSVD: a history seen through the leading singular vectors of all histories."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from deeprec.batch import Batch, Encoded
from deeprec.console import console
from deeprec.model.history import HistoryWeighting, aggregate, check_weighting, history_weights
from deeprec.model.repeat import without_repeat
from deeprec.model.solved import OF_POPULARITY, SolvedModel, powers, scaled_histories
from deeprec.model.sparse_input import weighted_sum

SPARE_VECTORS = 32  # searched beside those that are kept, so that the last of these settle too
ITERATIONS = 8  # enough for vectors that are the answer


class Svd(SolvedModel):
    """Scores are a history projected on the D directions that explain most of all histories.

    With X the histories, one row a user, n the items of a user and p the users of an item, V holds
    the first D right singular vectors of

        diag(n ** -user_power) X diag(p ** -input_power)

    and a history x scores `x diag(p ** -input_power) V V' diag(p ** output_power)`. It takes V D
    floats and O(events D) operations; no product of two items is held.

    Args:
        num_items: V, known from the data.
        width: D, directions kept; no more than items and users.
        user_power: how much less each event of a long history weighs.
        input_power: how much less popular items weigh.
        output_power: how much higher popular items score.
        history_weighting: weight of each distinct item of a history, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.

    Raises:
        ValueError: width is below 1.

    Example:
        >>> from deeprec.batch import Jagged
        >>> model = Svd(3, width=1, user_power=0.0, input_power=0.0, output_power=0.0)
        >>> rows = Jagged(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 2, 4]))
        >>> users = Batch(torch.arange(2), rows)
        >>> losses = list(model.solve(users, 0, torch.Generator().manual_seed(0)))
        >>> hidden = model.encode(torch.tensor([0]), torch.tensor([0, 1]), torch.zeros(0), {})[0]
        >>> (hidden @ model.item_weight.T).round(decimals=4).abs().tolist()
        [[0.5, 0.5, 0.0]]

    Reference:
        Cremonesi, Koren and Turrin, Performance of Recommender Algorithms on Top-N Recommendation
        Tasks, RecSys 2010, whose powers are all 0; a power of popularity as in Nikolakopoulos et
        al., EigenRec, KAIS 2019. The vectors are found by subspace iteration from a random start
        (Halko, Martinsson and Tropp, SIAM Review 2011).
    """

    weighs_users = True
    input_scale_V: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        width: int = 64,
        user_power: float = 0.5,
        input_power: float = 0.5,
        output_power: float = 0.5,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = 90.0,
    ) -> None:
        if width < 1:
            raise ValueError(f"width must be 1 or more, got {width}")
        super().__init__(num_items, width)
        self.user_power = user_power
        self.input_power, self.output_power = input_power, output_power
        check_weighting(history_weighting, fade_days)
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.register_buffer("input_scale_V", torch.ones(num_items))

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """Projects each history; see `Recommender.serving_encoder`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        weights_M = weights_M * self.input_scale_V[history.items_M]
        hidden_BD = weighted_sum(self.item_weight, history.items_M, history.offsets_B1, weights_M)
        return without_repeat(hidden_BD)

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Finds the directions; see `Solvable.solve`."""
        scaled, popularity_V, _ = scaled_histories(
            users,
            self.num_items,
            self.history_weighting,
            self.fade_days,
            user_power=self.user_power,
            item_power=self.input_power,
        )
        out_V = torch.from_numpy(powers(popularity_V, self.output_power, OF_POPULARITY)).float()
        scale_V = powers(popularity_V, -self.input_power - self.output_power, OF_POPULARITY)
        with console.status(f"looking for {self.item_weight.shape[1]} directions"):
            vectors_VD = leading_vectors(scaled, self.item_weight.shape[1], draw)
        self.item_weight.copy_(torch.from_numpy(vectors_VD) * out_V[:, None])
        self.input_scale_V.copy_(torch.from_numpy(scale_V))
        self.settle_ties(popularity_V, float(self.item_weight.abs().max()))
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """What looking for the directions takes."""
        return looking_bytes(self.item_weight, num_users, num_events)


def looking_bytes(item_weight_VD: Tensor, num_users: int, num_events: int) -> int:
    """What `leading_vectors` takes: vectors on both sides, and the histories as a matrix."""
    num_items, width = item_weight_VD.shape
    return 4 * (width + SPARE_VECTORS) * (num_users + 5 * num_items) + 40 * num_events


def leading_vectors(
    matrix: sparse.csr_array, width: int, draw: torch.Generator, iterations: int = ITERATIONS
) -> npt.NDArray[np.float32]:
    """float32 [V, D], orthonormal columns: the right singular vectors of the largest values.

    Columns beyond the rank of the matrix are zero. The fewer iterations, the more of the vectors
    beyond is in the last of them.
    """
    num_items = matrix.shape[1]
    start = torch.randn(num_items, min(width + SPARE_VECTORS, num_items), generator=draw)
    turned = matrix.T.tocsr()
    basis = np.linalg.qr(start.numpy())[0]
    for _ in range(iterations):
        basis = np.linalg.qr(turned @ (matrix @ basis))[0]
    projected = matrix @ basis
    squares, turn = np.linalg.eigh((projected.T @ projected).astype(np.float64))
    largest = np.argsort(-squares)[:width]
    there = squares[largest] > 1e-6 * max(squares[largest].max(initial=0.0), 1e-30)
    vectors = np.zeros((num_items, width), np.float32)
    vectors[:, : len(largest)] = basis @ (turn[:, largest] * there).astype(np.float32)
    return vectors
