"""Items that share a value of an attribute, as the histories of users who had just these.

What a model learns of likeness between items from those who had both, it learns so from what is
known of the items too: of an item that nobody had yet, this alone.

Reference:
    Jeunen, Van Balen and Goethals, Closed-Form Models for Collaborative Filtering with
    Side-Information, RecSys 2020, where a row of the matrix of items is a tag in place of a user.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deeprec.batch import Batch, Jagged
from deeprec.data.store import Prepared, attribute_names, ranges
from deeprec.data.vocabulary import holds_lists
from deeprec.errors import ConfigError, did_you_mean

MOST_ITEMS = 1_000  # of a value: what more share says little of each, and pairs grow by the square

Rows = npt.NDArray[np.int64]


class AttributeHistories:
    """One history for each value of some attributes that two items or more have.

    Args:
        prepared: whose items they are.
        names: attributes; a value, or a list of values, of each item.
        weight: what the loss of each counts, where that of a user counts 1.
        weighs_users: whether users count what the prepared folder says, and not 1 each.

    Raises:
        ConfigError: the items have no such attribute, it is of values within values, or no two of
            them share a value, or one stands there twice.
    """

    def __init__(
        self, prepared: Prepared, names: Sequence[str], *, weight: float, weighs_users: bool
    ) -> None:
        known = attribute_names(prepared.items, "item")
        for place, name in enumerate(names):
            if name in names[:place]:
                raise ConfigError(f"item_attributes: {name} stands there twice; name it once")
            if name not in known:
                raise ConfigError(
                    f"item_attributes: items of {prepared.path} have no {name!r}; "
                    + (did_you_mean(name, known) if known else "they have no attributes at all")
                )
            _refuse_nested(name, prepared.items[name].type)
        self.weight, self.weighs_users = weight, weighs_users
        found = [_items_of_values(prepared.items[name]) for name in names]
        lengths = np.concatenate([np.diff(offsets) for _, offsets in found])
        items = np.concatenate([items for items, _ in found])
        kept = (lengths > 1) & (lengths <= MOST_ITEMS)
        self.too_common = int((lengths > MOST_ITEMS).sum())
        shared = np.unique(items[np.repeat(kept, lengths)])
        self.num_items = len(shared)
        self.num_new = int((prepared.popularity[shared] == 0).sum())
        self.offsets = np.concatenate([[0], np.cumsum(lengths[kept])])
        self.items = items[np.repeat(kept, lengths)]
        if not len(self):
            raise ConfigError(
                f"item_attributes: no value of {', '.join(names)} is shared by 2 to "
                f"{MOST_ITEMS:,} items of {prepared.path}, so nothing is learned from it; name "
                "another attribute"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def beside(self, batch: Batch, rows: Rows | None = None) -> Batch:
        """The batch with these histories after its users: what is shown, and what is the target.

        They are of now, and nothing is known of who had them.

        Args:
            batch: of users.
            rows: of these histories; None: all.

        Example:
            >>> import types
            >>> items = pa.table({"item_id": ["a", "b", "c"], "brand": ["x", "y", "x"]})
            >>> prepared = types.SimpleNamespace(items=items, path="shop", popularity=np.ones(3))
            >>> more = AttributeHistories(prepared, ["brand"], weight=0.5, weighs_users=False)
            >>> users = Batch(torch.tensor([7]), Jagged(torch.tensor([1]), torch.tensor([0, 1])))
            >>> both = more.beside(users)
            >>> both.history.values.tolist(), both.history.offsets.tolist()
            ([1, 0, 2], [0, 1, 3])
            >>> both.user_weights.tolist()
            [1.0, 0.5]
        """
        more = self._taken(np.arange(len(self)) if rows is None else rows)
        count = len(more.offsets) - 1
        none = Jagged(more.values[:0], torch.zeros_like(more.offsets))
        ages = more.values.new_zeros(len(more.values), dtype=torch.float32)
        return Batch(
            user_rows=torch.cat([batch.user_rows, torch.full((count,), -1)]),
            history=_joined(batch.history, more),
            ages=None if batch.ages is None else torch.cat([batch.ages, ages]),
            attributes={name: _joined(rows, none) for name, rows in batch.attributes.items()},
            target=None if batch.target is None else _joined(batch.target, more),
            user_weights=self._weights(batch, count),
            input_weights={
                name: torch.cat([weights, torch.ones(count)])
                for name, weights in batch.input_weights.items()
            },
        )

    def told(self, steps: int) -> str:
        """What is learned from in an epoch of so many steps, for a person."""
        new = f", {self.num_new:,} of them in no training event," if self.num_new else ""
        rare = f"; {self.too_common:,} values of more than {MOST_ITEMS:,} items are left out"
        return (
            f"item_attributes: {len(self):,} values that {self.num_items:,} items{new} share, as "
            f"one history each that counts {self.weight:g}, some {-(-len(self) // steps):,} beside "
            f"the users of a step{rare if self.too_common else ''}"
        )

    @property
    def weighs(self) -> bool:
        """Whether they count otherwise than a user."""
        return self.weight != 1.0

    def _weights(self, batch: Batch, count: int) -> torch.Tensor | None:
        weights = batch.user_weights if self.weighs_users else None
        if weights is None and not self.weighs:
            return None
        if weights is None:
            weights = torch.ones(batch.num_users)
        return torch.cat([weights, torch.full((count,), self.weight)])

    def _taken(self, rows: Rows) -> Jagged:
        lengths = np.diff(self.offsets)[rows]
        return Jagged(
            torch.from_numpy(self.items[ranges(self.offsets[rows], lengths)]),
            torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
        )


def _refuse_nested(name: str, kind: pa.DataType) -> None:
    of_each = kind.value_type if holds_lists(kind) else kind
    if pa.types.is_nested(of_each):
        raise ConfigError(
            f"item_attributes: {name} must hold a value of each item, or a list of values, got "
            f"{kind}; name another attribute, or prepare it as text"
        )


def _items_of_values(column: pa.ChunkedArray) -> tuple[Rows, Rows]:
    """The items that have each value, ascending; and offsets, one more than there are values."""
    values = column.combine_chunks()
    items = pa.array(np.arange(len(values)))
    if holds_lists(values.type):
        items, values = items.take(pc.list_parent_indices(values)), pc.list_flatten(values)
    there = pc.is_valid(values)
    if pa.types.is_floating(values.type):
        there = pc.and_(there, pc.invert(pc.is_nan(values)))
    elif pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        there = pc.and_(there, pc.not_equal(values, ""))  # as a CSV file has what is not known
    codes = pc.dictionary_encode(values.filter(there)).indices.to_numpy(zero_copy_only=False)
    pairs = np.unique(np.stack([codes, items.filter(there).to_numpy()]), axis=1).astype(np.int64)
    return pairs[1], np.concatenate([[0], np.cumsum(np.bincount(pairs[0]))]).astype(np.int64)


def _joined(first: Jagged, second: Jagged) -> Jagged:
    """The rows of one after those of the other; where one has weights, the other's are 1."""
    weights = None
    if first.weights is not None:
        weights = torch.cat([first.weights, torch.ones(len(second.values))])
    return Jagged(
        torch.cat([first.values, second.values]),
        torch.cat([first.offsets, first.offsets[-1] + second.offsets[1:]]),
        weights,
    )
