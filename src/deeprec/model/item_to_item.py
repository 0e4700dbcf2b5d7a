"""Those who took this also took that: similarity between items by the users they share."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from deeprec.batch import Batch
from deeprec.model.history import FADE_DAYS, HistoryWeighting
from deeprec.model.neighbour_scores import NeighbourModel
from deeprec.model.solved import as_matrix, weighted_histories

FIT_BLOCK_PAIRS = 2**24  # pairs (an item, one more of a user) counted at once: 128 MiB at most
Similarity = Literal["cosine", "jaccard"]


class ItemToItem(NeighbourModel):
    """Recommends what is similar to the items of the history.

    Of items i and j, with n the users who took one or both, however often:

        cosine   n(i and j) / sqrt(n(i) n(j))        jaccard   n(i and j) / n(i or j)

    The score of item j for a user is the sum, over the distinct items i of the history, of what i
    weighs times its similarity to j, so an item that the user already has counts itself with
    similarity 1. Per item i only itself and its `neighbours` most similar items are kept, ties by
    lower index. Items that are nobody's neighbours follow by popularity, at scores below 0.

    Args:
        num_items: V, known from the data.
        similarity: cosine or jaccard.
        neighbours: most similar items kept per item, besides itself. Of 20, 50 and 200, 20 has the
            highest validation ndcg@100 on MovieLens 1M (.247, .241, .214), on purchases of books
            (.128, .127, .126) and of Online Retail's new items (.122, .115, .107); where people
            take the same again, more are a little better (.155, .159 and .161 ndcg@20 on a year of
            grocery purchases).
        history_weighting: weight of each distinct item of a history that is asked with, as of
            `Autoencoder`; `decayed` is decay by time.
        fade_days: days after which an event counts 1/e in `decayed`.

    Raises:
        ValueError: neighbours is below 1.

    Example:
        >>> from deeprec.batch import Jagged
        >>> model = ItemToItem(3)
        >>> users = Batch(torch.arange(2), Jagged(torch.tensor([0, 1, 0]), torch.tensor([0, 2, 3])))
        >>> losses = list(model.solve(users, 0, torch.Generator()))
        >>> none = torch.zeros(0)
        >>> model.encode(torch.tensor([1]), torch.tensor([0, 1]), none, {}).repeat_scores_M.tolist()
        [0.7071067690849304, 1.0]

    Reference:
        Sarwar, Karypis, Konstan, Riedl, "Item-based collaborative filtering recommendation
        algorithms", WWW 2001. Differs: binary histories, and the sum is not divided by the sum of
        similarities, which would favour items with few neighbours.
    """

    def __init__(
        self,
        num_items: int,
        *,
        similarity: Similarity = "cosine",
        neighbours: int = 20,
        history_weighting: HistoryWeighting = "binary",
        fade_days: float = FADE_DAYS,
    ) -> None:
        super().__init__(
            num_items,
            neighbours=neighbours,
            history_weighting=history_weighting,
            fade_days=fade_days,
        )
        self.similarity = similarity

    def solve(self, users: Batch, done: int, draw: torch.Generator) -> Iterator[float]:
        """Counts who took what with what, in blocks; see `Solvable.solve`."""
        known = weighted_histories(users, self.num_items)
        taken, had = _only_had(as_matrix(known, self.num_items))
        popularity = np.bincount(taken.indices, minlength=len(had)).astype(np.float64)
        nearest = [
            _nearest(first, together, popularity, self.neighbours, self.similarity)
            for first, together in taken_together(taken)
        ]
        if nearest:
            lengths, others, similarity = (np.concatenate(arrays) for arrays in zip(*nearest))
            self.between_items.fill(_table(self.num_items, had, lengths, others, similarity))
        self.item_bias.fill_(-1.0)
        shares = torch.from_numpy(popularity / max(users.num_users, 1)).float()
        items, device = torch.from_numpy(had).long(), self.item_bias.device
        self.item_bias[items.to(device)] = (shares - 1.0).clamp(max=-1e-6).to(device)
        yield float("nan")

    def solving_bytes(self, num_users: int, num_events: int) -> int:
        """Blocks of pairs, and the neighbours while they are put together."""
        return 24 * FIT_BLOCK_PAIRS + 24 * self.neighbours * min(self.num_items, num_events)


def _table(
    num_items: int,
    had: npt.NDArray[np.int32],
    lengths: npt.NDArray[np.int64],
    others: npt.NDArray[np.int32],
    similarity: npt.NDArray[np.float32],
) -> sparse.csr_array:
    """Rows of the items that somebody had, among all items."""
    lengths_V = np.zeros(num_items, np.int64)
    lengths_V[had] = lengths
    offsets = np.concatenate([[0], np.cumsum(lengths_V)])
    return sparse.csr_array((similarity, had[others], offsets), (num_items, num_items))


def _only_had(taken: sparse.csr_array) -> tuple[sparse.csr_array, npt.NDArray[np.int32]]:
    """The same without the items that nobody took, and which items are left."""
    had = np.flatnonzero(np.bincount(taken.indices)).astype(np.int32)
    place_V = np.zeros(taken.shape[1], np.int32)
    place_V[had] = np.arange(len(had))
    shape = (taken.shape[0], len(had))
    return sparse.csr_array((taken.data, place_V[taken.indices], taken.indptr), shape), had


def taken_together(taken: sparse.csr_array) -> Iterator[tuple[int, sparse.csr_array]]:
    """Some items at a time: the first of them, and their products with all columns of a table.

    Args:
        taken: float32 [U, V]. Where it holds 1 alone, products count the users that items share.
    """
    by_item, lengths = taken.T.tocsr(), np.diff(taken.indptr)
    # an item and what its users took, which is entries and not what they weigh
    pairs = np.bincount(taken.indices, np.repeat(lengths, lengths), taken.shape[1]).cumsum()
    first, counted = 0, 0
    while first < len(pairs):
        end = int(np.searchsorted(pairs, counted + FIT_BLOCK_PAIRS, side="right"))
        end = max(end, first + 1)
        yield first, by_item[first:end] @ taken  # counts are exact in float32
        first, counted = end, int(pairs[end - 1])


def _nearest(
    first: int,
    together: sparse.csr_array,
    popularity: npt.NDArray[np.float64],
    neighbours: int,
    kind: Similarity,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Per item its number of neighbours, itself included; these, and how similar they are."""
    lengths = np.diff(together.indptr)
    items, others = first + np.repeat(np.arange(len(lengths)), lengths), together.indices
    mine, theirs = popularity[items], popularity[others]
    norm = np.sqrt(mine * theirs) if kind == "cosine" else mine + theirs - together.data
    similarity = together.data / norm
    similarity = similarity.astype(np.float32)
    alike = sparse.csr_array((similarity, others, together.indptr), together.shape)
    return strongest(first, alike, neighbours)


