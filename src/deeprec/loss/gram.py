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
from deeprec.table import Rows

BLOCK_ITEMS = 8_192
CELLS = 16_384  # whose rows are gathered at once


class ExactGram:
    """The Gram matrix over every item, and its gradient on every row, at each step.

    Args:
        block_items: items whose part of it is made at once.

    Raises:
        ValueError: block_items is below 1.
    """

    dense_gradient = True  # of the catalog table

    def __init__(self, block_items: int) -> None:
        if block_items < 1:
            raise ValueError(f"block_items must be 1 or more, got {block_items}")
        self.block_items = block_items

    def __call__(
        self,
        item_weight_VD: Tensor,
        item_bias_V: Tensor | None,
        item_scale_V: Tensor | None,
        changing_P: Tensor,
    ) -> Tensor:
        """Float [E, E]: `sum over j of scale[j] * e_j e_j^T`, `e_j` the row of j with its bias.

        Args:
            item_weight_VD: float [V, D].
            item_bias_V: float [V]; None: there is none, and E = D.
            item_scale_V: float [V]; None: 1.
            changing_P: not used: every row changes.
        """
        gram_EE: Tensor = _Gram.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            item_weight_VD, item_bias_V, item_scale_V, self.block_items
        )
        return gram_EE


def squares(hidden_BD: Tensor, gram_EE: Tensor) -> Tensor:
    """Float [B]: `sum over j of scale[j] * (hidden . item_weight[j] + item_bias[j]) ** 2`.

    Example:
        >>> hidden, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> gram = ExactGram(1)(weight, torch.tensor([0.0, 1.0]), None, torch.tensor([0, 1]))
        >>> squares(hidden, gram)  # 1 ** 2 + 3 ** 2
        tensor([10.])
    """
    with torch.autocast(gram_EE.device.type, enabled=False):
        hidden_BE = hidden_BD.to(gram_EE.dtype)
        if len(gram_EE) > hidden_BD.shape[1]:
            hidden_BE = torch.nn.functional.pad(hidden_BE, (0, 1), value=1.0)
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
        # sparse, as the gradient of the rows is: a dense one would touch the bias of every item
        return scores_P + torch.gather(item_bias_V, 0, items_P, sparse_grad=True)


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
    """`E^T diag(scale) E`, block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        item_weight_VD: Tensor,
        item_bias_V: Tensor | None,
        item_scale_V: Tensor | None,
        block_items: int,
    ) -> Tensor:
        ctx.save_for_backward(item_weight_VD, item_bias_V, item_scale_V)
        ctx.block_items = block_items
        width = item_weight_VD.shape[1] + (item_bias_V is not None)
        gram_EE = item_weight_VD.new_zeros(width, width)
        for items in blocks(len(item_weight_VD), block_items):
            rows_CE = extended(item_weight_VD, item_bias_V, items)
            gram_EE.addmm_(rows_CE.T, scaled(rows_CE, item_scale_V, items))
        return gram_EE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_EE: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        item_weight_VD, item_bias_V, item_scale_V = ctx.saved_tensors
        weight_VD = torch.empty_like(item_weight_VD)
        bias_V = None if item_bias_V is None else torch.empty_like(item_bias_V)
        both_EE = grad_EE + grad_EE.T
        for items in blocks(len(item_weight_VD), ctx.block_items):
            rows_CE = scaled(extended(item_weight_VD, item_bias_V, items), item_scale_V, items)
            if bias_V is None:
                torch.mm(rows_CE, both_EE, out=weight_VD[items])
                continue
            found_CE = rows_CE @ both_EE
            weight_VD[items], bias_V[items] = found_CE[:, :-1], found_CE[:, -1]
        return weight_VD, bias_V, None, None


def blocks(num_items: int, block_items: int) -> Iterator[slice]:
    """The items of the catalog, some at a time."""
    for start in range(0, num_items, block_items):
        yield slice(start, min(start + block_items, num_items))


def extended(item_weight_VD: Tensor, item_bias_V: Tensor | None, items: Rows) -> Tensor:
    """Float [R, E]: rows with their bias as one more column, where there is one."""
    if isinstance(items, Tensor):
        rows_RD = item_weight_VD.index_select(0, items)
    else:
        rows_RD = item_weight_VD[items]
    return rows_RD if item_bias_V is None else torch.cat([rows_RD, item_bias_V[items, None]], 1)


def scaled(rows_RE: Tensor, item_scale_V: Tensor | None, items: Rows) -> Tensor:
    """The rows of these items, each times its scale."""
    return rows_RE if item_scale_V is None else rows_RE * item_scale_V[items, None]


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
        items_P, by_item_P = torch.sort(items_P, stable=True)
        items_R, counts_R = torch.unique_consecutive(items_P, return_counts=True)
        bags_P = torch.arange(len(items_R), device=items_P.device).repeat_interleave(counts_R)
        by_item = bags_P, users_P[by_item_P], grad_P[by_item_P]
        of_items_RD = _bags(hidden_BD, *by_item, len(items_R))
        return (
            _bags(item_weight_VD, users_P, ctx.saved_tensors[3], grad_P, len(hidden_BD)),
            sparse_rows(items_R, of_items_RD, item_weight_VD),
            None,
            None,
        )


def sparse_rows(rows_R: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """A sparse gradient of the table: distinct, ascending rows and their values."""
    return torch.sparse_coo_tensor(
        rows_R[None], values, table.shape, is_coalesced=True, check_invariants=False
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
