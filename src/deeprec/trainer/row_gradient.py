"""The gradient of some rows of a table, found in parts, and added up always in the same order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deeprec.table import Rows

NONE, SOME, ALL = range(3)  # what there is of a gradient: no rows, some, or every row


class RowGradient:
    """What a process has found so far of the gradient of a table's rows."""

    def __init__(self) -> None:
        self._all: Tensor | None = None
        self._rows: list[Tensor] = []
        self._values: list[Tensor] = []

    @property
    def kind(self) -> int:
        if self._all is not None:
            return ALL
        return SOME if self._rows else NONE

    def add(self, table: Tensor, rows: Rows, gradient: Tensor) -> None:
        """Takes a gradient of distinct rows, whose memory stays its owner's."""
        if isinstance(rows, Tensor):
            self._rows.append(rows)
            self._values.append(gradient.clone())
            return
        if self._all is None:
            self._all = torch.zeros_like(table)
        self._all[rows].add_(gradient)

    def of_some(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [R] distinct rows, of those found one by one, and their gradient."""
        if not self._rows:
            return torch.zeros(0, dtype=torch.int64, device=table.device), table[:0]
        if len(self._rows) == 1:
            return self._rows[0], self._values[0]
        return added(self._rows, self._values)

    def of_all(self, table: Tensor) -> Tensor:
        """The gradient of every row; to be asked for once, for it is handed over."""
        total = torch.zeros_like(table) if self._all is None else self._all
        for rows, values in zip(self._rows, self._values, strict=True):
            total.index_add_(0, rows, values)
        return total


def added(rows: Sequence[Tensor], values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The sum of gradients of rows, each of distinct ones, in the order given on every device.

    Example:
        >>> added([torch.tensor([4, 2]), torch.tensor([4])], [torch.ones(2), torch.ones(1)])
        (tensor([2, 4]), tensor([1., 2.]))
    """
    distinct, places = torch.unique(torch.cat([*rows]), return_inverse=True)
    total = values[0].new_zeros(len(distinct), *values[0].shape[1:])
    for where, one in zip(torch.split(places, [len(one) for one in rows]), values, strict=True):
        total.index_add_(0, where, one)
    return distinct, total
