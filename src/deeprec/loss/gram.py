"""Sums of squared scores over the whole catalog, exact, without scoring it.

The squares of a user's scores over the catalog sum to `h G h`, where `G`, the Gram matrix of the
catalog table, is [D, D] and the same for everybody. It costs 2 V D^2 operations a step where scores
and their gradients cost 6 B V D: for B users above D / 3 it is cheaper, and for B in the hundreds
much cheaper. What a loss says of single items, targets and repeat scores, is added cell by cell
(cell_scores.py).

Shapes (legend in deeprec/batch.py): E = D + 1, the bias being one more column.

Reference:
    Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008, whose
    speed rests on this; Vancura et al., ELSA, RecSys 2022, for the cosine.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.table import Rows

BLOCK_ITEMS = 8_192  # of 128 wide, 4 MiB of rows


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


def sparse_rows(rows_R: Tensor, values: Tensor, table: Tensor) -> Tensor:
    """A sparse gradient of the table: distinct, ascending rows and their values."""
    return torch.sparse_coo_tensor(
        rows_R[None], values, table.shape, is_coalesced=True, check_invariants=False
    )
