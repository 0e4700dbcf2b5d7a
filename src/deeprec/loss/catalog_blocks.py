"""The engine under every catalog loss: value and gradient, block by block.

`[B, V]` is never held. For each block of items the scores are one matrix product; the loss turns
them into gradients, and two more products bring those to hidden and to the catalog table. Backward
only hands out what forward has computed, so nothing is scored again for it. A gradient that nobody
needs costs nothing, and under `torch.no_grad` there is none.

Under autocast the products, and only they, run in its dtype: sums, costs and gradients between them
stay in float32.

Shapes (legend in deeprec/batch.py): P targets of the whole batch, M own-history items with a score.

Reference:
    DSSTNE scores the whole catalog densely (`engine/kLoss.cu`, `engine/kDelta.cu`); the order of
    work here is that of fused linear cross entropy, extended to jagged targets, to any loss that is
    a sum over items, and to scores that replace the product.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.batch import Encoded, Jagged

BLOCK_ITEMS = 2_048  # 4 MiB of scores for 512 users in float32: stays in a processor's cache

Places = tuple[Tensor, Tensor]  # users and columns of some cells of a block, int64 each


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

    def of_block(self, block: int, start: int) -> tuple[slice, Places]:
        """The slice of this block, and its places in the block's [B, C] scores."""
        here = slice(self.bounds[block], self.bounds[block + 1])
        return here, (self.users_P[here], self.items_P[here] - start)


def cells(
    name: str, items_P: Tensor, offsets_B1: Tensor, num_items: int, block_items: int
) -> Cells:
    """Sorts the pairs of a jagged tensor by item; `name` is what an error calls them."""
    users_P = torch.repeat_interleave(offsets_B1.diff(), output_size=items_P.shape[0])
    sorted_P, order_P = torch.sort(items_P, stable=True)
    users_P = users_P[order_P]
    edges = torch.arange(0, num_items + block_items, block_items, device=items_P.device)
    again_P = (sorted_P.diff() == 0) & (users_P.diff() == 0)
    facts = [torch.searchsorted(sorted_P, edges.clamp_(max=num_items)), again_P.sum()[None]]
    *bounds, num_again = torch.cat(facts).tolist()  # the one wait for the device
    if bounds[0] > 0 or bounds[-1] < items_P.shape[0]:
        worst = int(sorted_P[0] if bounds[0] > 0 else sorted_P[-1])
        raise ValueError(
            f"{name} items must lie in [0, {num_items}), got {worst}; "
            "were they made with another catalog?"
        )
    if num_again:
        raise ValueError(f"{name} items must be distinct inside a user, got {num_again} repeats")
    return Cells(sorted_P, users_P, order_P, bounds)


class Block(NamedTuple):
    """Some items of the catalog, scored for every user of the batch."""

    items: slice
    scores_BC: Tensor  # float32 [B, C]; whoever has it may overwrite it
    targets: slice  # of Blocks.target and Blocks.weights_P
    places: Places  # of the targets
    repeats: slice  # of Blocks.repeat and Blocks.repeat_scores_M
    repeat_places: Places


