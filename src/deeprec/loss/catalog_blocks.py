"""The engine under every catalog loss: value and gradient, block by block, in one pass.

`[B, V]` is never held. For each block of items the scores are one matrix product; the loss turns
them into gradients in place, and two more products bring those to hidden and to the catalog table.
Backward only scales what forward has computed, so nothing is scored twice.

Shapes (legend in deeprec/batch.py): P targets of the whole batch, M own-history items with a score.

Reference:
    DSSTNE scores the whole catalog densely (`engine/kLoss.cu`, `engine/kDelta.cu`); the order of
    work here is that of fused linear cross entropy, extended to jagged targets, to any loss that is
    a sum over items, and to scores that replace the product.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from deeprec.batch import Encoded, Jagged

BLOCK_ITEMS = 2_048  # 4 MiB of scores for 512 users in float32: stays in a processor's cache


def check_block_items(block_items: int) -> None:
    """Raises ValueError if a loss is told to score no item at once."""
    if block_items < 1:
        raise ValueError(f"block_items must be 1 or more, got {block_items}")


class Cells(NamedTuple):
    """(user, item) pairs in the order of items, so that a block of items owns one slice."""

    items_P: Tensor  # int64 [P], ascending
    users_P: Tensor  # int64 [P]
    order_P: Tensor  # int64 [P], where each pair stood before
    bounds: list[int]  # block i owns [bounds[i], bounds[i + 1])

    def of_block(self, block: int, start: int) -> tuple[slice, tuple[Tensor, Tensor]]:
        """The slice of this block, and its places in the block's [B, C] scores."""
        here = slice(self.bounds[block], self.bounds[block + 1])
        return here, (self.users_P[here], self.items_P[here] - start)


def cells(items_P: Tensor, offsets_B1: Tensor, num_items: int, block_items: int) -> Cells:
    """Sorts the pairs of a jagged tensor by item."""
    users_P = torch.repeat_interleave(offsets_B1.diff(), output_size=items_P.shape[0])
    sorted_P, order_P = torch.sort(items_P, stable=True)
    edges = torch.arange(0, num_items + block_items, block_items, device=items_P.device)
    bounds = torch.searchsorted(sorted_P, edges).tolist()
    return Cells(sorted_P, users_P[order_P], order_P, bounds)


class BlockLoss(Protocol):
    """A loss over the catalog that can be taken block by block."""

    def prepare(self, blocks: "Blocks") -> None:
        """Whatever must be known of all scores before the first gradient; often nothing."""

    def block(
        self, scores_BC: Tensor, places: tuple[Tensor, Tensor], weights_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Value and gradient of one block; may overwrite the scores.

        Args:
            scores_BC: float [B, C].
            places: users and items of the block's targets.
            weights_P: float [P], how much each of these targets counts.

        Returns:
            the block's part of the loss summed over users, float32 [], and its gradient with
            respect to the scores, float [B, C].
        """


class Blocks:
    """The catalog's scores for one batch, a block at a time."""

    def __init__(
        self, encoded: Encoded, item_weight_VD: Tensor, item_bias_V: Tensor, block_items: int
    ) -> None:
        self.hidden_BD = encoded.hidden_BD
        self.item_weight_VD, self.item_bias_V = item_weight_VD, item_bias_V
        self.num_items, self.block_items = item_weight_VD.shape[0], block_items
        self.starts = range(0, self.num_items, block_items)
        self.repeat = cells(
            encoded.repeat_items_M, encoded.repeat_offsets_B1, self.num_items, block_items
        )
        self.repeat_scores_M = encoded.repeat_scores_M[self.repeat.order_P]

    def items(self, block: int) -> slice:
        start = self.starts[block]
        return slice(start, min(start + self.block_items, self.num_items))

    def scores(self, block: int) -> Tensor:
        """Float [B, C]: the product, own-history items replaced by their own scores."""
        items = self.items(block)
        weight_CD, bias_C = self.item_weight_VD[items], self.item_bias_V[items]
        scores_BC = torch.addmm(bias_C, self.hidden_BD, weight_CD.T)
        here, places = self.repeat.of_block(block, items.start)
        scores_BC[places] = self.repeat_scores_M[here].to(scores_BC.dtype)
        return scores_BC


def catalog_loss(
    loss: BlockLoss,
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    target: Jagged,
    block_items: int,
) -> Tensor:
    """The sum over users of a block loss, differentiable in all that is scored with.

    Args:
        loss: what a block of scores costs, and its gradient.
        encoded: hidden_BD and repeat_scores_M receive gradients.
        item_weight_VD: float [V, D], receives a dense gradient.
        item_bias_V: float [V], receives a dense gradient.
        target: distinct item indices of each user in [0, V), weights absent or float [P].
        block_items: items scored at once; memory is O(B * block_items + V * D).

    Returns:
        float32 [] (float64 for float64 scores).

    Raises:
        ValueError: target offsets do not have B + 1 entries.
    """
    num_users = encoded.hidden_BD.shape[0]
    if target.offsets.shape[0] != num_users + 1:
        raise ValueError(
            f"target offsets need B + 1 = {num_users + 1} entries, got {target.offsets.shape[0]}"
        )
    total: Tensor = _CatalogLoss.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        encoded.hidden_BD,
        item_weight_VD,
        item_bias_V,
        encoded.repeat_scores_M,
        encoded,
        target,
        loss,
        block_items,
    )
    return total


