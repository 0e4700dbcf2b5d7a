"""Scores of a few drawn items for everybody, and of a target for its own user alone.

Where a batch has more distinct targets than draws, to score every target for everybody is most of
what a sampled step costs. Here a target costs one row of the catalog for each user who has it, and
only the draws are a matrix product. The rest of a user's catalog is estimated from the draws that
are none of its targets.

Shapes (legend in deeprec/batch.py): P targets of the batch, T of them distinct; S distinct draws.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeprec.batch import Asked, ByItem, Drawn, Encoded, Jagged, transposed
from deeprec.loss.asked import users_of
from deeprec.loss.blocks import product_dtype
from deeprec.loss.cell_scores import Replaced, bags, products
from deeprec.loss.negatives import Negatives
from deeprec.table import RowUpdate, Updates


class OwnScores(NamedTuple):
    """What a loss is made of where targets are not shared."""

    users_P: Tensor  # int64 [P], of each target
    target_P: Tensor  # float [P], the score of each target for its user
    drawn_BS: Tensor  # float [B, S], of each draw; minus infinity where it is a target of the user
    items_S: Tensor  # int64 [S]
    shares_S: Tensor  # float [S], for how many items of the catalog each draw stands


def own_scores(
    negatives: Negatives,
    asked: Asked,
    encoded: Encoded,
    item_weight_VD: Tensor,
    item_bias_V: Tensor,
    updates: Updates,
) -> OwnScores:
    """Scores each target for its own user, and the draws for everybody.

    Args:
        negatives: draw, where what is asked comes without draws.
        asked: arranged.
        encoded: of its users.
        item_weight_VD: float [V, D]; the rows of targets and draws receive a gradient.
        item_bias_V: float [V], likewise.
        updates: change these rows in backward, each once.
    """
    drawn = asked.sample or negatives.sample(asked)
    assert isinstance(drawn, Drawn), "targets that are shared are scored by candidate_catalog.py"
    dtype = product_dtype(item_weight_VD)
    with torch.autocast(item_weight_VD.device.type, enabled=False):
        hidden_BD = encoded.hidden_BD.to(item_weight_VD.dtype)
        products_P, scores_BS = _Scores.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            hidden_BD, item_weight_VD, item_bias_V, asked.target, drawn, updates, dtype
        )
    if len(drawn.repeats.values):
        repeats_M = encoded.repeat_scores_M.to(scores_BS.dtype)[drawn.of_repeats]
        scores_BS = scores_BS.index_put(_places(drawn.repeats), repeats_M)
    return OwnScores(
        users_of(asked.target),
        Replaced(encoded, asked, len(item_bias_V)).in_place_of(products_P),
        scores_BS.index_put(_places(drawn.targets), scores_BS.new_full((), -torch.inf)),
        drawn.items,
        drawn.shares.to(scores_BS.dtype),
    )


def of_draws(negatives: Negatives, block_items: int | None) -> str:
    """Told of draws that are all scored at once, to whoever asks for blocks."""
    if negatives.shared_targets or block_items is None:
        return ""
    return ", all at once (loss.block_items is of shared targets alone)"


def _places(rows: Jagged) -> tuple[Tensor, Tensor]:
    """User and value of each."""
    return users_of(rows), rows.values


class _Scores(torch.autograd.Function):
    """The products of targets with their users, and of draws with everybody; bias included."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_BD: Tensor,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Jagged,
        drawn: Drawn,
        updates: Updates,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        by_item = transposed(target)
        rows_SD = item_weight_VD.index_select(0, drawn.items).to(dtype)
        scores_BS = (hidden_BD.to(dtype) @ rows_SD.T).to(hidden_BD.dtype)
        scores_BS += item_bias_V[drawn.items]
        scores_P = hidden_BD.new_empty(len(target.values))
        scores_P[by_item.order] = products(hidden_BD, item_weight_VD, by_item)
        scores_P += item_bias_V[target.values]
        # a table that this task does not train may be changed by another before backward comes
        kept_TD = None
        if not item_weight_VD.requires_grad:
            kept_TD = item_weight_VD.index_select(0, by_item.distinct)
        ctx.save_for_backward(hidden_BD, rows_SD, kept_TD)
        ctx.tables, ctx.rest = (item_weight_VD, item_bias_V), (target, drawn, updates)
        return scores_P, scores_BS

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_P: Tensor, grad_BS: Tensor) -> tuple[Tensor | None, ...]:
        hidden_BD, rows_SD, kept_TD = ctx.saved_tensors
        (item_weight_VD, item_bias_V), (target, drawn, updates) = ctx.tables, ctx.rest
        by_item, narrow_BS = transposed(target), grad_BS.to(rows_SD.dtype)
        grad_hidden_BD = None
        if ctx.needs_input_grad[0]:
            read = item_weight_VD, target.values
            if kept_TD is not None:
                read = kept_TD, torch.searchsorted(by_item.distinct, target.values)
            grad_hidden_BD = bags(*read, target.offsets, grad_P)
            grad_hidden_BD += (narrow_BS @ rows_SD).to(hidden_BD.dtype)
        grad_weight_VD = grad_bias_V = None
        sorted_P = grad_P[by_item.order]
        if ctx.needs_input_grad[1]:
            of_targets_TD = bags(hidden_BD, by_item.users, by_item.offsets, sorted_P)
            of_draws_SD = (narrow_BS.T @ hidden_BD.to(rows_SD.dtype)).to(hidden_BD.dtype)
            found = of_targets_TD, of_draws_SD
            grad_weight_VD = _hand_out(item_weight_VD, by_item, drawn, found, updates.item_weight)
        if ctx.needs_input_grad[2]:
            ones_B1 = hidden_BD.new_ones(len(hidden_BD), 1)
            of_targets_T = bags(ones_B1, by_item.users, by_item.offsets, sorted_P)[:, 0]
            found = of_targets_T, grad_BS.sum(0)
            grad_bias_V = _hand_out(item_bias_V, by_item, drawn, found, updates.item_bias)
        return grad_hidden_BD, grad_weight_VD, grad_bias_V, None, None, None, None


def _hand_out(
    table: Tensor,
    by_item: ByItem,
    drawn: Drawn,
    found: tuple[Tensor, Tensor],
    update: RowUpdate | None,
) -> Tensor | None:
    """Gives each row its whole gradient, once; without an update, as a gradient of the table."""
    of_targets, of_draws = found
    of_targets.index_add_(0, drawn.as_targets, of_draws.index_select(0, drawn.shared))
    others, of_others = drawn.items[drawn.others], of_draws.index_select(0, drawn.others)
    if update is None:
        gradient = torch.zeros_like(table).index_copy_(0, by_item.distinct, of_targets)
        return gradient.index_copy_(0, others, of_others)
    update(by_item.distinct, of_targets)
    update(others, of_others)
    return None
