"""The engine under every catalog loss: value and gradient, block by block.

`[B, V]` is never held. For each block of items the scores are one matrix product; the loss turns
them into gradients, and two more products bring those to hidden and to the catalog table. Backward
only hands out what forward has computed, so nothing is scored again for it. A gradient that nobody
needs costs nothing, and under `torch.no_grad` there is none. Where the optimizer gives `Updates`,
the rows of a block change as soon as their gradient is known, so the gradient of the table, [V, D],
does not exist either.

Where other processes go over the other items (`Updates.own`), the tables are the rows of those of
this one: the loss is then the part of it that these cost. What a loss must know of a user over the
whole catalog it asks for with `Blocks.of_all`.

Under autocast the products, and only they, run in its dtype: sums, costs and gradients between them
stay in float32.

Shapes (legend in deeprec/batch.py): P targets of the whole batch, M own-history items with a score.

Reference:
    DSSTNE scores the whole catalog densely (`engine/kLoss.cu`, `engine/kDelta.cu`); the order of
    work here is that of fused linear cross entropy, extended to jagged targets, to any loss that is
    a sum over items, and to scores that replace the product.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.batch import Asked, Encoded
from deeprec.loss.asked import Target, asked_of
from deeprec.loss.block_gradient import Gradient, Lengths, Needed
from deeprec.loss.blocks import Blocks, Places, product_dtype
from deeprec.table import Updates

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
        target: distinct item indices of each user in the catalog, weights absent or float [P];
            plain or arranged, of own items arranged.
        num_users: what the sum over users is divided by, above 0.
        block_items: items scored at once, None: as many as suit the device; memory is
            O(B * block_items), and O(V * D) for the gradient of the table where there are no
            updates.
        updates: change the catalog's rows now, block by block, where they need a gradient; and
            how long a user's slopes may be, for which the blocks are gone over once more; and
            which items of a larger catalog the rows of the tables are.

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


def check_scales(one_scale: float, zero_scale: float) -> None:
    """Raises ValueError if targets and other items cannot weigh so."""
    both = one_scale, zero_scale
    if not (min(both) >= 0.0 and 0.0 < sum(both) < float("inf")):
        raise ValueError(
            "one_scale and zero_scale must be 0 or more and finite, one of them above 0; got "
            f"one_scale={one_scale}, zero_scale={zero_scale}"
        )
