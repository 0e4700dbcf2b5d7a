"""What a model is shown: the events of a few users, as jagged tensors.

Shapes, everywhere in deeprec:
    B  users in a batch            V  items in the catalog       D  width of hidden and item_weight
    N  events in a batch           M  distinct (user, item) pairs in a batch
    C  items in one catalog block  K  cutoff
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


@dataclass
class Jagged:
    """Rows of different length: row b is `values[offsets[b]:offsets[b + 1]]`."""

    values: Tensor  # int64 [N]
    offsets: Tensor  # int64 [B + 1], starts at 0, ends at N
    weights: Tensor | None = None  # float32 [N]; absent means 1


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

    @property
    def num_users(self) -> int:
        return self.history.offsets.shape[0] - 1


class Encoded(NamedTuple):
    """What a model says of B users before the catalog is scored."""

    hidden_BD: Tensor  # float32 [B, D]
    repeat_items_M: Tensor  # int64 [M], distinct inside a user, ascending; empty: no repeat scores
    repeat_offsets_B1: Tensor  # int64 [B + 1]
    repeat_scores_M: Tensor  # float32 [M], the scores of these items


class Task(NamedTuple):
    """One thing that a training step asks of a model: score the target above all other items."""

    weight: float  # of its loss in the step's loss
    encoded: Encoded
    item_weight_VD: Tensor
    item_bias_V: Tensor
    target: Jagged