class Blocks:
    """The catalog scored for one batch, a block at a time; each iteration scores it again."""

    def __init__(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Jagged,
        block_items: int,
        product_dtype: torch.dtype,
    ) -> None:
        self.hidden_BD, self.product_dtype = encoded.hidden_BD, product_dtype
        self.item_weight_VD, self.item_bias_V = item_weight_VD, item_bias_V
        self.num_items, self.block_items = item_weight_VD.shape[0], block_items
        repeats = encoded.repeat_items_M, encoded.repeat_offsets_B1
        self.repeat = cells("repeat", *repeats, self.num_items, block_items)
        self.repeat_scores_M = encoded.repeat_scores_M[self.repeat.order_P]
        self.target = cells("target", target.values, target.offsets, self.num_items, block_items)
        weights_P = target.weights
        if weights_P is None:
            weights_P = self.hidden_BD.new_ones(target.values.shape)
        self.weights_P = weights_P.to(self.hidden_BD.dtype)[self.target.order_P]

    def __iter__(self) -> Iterator[Block]:
        for index, start in enumerate(range(0, self.num_items, self.block_items)):
            items = slice(start, min(start + self.block_items, self.num_items))
            targets, places = self.target.of_block(index, start)
            repeats, repeat_places = self.repeat.of_block(index, start)
            scores_BC = self._scores(items)
            scores_BC[repeat_places] = self.repeat_scores_M[repeats].to(scores_BC.dtype)
            yield Block(items, scores_BC, targets, places, repeats, repeat_places)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """`left @ right`, multiplied in the product dtype and handed back in the dtype of left."""
        return (left.to(self.product_dtype) @ right.to(self.product_dtype)).to(left.dtype)

    def _scores(self, items: slice) -> Tensor:
        weight_CD, bias_C = self.item_weight_VD[items], self.item_bias_V[items]
        if self.product_dtype == self.hidden_BD.dtype:
            return torch.addmm(bias_C, self.hidden_BD, weight_CD.T)
        return self.product(self.hidden_BD, weight_CD.T).add_(bias_C)


class Gradient:
    """Gathers the gradients of all blocks, each only if it is needed."""

    def __init__(self, blocks: Blocks, needed: "Needed", scale: Tensor) -> None:
        self.blocks, self.needed, self.scale = blocks, needed, scale
        self.scaled_BD = blocks.hidden_BD * scale  # scales the [V, D] gradient without a pass
        self.hidden_BD = torch.zeros_like(blocks.hidden_BD)
        self.item_weight_VD = (
            torch.empty_like(blocks.item_weight_VD) if needed.item_weight else None
        )
        self.item_bias_V = torch.empty_like(blocks.item_bias_V)
        self.repeat_M = torch.empty_like(blocks.repeat_scores_M)

    def add(self, block: Block, grad_BC: Tensor) -> None:
        """Takes the gradient of a block's scores, float [B, C], and may overwrite it."""
        self.repeat_M[block.repeats] = grad_BC[block.repeat_places].to(self.repeat_M.dtype)
        grad_BC[block.repeat_places] = 0  # the product had no part in these scores
        if self.needed.item_bias:
            torch.sum(grad_BC, 0, out=self.item_bias_V[block.items])
        if self.blocks.product_dtype == grad_BC.dtype:
            self._multiply(block, grad_BC)
        else:
            self._multiply_narrow(block, grad_BC.to(self.blocks.product_dtype))

    def _multiply(self, block: Block, grad_BC: Tensor) -> None:
        if self.needed.hidden:
            self.hidden_BD.addmm_(grad_BC, self.blocks.item_weight_VD[block.items])
        if self.item_weight_VD is not None:
            torch.mm(grad_BC.T, self.scaled_BD, out=self.item_weight_VD[block.items])

    def _multiply_narrow(self, block: Block, grad_BC: Tensor) -> None:
        if self.needed.hidden:
            self.hidden_BD += self.blocks.product(grad_BC, self.blocks.item_weight_VD[block.items])
        if self.item_weight_VD is not None:
            self.item_weight_VD[block.items] = self.blocks.product(grad_BC.T, self.scaled_BD)

    def finished(self) -> "list[Tensor | None]":
        """Gradients of hidden, item_weight, item_bias and repeat_scores; None if not needed."""
        repeat_M = torch.empty_like(self.repeat_M)
        repeat_M[self.blocks.repeat.order_P] = self.repeat_M * self.scale.to(repeat_M.dtype)
        hidden_BD, bias_V = self.hidden_BD * self.scale, self.item_bias_V * self.scale
        all_four = (hidden_BD, self.item_weight_VD, bias_V, repeat_M)
        return [found if wanted else None for found, wanted in zip(all_four, self.needed)]


class Needed(NamedTuple):
    """Which gradients somebody will ask for."""

    hidden: bool
    item_weight: bool
    item_bias: bool
    repeat_scores: bool


# Walks over the blocks, once or more: the loss summed over users, float []; where there is a
# Gradient, it is given the gradient of each block's scores exactly once.
Walk = Callable[[Blocks, Gradient | None], Tensor]


