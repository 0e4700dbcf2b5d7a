"""EASE: every item predicted from all others by one ridge regression, in closed form."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse
from torch import Tensor, nn

from deeprec.batch import Batch, Encoded
from deeprec.console import console
from deeprec.errors import NonFiniteError
from deeprec.model.history import (
    FADE_DAYS,
    HistoryWeighting,
    aggregate,
    check_weighting,
    history_weights,
)
from deeprec.model.repeat import without_repeat
from deeprec.model.solved import (
    OF_POPULARITY,
    SolvedModel,
    check_ridge,
    largest_of,
    powers,
    ridge,
    scaled_histories,
)
from deeprec.model.sparse_input import weighted_sum

Float32Array = npt.NDArray[np.float32]
CANNOT_INVERT = (
    "the matrix of item pairs cannot be inverted in float32: l2 and dropout add too little to its "
    "diagonal; give a model.l2 of 1 or more, or ten times what it was"
)
GRAM_BLOCK = 1024  # items whose products with all others are counted at once


class Ease(SolvedModel):
    """Scores are a history times a [V, V] matrix of weights between items, without the diagonal.

    With X the histories and G = X'X, the weights minimise `|X - XB|^2 + |L B|^2` under a zero
    diagonal, where `L^2 = l2 I + dropout / (1 - dropout) diag(G)`:

        P = (G + L^2)^-1        B_ij = -P_ij / P_jj

    The matrix takes 4 V^2 bytes, in which it is solved, and its inversion V^3 operations, so it is
    for catalogs up to some 20,000 items.

    Args:
        num_items: V, known from the data.
        l2: what is added to the diagonal, in users: the fewer users an item has, the more of what
            is said of it is chance. None: 8 for each item of a mean history, and at most 300.
        dropout: chance that an item of a history is dropped, as if infinitely many dropped copies
            of each history had been learned from.
        user_power: a history of n items weighs `n ** -user_power` in every of its events.
        input_power: an item of a history weighs `popularity ** -input_power`.
        output_power: scores are multiplied by `popularity ** output_power`.
        history_weighting: weight of each distinct item of a history, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.

    Raises:
        ValueError: l2 is not above 0, or dropout is not in [0, 1).
        NonFiniteError: in `solve`, l2 is too small for float32.

    Example:
        >>> from deeprec.batch import Jagged
        >>> model = Ease(2, l2=1.0, user_power=0.0, dropout=0.0)
        >>> users = Batch(torch.arange(1), Jagged(torch.tensor([0, 1]), torch.tensor([0, 2])))
        >>> losses = list(model.solve(users, 0, torch.Generator()))  # G + I = [[2, 1], [1, 2]]
        >>> model.between_items.tolist()
        [[0.0, 0.5], [0.5, 0.0]]

    Reference:
        Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019; the term of dropout is
        from Steck, Autoencoders that don't overfit towards the Identity, NeurIPS 2020. The three
        powers are not in either: with all of them 0 and dropout 0 it is the first.
    """

    weighs_users = True

    def __init__(
        self,
        num_items: int,
        *,
        l2: float | None = None,
        dropout: float = 0.5,
        user_power: float = 0.25,
        input_power: float = 0.0,
        output_power: float = 0.0,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
    ) -> None:
        super().__init__(num_items, width=0)
        check_ridge(l2, dropout)
        self.l2, self.dropout, self.user_power = l2, dropout, user_power
        self.input_power, self.output_power = input_power, output_power
        check_weighting(history_weighting, fade_days)
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.between_items = nn.Parameter(torch.zeros(num_items, num_items), requires_grad=False)

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Encoded:
        """Scores of all items as hidden vectors [B, V]; see `Recommender.serving_encoder`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        scores_BV = weighted_sum(self.between_items, history.items_M, history.offsets_B1, weights_M)
        return without_repeat(scores_BV)

    def said_by(self, item: int) -> tuple[Tensor, Tensor]:
        """See `SaidBetweenItems`."""
        return torch.arange(self.num_items), self.between_items[item]

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Counts pairs and inverts; see `Solvable.solve`."""
        histories = scaled_histories(
            users,
            self.num_items,
            self.history_weighting,
            self.fade_days,
            user_power=self.user_power,
            item_power=self.input_power,
        )
        scaled, popularity_V = histories.matrix, histories.popularity_V
        in_V = powers(popularity_V, -self.input_power, OF_POPULARITY)
        out_V = powers(popularity_V, self.output_power, OF_POPULARITY)
        # on a CPU all of it is done where the weights lie: there is one [V, V]
        gram_VV = gram(scaled, into=self.between_items.detach().cpu().numpy().T)
        ridge_V = ridge(gram_VV.diagonal(), histories, self.l2, self.dropout)
        gram_VV[np.diag_indices(self.num_items)] += ridge_V
        with console.status("inverting the matrix of item pairs"):
            weights_VV = torch.from_numpy(inverse(gram_VV))
        weights_VV /= -weights_VV.diagonal().clone()
        weights_VV.fill_diagonal_(0.0)
        weights_VV *= torch.from_numpy(in_V).float()[:, None]
        weights_VV *= torch.from_numpy(out_V).float()
        self.between_items.copy_(weights_VV)
        self.settle_ties(popularity_V, largest_of(weights_VV))
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """Blocks of pairs, sparse and dense, and the histories as a matrix."""
        return 16 * GRAM_BLOCK * self.num_items + 24 * num_events


def gram(matrix: sparse.csr_array, *, into: Float32Array) -> Float32Array:
    """float32 [V, V], column-major: the products of all pairs of columns, a block at a time.

    Args:
        into: where they are put, float32 [V, V], column-major.
    """
    num_items = matrix.shape[1]
    by_item = matrix.T.tocsr()
    with console.status("counting pairs of items"):
        for start in range(0, num_items, GRAM_BLOCK):
            block = by_item[start : start + GRAM_BLOCK] @ matrix
            into[:, start : start + GRAM_BLOCK] = block.toarray().T
    return into


def inverse(positive: Float32Array) -> Float32Array:
    """Of a symmetric positive definite matrix, in its place.

    Raises:
        NonFiniteError: it is not positive definite to the precision of float32.
    """
    lower, failed = linalg.lapack.spotrf(positive, lower=1, overwrite_a=1, clean=0)
    if failed:
        raise NonFiniteError(CANNOT_INVERT)
    inverted, _ = linalg.lapack.spotri(lower, lower=1, overwrite_c=1)
    for start in range(0, len(inverted), GRAM_BLOCK):  # only its lower half was written
        stop = min(start + GRAM_BLOCK, len(inverted))
        inverted[start:stop, stop:] = inverted[stop:, start:stop].T
        square = inverted[start:stop, start:stop]
        square[:] = np.tril(square) + np.tril(square, -1).T
    whole: Float32Array = np.ascontiguousarray(inverted.T)  # symmetric: its transpose is itself
    return whole
