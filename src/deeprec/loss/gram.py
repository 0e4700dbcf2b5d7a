"""Sums of squared scores over the whole catalog, exact, without scoring it.

The squares of a user's scores over the catalog sum to `h G h`, where `G`, the Gram matrix of the
catalog table, is [D, D] and the same for everybody. It costs 2 V D^2 operations a step where scores
and their gradients cost 6 B V D: for B users above D / 3 it is cheaper, and for B in the hundreds
much cheaper. What a loss says of single items, targets and repeat scores, is added cell by cell.

Shapes (legend in deeprec/batch.py): E = D + 1, the bias being one more column; P cells.

Reference:
    Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008, whose
    speed rests on this; Vancura et al., ELSA, RecSys 2022, for the cosine.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.batch import Encoded, Jagged

BLOCK_ITEMS = 8_192
CELLS = 16_384  # whose rows are gathered at once


def squares(
    hidden_BD: Tensor,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    item_scale_V: Tensor | None,
    block_items: int,
) -> Tensor:
    """Float [B]: `sum over j of scale[j] * (hidden . item_weight[j] + item_bias[j]) ** 2`.

    Example:
        >>> hidden, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> squares(hidden, weight, torch.tensor([0.0, 1.0]), None, 1)  # 1 ** 2 + 3 ** 2
        tensor([10.])
    """
    with torch.autocast(item_weight_VD.device.type, enabled=False):
        hidden_BE = torch.nn.functional.pad(hidden_BD.to(item_weight_VD.dtype), (0, 1), value=1.0)
        gram_EE: Tensor = _Gram.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            item_weight_VD, item_bias_V, item_scale_V, block_items
        )
        return ((hidden_BE @ gram_EE) * hidden_BE).sum(1)


def cell_scores(
    hidden_BD: Tensor,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    users_P: Tensor,
    items_P: Tensor,
) -> Tensor:
    """Float [P]: the products of single (user, item) cells; bias included.

    Args:
        users_P: int64 [P], ascending.
        items_P: int64 [P].
    """
    with torch.autocast(item_weight_VD.device.type, enabled=False):
        hidden_BD = hidden_BD.to(item_weight_VD.dtype)
        scores_P: Tensor = _CellScores.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            hidden_BD, item_weight_VD, users_P, items_P
        )
        return scores_P + item_bias_V.index_select(0, items_P)


def users_of(rows: Jagged) -> Tensor:
    """int64 [N]: the user of each value."""
    return torch.repeat_interleave(rows.offsets.diff(), output_size=len(rows.values))


def summed(values_P: Tensor, users_P: Tensor, num_users: int) -> Tensor:
    """Float [B]: the values of each user, added up."""
    return values_P.new_zeros(num_users).index_add(0, users_P, values_P)


class Replaced:
    """Cells whose score is not the product: a user's own items with repeat scores.

    Args:
        encoded: with their items and scores.
        target: of the same users.
        num_items: V.
    """

    def __init__(self, encoded: Encoded, target: Jagged, num_items: int) -> None:
        self.items_M, self.scores_M = encoded.repeat_items_M, encoded.repeat_scores_M
        self.users_M = users_of(Jagged(self.items_M, encoded.repeat_offsets_B1))
        keys_M = self.users_M * num_items + self.items_M  # ascending, as items are inside a user
        keys_P = users_of(target) * num_items + target.values
        self._place_P = torch.searchsorted(keys_M, keys_P).clamp_(max=max(len(keys_M) - 1, 0))
        if len(keys_M):
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


class _Gram(torch.autograd.Function):
    """`E^T diag(scale) E` of the table with its bias as one more column, block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        item_scale_V: Tensor | None,
        block_items: int,
    ) -> Tensor:
        ctx.save_for_backward(item_weight_VD, item_bias_V, item_scale_V)
        ctx.block_items = block_items
        width = item_weight_VD.shape[1] + 1
        gram_EE = item_weight_VD.new_zeros(width, width)
        for _, rows_CE, scaled_CE in _blocks(
            item_weight_VD, item_bias_V, item_scale_V, block_items
        ):
            gram_EE.addmm_(rows_CE.T, scaled_CE)
        return gram_EE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_EE: Tensor) -> tuple[Tensor, Tensor, None, None]:
        item_weight_VD, item_bias_V, item_scale_V = ctx.saved_tensors
        weight_VD, bias_V = torch.empty_like(item_weight_VD), torch.empty_like(item_bias_V)
        both_EE = grad_EE + grad_EE.T
        for items, _, scaled_CE in _blocks(
            item_weight_VD, item_bias_V, item_scale_V, ctx.block_items
        ):
            found_CE = scaled_CE @ both_EE
            weight_VD[items], bias_V[items] = found_CE[:, :-1], found_CE[:, -1]
        return weight_VD, bias_V, None, None


def _blocks(
    item_weight_VD: Tensor, item_bias_V: Tensor, item_scale_V: Tensor | None, block_items: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For each block of items: which, its rows with their bias, and these scaled."""
    for start in range(0, len(item_weight_VD), block_items):
        items = slice(start, start + block_items)
        rows_CE = torch.cat([item_weight_VD[items], item_bias_V[items, None]], 1)
        scale_C = None if item_scale_V is None else item_scale_V[items]
        yield items, rows_CE, rows_CE if scale_C is None else rows_CE * scale_C[:, None]


class _CellScores(torch.autograd.Function):
    """Products of single cells, whose gradients are weighted bags of rows."""

    @staticmethod
    def forward(
        ctx: Any, hidden_BD: Tensor, item_weight_VD: Tensor, users_P: Tensor, items_P: Tensor
    ) -> Tensor:
        ctx.save_for_backward(hidden_BD, item_weight_VD, users_P, items_P)
        scores_P = hidden_BD.new_empty(len(users_P))
        for start in range(0, len(users_P), CELLS):
            cells = slice(start, start + CELLS)
            of_users, of_items = users_P[cells], items_P[cells]
            rows_XD = item_weight_VD.index_select(0, of_items)
            torch.sum(rows_XD.mul_(hidden_BD.index_select(0, of_users)), 1, out=scores_P[cells])
        return scores_P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_P: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_BD, item_weight_VD, users_P, items_P = ctx.saved_tensors
        by_item_P = torch.argsort(items_P, stable=True)
        return (
            _bags(item_weight_VD, users_P, items_P, grad_P, len(hidden_BD)),
            _bags(
                hidden_BD,
                items_P[by_item_P],
                users_P[by_item_P],
                grad_P[by_item_P],
                len(item_weight_VD),
            ),
            None,
            None,
        )


def _bags(table: Tensor, bags_P: Tensor, rows_P: Tensor, grad_P: Tensor, num_bags: int) -> Tensor:
    """Per bag, the sum of its rows of the table times their gradients; bags_P is ascending."""
    edges = torch.arange(num_bags + 1, device=table.device)
    found: Tensor = torch.nn.functional.embedding_bag(
        rows_P,
        table,
        torch.searchsorted(bags_P, edges),
        mode="sum",
        per_sample_weights=grad_P.to(table.dtype),
        include_last_offset=True,
    )
    return found