class Cost(NamedTuple):
    """What one score costs, element by element, and the derivative of that."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def separable(target: Cost, other: Cost) -> Walk:
    """A loss that is a sum over items; the cost of a target is multiplied by its weight."""

    def walk(blocks: Blocks, gradient: Gradient | None) -> Tensor:
        total = blocks.hidden_BD.new_zeros(())
        for block in blocks:
            weights_P = blocks.weights_P[block.targets]
            total += _of_each(block, other.value, target.value, weights_P).sum()
            if gradient is not None:
                gradient.add(block, _of_each(block, other.slope, target.slope, weights_P))
        return total

    return walk


def _of_each(
    block: Block,
    of_other: Callable[[Tensor], Tensor],
    of_target: Callable[[Tensor], Tensor],
    weights_P: Tensor,
) -> Tensor:
    """Float [B, C]: one function of a target's score, times its weight, another of the others."""
    found_BC = of_other(block.scores_BC)
    found_BC[block.places] = weights_P * of_target(block.scores_BC[block.places])
    return found_BC


def catalog_loss(
    walk: Walk,
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    target: Jagged,
    *,
    num_users: Tensor,
    block_items: int,
) -> Tensor:
    """The mean over users of a loss, differentiable in all that is scored with, once.

    Args:
        walk: the loss, as a walk over the blocks.
        encoded: hidden_BD and repeat_scores_M receive gradients.
        item_weight_VD: float [V, D], receives a dense gradient.
        item_bias_V: float [V], receives a dense gradient.
        target: distinct item indices of each user in [0, V), weights absent or float [P].
        num_users: float [], above 0: what the sum over users is divided by.
        block_items: items scored at once; memory is O(B * block_items + V * D).

    Returns:
        float32 [] (float64 for float64 scores).

    Raises:
        ValueError: target offsets do not have B + 1 entries, or an item is not in the catalog or
            stands twice in a user's target.
    """
    batch_users = encoded.hidden_BD.shape[0]
    if target.offsets.shape[0] != batch_users + 1:
        raise ValueError(
            f"target offsets need B + 1 = {batch_users + 1} entries, got {target.offsets.shape[0]}"
        )
    encoded = encoded._replace(hidden_BD=encoded.hidden_BD.to(item_weight_VD.dtype))
    scored = (encoded.hidden_BD, item_weight_VD, item_bias_V, encoded.repeat_scores_M)
    needed = Needed(*(torch.is_grad_enabled() and tensor.requires_grad for tensor in scored))
    dtype = _product_dtype(item_weight_VD)
    with torch.autocast(item_weight_VD.device.type, enabled=False):
        total: Tensor = _CatalogLoss.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            *scored, encoded, target, walk, num_users, block_items, dtype, needed
        )
    return total


def _product_dtype(item_weight_VD: Tensor) -> torch.dtype:
    """That of autocast where it is on, else that of the table; float64 is never narrowed."""
    device = item_weight_VD.device.type
    if item_weight_VD.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return item_weight_VD.dtype


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
        walk: Walk,
        num_users: Tensor,
        block_items: int,
        dtype: torch.dtype,
        needed: Needed,
    ) -> Tensor:
        encoded = encoded._replace(hidden_BD=hidden_BD, repeat_scores_M=repeat_scores_M)
        blocks = Blocks(encoded, item_weight_VD, item_bias_V, target, block_items, dtype)
        scale = num_users.to(hidden_BD.dtype).reciprocal()
        gradient = Gradient(blocks, needed, scale) if any(needed) else None
        total = walk(blocks, gradient) * scale
        if gradient is not None:
            ctx.save_for_backward(*gradient.finished())
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # as above
        gradients = ctx.saved_tensors
        # a product with 1 would copy [V, D]; to ask on CUDA would wait for the device
        if grad_total.device.type != "cpu" or float(grad_total) != 1.0:
            gradients = [found if found is None else found * grad_total for found in gradients]
        return (*gradients, *[None] * 7)
