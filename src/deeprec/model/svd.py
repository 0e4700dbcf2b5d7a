"""PureSVD: a history seen through the leading singular vectors of all histories."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
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
from deeprec.model.repeat import without_repeat
from deeprec.model.solved import OF_POPULARITY, SolvedModel, largest_of, powers, scaled_histories
from deeprec.model.sparse_input import weighted_sum

SPARE_VECTORS = 32  # searched beside those that are kept, so that the last of these settle too
ITERATIONS = 8  # enough for vectors that are the answer
BLOCK_NUMBERS = 2**20  # of a basis that are computed with in float64 at once
LEAST_SQUARE = 1e-14  # of the largest, to be told from roundings of float32


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
        fade_days: float = FADE_DAYS,
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
        scaled, popularity_V, *_ = scaled_histories(
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
        self.item_weight.copy_(torch.from_numpy(vectors_VD).mul_(out_V[:, None]))
        self.input_scale_V.copy_(torch.from_numpy(scale_V))
        self.settle_ties(popularity_V, largest_of(self.item_weight))
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """What looking for the directions takes."""
        return looking_bytes(self.item_weight, num_users, num_events)


def looking_bytes(item_weight_VD: Tensor, num_users: int, num_events: int) -> int:
    """What `leading_vectors` takes: bases of both sides, the vectors, and the histories twice."""
    num_items, width = item_weight_VD.shape
    had, searched = min(num_items, num_events), width + SPARE_VECTORS
    return 4 * (searched * (had + num_users) + num_items * width) + 40 * num_events


def leading_vectors(
    matrix: sparse.csr_array, width: int, draw: torch.Generator, iterations: int = ITERATIONS
) -> npt.NDArray[np.float32]:
    """float32 [V, D], orthonormal columns: the right singular vectors of the largest values.

    Columns beyond the rank of the matrix are zero, and so are rows of items in no history: these
    are not searched. The fewer iterations, the more of the vectors beyond is in the last of them.
    """
    num_items = matrix.shape[1]
    had = np.bincount(matrix.indices, minlength=num_items) > 0
    columns = (np.cumsum(had, dtype=matrix.indices.dtype) - 1)[matrix.indices]
    rows = matrix.data, columns, matrix.indptr
    narrow = sparse.csr_array(rows, (matrix.shape[0], int(had.sum())))
    turned = narrow.T.tocsr()
    searched = min(width + SPARE_VECTORS, narrow.shape[1])
    basis = orthonormal(torch.randn(narrow.shape[1], searched, generator=draw).numpy())
    for _ in range(iterations):
        of_users = narrow @ basis
        del basis  # of a large catalog there is no room for two
        basis = orthonormal(turned @ of_users)
    of_users = narrow @ basis
    squares, turn = np.linalg.eigh((of_users.T @ of_users).astype(np.float64))
    largest = np.argsort(-squares)[:width]
    there = squares[largest] > 1e-6 * max(squares[largest].max(initial=0.0), 1e-30)
    turn = (turn[:, largest] * there).astype(np.float32)
    vectors = np.zeros((num_items, width), np.float32)
    items = np.flatnonzero(had)
    for block in _blocks(basis):
        vectors[items[block], : len(largest)] = basis[block] @ turn
    return vectors


def orthonormal(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """An orthonormal basis of the columns of float32 [V, K], in their place.

    By the eigenvectors of their Gram matrix in float64, twice, for after once it is as exact only
    as the columns were far apart. It takes a fifth of the time of a QR by LAPACK, which numpy asks
    in float64, and no copy. Where columns depend on each other, some of the basis are zero.

    Reference:
        Fukaya et al., CholeskyQR2, ScalA 2014, with eigenvectors in place of Cholesky factors,
        which also exist where columns depend on each other.
    """
    for last in (False, True):
        gram = np.zeros((vectors.shape[1], vectors.shape[1]))
        for block in _blocks(vectors):
            some = vectors[block].astype(np.float64)
            gram += some.T @ some
        squares, turn = np.linalg.eigh(gram)
        least = max(LEAST_SQUARE * squares.max(initial=0.0), np.finfo(np.float64).tiny)
        turn /= np.sqrt(squares.clip(least))
        if last:
            turn[:, squares < least] = 0.0
        for block in _blocks(vectors):
            vectors[block] = vectors[block].astype(np.float64) @ turn
    return vectors


def _blocks(vectors: npt.NDArray[np.float32]) -> Iterator[slice]:
    """Its rows in blocks of a few MB."""
    size = max(1, BLOCK_NUMBERS // max(1, vectors.shape[1]))
    return (slice(start, start + size) for start in range(0, len(vectors), size))
