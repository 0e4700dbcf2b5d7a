"""The same list for everyone: the items that most users took."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deeprec.batch import Batch, Jagged
from deeprec.model.rank import seen_if
from deeprec.model.topk import BLOCK_ITEMS, top_k_of_blocks


class Popularity:
    """Recommends what most users took; knows nothing of the user but what to exclude.

    Args:
        popularity_V: int64 [V], number of distinct users who took each item.
        block_items: catalog items scored at once.
    """

    def __init__(self, popularity_V: Tensor, *, block_items: int = BLOCK_ITEMS) -> None:
        self.scores_V = popularity_V.float()
        self.block_items = block_items

    @classmethod
    def fit(cls, histories: Jagged, num_items: int) -> Self:
        """Counts, per item, the users whose history holds it; repeats count once."""
        return cls(torch.from_numpy(users_per_item(histories, num_items)))

    def recommend(self, batch: Batch, k: int, exclude_seen: bool) -> tuple[Tensor, Tensor]:
        """The k most popular items for each user of the batch.

        Returns:
            items int64 [B, K] (-1 padded) and scores float32 [B, K] (-inf padded).
        """

        def score_block(start: int, end: int) -> Tensor:
            return self.scores_V[start:end].repeat(batch.num_users, 1)

        return top_k_of_blocks(
            score_block,
            len(self.scores_V),
            batch.num_users,
            k,
            *seen_if(exclude_seen, batch),
            self.block_items,
        )


def users_per_item(histories: Jagged, num_items: int) -> npt.NDArray[np.int64]:
    """int64 [V]: distinct users whose history holds each item.

    Example:
        >>> histories = Jagged(torch.tensor([0, 0, 2, 2]), torch.tensor([0, 3, 4]))
        >>> users_per_item(histories, num_items=3).tolist()
        [1, 0, 2]
    """
    users = np.repeat(np.arange(len(histories.offsets) - 1), histories.offsets.diff().numpy())
    pairs = np.sort(users * num_items + histories.values.numpy())
    first = np.diff(pairs, prepend=-1) > 0
    return np.bincount(pairs[first] % num_items, minlength=num_items)
