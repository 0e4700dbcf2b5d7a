"""The engine under every catalog loss: value and gradient, block by block.

`[B, V]` is never held. For each block of items the scores are one matrix product; the loss turns
them into gradients, and two more products bring those to hidden and to the catalog table. Backward
only hands out what forward has computed, so nothing is scored again for it. A gradient that nobody
needs costs nothing, and under `torch.no_grad` there is none. Where the optimizer gives `Updates`,
the rows of a block change as soon as their gradient is known, so the gradient of the table, [V, D],
does not exist either.

Where other processes go over the other items (`Updates.own`), a walk is over those of this one: the
loss is then the part of it that these cost, and only their rows have gradients. What a loss must
know of a user over the whole catalog it asks for with `Blocks.of_all`.

Under autocast the products, and only they, run in its dtype: sums, costs and gradients between them
stay in float32.

Shapes (legend in deeprec/batch.py): P targets of the whole batch, M own-history items with a score.

Reference:
    DSSTNE scores the whole catalog densely (`engine/kLoss.cu`, `engine/kDelta.cu`); the order of
    work here is that of fused linear cross entropy, extended to jagged targets, to any loss that is
    a sum over items, and to scores that replace the product.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.batch import Asked, Encoded, Jagged, transposed
from deeprec.loss.asked import Target, asked_of
from deeprec.table import OwnItems, RowUpdate, Updates

BLOCK_ITEMS = 2_048  # on a CPU: 4 MiB of scores for 512 users in float32 stay in its cache
CUDA_SCORES = 2**25  # of a block at least: each is some thirty kernels, asked for one by one
CUDA_SHARE = 1 / 64  # of the memory of a device, which the scores of a block may take

Places = tuple[Tensor, Tensor]  # users and columns of some cells of a block, int64 each


def check_scales(one_scale: float, zero_scale: float) -> None:
    """Raises ValueError if targets and other items cannot weigh so."""
    both = one_scale, zero_scale
    if not (min(both) >= 0.0 and 0.0 < sum(both) < float("inf")):
        raise ValueError(
            "one_scale and zero_scale must be 0 or more and finite, one of them above 0; got "
            f"one_scale={one_scale}, zero_scale={zero_scale}"
        )


def check_block_items(block_items: int | None) -> None:
    """Raises ValueError if a loss is told to score no item at once."""
    if block_items is not None and block_items < 1:
        raise ValueError(f"block_items must be 1 or more, got {block_items}")


def fitting_block_items(num_users: int, device: str) -> int:
    """Items that are best scored at once for so many users on a kind of device.

    Example:
        >>> fitting_block_items(512, "cpu"), fitting_block_items(512, "cuda") >= 65_536
        (2048, True)
    """
    return BLOCK_ITEMS if device == "cpu" else max(1, cuda_bytes() // 4 // max(num_users, 1))


@cache
def cuda_bytes() -> int:
    """What the scores of a block may take on a CUDA device."""
    least = 4 * CUDA_SCORES
    if not torch.cuda.is_available():
        return least
    return max(least, int(torch.cuda.get_device_properties().total_memory * CUDA_SHARE))


class Cells(NamedTuple):
    """(user, item) pairs in the order of items, so that a block of items owns one slice."""

    items_P: Tensor  # int64 [P], ascending
    users_P: Tensor  # int64 [P]
    order_P: Tensor  # int64 [P], where each pair stood before
    bounds: list[int]  # block i owns [bounds[i], bounds[i + 1])

    def of_block(self, block: int, start: int) -> tuple[slice, Places]:
        """The slice of this block, and its places in the block's [B, C] scores."""
        here = slice(self.bounds[block], self.bounds[block + 1])
        items = self.items_P[here]
        return here, (self.users_P[here], items - start if start and len(items) else items)


def cells(rows: Jagged, items: slice, block_items: int) -> Cells:
    """The pairs of these items by block; the bounds are found on the host, without waiting."""
    by_item = transposed(rows)
    edges = [*range(items.start, items.stop, block_items), items.stop]
    places = np.searchsorted(by_item.on_host, edges)
    here = slice(int(places[0]), int(places[-1]))
    bounds = (places - places[0]).tolist()
    return Cells(by_item.values[here], by_item.users[here], by_item.order[here], bounds)


class Block(NamedTuple):
    """Some items of the catalog, and what the batch says of them."""

    items: slice
    targets: slice  # of Blocks.target and Blocks.weights_P
    places: Places  # of the targets
    repeats: slice  # of Blocks.repeat and Blocks.repeat_scores_M
    repeat_places: Places


