"""Multinomial cross entropy: the whole catalog competes for each user's targets."""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded, Jagged
from deeprec.loss.adjustment import Adjustment
from deeprec.loss.asked import Target, asked_of
from deeprec.loss.catalog_blocks import (
    BLOCK_ITEMS,
    Blocks,
    Gradient,
    catalog_loss,
    check_block_items,
)
from deeprec.table import NO_UPDATES, Updates

KEPT_BYTES = 64 * 2**20  # of a batch's exponentials: what is kept is not scored a second time
SMALLEST_FACTOR = 1e-30


class Softmax(nn.Module):
    """Cross entropy between a user's targets and the softmax over the catalog.

    Args:
        normalise_targets: give each user the same weight by dividing by the number of its targets;
            False sums over targets, so that long histories count more.
        temperature: scores are divided by it in training, above 0.
        popularity_adjustment: times the logarithm of an item's share of all interactions, this is
            added to its score in training; see `Adjustment`.
        popularity: int64 [V], training users that had each item, known from the data.
        one_target: a target costs until its probability reaches this, in (0, 1]; 1: always.
        block_items: items scored at once.

    Raises:
        ValueError: temperature is not above 0, one_target lies outside (0, 1], or block_items is
            below 1.

    Reference:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018, equation 2,
        which sums over targets (`normalise_targets=False`). The margin is that of DSSTNE's
        multinomial marginal error, whose margin of the other items has no loss to be the slope of.
    """

    def __init__(
        self,
        *,
        normalise_targets: bool = False,
        temperature: float = 1.0,
        popularity_adjustment: float = 0.0,
        popularity: Tensor | None = None,
        one_target: float = 1.0,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        self.adjustment = Adjustment(
            temperature=temperature,
            popularity_adjustment=popularity_adjustment,
            popularity=popularity,
        )
        if not 0.0 < one_target <= 1.0:
            raise ValueError(f"one_target must be in (0, 1], got {one_target}")
        self.normalise_targets, self.block_items = normalise_targets, block_items
        self.highest = math.log(one_target) if one_target < 1.0 else math.inf

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean over users with targets of `-sum over targets of log softmax(scores)`.

        The normaliser must be known before the gradient. The exponentials of the first blocks are
        kept for it, up to 64 MiB; other blocks are scored a second time. No `[B, V]` tensor is held
        for a large catalog.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V); a user without any costs nothing
                and is not in the mean.
            updates: change rows of the catalog table and bias as soon as their gradient is known.

        Returns:
            float32 []. Unit: nats per user.

        Example:
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0, 2]), torch.tensor([0, 2]))
            >>> Softmax()(flat, torch.zeros(3, 4), torch.zeros(3), target)  # 2 log 3
            tensor(2.1972)
        """
        asked = asked_of(target, encoded, item_bias_V)
        weights_P = target_weights(asked.target, encoded.hidden_BD, self.normalise_targets)
        if not self.adjustment.changes_nothing:
            encoded, item_bias_V, updates = self.adjustment.of_catalog(
                encoded, item_bias_V, asked.repeats.values, updates
            )
        return catalog_loss(
            partial(_walk, self.highest),
            encoded,
            item_weight_VD,
            item_bias_V,
            asked.weighted(weights_P),
            num_users=users_with_targets(asked.target),
            block_items=self.block_items,
            updates=updates,
        )


def target_weights(target: Jagged, like: Tensor, normalise: bool) -> Tensor:
    """Float [P]: the weight of each target; over the number of its user's if normalised."""
    weights_P = target.weights
    if weights_P is None:
        weights_P = like.new_ones(target.values.shape)
    if not normalise:
        return weights_P
    lengths_B = target.offsets.diff()
    shares_B = 1.0 / lengths_B.clamp(min=1).to(weights_P.dtype)
    return weights_P * shares_B.repeat_interleave(lengths_B, output_size=weights_P.shape[0])


def users_with_targets(target: Jagged) -> Tensor:
    """int64 []: how many, at least 1."""
    return (target.offsets.diff() > 0).sum().clamp(min=1)


class _Exponentials(NamedTuple):
    """A block's exponentials over those of each user's highest score in it."""

    highest_B: Tensor  # float [B]
    sum_B: Tensor  # float [B]
    kept_BC: Tensor | None  # in the dtype of the products; None: there is no room for it

    def logarithm(self) -> Tensor:
        """Float [B]: the logarithm of the sum of the block's exponentiated scores."""
        return self.highest_B + self.sum_B.log()


def _walk(highest: float, blocks: Blocks, gradient: Gradient | None) -> Tensor:
    room = 0 if gradient is None else KEPT_BYTES
    scores_P = torch.empty_like(blocks.weights_P)
    found = []
    for block in blocks:
        scores_BC = blocks.scores(block)
        scores_P[block.targets] = scores_BC[block.places]
        found.append(_exponentials(scores_BC, blocks.product_dtype, room))
        kept_BC = found[-1].kept_BC
        room -= 0 if kept_BC is None else kept_BC.nbytes
    normaliser_B = torch.stack([each.logarithm() for each in found]).logsumexp(0)
    missing_P = normaliser_B[blocks.target.users_P] - scores_P
    if highest < math.inf:  # a target past the margin costs nothing, and nobody else for it
        blocks.weights_P = blocks.weights_P * (missing_P > -highest)
    if gradient is not None:
        _hand_gradients(blocks, gradient, found, normaliser_B)
    return (blocks.weights_P * missing_P).sum()


def _exponentials(scores_BC: Tensor, dtype: torch.dtype, room: int) -> _Exponentials:
    highest_B = scores_BC.amax(1)
    exponentials_BC = scores_BC.sub_(highest_B[:, None]).exp_()
    fits = exponentials_BC.numel() * dtype.itemsize <= room
    return _Exponentials(
        highest_B, exponentials_BC.sum(1), exponentials_BC.to(dtype) if fits else None
    )


def _hand_gradients(
    blocks: Blocks, gradient: Gradient, found: list[_Exponentials], normaliser_B: Tensor
) -> None:
    """What was kept needs no second product: its scale is one number per user and block."""
    mass_B = torch.zeros_like(normaliser_B)  # of targets; a user without any gets no gradient
    mass_B.index_add_(0, blocks.target.users_P, blocks.weights_P)
    shift_B = normaliser_B - mass_B.log()
    for index, block in enumerate(blocks):
        weights_P, kept_BC = blocks.weights_P[block.targets], found[index].kept_BC
        if kept_BC is None:
            slope_BC = blocks.scores(block).sub_(shift_B[:, None]).exp_()
            slope_BC[block.places] -= weights_P
            gradient.add(block, slope_BC)
        else:
            # not below what dividing a target by it can bear; so small, it adds nothing else
            factor_B = (found[index].highest_B - shift_B).exp_().clamp_(min=SMALLEST_FACTOR)
            kept_BC[block.places] -= (weights_P / factor_B[block.places[0]]).to(kept_BC.dtype)
            gradient.add(block, kept_BC, factor_B * (mass_B > 0))
            found[index] = found[index]._replace(kept_BC=None)
