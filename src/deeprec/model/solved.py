"""What models have in common that are solved from all histories at once."""

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from deeprec.batch import Batch, Encoded, Jagged
from deeprec.model.history import HistoryWeighting, aggregate, history_weights


class SolvedModel(nn.Module):
    """A model whose `forward` is at once what is evaluated and what a bundle runs.

    Args:
        num_items: V.
        width: D of the catalog table, which starts at zero, as the bias does.
        field_names: user attributes that it reads.
    """

    passes: int | None = 1

    def __init__(self, num_items: int, width: int, field_names: list[str] | None = None) -> None:
        super().__init__()
        self.num_items, self.field_names = num_items, field_names or []
        self.item_weight = nn.Parameter(torch.zeros(num_items, width), requires_grad=False)
        self.item_bias = nn.Parameter(torch.zeros(num_items), requires_grad=False)

    def encode(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: dict[str, tuple[Tensor, Tensor]],
    ) -> Encoded:
        """What the model says of each user; see `Recommender.encode`."""
        values = [attributes[name][0] for name in self.field_names]
        offsets = [attributes[name][1] for name in self.field_names]
        encoded: Encoded = self(items_N, offsets_B1, ages_N, values, offsets)
        return encoded

    def serving_encoder(self) -> nn.Module:
        """This model: its forward is scriptable."""
        return self

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """What a few columns of pairs take; see `Solvable.solving_bytes`."""
        return 16 * num_events


def weighted_histories(
    users: Batch, num_items: int, weighting: HistoryWeighting = "binary", fade_days: float = 90.0
) -> Jagged:
    """The distinct items of every user, ascending, and what each weighs."""
    rows = users.history
    history = aggregate(rows.values, rows.offsets, users.known_ages, num_items, fade_days)
    return Jagged(history.items_M, history.offsets_B1, history_weights(history, weighting))


def as_matrix(histories: Jagged, num_items: int) -> sparse.csr_array:
    """float32 sparse [B, V]."""
    assert histories.weights is not None
    rows = histories.weights.numpy(), histories.values.numpy(), histories.offsets.numpy()
    return sparse.csr_array(rows, (len(rows[2]) - 1, num_items))


def popularity_in(matrix: sparse.csr_array) -> npt.NDArray[np.float64]:
    """float64 [V]: users who have each item, at least 1, so that a power of it is a number."""
    counts_V = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return counts_V.clip(1).astype(np.float64)


def scaled_by(
    matrix: sparse.csr_array, user_power: float, item_scale_V: npt.NDArray[np.float64]
) -> sparse.csr_array:
    """The histories, each event times `items of its user ** -user_power` and its item's scale."""
    lengths = np.diff(matrix.indptr)
    of_users = np.repeat(lengths.clip(1).astype(np.float64) ** -user_power, lengths)
    data = matrix.data * of_users * item_scale_V[matrix.indices]
    return sparse.csr_array((data.astype(np.float32), matrix.indices, matrix.indptr), matrix.shape)
