"""What a model without repeat scores is shown of users: history and attributes as one sum.

Shapes as in deeprec/batch.py, and H, the width of the tables.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from deeprec.batch import Asked, Batch, Jagged, with_transposition
from deeprec.model.attribute_field import (
    Bags,
    attribute_fields,
    attribute_tables,
    divisors_of,
)
from deeprec.model.dropping import check_share, thinned
from deeprec.model.history import (
    HistoryWeighting,
    ages_read,
    aggregate,
    check_weighting,
    history_weights,
    normalized,
)
from deeprec.model.sparse_input import HISTORY, Backend, SparseInput


class UserInput(nn.Module):
    """The sum of the rows of a user's items, weighted to length 1, and of its attributes.

    Args:
        num_items: V.
        width: H.
        fields: user attribute -> size of its vocabulary; None: no data is known yet.
        history_weighting: as of `Autoencoder`.
        fade_days: as of `Autoencoder`.
        input_dropout: chance of dropping each distinct item of a history in training; the weights
            of those kept, at length 1 before, are divided by 1 - input_dropout.
        init_std: as of `Autoencoder`.
        quotient_remainder: as of `Autoencoder`.
        table_backend: as of `Autoencoder`.
    """

    def __init__(
        self,
        num_items: int,
        width: int,
        *,
        fields: Mapping[str, int] | None,
        history_weighting: HistoryWeighting,
        fade_days: float,
        input_dropout: float,
        init_std: float,
        quotient_remainder: Sequence[str],
        table_backend: Backend,
    ) -> None:
        super().__init__()
        check_weighting(history_weighting, fade_days)
        check_share("input_dropout", input_dropout)
        self.num_items, self.fields = num_items, dict(fields or {})
        self.history_weighting, self.fade_days = history_weighting, fade_days
        self.input_dropout = input_dropout
        divided = () if fields is None else quotient_remainder  # a config is checked without data
        self.divisors = divisors_of(self.fields, divided)
        tables = attribute_tables(self.fields, self.divisors)
        self.sparse_input = SparseInput(
            {HISTORY: num_items, **tables}, width, backend=table_backend, init_std=init_std
        )

    def forward(self, fields: Mapping[str, Jagged]) -> Tensor:
        """float32 [B, H]: the sum of what `whole`, `of_batch` or `dropped` gave."""
        sum_BH: Tensor = self.sparse_input(fields)
        return sum_BH

    def whole(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attributes: Mapping[str, Jagged],
    ) -> dict[str, Jagged]:
        """All sparse fields of some users; see `Recommender.encode`."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        weights_M = normalized(weights_M, history.users_M, len(offsets_B1) - 1)
        known = {name: attributes[name] for name in self.fields}
        return {
            HISTORY: Jagged(history.items_M, history.offsets_B1, weights_M),
            **attribute_fields(known, self.divisors),
        }

    def of_batch(self, batch: Batch) -> dict[str, Jagged]:
        """The same of the users of a batch."""
        items, ages_N = batch.history, ages_read(batch.known_ages, self.history_weighting)
        return self.whole(items.values, items.offsets, ages_N, batch.attributes)

    def dropped(self, fields: Mapping[str, Jagged], draw: torch.Generator) -> dict[str, Jagged]:
        """The fields with a part of each history, arranged for a step."""
        kept = thinned(fields[HISTORY], self.input_dropout, draw)
        return {name: with_transposition(rows) for name, rows in {**fields, HISTORY: kept}.items()}

    def served(self) -> "ServedInput":
        """From raw events to the sum as a scriptable module, sharing the tables."""
        return ServedInput(self)


class ServedInput(nn.Module):
    """A `UserInput` in plain aten operations, for TorchScript.

    Args:
        user_input: whose tables it shares.
    """

    def __init__(self, user_input: UserInput) -> None:
        super().__init__()
        tables = user_input.sparse_input.tables
        self.num_items, self.fade_days = user_input.num_items, user_input.fade_days
        self.history_weighting = user_input.history_weighting
        self.bags = Bags(tables[HISTORY], tables, user_input.fields, user_input.divisors)

    def forward(
        self,
        items_N: Tensor,
        offsets_B1: Tensor,
        ages_N: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Tensor:
        """float32 [B, H]."""
        history = aggregate(items_N, offsets_B1, ages_N, self.num_items, self.fade_days)
        weights_M = history_weights(history, self.history_weighting)
        weights_M = normalized(weights_M, history.users_M, offsets_B1.shape[0] - 1)
        sum_BH: Tensor = self.bags(history, weights_M, attribute_values, attribute_offsets)
        return sum_BH


def asked_without_repeats(batch: Batch) -> Asked:
    """The target of a batch, where no item has a score of its own."""
    assert batch.target is not None
    none = Jagged(batch.target.values[:0], torch.zeros_like(batch.history.offsets))
    return Asked(with_transposition(batch.target), with_transposition(none))
