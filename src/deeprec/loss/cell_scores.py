"""Scores of single (user, item) cells: of targets, and of what has a score of its own.

Cells are read in the order of items, so that a row of the catalog comes from memory once, and their
gradients are weighted bags of rows. Nothing here is of the size of the catalog.

Shapes (legend in deeprec/batch.py): P cells.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.batch import Asked, ByItem, Encoded, Jagged, transposed
from deeprec.loss.asked import users_of
from deeprec.loss.gram import sparse_rows

# of catalog rows that are gathered at once: 1 MiB, which stays in a processor's cache; on CUDA,
# where each gathering is four kernels, 128 MiB
GATHERED_FLOATS = {"cpu": 2**18, "cuda": 2**25}


def cell_scores(
    hidden_BD: Tensor, item_weight_VD: Tensor, item_bias_V: Tensor, cells: Jagged
) -> Tensor:
    """Float [P]: the products of single cells, bias included.

    Args:
        hidden_BD: float [B, D].
        item_weight_VD: float [V, D], receives a sparse gradient.
        item_bias_V: float [V], likewise.
        cells: items of each user.
    """
    with torch.autocast(item_weight_VD.device.type, enabled=False):
        hidden_BD = hidden_BD.to(item_weight_VD.dtype)
        scores_P: Tensor = _CellScores.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            hidden_BD, item_weight_VD, item_bias_V, cells
        )
        return scores_P


def products(hidden_BD: Tensor, item_weight_VD: Tensor, by_item: ByItem) -> Tensor:
    """Float [P] in the order of items."""
    products_P = hidden_BD.new_empty(len(by_item.values))
    count = max(1, GATHERED_FLOATS[hidden_BD.device.type] // hidden_BD.shape[1])
    for start in range(0, len(products_P), count):
        here = slice(start, start + count)
        rows = item_weight_VD.index_select(0, by_item.values[here])
        rows *= hidden_BD.index_select(0, by_item.users[here])
        torch.sum(rows, 1, out=products_P[here])
    return products_P


def bags(table: Tensor, values_P: Tensor, offsets: Tensor, weights_P: Tensor) -> Tensor:
    """Per bag, the sum of its rows of the table, each times its weight."""
    found: Tensor = torch.nn.functional.embedding_bag(
        values_P,
        table,
        offsets,
        mode="sum",
        per_sample_weights=weights_P.to(table.dtype),
        include_last_offset=True,
    )
    return found


def summed(values_P: Tensor, users_P: Tensor, num_users: int) -> Tensor:
    """Float [B]: the values of each user, added up."""
    return values_P.new_zeros(num_users).index_add(0, users_P, values_P)


class Replaced:
    """Cells whose score is not the product: a user's own items with repeat scores.

    Args:
        encoded: with their scores.
        asked: of the same users, arranged.
        num_items: V.
    """

    def __init__(self, encoded: Encoded, asked: Asked, num_items: int) -> None:
        self.rows, self.scores_M = asked.repeats, encoded.repeat_scores_M
        self.items_M = self.rows.values
        if len(self) == 0:
            return
        self.users_M, target = users_of(self.rows), asked.target
        keys_M = self.users_M * num_items + self.items_M  # ascending, as items are inside a user
        keys_P = users_of(target) * num_items + target.values
        self._place_P = torch.searchsorted(keys_M, keys_P).clamp_(max=len(keys_M) - 1)
        self._found_P = keys_M[self._place_P] == keys_P
        num_M = torch.zeros_like(keys_M).index_add_(0, self._place_P, self._found_P.long())
        self.is_target_M = num_M > 0

    def __len__(self) -> int:
        return len(self.items_M)

    def in_place_of(self, products_P: Tensor) -> Tensor:
        """Float [P]: the score of each target, from its product unless that is replaced."""
        if len(self) == 0:
            return products_P
        scores_P = self.scores_M.to(products_P.dtype)[self._place_P]
        return torch.where(self._found_P, scores_P, products_P)


class _CellScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_BD: Tensor, item_weight_VD: Tensor, item_bias_V: Tensor, cells: Jagged
    ) -> Tensor:
        ctx.save_for_backward(hidden_BD, item_weight_VD, item_bias_V)
        ctx.cells, by_item = cells, transposed(cells)
        scores_P = hidden_BD.new_empty(len(cells.values))
        scores_P[by_item.order] = products(hidden_BD, item_weight_VD, by_item)
        return scores_P.add_(item_bias_V.index_select(0, cells.values))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_P: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        hidden_BD, item_weight_VD, item_bias_V = ctx.saved_tensors
        cells, by_item = ctx.cells, transposed(ctx.cells)
        ones_B1 = hidden_BD.new_ones(len(hidden_BD), 1)
        of_items = by_item.users, by_item.offsets, grad_P[by_item.order]
        return (
            bags(item_weight_VD, cells.values, cells.offsets, grad_P),
            sparse_rows(by_item.distinct, bags(hidden_BD, *of_items), item_weight_VD),
            sparse_rows(by_item.distinct, bags(ones_B1, *of_items)[:, 0], item_bias_V),
            None,
        )
