"""Where in their lists users find what they took: all that metrics of relevance need to know.

Most places of most lists are no hit, so hits are kept one by one instead of a table of places.

Shapes: U users, K places of a list, N relevant items of all users, H hits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from deeprec.batch import Jagged

IntArray = npt.NDArray[np.int64]

FILTER = 16  # slots of the filter for each relevant item: one in 16 others passes it
ODD = np.int64(0x9E3779B97F4A7C15 - 2**64)  # 2^64 over the golden ratio: spreads whatever is near


@dataclass(frozen=True)
class Hits:
    """The hits of some users' lists, user after user, best place first.

    Args:
        users_H: int64 [H], row of the user.
        places_H: int64 [H], place in the list from 0.
        targets_H: int64 [H], which of the relevant items of all users it is.
        num_relevant_U: int64 [U], relevant items of each user.
        lengths_U: int64 [U], places of each list, those at its end that hold nothing left out.
        num_candidates_U: int64 [U], items a list could have held; None: not known.
    """

    users_H: IntArray
    places_H: IntArray
    targets_H: IntArray
    num_relevant_U: IntArray
    lengths_U: IntArray
    num_candidates_U: IntArray | None = None

    @classmethod
    def of(cls, items_UK: Tensor, target: Jagged, num_candidates_U: IntArray | None = None) -> Self:
        """The hits of lists.

        Args:
            items_UK: int64 [U, K], item indices, best first, distinct inside a list; -1 is a place
                that cannot be a hit.
            target: the relevant items of each user, distinct and ascending.
            num_candidates_U: int64 [U].

        Example:
            >>> import torch
            >>> target = Jagged(torch.tensor([1, 5, 1]), torch.tensor([0, 2, 3]))
            >>> hits = Hits.of(torch.tensor([[5, 2], [5, 1]]), target)
            >>> hits.users_H.tolist(), hits.places_H.tolist(), hits.targets_H.tolist()
            ([0, 1], [0, 1], [1, 2])
        """
        items = items_UK.numpy()
        num_relevant_U = target.offsets.diff().numpy()
        users_H, places_H, targets_H = found(items, target)
        held = items >= 0
        lengths_U = np.where(held.any(1), items.shape[1] - held[:, ::-1].argmax(1), 0)
        return cls(users_H, places_H, targets_H, num_relevant_U, lengths_U, num_candidates_U)

    @classmethod
    def at(
        cls,
        positions: Sequence[Sequence[int]],
        num_relevant: Sequence[int],
        num_candidates: Sequence[int] | None = None,
        length: int = 10,
    ) -> Self:
        """The hits of users who find what they took at these positions, which count from 1.

        Example:
            >>> Hits.at([[1, 3], []], num_relevant=[2, 1]).order_H.tolist()
            [1, 2]
        """
        counts = [len(user) for user in positions]
        return cls(
            np.repeat(np.arange(len(positions)), counts),
            np.array([position - 1 for user in positions for position in sorted(user)], np.int64),
            np.zeros(sum(counts), np.int64),
            np.array(num_relevant, np.int64),
            np.full(len(positions), length),
            None if num_candidates is None else np.array(num_candidates, np.int64),
        )

    @property
    def num_users(self) -> int:
        return len(self.num_relevant_U)

    @cached_property
    def order_H(self) -> IntArray:  # noqa: N802  # its shape
        """int64 [H]: which hit of its user's list it is, from 1."""
        counts_U = np.bincount(self.users_H, minlength=self.num_users)
        before_U = np.cumsum(counts_U) - counts_U
        order_H: IntArray = np.arange(1, len(self.users_H) + 1) - before_U[self.users_H]
        return order_H

    def only(self, kept_H: npt.NDArray[np.bool_], num_relevant_U: IntArray) -> "Hits":
        """As if other items were not relevant."""
        return replace(
            self,
            users_H=self.users_H[kept_H],
            places_H=self.places_H[kept_H],
            targets_H=self.targets_H[kept_H],
            num_relevant_U=num_relevant_U,
        )


def found(items_UK: IntArray, wanted: Jagged) -> tuple[IntArray, IntArray, IntArray]:
    """Which places hold an item that its user wanted.

    Args:
        items_UK: int64 [U, K].
        wanted: distinct items of each user, ascending.

    Returns:
        User, place and index into `wanted.values` of each, int64 [H].
    """
    values_N, offsets = wanted.values.numpy(), wanted.offsets.numpy()
    none = np.zeros(0, np.int64)
    if not len(values_N) or not items_UK.size:
        return none, none, none
    users_N = np.repeat(np.arange(len(items_UK)), np.diff(offsets))
    # almost no place is a hit: a small table of bits tells most that are none
    bits = int(FILTER * len(values_N)).bit_length()
    passes = np.zeros(1 << bits, bool)
    passes[_slots(users_N, values_N, bits)] = True
    rows, places = np.nonzero(passes[_slots(np.arange(len(items_UK))[:, None], items_UK, bits)])
    items = items_UK[rows, places]
    span = 1 + max(int(values_N.max()), int(items.max(initial=0)))
    keys_N, keys = users_N * span + values_N, rows * span + items
    at = np.searchsorted(keys_N, keys).clip(max=len(keys_N) - 1)
    hit = (keys_N[at] == keys) & (items >= 0)
    return rows[hit], places[hit], at[hit]


def _slots(users: IntArray, items: IntArray, bits: int) -> IntArray:
    """The slot of each pair in a table of 2^bits, by multiplying and keeping the highest bits."""
    with np.errstate(over="ignore"):
        mixed = (items + users * np.int64(0x632BE59BD9B4E019)) * ODD
    slots: IntArray = (mixed.view(np.uint64) >> np.uint64(64 - bits)).view(np.int64)
    return slots
