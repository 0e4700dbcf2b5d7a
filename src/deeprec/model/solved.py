"""What models have in common that are solved from all histories at once."""

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