def strongest(
    first: int, said: sparse.csr_array, neighbours: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Per row of a table its own item, whose index is `first` and up, and the largest others."""
    lengths, others = np.diff(said.indptr), said.indices
    own = others == first + np.repeat(np.arange(len(lengths)), lengths)
    strength = np.where(own, np.inf, said.data)  # its own is always kept
    kept = np.ones(len(others), bool)
    for row in np.flatnonzero(lengths > neighbours + 1):
        here = slice(said.indptr[row], said.indptr[row + 1])
        kept[here] = False
        kept[here.start + largest(strength[here], others[here], neighbours + 1)] = True
    rows = np.repeat(np.arange(len(lengths)), lengths)[kept]
    numbers = np.bincount(rows, minlength=len(lengths))
    return numbers, others[kept], said.data[kept]


def largest(
    values: npt.NDArray[Any], labels: npt.NDArray[Any], count: int
) -> npt.NDArray[np.int64]:
    """Positions of the `count` largest values; among equals those of the lowest labels.

    Example:
        >>> positions = largest(np.array([5, 1, 7, 5, 5]), np.array([9, 0, 3, 8, 7]), 3)
        >>> sorted(positions.tolist())
        [2, 3, 4]
    """
    if len(values) <= count:
        return np.arange(len(values))
    threshold = np.partition(values, -count)[-count]
    above = np.flatnonzero(values > threshold)
    equal = np.flatnonzero(values == threshold)
    equal = equal[np.argsort(labels[equal])][: count - len(above)]
    return np.concatenate([above, equal])
