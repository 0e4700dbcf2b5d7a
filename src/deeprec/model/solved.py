"""What models have in common that are solved from all histories at once."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn

from deeprec.batch import Batch, Encoded, Jagged
from deeprec.errors import ConfigError
from deeprec.model.history import FADE_DAYS, HistoryWeighting, aggregate, history_weights

L2_OF_ITEM, MOST_L2 = 8.0, 300.0  # of EASE by default; found on histories of 3 to 140 items
TIE = 1e-6  # of the largest score: some float32 roundings of it
OF_HISTORY = "model.user_power must be nearer to 0: a history of {count} items"
OF_POPULARITY = "powers of popularity in model must be nearer to 0: a popularity of {count}"


class SolvedModel(nn.Module):
    """A model whose `forward` is at once what is evaluated and what a bundle runs.

    Args:
        num_items: V.
        width: D of the catalog table, which starts at zero, as the bias does.
        field_names: user attributes that it reads.
    """

    passes: int | None = 1
    weighs_users = False  # whether users count in it what their batch says

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

    def settle_ties(self, popularity_V: npt.NDArray[Any], largest: float) -> None:
        """Of items that the model says nothing of, all where a history is empty, popular ones lead.

        Args:
            popularity_V: users that had each item.
            largest: of its scores for one item of a history, or of that size.
        """
        self.item_bias.copy_(tie_breaks(torch.from_numpy(popularity_V), largest))

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """What a few columns of pairs take; see `Solvable.solving_bytes`."""
        return 16 * num_events


def tie_breaks(popularity_V: Tensor, largest: float) -> Tensor:
    """float32 [V]: what to add to scores of up to this size, so that equal ones rank by popularity.

    Example:
        >>> tie_breaks(torch.tensor([3, 0, 6]), 2.0).tolist()
        [9.999999974752427e-07, 0.0, 1.9999999949504854e-06]
    """
    shares_V = popularity_V.double() / popularity_V.double().max().clamp(min=1.0)
    return (TIE * largest * shares_V).float()


def largest_of(table: Tensor) -> float:
    """Of its numbers, whatever their sign; a table of their sizes is not made.

    Example:
        >>> largest_of(torch.tensor([[1.0, -3.0], [2.0, 0.0]]))
        3.0
    """
    least, most = torch.aminmax(table)
    return float(torch.maximum(-least, most))


def weighted_histories(
    users: Batch,
    num_items: int,
    weighting: HistoryWeighting = "binary",
    fade_days: float = FADE_DAYS,
) -> Jagged:
    """The distinct items of every user, ascending, and what each weighs.

    Raises:
        ConfigError: none weighs anything.
    """
    rows = users.history
    history = aggregate(rows.values, rows.offsets, users.known_ages, num_items, fade_days)
    weights_M = history_weights(history, weighting)
    if len(weights_M) and not (weights_M > 1e-30).any():
        raise ConfigError(
            f"fade_days={fade_days:g}: every event of every history is so old that it counts 0; "
            "set model.fade_days higher, or model.history_weighting=binary"
        )
    return Jagged(history.items_M, history.offsets_B1, weights_M)


def as_matrix(histories: Jagged, num_items: int) -> sparse.csr_array:
    """Sparse [B, V], of the type of the weights."""
    assert histories.weights is not None
    rows = histories.weights.numpy(), histories.values.numpy(), histories.offsets.numpy()
    return sparse.csr_array(rows, (len(rows[2]) - 1, num_items))


class Scaled(NamedTuple):
    """Histories as a matrix, an event less where its user or its item has many."""

    matrix: sparse.csr_array  # float32 [B, V]
    popularity_V: npt.NDArray[np.float64]  # what the users of each item count, above 0
    num_events: float  # what the users of all events count
    num_users: float  # what those who have any count


def scaled_histories(
    users: Batch,
    num_items: int,
    weighting: HistoryWeighting,
    fade_days: float,
    *,
    user_power: float,
    item_power: float,
) -> Scaled:
    """The distinct items of all histories.

    An event weighs `items of its user ** -user_power * popularity ** -item_power`, and in products
    of two what its user counts.

    Raises:
        ConfigError: none weighs anything, or a power is 0 or infinite in float32.
    """
    matrix = as_matrix(weighted_histories(users, num_items, weighting, fade_days), num_items)
    lengths = np.diff(matrix.indptr)
    counts_B = np.ones(len(lengths))
    if users.user_weights is not None:
        counts_B = users.user_weights.double().numpy()
    had_V = np.bincount(matrix.indices, np.repeat(counts_B, lengths), num_items)
    # an item that nobody has counts as one that one user has, so that a power of it is a number
    popularity_V = np.where(had_V > 0.0, had_V, 1.0)
    of_users_B = powers(lengths.clip(1), -user_power, OF_HISTORY) * np.sqrt(counts_B)
    data = matrix.data * np.repeat(of_users_B, lengths)
    data *= powers(popularity_V, -item_power, OF_POPULARITY)[matrix.indices]
    rows = data.astype(np.float32), matrix.indices, matrix.indptr
    num_users = float(counts_B[lengths > 0].sum())
    return Scaled(sparse.csr_array(rows, matrix.shape), popularity_V, float(had_V.sum()), num_users)


def powers(
    counts: npt.NDArray[np.float64] | npt.NDArray[np.int64], power: float, of: str
) -> npt.NDArray[np.float64]:
    """`counts ** power`, where float32 has room for each.

    Args:
        of: what is counted, and which settings say the power.

    Raises:
        ConfigError: it has not.

    Example:
        >>> powers(np.array([1, 4]), -0.5, OF_HISTORY).tolist()
        [1.0, 0.5]
    """
    with np.errstate(over="ignore", under="ignore"):
        found: npt.NDArray[np.float64] = counts.astype(np.float64) ** power
        held = found.astype(np.float32)
    lost = ~((held > 0.0) & np.isfinite(held))
    if lost.any():
        count = counts[lost][0]
        becomes = "infinite" if found[lost][0] > 1.0 else "0"
        raise ConfigError(
            f"{of.format(count=f'{count:,.0f}')} to the power of {power:g} is {becomes} in float32"
        )
    return found


def check_ridge(l2: float | None, dropout: float) -> None:
    """Raises ValueError if no ridge regression between items can have these."""
    if l2 is not None and not l2 > 0.0:
        raise ValueError(f"l2 must be above 0, got {l2}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")


def ridge(
    own_V: npt.NDArray[np.float32], histories: Scaled, l2: float | None, dropout: float
) -> npt.NDArray[np.float32]:
    """float32 [V]: what is added to the diagonal of the Gram matrix of scaled histories.

    Args:
        own_V: that diagonal.
        histories: whose it is.
        l2: in users; they weigh less than 1 once histories are scaled. None: 8 for each item of a
            mean history, and at most 300.
        dropout: chance that an item of a history is dropped.
    """
    if l2 is None:
        l2 = min(L2_OF_ITEM * histories.num_events / max(histories.num_users, 1.0), MOST_L2)
    of_a_user = own_V.sum() / max(histories.num_events, 1)
    added_V: npt.NDArray[np.float32] = l2 * of_a_user + dropout / (1.0 - dropout) * own_V
    return added_V
