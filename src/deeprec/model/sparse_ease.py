"""EASE for large catalogs: each item predicted by one ridge regression on its nearest items."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse

from deeprec.batch import Batch
from deeprec.console import console
from deeprec.errors import NonFiniteError
from deeprec.model.ease import CANNOT_INVERT
from deeprec.model.history import FADE_DAYS, HistoryWeighting
from deeprec.model.neighbour_scores import NeighbourModel, with_own_items
from deeprec.model.solved import OF_POPULARITY, check_ridge, powers, ridge, scaled_histories

Float32Array = npt.NDArray[np.float32]


class SparseEase(NeighbourModel):
    """Scores are a history times a sparse [V, V] matrix of weights between items.

    With X the histories and G = X'X, item j is predicted by those K others, of all that somebody
    had beside it, that have the largest `G_ij^2 / (G_ii + L_i^2)`: what each explains alone.

        B_ij = ((G + L^2) restricted to these K)^-1 G_ij        else 0

    under the same L as `Ease`, to which it comes as K grows, but for items that nobody had
    together. The weights take 8 V K bytes, the pairs of items that somebody had together 8 bytes
    each while they are counted, and the regressions V K^3 / 3 operations; no [V, V] is held.

    Args:
        num_items: V, known from the data.
        neighbours: K, items that predict one.
        l2: what is added to the diagonal, in users, as in `Ease`.
        dropout: chance that an item of a history is dropped, as if infinitely many dropped copies
            of each history had been learned from.
        user_power: a history of n items weighs `n ** -user_power` in every of its events.
        input_power: an item of a history weighs `popularity ** -input_power`.
        output_power: scores are multiplied by `popularity ** output_power`.
        history_weighting: weight of each distinct item of a history, as of `Autoencoder`.
        fade_days: days after which an event counts 1/e in `decayed`.

    Raises:
        ValueError: neighbours is below 1, l2 is not above 0, or dropout is not in [0, 1).
        NonFiniteError: in `solve`, l2 is too small for float32.

    Example:
        >>> from deeprec.batch import Jagged
        >>> model = SparseEase(2, l2=1.0, user_power=0.0, dropout=0.0)
        >>> users = Batch(torch.arange(1), Jagged(torch.tensor([0, 1]), torch.tensor([0, 2])))
        >>> losses = list(model.solve(users, 0, torch.Generator()))  # G = [[1, 1], [1, 1]]
        >>> none = torch.zeros(0)
        >>> model.encode(torch.tensor([0]), torch.tensor([0, 1]), none, {}).repeat_scores_M.tolist()
        [0.0, 0.5]

    Reference:
        Steck, Markov Random Fields for Collaborative Filtering, NeurIPS 2019, which inverts blocks
        of items and shares them out; here each item has a regression of its own. Another way to
        the same end is a sparse approximate inverse (Spisak et al., SANSA, RecSys 2023).
    """

    weighs_users = True

    def __init__(
        self,
        num_items: int,
        *,
        neighbours: int = 100,
        l2: float | None = None,
        dropout: float = 0.5,
        user_power: float = 0.25,
        input_power: float = 0.0,
        output_power: float = 0.0,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
    ) -> None:
        super().__init__(
            num_items,
            neighbours=neighbours,
            history_weighting=history_weighting,
            fade_days=fade_days,
        )
        check_ridge(l2, dropout)
        self.l2, self.dropout, self.user_power = l2, dropout, user_power
        self.input_power, self.output_power = input_power, output_power

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Counts pairs and solves a regression for each item; see `Solvable.solve`."""
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
        with console.status("counting pairs of items"):
            gram = (scaled.T.tocsr() @ scaled).tocsr()
        ridge_V = ridge(gram.diagonal(), histories, self.l2, self.dropout)
        with console.status("solving a regression for each item"):
            said = _regressions(gram, ridge_V.astype(np.float32), self.neighbours)
        said = sparse.diags_array(in_V) @ said @ sparse.diags_array(out_V)
        self.between_items.fill(with_own_items(said.tocsr()))
        self.settle_ties(popularity_V, float(np.abs(said.data).max(initial=0.0)))
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """The weights while they are put together, and pairs, were a user's items not shared."""
        of_a_user = num_events // max(num_users, 1) + 1
        pairs = min(self.num_items**2, 4 * num_events * of_a_user)
        return 8 * pairs + 40 * self.neighbours * self.num_items + 40 * num_events


def _regressions(
    gram: sparse.csr_array, ridge_V: Float32Array, neighbours: int
) -> sparse.csr_array:
    """float32 sparse [V, V], whose column j is the regression of item j."""
    ridged_V = gram.diagonal() + ridge_V
    found = [_regression(gram, item, ridged_V, neighbours) for item in range(len(ridge_V))]
    offsets = np.cumsum([0, *(len(near) for near, _ in found)])
    near, said = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return sparse.csc_array((said, near, offsets), gram.shape).tocsr()


def _regression(
    gram: sparse.csr_array, item: int, ridged_V: Float32Array, neighbours: int
) -> tuple[npt.NDArray[np.int32], Float32Array]:
    """The items nearest to one, and what each says of it."""
    here = slice(gram.indptr[item], gram.indptr[item + 1])
    others, shared = gram.indices[here], gram.data[here]
    apart = others != item
    others, shared = others[apart], shared[apart]
    if len(others) > neighbours:
        alone = shared * shared / ridged_V[others]
        kept = np.argpartition(-alone, neighbours - 1)[:neighbours]
        others, shared = others[kept], shared[kept]
    if len(others) == 0:
        return others, shared
    square = gram[others][:, others].toarray()
    square[np.diag_indices(len(others))] = ridged_V[others]
    try:
        said: Float32Array = linalg.solve(square, shared, assume_a="pos", check_finite=False)
    except linalg.LinAlgError as error:
        raise NonFiniteError(CANNOT_INVERT) from error
    return others, said
