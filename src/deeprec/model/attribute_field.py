"""User attributes as sparse fields: one table an attribute, or two small ones that are added.

And how a served model reads them beside a history.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from deeprec.batch import Jagged
from deeprec.errors import did_you_mean
from deeprec.model.history import History
from deeprec.model.sparse_input import weighted_sum

# before the name, not behind it: an attribute may be called anything, `town:quotient` too
QUOTIENT, REMAINDER = "quotient", "remainder"


def field_of(attribute: str, of: str = "user") -> str:
    """The sparse field of a user attribute; parameter names cannot hold a dot."""
    return f"{of}:" + attribute.replace("%", "%25").replace(".", "%2E")


def divisors_of(fields: Mapping[str, int], divided: Sequence[str]) -> dict[str, int]:
    """By attribute of two tables, what its index is divided by: the root of its size, rounded up.

    Reference:
        Shi et al., Compositional Embeddings Using Complementary Partitions for Memory-Efficient
        Recommendation Systems, KDD 2020, with the sum as the operation.
    """
    for name in divided:
        if name not in fields:
            raise ValueError(
                f"quotient_remainder: {name!r} is no attribute of this data; "
                f"{did_you_mean(name, fields)}"
            )
    return {name: max(1, math.isqrt(max(0, fields[name] - 1)) + 1) for name in divided}


def attribute_tables(fields: Mapping[str, int], divisors: Mapping[str, int]) -> dict[str, int]:
    """The rows of each table of user attributes."""
    tables = {}
    for name, size in fields.items():
        divisor = divisors.get(name)
        if divisor is None:
            tables[field_of(name)] = size
        else:
            tables[field_of(name, QUOTIENT)] = -(-size // divisor)
            tables[field_of(name, REMAINDER)] = divisor
    return tables


def attribute_fields(
    attributes: Mapping[str, Jagged], divisors: Mapping[str, int]
) -> dict[str, Jagged]:
    """The sparse fields of attributes, by the names that their tables have."""
    fields = {}
    for name, rows in attributes.items():
        divisor = divisors.get(name)
        if divisor is None:
            fields[field_of(name)] = rows
        else:
            fields[field_of(name, QUOTIENT)] = replace(rows, values=rows.values // divisor)
            fields[field_of(name, REMAINDER)] = replace(rows, values=rows.values % divisor)
    return fields


class Bag(nn.Module):
    """A weighted sum of the rows of one table."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, values_N: Tensor, offsets_B1: Tensor, weights_N: Tensor) -> Tensor:
        return weighted_sum(self.weight, values_N, offsets_B1, weights_N)


class TwoBags(nn.Module):
    """The sum of the rows of quotient and remainder."""

    def __init__(self, quotients: nn.Parameter, remainders: nn.Parameter, divisor: int) -> None:
        super().__init__()
        self.quotients, self.remainders, self.divisor = Bag(quotients), Bag(remainders), divisor

    def forward(self, values_N: Tensor, offsets_B1: Tensor, weights_N: Tensor) -> Tensor:
        quotients_N = torch.div(values_N, self.divisor, rounding_mode="floor")
        remainders_N = values_N - quotients_N * self.divisor
        of_quotients_BH: Tensor = self.quotients(quotients_N, offsets_B1, weights_N)
        of_remainders_BH: Tensor = self.remainders(remainders_N, offsets_B1, weights_N)
        return of_quotients_BH + of_remainders_BH


class Unread(nn.Module):
    """Nothing, in the place of the rows of a table that is not read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, values_N: Tensor, offsets_B1: Tensor, weights_N: Tensor) -> Tensor:
        return torch.zeros([offsets_B1.shape[0] - 1, self.width], device=weights_N.device)


class Bags(nn.Module):
    """What a served model reads of users: their histories and attributes, summed.

    Args:
        history: the table of the history; None: it is not read.
        tables: those of the attributes that are read, by sparse field.
        attributes: in the order of the model's fields.
        divisors: of attributes of two tables.
        weight: of each value of an attribute.
    """

    def __init__(
        self,
        history: nn.Parameter | None,
        tables: nn.ParameterDict,
        attributes: Iterable[str],
        divisors: Mapping[str, int],
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        width = next(table.shape[1] for table in (history, *tables.values()) if table is not None)
        self.history: nn.Module = Unread(width) if history is None else Bag(history)
        self.attributes = nn.ModuleList(
            [
                attribute_bag(tables, name, divisors.get(name))
                if name in divisors or field_of(name) in tables
                else Unread(width)
                for name in attributes
            ]
        )

    def forward(
        self,
        history: History,
        weights_M: Tensor,
        attribute_values: list[Tensor],
        attribute_offsets: list[Tensor],
    ) -> Tensor:
        """float32 [B, D]."""
        sum_BD: Tensor = self.history(history.items_M, history.offsets_B1, weights_M)
        for i, bag in enumerate(self.attributes):
            count = attribute_values[i].shape[0]
            weights_N = torch.full([count], self.weight, device=weights_M.device)
            sum_BD = sum_BD + bag(attribute_values[i], attribute_offsets[i], weights_N)
        return sum_BD


def attribute_bag(tables: nn.ParameterDict, name: str, divisor: int | None) -> nn.Module:
    if divisor is None:
        return Bag(tables[field_of(name)])
    quotients, remainders = tables[field_of(name, QUOTIENT)], tables[field_of(name, REMAINDER)]
    return TwoBags(quotients, remainders, divisor)
