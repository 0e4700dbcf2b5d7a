"""More of the same: each user's own most frequent items, hard to beat where people buy again."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deeprec.batch import Batch, Jagged
from deeprec.model.popularity import users_per_item
from deeprec.model.rank import seen_if
from deeprec.model.topk import BLOCK_ITEMS, top_k_of_blocks


class OwnFrequency:
    """Recommends what the user took most often, then what is popular.

    Items of the history come first: by number of events, then by the latest event, then by
    popularity. The rest of the list is filled with the most popular other items. Scores state the
    order only: an own item's score is above 0, any other's is 0 or below.

    Args:
        popularity_V: int64 [V], number of distinct users who took each item.
        block_items: catalog items scored at once.
    """

    def __init__(self, popularity_V: Tensor, *, block_items: int = BLOCK_ITEMS) -> None:
        popularity = popularity_V.numpy()
        self.num_items = len(popularity)
        self.block_items = block_items
        self.place_V = np.empty(self.num_items, np.int64)  # 0 is the most popular item
        self.place_V[np.argsort(-popularity, kind="stable")] = np.arange(self.num_items)
        self.scores_V = -torch.from_numpy(self.place_V).float()

    @classmethod
    def fit(cls, histories: Jagged, num_items: int) -> Self:
        """Counts, per item, the users whose history holds it; repeats count once."""
        return cls(torch.from_numpy(users_per_item(histories, num_items)))

    def recommend(self, batch: Batch, k: int, exclude_seen: bool) -> tuple[Tensor, Tensor]:
        """Each user's own items, most frequent first, and popular ones after them.

        Returns:
            items int64 [B, K] (-1 padded) and scores float32 [B, K] (-inf padded).
        """
        users_M, items_M, scores_M = self._own(batch)

        def score_block(start: int, end: int) -> Tensor:
            scores_BC = self.scores_V[start:end].repeat(batch.num_users, 1)
            here = (items_M >= start) & (items_M < end)
            scores_BC[users_M[here], items_M[here] - start] = scores_M[here]
            return scores_BC

        return top_k_of_blocks(
            score_block,
            self.num_items,
            batch.num_users,
            k,
            *seen_if(exclude_seen, batch),
            self.block_items,
        )

    def _own(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """User, item and score of each distinct item of the histories."""
        lengths = np.diff(batch.history.offsets.numpy())
        users_N = np.repeat(np.arange(batch.num_users), lengths)
        pairs_N = users_N * self.num_items + batch.history.values.numpy()
        pairs_M, event_of_N, count_M = np.unique(pairs_N, return_inverse=True, return_counts=True)
        lateness_M = np.full(len(pairs_M), -np.inf)
        np.maximum.at(lateness_M, event_of_N, _lateness(batch))
        users_M, items_M = np.divmod(pairs_M, self.num_items)
        order = np.lexsort((self.place_V[items_M], -lateness_M, -count_M, users_M))
        ends_B = np.searchsorted(users_M, np.arange(batch.num_users), side="right")
        scores_M = np.empty(len(pairs_M), np.float32)
        scores_M[order] = ends_B[users_M] - np.arange(len(pairs_M))
        return torch.from_numpy(users_M), torch.from_numpy(items_M), torch.from_numpy(scores_M)


def _lateness(batch: Batch) -> npt.NDArray[np.float64]:
    """float64 [N]: larger is later; by age, or where times are unknown by place in the history."""
    if batch.ages is None:
        return np.arange(len(batch.history.values), dtype=np.float64)
    return -batch.ages.numpy().astype(np.float64)
