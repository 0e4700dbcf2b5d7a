"""What models have in common that are solved from all histories at once."""

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from deeprec.batch import Batch, Encoded
from deeprec.model.autoencoder import HistoryWeighting, history_weights
from deeprec.model.history import aggregate


class SolvedModel(nn.Module):
    """A model whose `forward` is at once what is evaluated and what a bundle runs.

    Args:
        field_names: user attributes that it reads.
    """

    passes: int | None = 1

    def __init__(self, field_names: list[str] | None = None) -> None:
        super().__init__()
        self.field_names = field_names or []

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


class Weighted(NamedTuple):
    """Distinct items of every user, and what each weighs."""

    items_M: Tensor  # int64 [M], ascending inside a user
    offsets_B1: Tensor  # int64 [B + 1]
    weights_M: Tensor  # float32 [M]


def weighted_histories(
    users: Batch, num_items: int, weighting: HistoryWeighting, fade_days: float
) -> Weighted:
    """The histories of a batch as a model reads them."""
    ages_N = torch.zeros(0) if users.ages is None else users.ages
    rows = users.history
    history = aggregate(rows.values, rows.offsets, ages_N, num_items, fade_days)
    return Weighted(history.items_M, history.offsets_B1, history_weights(history, weighting))


def as_matrix(histories: Weighted, num_items: int) -> sparse.csr_array:
    """float32 sparse [B, V]."""
    rows = histories.weights_M.numpy(), histories.items_M.numpy(), histories.offsets_B1.numpy()
    return sparse.csr_array(rows, (len(rows[2]) - 1, num_items))


def users_of_items(matrix: sparse.csr_array) -> np.ndarray:
    """float64 [V], users that have each item; one where nobody has it."""
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return counts.clip(1).astype(np.float64)