class _CatalogLoss(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]  # ctx has no public type
        ctx,
        hidden_BD: Tensor,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        repeat_scores_M: Tensor,
        encoded: Encoded,
        target: Jagged,
        loss: BlockLoss,
        block_items: int,
    ) -> Tensor:
        encoded = encoded._replace(hidden_BD=hidden_BD, repeat_scores_M=repeat_scores_M)
        blocks = Blocks(encoded, item_weight_VD, item_bias_V, block_items)
        gradient = _Gradient(blocks) if any(ctx.needs_input_grad) else None
        total = _walk(loss, blocks, target, gradient)
        if gradient is not None:
            ctx.save_for_backward(*gradient.finished())
        return total

    @staticmethod
    def backward(ctx, grad_total: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # as above
        needed = ctx.needs_input_grad
        gradients = [
            gradient * grad_total if wanted else None
            for gradient, wanted in zip(ctx.saved_tensors, needed)
        ]
        return (*gradients, None, None, None, None)


def _walk(loss: BlockLoss, blocks: Blocks, target: Jagged, gradient: "_Gradient | None") -> Tensor:
    targets = cells(target.values, target.offsets, blocks.num_items, blocks.block_items)
    weights_P = blocks.hidden_BD.new_ones(target.values.shape)
    if target.weights is not None:
        weights_P = target.weights[targets.order_P].to(weights_P.dtype)
    loss.prepare(blocks)
    total = blocks.hidden_BD.new_zeros(
        (), dtype=torch.promote_types(blocks.hidden_BD.dtype, torch.float32)
    )
    for block in range(len(blocks.starts)):
        here, places = targets.of_block(block, blocks.starts[block])
        value, grad_BC = loss.block(blocks.scores(block), places, weights_P[here])
        total += value
        if gradient is not None:
            gradient.add(block, grad_BC)
    return total


class _Gradient:
    """Gathers the gradients of all blocks with two matrix products each."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.hidden_BD = torch.zeros_like(blocks.hidden_BD)
        self.item_weight_VD = torch.empty_like(blocks.item_weight_VD)
        self.item_bias_V = torch.empty_like(blocks.item_bias_V)
        self.repeat_M = torch.empty_like(blocks.repeat_scores_M)

    def add(self, block: int, grad_BC: Tensor) -> None:
        items = self.blocks.items(block)
        here, places = self.blocks.repeat.of_block(block, items.start)
        self.repeat_M[here] = grad_BC[places].to(self.repeat_M.dtype)
        grad_BC[places] = 0  # the product had no part in these scores
        self.hidden_BD.addmm_(grad_BC, self.blocks.item_weight_VD[items])
        torch.mm(grad_BC.T, self.blocks.hidden_BD, out=self.item_weight_VD[items])
        torch.sum(grad_BC, 0, out=self.item_bias_V[items])

    def finished(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        repeat_M = torch.empty_like(self.repeat_M)
        repeat_M[self.blocks.repeat.order_P] = self.repeat_M
        return self.hidden_BD, self.item_weight_VD, self.item_bias_V, repeat_M
