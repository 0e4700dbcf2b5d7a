"""What becomes of the gradients of scores, block by block: those of what is scored with.

Shapes (legend in deeprec/batch.py): M own-history items with a score.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from deeprec.loss.blocks import Block, Blocks
from deeprec.table import RowUpdate, Updates


class Needed(NamedTuple):
    """Which gradients somebody will ask for."""

    hidden: bool
    item_weight: bool
    item_bias: bool
    repeat_scores: bool


class Gradient:
    """Gathers the gradients of all blocks, each only if it is needed.

    Args:
        blocks: what is scored with.
        needed: which gradients somebody asks for.
        scale: what the gradient of a summed loss is multiplied with.
        updates: take those of the catalog's rows, where there are any.
        shares_B: float [B], how much of each user's slopes counts; None: all.
    """

    def __init__(
        self,
        blocks: Blocks,
        needed: Needed,
        scale: float | Tensor,
        updates: Updates,
        shares_B: Tensor | None = None,
    ) -> None:
        self.blocks, self.needed, self.scale, self.shares_B = blocks, needed, scale, shares_B
        self.hidden_BD = torch.zeros_like(blocks.hidden_BD)
        self.repeat_M = torch.empty_like(blocks.repeat_scores_M)
        # what is not handed out goes through backward, which knows the weight of the loss
        of_weight, self._of_bias = (
            scale if update is None else scale * updates.weight for update in updates[:2]
        )
        # scaling hidden scales the gradient of the rows without a pass over them
        self._scaled_BD = blocks.hidden_BD * of_weight
        self._updates = updates
        gathers = [asked and update is None for asked, update in zip(needed[1:3], updates[:2])]
        # written whole, block by block
        self.item_weight_VD = torch.empty_like(blocks.item_weight_VD) if gathers[0] else None
        self.item_bias_V = torch.empty_like(blocks.item_bias_V) if gathers[1] else None

    def add(self, block: Block, grad_BC: Tensor, factor_B: Tensor | None = None) -> None:
        """Takes the gradient of a block's scores, float [B, C], and may overwrite it.

        Args:
            block: whose scores; changes its rows where there are updates, so it is scored before.
            grad_BC: in the dtype of hidden or of the products.
            factor_B: what each user's row of it is still to be multiplied with; None: nothing.
        """
        if self.shares_B is not None:
            factor_B = self.shares_B if factor_B is None else factor_B * self.shares_B
        if block.repeats.stop > block.repeats.start:
            self.repeat_M[block.repeats] = _times(
                grad_BC[block.repeat_places].to(self.repeat_M.dtype),
                None if factor_B is None else factor_B[block.repeat_places[0]],
            )
            # the product had no part in these scores; a plain 0 would be copied from the host
            grad_BC.index_put_(block.repeat_places, grad_BC.new_zeros(()))
        bias_C = self._bias_of(grad_BC, factor_B) if self.needed.item_bias else None
        grad_BC = grad_BC.to(self.blocks.product_dtype)
        if self.needed.hidden:
            self._add_to_hidden(grad_BC, self.blocks.weight(block.items), factor_B)
        if self.needed.item_weight:
            scaled_BD = _times(self._scaled_BD, factor_B)
            found_CD = grad_BC.T @ scaled_BD.to(grad_BC.dtype)
            found_CD = found_CD.to(scaled_BD.dtype)
            _hand_out(found_CD, block.items, self.item_weight_VD, self._updates.item_weight)
        if bias_C is not None:
            _hand_out(bias_C, block.items, self.item_bias_V, self._updates.item_bias)

    def _bias_of(self, grad_BC: Tensor, factor_B: Tensor | None) -> Tensor:
        if factor_B is None:
            return grad_BC.sum(0, dtype=self.hidden_BD.dtype) * self._of_bias
        scaled_B = (factor_B * self._of_bias).to(grad_BC.dtype)
        return (scaled_B @ grad_BC).to(self.hidden_BD.dtype)

    def _add_to_hidden(self, grad_BC: Tensor, weight_CD: Tensor, factor_B: Tensor | None) -> None:
        if factor_B is None and grad_BC.dtype == self.hidden_BD.dtype:
            self.hidden_BD.addmm_(grad_BC, weight_CD)
        elif factor_B is None:
            self.hidden_BD += grad_BC @ weight_CD
        else:  # a product of two dtypes takes a CPU fifteen times as long
            self.hidden_BD.addcmul_(grad_BC @ weight_CD, factor_B[:, None])

    def finished(self) -> "list[Tensor | None]":
        """Gradients of hidden, item_weight, item_bias and repeat_scores; None if not needed."""
        repeat_M = self.repeat_M.new_zeros(self.blocks.num_repeats)
        if len(self.repeat_M):
            found_M = self.blocks.counted_repeats(self.repeat_M * self.scale)
            repeat_M[self.blocks.repeat.order_P] = found_M
        hidden_BD = self.hidden_BD * self.scale
        all_four = (hidden_BD, self.item_weight_VD, self.item_bias_V, repeat_M)
        return [found if wanted else None for found, wanted in zip(all_four, self.needed)]


class Lengths:
    """Takes the slopes of all blocks, for how long they are together.

    Args:
        num_users: B.
        like: for dtype and device.
    """

    def __init__(self, num_users: int, like: Tensor) -> None:
        self.squares_B = like.new_zeros(num_users)

    def add(self, block: Block, grad_BC: Tensor, factor_B: Tensor | None = None) -> None:
        """As `Gradient.add`."""
        length_B = torch.linalg.vector_norm(grad_BC, dim=1, dtype=self.squares_B.dtype)
        self.squares_B += _times(length_B, factor_B).square()

    def shares(self, blocks: Blocks, norm: float) -> Tensor:
        """Float [B]: what each user's slopes are multiplied with to be no longer than `norm`."""
        return norm / blocks.of_all(self.squares_B, partial(torch.sum, dim=0)).sqrt().clamp(
            min=norm
        )


def _hand_out(
    gradient: Tensor, rows: slice, gathered: Tensor | None, update: RowUpdate | None
) -> None:
    """Gives the gradient of some rows to whoever takes it."""
    if gathered is not None:
        gathered[rows] = gradient
    elif update is not None:
        update(rows, gradient)


def _times(rows_B: Tensor, factor_B: Tensor | None) -> Tensor:
    """Each user's row times the user's factor, if there is one."""
    if factor_B is None:
        return rows_B
    return rows_B * factor_B.view(-1, *[1] * (rows_B.dim() - 1))
