"""What a model is shown: the events of a few users, as jagged tensors.

A training step never waits for its device, because whatever of it has a size that depends on data
is decided before: `Arranged` holds it, made on the host, ahead of it.

Shapes, everywhere in deeprec:
    B  users in a batch            V  items in the catalog       D  width of hidden and item_weight
    N  events in a batch           M  distinct (user, item) pairs in a batch
    C  items in one catalog block  K  cutoff
    R  distinct items in a batch
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

COUNTED = 4  # times as many values as there are, which are sorted by counting: up to 8 times faster


@dataclass
class ByItem:
    """The values of a `Jagged` in ascending order, each with the row it stood in: it, transposed.

    Distinct value r owns `users[offsets[r]:offsets[r + 1]]`.
    """

    values: Tensor  # int64 [N], ascending
    users: Tensor  # int64 [N], ascending among equal values
    order: Tensor  # int64 [N], where each stood
    distinct: Tensor  # int64 [R], ascending
    offsets: Tensor  # int64 [R + 1]
    on_host: npt.NDArray[np.int64]  # `values`; stays on the host, wherever the tensors go
    num_users: int | Tensor  # that have any; of a padded batch float32 [], at least 1
    # of a padded batch alone: int64 [R], the place of the distinct value that stands here again;
    # and float32 [N], 0 where a (user, value) stands again, 1 elsewhere
    places: Tensor | None = None
    counted: Tensor | None = None


@dataclass
class Jagged:
    """Rows of different length: row b is `values[offsets[b]:offsets[b + 1]]`."""

    values: Tensor  # int64 [N]
    offsets: Tensor  # int64 [B + 1], starts at 0, ends at N
    weights: Tensor | None = None  # float32 [N]; absent means 1
    # absent: whoever needs it makes it, which waits for the device
    by_item: ByItem | None = field(default=None, repr=False)
    spare: int = field(default=0, repr=False)  # rows at the end that are nobody's

    def rows(self, start: int, stop: int) -> "Jagged":
        """The rows from `start` on, before `stop`, without `by_item`.

        Example:
            >>> Jagged(torch.tensor([4, 5, 6]), torch.tensor([0, 2, 2, 3])).rows(1, 3)
            Jagged(values=tensor([6]), offsets=tensor([0, 0, 1]), weights=None)
        """
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        weights = None if self.weights is None else self.weights[first:last]
        return Jagged(self.values[first:last], self.offsets[start : stop + 1] - first, weights)

    def all_weights(self) -> Tensor:
        """float32 [N]: the weights, ones where they are absent."""
        if self.weights is not None:
            return self.weights
        return torch.ones(len(self.values), device=self.values.device)

    def on(self, device: torch.device) -> "Jagged":
        """The same rows on another device, without `by_item`."""
        weights = None if self.weights is None else self.weights.to(device)
        return Jagged(self.values.to(device), self.offsets.to(device), weights)


@dataclass
class Batch:
    """Some users, what they did before the moment of prediction, and what they did after it.

    Not frozen: Lightning moves a batch to its device by setting the fields of a copy.
    """

    user_rows: Tensor  # int64 [B], row in users.parquet
    history: Jagged  # item index of each event, oldest first, repeats kept; weights = event values
    ages: Tensor | None = (
        None  # float32 [N], days from each event to the moment of prediction, >= 0
    )
    attributes: dict[str, Jagged] = field(default_factory=dict)  # user attributes, by field name
    target: Jagged | None = None  # distinct item indices, ascending inside a user
    user_weights: Tensor | None = None  # float32 [B], what each user's loss counts; absent: 1
    # by input, `history` or `user:NAME`: float32 [B], what all that a user has of it counts
    input_weights: dict[str, Tensor] = field(default_factory=dict)
    own_target: bool = False  # the target is what the history holds, each item once
    # int64 [N], seconds: what tells events apart that lie too far back for float32 days
    times: Tensor | None = None

    @property
    def num_users(self) -> int:
        return self.history.offsets.shape[0] - 1

    def some(self, start: int, stop: int) -> "Batch":
        """The users from `start` on, before `stop`."""
        if (start, stop) == (0, self.num_users):
            return self
        first, last = int(self.history.offsets[start]), int(self.history.offsets[stop])
        return Batch(
            self.user_rows[start:stop],
            self.history.rows(start, stop),
            None if self.ages is None else self.ages[first:last],
            {name: rows.rows(start, stop) for name, rows in self.attributes.items()},
            None if self.target is None else self.target.rows(start, stop),
            None if self.user_weights is None else self.user_weights[start:stop],
        )

    def on(self, device: torch.device) -> "Batch":
        """The same users on another device."""
        return Batch(
            self.user_rows.to(device),
            self.history.on(device),
            None if self.ages is None else self.ages.to(device),
            {name: rows.on(device) for name, rows in self.attributes.items()},
            None if self.target is None else self.target.on(device),
            None if self.user_weights is None else self.user_weights.to(device),
            {name: weights.to(device) for name, weights in self.input_weights.items()},
        )

    @property
    def known_ages(self) -> Tensor:
        """`ages` as models take them: empty where times are unknown."""
        if self.ages is None:
            return self.history.values.new_zeros(0, dtype=torch.float32)
        return self.ages


class Encoded(NamedTuple):
    """What a model says of B users before the catalog is scored."""

    hidden_BD: Tensor  # float32 [B, D]; [B, D + V]: the last are scores, added to the product
    repeat_items_M: Tensor  # int64 [M], distinct inside a user, ascending; empty: no repeat scores
    repeat_offsets_B1: Tensor  # int64 [B + 1]
    repeat_scores_M: Tensor  # float32 [M], the scores of these items


@dataclass
class Sample:
    """The items that a sampled loss scores in the place of the catalog, known before it does.

    They are a catalog of their own, in whose indices target and repeats are told.
    """

    items: Tensor  # int64 [K], distinct, ascending; every target is among them
    shares: Tensor  # float32 [K], for how many items of the catalog each stands
    pool: Tensor  # int64 [S], further items, of which the hardest are scored too, after `items`
    num_hardest: int  # so many of them
    target: Jagged
    repeats: Jagged
    of_repeats: Tensor  # int64, which of the repeats of `Asked` these are
    # of a padded batch alone: int64 [K], the place of the item that stands here again, with share 0
    places: Tensor | None = None


@dataclass
class Drawn:
    """The items that a sampled loss scores for everybody, where a target is only for its own user.

    Targets and repeats are told by their places among these items.
    """

    items: Tensor  # int64 [S], distinct, ascending
    shares: Tensor  # float32 [S], for how many items of the catalog each stands, > 0
    targets: Jagged  # those that are a target of a user
    repeats: Jagged  # those that have a score of their own
    of_repeats: Tensor  # int64, which of the repeats of `Asked` these are
    shared: Tensor  # int64, places of the items that are a target of somebody
    as_targets: Tensor  # int64, places of the same among the distinct items of the target
    others: Tensor  # int64, places of all other items


@dataclass
class Asked:
    """What a loss must know of a batch before the model speaks."""

    target: Jagged  # distinct items of each user
    repeats: Jagged  # distinct items of each user that have a score of their own
    sample: Sample | Drawn | None = None  # absent: a sampled loss draws it when it is called
    user_weights: Tensor | None = None  # float32 [B], what each user's loss counts; absent: 1
    # float32 [B, D], what of hidden the target itself adds up to, of a linear model; absent: all
    own_BD: Tensor | None = None

    def weighted(self, weights_P: Tensor) -> "Asked":
        """The same, with these weights of the targets."""
        return replace(self, target=replace(self.target, weights=weights_P))


@dataclass
class Arranged:
    """A batch as a training step reads it; models with more to read add to it.

    Not frozen, as `Batch`.
    """

    num_users: int
    fields: dict[str, Jagged]  # what the model is shown, by sparse field
    asked: list[Asked]  # of each task
    step: int = field(default=0, kw_only=True)  # of the run; known when the batch is trained on
    # of `asked`, for the processes that share the catalog; an array, for it stays on the host
    told: npt.NDArray[np.int64] | None = field(default=None, kw_only=True)
    padded: bool = field(default=False, kw_only=True)  # it has the shapes of all that are


class Task(NamedTuple):
    """One thing that a training step asks of a model: score the target above all other items."""

    weight: float  # of its loss in the step's loss
    encoded: Encoded
    item_weight_VD: Tensor
    item_bias_V: Tensor
    asked: Asked


class Penalty(NamedTuple):
    """One thing that a training step adds to the losses of its tasks, whatever they are."""

    weight: float  # of it in the step's loss
    value: Tensor  # float32 []


def offsets_of_kept(kept_N: Tensor, offsets_B1: Tensor) -> Tensor:
    """int64 [B + 1], the offsets of the values that are kept alone. Scriptable.

    Example:
        >>> kept = torch.tensor([True, False, True])
        >>> offsets_of_kept(kept, torch.tensor([0, 2, 3])).tolist()
        [0, 1, 2]
    """
    before = torch.cat([torch.zeros_like(offsets_B1[:1]), kept_N.cumsum(0)])
    return before[offsets_B1]


def again(values: Tensor, count: int) -> Tensor:
    """So many, the last one again and again.

    Example:
        >>> again(torch.tensor([3, 5]), 4).tolist()
        [3, 5, 5, 5]
    """
    return torch.cat([values, values[-1:].expand(count - len(values))])


def check_ends(values_name: str, num_values: int, offsets_name: str, offsets_B1: Tensor) -> None:
    """Raises ValueError unless offsets share out so many values among the users. Scriptable.

    Args:
        offsets_B1: int64 [B + 1].
    """
    first, last = int(offsets_B1[0]), int(offsets_B1[-1])
    if first != 0 or last != num_values:
        raise ValueError(
            f"{offsets_name} must start at 0 and end at {num_values}, the number of "
            f"{values_name}; got {first} and {last}"
        )
    if bool((offsets_B1[1:] < offsets_B1[:-1]).any()):
        raise ValueError(f"{offsets_name} must never fall from one user to the next")


def multiplied(rows: Jagged, factors_B: Tensor) -> Jagged:
    """The same rows, each with its weights times a factor.

    Example:
        >>> rows = Jagged(torch.tensor([7, 8, 7]), torch.tensor([0, 2, 3]))
        >>> multiplied(rows, torch.tensor([2.0, 3.0]))
        Jagged(values=tensor([7, 8, 7]), offsets=tensor([0, 2, 3]), weights=tensor([2., 2., 3.]))
    """
    weights = factors_B.repeat_interleave(rows.offsets.diff())
    return replace(rows, weights=weights if rows.weights is None else rows.weights * weights)


def transposed(rows: Jagged) -> ByItem:
    """The values by item; on CUDA this waits for the device, unless it was made already.

    Example:
        >>> by_item = transposed(Jagged(torch.tensor([5, 3, 5]), torch.tensor([0, 2, 3])))
        >>> by_item.values.tolist(), by_item.users.tolist(), by_item.order.tolist()
        ([3, 5, 5], [0, 0, 1], [1, 0, 2])
        >>> by_item.distinct.tolist(), by_item.offsets.tolist()
        ([3, 5], [0, 1, 3])
    """
    if rows.by_item is not None:
        return rows.by_item
    values, offsets = rows.values.cpu().numpy(), rows.offsets.cpu().numpy()
    lengths = np.diff(offsets)
    ascending, order = ordered(values)
    first = np.flatnonzero(np.diff(ascending, prepend=ascending[:1] - 1))
    users = np.repeat(np.arange(len(lengths)), lengths)[order]

    def moved(column: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(column).to(rows.values.device)

    return ByItem(
        values=moved(ascending),
        users=moved(users),
        order=moved(order),
        distinct=moved(ascending[first]),
        offsets=moved(np.append(first, len(values))),
        on_host=ascending,
        num_users=int(np.count_nonzero(lengths)),
    )


def ordered(
    values: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers in ascending order, and where each stood; equal ones stay in their order.

    Example:
        >>> [one.tolist() for one in ordered(np.array([7, 5, 7]))]
        [[5, 7, 7], [1, 0, 2]]
    """
    count, most = len(values), int(values.max(initial=0))
    if values.min(initial=0) >= 0 and most < min(COUNTED * count, 2**31):
        # one row of a sparse matrix, transposed: values are counted, and none are compared
        places, ends = np.arange(count, dtype=np.int32), np.array([0, count], np.int32)
        row = csr_array((places, values.astype(np.int32), ends), shape=(1, most + 1))
        order = row.tocsc().data.astype(np.int64)
        return values[order], order
    # one sort of (value, place) in one number each is far faster than a stable sort of values
    bits = count.bit_length()
    keys = np.sort((values << bits) | np.arange(len(values)))
    return keys >> bits, keys & ((1 << bits) - 1)


def with_transposition(rows: Jagged) -> Jagged:
    """The same rows, their values by item beside them."""
    return replace(rows, by_item=transposed(rows))
