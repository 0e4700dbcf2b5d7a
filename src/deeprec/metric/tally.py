"""One system's metrics, user by user, while its lists come in batch after batch."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deeprec.batch import Jagged
from deeprec.metric import ranking

# what `name@k` of a report means; each takes hits bool [U, K] and the number of relevant items [U]
METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "precision": ranking.precision,
    "recall": ranking.recall,
    "recall_capped": ranking.recall_capped,
    "hit": ranking.hit,
    "ndcg": ranking.ndcg,
    "map": ranking.map,
    "mrr": ranking.mrr,
}


class Tally:
    """Metrics of one system at several cutoffs.

    Args:
        cutoffs: list lengths judged, each at least 1.
        num_items: V.

    Example:
        >>> tally = Tally([1, 2], num_items=4)
        >>> tally.add(torch.tensor([[3, 0]]), Jagged(torch.tensor([0, 1]), torch.tensor([0, 2])))
        >>> tally.values()["recall@2"].tolist(), tally.coverage()
        ([0.5], {'coverage@1': 0.25, 'coverage@2': 0.5})
    """

    def __init__(self, cutoffs: Sequence[int], num_items: int) -> None:
        self.cutoffs = list(cutoffs)
        self._values: dict[str, list[npt.NDArray[np.float64]]] = {
            f"{name}@{k}": [] for name in METRICS for k in cutoffs
        }
        # the best place any list gave each item; what nobody was given stands behind every list
        self._place_V = torch.full((num_items,), max(cutoffs))

    def add(self, items_BK: Tensor, target: Jagged) -> None:
        """Judges the lists of some users.

        Args:
            items_BK: int64 [B, K], item indices, best first, distinct inside a list; -1 is a place
                that cannot be a hit. K is at least the largest cutoff.
            target: the distinct items each user took, at least one.
        """
        hits_BK = hits(items_BK, target)
        num_relevant_B = target.offsets.diff()
        for name, metric in METRICS.items():
            for k in self.cutoffs:
                values_B = metric(hits_BK[:, :k], num_relevant_B)
                self._values[f"{name}@{k}"].append(values_B.double().numpy())
        places_BK = torch.arange(items_BK.shape[1]).expand_as(items_BK)
        known_BK = items_BK >= 0
        self._place_V.scatter_reduce_(0, items_BK[known_BK], places_BK[known_BK], "amin")

    def values(self) -> dict[str, npt.NDArray[np.float64]]:
        """Per metric, float64 [U] in the order the users were added."""
        return {name: np.concatenate(parts) for name, parts in self._values.items()}

    def join(self, other: "Tally") -> None:
        """Takes in what another process tallied of other users."""
        for name, parts in other._values.items():
            self._values[name] += parts
        self._place_V = torch.minimum(self._place_V, other._place_V)

    def shares(self) -> dict[str, float]:
        """Share of the catalog that was in anybody's list, per cutoff."""
        return {f"coverage@{k}": (self._place_V < k).double().mean().item() for k in self.cutoffs}


def hits(items_BK: Tensor, target: Jagged) -> Tensor:
    """Whether the user took the item: bool [B, K]; an item of -1 is no hit.

    Example:
        >>> target = Jagged(torch.tensor([1, 5, 1]), torch.tensor([0, 2, 3]))
        >>> hits(torch.tensor([[5, 2], [5, 1]]), target).tolist()
        [[True, False], [False, True]]
    """
    span = 1 + max(int(rows.max()) if rows.numel() else 0 for rows in (items_BK, target.values))
    users_B = torch.arange(items_BK.shape[0])
    taken_N = users_B.repeat_interleave(target.offsets.diff()) * span + target.values
    return torch.isin(users_B[:, None] * span + items_BK, taken_N) & (items_BK >= 0)


def places(items_BK: Tensor, target: Jagged) -> Tensor:
    """Which of the targets each item is: int64 [B, K], an index into `target.values`, or -1.

    Args:
        target: distinct items of each user, ascending.

    Example:
        >>> target = Jagged(torch.tensor([1, 5, 1]), torch.tensor([0, 2, 3]))
        >>> places(torch.tensor([[5, 2], [5, 1]]), target).tolist()
        [[1, -1], [-1, 2]]
    """
    if not len(target.values):
        return torch.full_like(items_BK, -1)
    span = 1 + max(int(rows.max()) if rows.numel() else 0 for rows in (items_BK, target.values))
    users_B = torch.arange(items_BK.shape[0])
    taken_N = users_B.repeat_interleave(target.offsets.diff()) * span + target.values
    asked_BK = users_B[:, None] * span + items_BK
    place_BK = torch.searchsorted(taken_N, asked_BK).clamp(max=len(taken_N) - 1)
    return torch.where((taken_N[place_BK] == asked_BK) & (items_BK >= 0), place_BK, -1)