class Blocks:
    """The catalog for one batch, a block at a time; whoever goes over it twice may score twice."""

    def __init__(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        asked: Asked,
        block_items: int | None,
        product_dtype: torch.dtype,
        own: OwnItems | None = None,
    ) -> None:
        self.product_dtype, self.own = product_dtype, own
        self.hidden_BD, self.narrow_BD = encoded.hidden_BD, encoded.hidden_BD.to(product_dtype)
        self.item_weight_VD, self.item_bias_V = item_weight_VD, item_bias_V
        num_users, device = len(self.hidden_BD), self.hidden_BD.device.type
        self.items = slice(0, item_weight_VD.shape[0]) if own is None else own.items
        self.block_items = block_items or fitting_block_items(num_users, device)
        self.num_repeats = len(encoded.repeat_scores_M)
        self.repeat = cells(asked.repeats, self.items, self.block_items)
        self.repeat_scores_M = encoded.repeat_scores_M
        if self.num_repeats:
            self.repeat_scores_M = self.repeat_scores_M[self.repeat.order_P]
        self.target = cells(asked.target, self.items, self.block_items)
        weights_P = asked.target.weights
        if weights_P is None:
            weights_P = self.hidden_BD.new_ones(asked.target.values.shape)
        self.weights_P = weights_P.to(self.hidden_BD.dtype)[self.target.order_P]
        self._counted_P = _counted(asked.target)
        self._counted_M = _counted(asked.repeats)
        weights_B = asked.user_weights
        self.user_weights_B = None if weights_B is None else weights_B.to(self.hidden_BD.dtype)
        self._narrowed: tuple[slice, Tensor] | None = None

    def __len__(self) -> int:
        return -(-(self.items.stop - self.items.start) // self.block_items)

    def __iter__(self) -> Iterator[Block]:
        starts = range(self.items.start, self.items.stop, self.block_items)
        for index, start in enumerate(starts):
            items = slice(start, min(start + self.block_items, self.items.stop))
            targets, places = self.target.of_block(index, start)
            repeats, repeat_places = self.repeat.of_block(index, start)
            yield Block(items, targets, places, repeats, repeat_places)

    def scores(self, block: Block) -> Tensor:
        """Float [B, C] in the dtype of hidden, repeats in their places; yours to change."""
        bias_C = self.item_bias_V[block.items]
        if self.product_dtype == self.hidden_BD.dtype:
            scores_BC = torch.addmm(bias_C, self.hidden_BD, self.weight(block.items).T)
        else:
            scores_BC = (self.narrow_BD @ self.weight(block.items).T).to(self.hidden_BD.dtype)
            scores_BC += bias_C
        if block.repeats.stop > block.repeats.start:
            scores_BC[block.repeat_places] = self.repeat_scores_M[block.repeats].to(scores_BC.dtype)
        return scores_BC

    def counted(self, values_P: Tensor) -> Tensor:
        """Float [P]: these of the targets, 0 of what only fills up a padded batch."""
        return values_P if self._counted_P is None else values_P * self._counted_P

    def counted_repeats(self, values_M: Tensor) -> Tensor:
        """Float [M]: the same of the scores of own items."""
        return values_M if self._counted_M is None else values_M * self._counted_M

    def of_all(self, values_B: Tensor, together: Callable[[Tensor], Tensor]) -> Tensor:
        """Float [B]: what every process found of its items, together, where they share them.

        Args:
            together: of [processes, B].
        """
        return values_B if self.own is None else together(self.own.gather(values_B))

    def summed(self, values_BC: Tensor) -> Tensor:
        """Float []: the sum of these, each user's times its weight."""
        if self.user_weights_B is None:
            return values_BC.sum()
        return values_BC.sum(1) @ self.user_weights_B

    def weight(self, items: slice) -> Tensor:
        """[C, D] rows of the catalog table in the product dtype; the last ones are remembered."""
        if self.product_dtype == self.item_weight_VD.dtype:
            return self.item_weight_VD[items]
        if self._narrowed is None or self._narrowed[0] != items:
            self._narrowed = items, self.item_weight_VD[items].to(self.product_dtype)
        return self._narrowed[1]


def _counted(rows: Jagged) -> Tensor | None:
    return None if rows.by_item is None else rows.by_item.counted


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
        needed: "Needed",
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
        # written whole, block by block, unless some items are not gone over here
        new = torch.empty_like if blocks.own is None else torch.zeros_like
        gathers = [asked and update is None for asked, update in zip(needed[1:3], updates[:2])]
        self.item_weight_VD = new(blocks.item_weight_VD) if gathers[0] else None
        self.item_bias_V = new(blocks.item_bias_V) if gathers[1] else None

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


class Needed(NamedTuple):
    """Which gradients somebody will ask for."""

    hidden: bool
    item_weight: bool
    item_bias: bool
    repeat_scores: bool


# Walks over the blocks, once or more: the loss summed over users, float []; where there is somebody
# to take it, the gradient of each block's scores is given exactly once.
Walk = Callable[[Blocks, Gradient | Lengths | None], Tensor]


class Cost(NamedTuple):
    """What one score costs, element by element, and the derivative of that.

    Args:
        both: value and slope at once, where they share work.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    both: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def value_and_slope(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        if self.both is None:
            return self.value(scores), self.slope(scores)
        return self.both(scores)


def separable(
    target: Cost | Callable[[slice], Cost], other: Cost, item_scale_V: Tensor | None = None
) -> Walk:
    """A loss that is a sum over items; a target's cost is multiplied by its weight, a user's too.

    Args:
        target: cost of an item that is a target; or, by their places among the targets of the
            batch in the order of items, of some.
        other: cost of any other item.
        item_scale_V: float [V], what the cost of each item that is no target is multiplied with;
            None: nothing.
    """

    def walk(blocks: Blocks, gradient: Gradient | Lengths | None) -> Tensor:
        total = blocks.hidden_BD.new_zeros(())
        for block in blocks:
            scores_BC = blocks.scores(block)
            scale_C = None if item_scale_V is None else item_scale_V[block.items]
            cell = block.places, blocks.weights_P[block.targets], scale_C
            of_target = scores_BC[block.places]
            wanted = target if isinstance(target, Cost) else target(block.targets)
            if gradient is None:
                values_BC = _of_each(other.value(scores_BC), wanted.value(of_target), *cell)
                total += blocks.summed(values_BC)
                continue
            values_BC, slopes_BC = other.value_and_slope(scores_BC)
            values_P, slopes_P = wanted.value_and_slope(of_target)
            total += blocks.summed(_of_each(values_BC, values_P, *cell))
            del values_BC
            slopes_BC = _of_each(slopes_BC, slopes_P, *cell)
            gradient.add(block, slopes_BC, blocks.user_weights_B)
        return total

    return walk


def _of_each(
    of_other_BC: Tensor,
    of_target_P: Tensor,
    places: Places,
    weights_P: Tensor,
    scale_C: Tensor | None,
) -> Tensor:
    """Float [B, C]: what holds of the others, and in its places, times weight, what of targets."""
    if scale_C is not None:
        of_other_BC *= scale_C
    of_other_BC[places] = weights_P * of_target_P
    return of_other_BC


def catalog_loss(
    walk: Walk,
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    target: Target,
    *,
    num_users: float | Tensor,
    block_items: int | None,
    updates: Updates,
) -> Tensor:
    """The mean over users of a loss, differentiable in all that is scored with, once.

    Args:
        walk: the loss, as a walk over the blocks.
        encoded: hidden_BD and repeat_scores_M receive gradients.
        item_weight_VD: float [V, D], receives a dense gradient, or changes here by `updates`.
        item_bias_V: float [V], likewise.
        target: distinct item indices of each user in [0, V), weights absent or float [P]; plain or
            arranged.
        num_users: what the sum over users is divided by, above 0.
        block_items: items scored at once, None: as many as suit the device; memory is
            O(B * block_items), and O(V * D) for the gradient of the table where there are no
            updates.
        updates: change the catalog's rows now, block by block, where they need a gradient; and
            how long a user's slopes may be, for which the blocks are gone over once more; and of
            which items the loss is to be made.

    Returns:
        float32 [] (float64 for float64 scores).

    Raises:
        ValueError: a plain target's offsets do not have B + 1 entries, or an item is not in the
            catalog or stands twice in a user's target.
    """
    asked = asked_of(target, encoded, item_bias_V)
    encoded = encoded._replace(hidden_BD=encoded.hidden_BD.to(item_weight_VD.dtype))
    scored = (encoded.hidden_BD, item_weight_VD, item_bias_V, encoded.repeat_scores_M)
    needed = Needed(*(torch.is_grad_enabled() and tensor.requires_grad for tensor in scored))
    dtype = product_dtype(item_weight_VD)
    with torch.autocast(item_weight_VD.device.type, enabled=False):
        total: Tensor = _CatalogLoss.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            *scored, encoded, asked, walk, num_users, block_items, dtype, needed, updates
        )
    return total


def product_dtype(item_weight_VD: Tensor) -> torch.dtype:
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
        asked: Asked,
        walk: Walk,
        num_users: float | Tensor,
        block_items: int | None,
        dtype: torch.dtype,
        needed: Needed,
        updates: Updates,
    ) -> Tensor:
        encoded = encoded._replace(hidden_BD=hidden_BD, repeat_scores_M=repeat_scores_M)
        scored = encoded, item_weight_VD, item_bias_V, asked, block_items, dtype, updates.own
        scale, shares_B = 1.0 / num_users, None
        if updates.slope_norm is not None and any(needed):
            blocks, lengths = Blocks(*scored), Lengths(len(hidden_BD), hidden_BD)
            walk(blocks, lengths)
            shares_B = lengths.shares(blocks, updates.slope_norm)
        blocks = Blocks(*scored)
        gradient = Gradient(blocks, needed, scale, updates, shares_B) if any(needed) else None
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
        return (*gradients, *[None] * 8)
