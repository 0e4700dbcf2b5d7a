"""Multinomial cross entropy: the whole catalog competes for each user's targets."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded, Jagged, transposed
from deeprec.loss.adjustment import Adjustment
from deeprec.loss.asked import Target, asked_of, users_of
from deeprec.loss.block_gradient import Gradient, Lengths
from deeprec.loss.block_size import check_block_items
from deeprec.loss.blocks import Block, Blocks
from deeprec.loss.catalog_blocks import catalog_loss
from deeprec.loss.shelf import Shelf
from deeprec.table import NO_UPDATES, Updates

SMALLEST_FACTOR = 1e-30


class Softmax(nn.Module):
    """Cross entropy between a user's targets and the softmax over the catalog.

    Args:
        normalise_targets: give each user the same weight by dividing those of its targets by their
            sum; False sums over targets, so that long histories count more.
        temperature: scores are divided by it in training, above 0.
        popularity_adjustment: times the logarithm of an item's share of all interactions, this is
            added to its score in training; see `Adjustment`.
        popularity: int64 [V], training users that had each item, known from the data.
        one_target: a target costs until its probability reaches this, in (0, 1]; 1: always.
        zero_target: any other item competes while its probability is above this, in [0, 1);
            0: always.
        one_scale: weight of the targets.
        zero_scale: any other item competes as so many do, above 0.
        block_items: items scored at once; None: as many as suit the device.

    Raises:
        ValueError: temperature, one_scale or zero_scale is not above 0, one_target lies outside
            (0, 1], zero_target not below it, or block_items is below 1.

    Reference:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018, equation 2,
        which sums over targets (`normalise_targets=False`). Margins and scales are those of
        DSSTNE's multinomial marginal error, whose slope, a probability or nothing, is that of no
        loss: here an item past its margin leaves the sum that the others are compared with.
    """

    on_engine = True
    passes_over_users = True  # who have no target

    def __init__(
        self,
        *,
        normalise_targets: bool = False,
        temperature: float = 1.0,
        popularity_adjustment: float = 0.0,
        popularity: Tensor | None = None,
        one_target: float = 1.0,
        zero_target: float = 0.0,
        one_scale: float = 1.0,
        zero_scale: float = 1.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        self.adjustment = Adjustment(
            temperature=temperature,
            popularity_adjustment=popularity_adjustment,
            popularity=popularity,
        )
        self.normalise_targets, self.block_items = normalise_targets, block_items
        self.fills_targets = not normalise_targets
        self.margins = margins_of(one_target, zero_target, one_scale, zero_scale)
        self.shelf = Shelf()

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean over users with targets of `-sum over targets of log softmax(scores)`.

        With margins, a target costs `one_scale` times that, over all targets and those other items
        whose probability is above `zero_target`, each counted `zero_scale` times.

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
        if asked.user_weights is not None:
            weights_P = weights_P * asked.user_weights[users_of(asked.target)]
        if not self.adjustment.changes_nothing:
            encoded, item_bias_V, updates = self.adjustment.of_catalog(
                encoded, item_bias_V, asked.repeats.values, updates
            )
        return catalog_loss(
            partial(_walk, self.margins, self.shelf),
            encoded,
            item_weight_VD,
            item_bias_V,
            asked.weighted(weights_P),
            num_users=users_with_targets(asked.target),
            block_items=self.block_items,
            updates=updates,
        )


def target_weights(target: Jagged, like: Tensor, normalise: bool) -> Tensor:
    """Float [P]: the weight of each target; over the sum of its user's if normalised.

    Of weights below 0 the sum is that of how far they are from it.
    """
    weights_P = target.weights
    if weights_P is None:
        weights_P = like.new_ones(target.values.shape)
    if not normalise:
        return weights_P
    users_P = users_of(target)
    sums_B = weights_P.new_zeros(len(target.offsets) - 1).index_add(0, users_P, weights_P.abs())
    smallest = torch.finfo(weights_P.dtype).tiny  # all may be 0
    return weights_P / sums_B.clamp(min=smallest)[users_P]


def users_with_targets(target: Jagged) -> float | Tensor:
    """How many, at least 1, as a mean wants it; known without asking the device."""
    found = transposed(target).num_users
    return found if isinstance(found, Tensor) else max(1, found)


class Margins(NamedTuple):
    """From where on items count no more, as logarithms of probabilities, and what they count."""

    one: float  # of targets
    zero: float  # of other items
    one_scale: float
    zero_scale: float

    @property
    def of_others(self) -> bool:
        """Whether not all other items compete alike."""
        return self.zero > -math.inf or self.zero_scale != 1.0


def margins_of(
    one_target: float, zero_target: float, one_scale: float, zero_scale: float
) -> Margins:
    """The margins that a loss was told; see `Softmax`."""
    if not 0.0 < one_target <= 1.0:
        raise ValueError(f"one_target must be in (0, 1], got {one_target}")
    if not 0.0 <= zero_target < one_target:
        raise ValueError(f"zero_target must be from 0 on and below one_target, got {zero_target}")
    for name, scale in (("one_scale", one_scale), ("zero_scale", zero_scale)):
        if not 0.0 < scale < math.inf:
            raise ValueError(f"{name} must be above 0, got {scale}")
    one = math.log(one_target) if one_target < 1.0 else math.inf
    zero = math.log(zero_target) if zero_target > 0.0 else -math.inf
    return Margins(one, zero, one_scale, zero_scale)


class _Shares(NamedTuple):
    """What each item of a block has of the block's exponentiated scores, for each user."""

    of_B: Tensor  # float [B], the logarithm of what they are shares of
    sum_B: Tensor | None  # float [B]; None: all items compete, and it is 1
    kept_BC: Tensor | None  # in the dtype of the products; None: there is no room for them

    def logarithm(self) -> Tensor:
        """Float [B]: the logarithm of the sum of the block's exponentiated scores."""
        return self.of_B if self.sum_B is None else self.of_B + self.sum_B.log()


def _walk(
    margins: Margins, shelf: Shelf, blocks: Blocks, gradient: Gradient | Lengths | None
) -> Tensor:
    shelf.clear()
    scores_P = torch.empty_like(blocks.weights_P)
    found = []
    for block in blocks:
        scores_BC = blocks.scores(block)
        scores_P[block.targets] = scores_BC[block.places]
        kept_BC = None if gradient is None else shelf.place(scores_BC, blocks.product_dtype)
        found.append(_shares(scores_BC, kept_BC))
    users_P, normaliser_B = blocks.target.users_P, _normaliser(blocks, found)
    if margins.one < math.inf:  # a target past the margin costs nothing, and nobody else for it
        blocks.weights_P = blocks.weights_P * (scores_P - normaliser_B[users_P] < margins.one)
    if margins.one_scale != 1.0:
        blocks.weights_P = blocks.weights_P * margins.one_scale
    competes = None
    if margins.of_others:
        edge_B = normaliser_B + margins.zero
        competes = partial(_scaled, edge_B, margins)
        found = [_competing(blocks, *each, edge_B, margins) for each in zip(blocks, found)]
        normaliser_B = _normaliser(blocks, found)
    if gradient is not None:
        _hand_gradients(blocks, gradient, found, normaliser_B, competes)
    return (blocks.counted(blocks.weights_P) * (normaliser_B[users_P] - scores_P)).sum()


def _normaliser(blocks: Blocks, found: list[_Shares]) -> Tensor:
    """Float [B]: the logarithm of the sum of all exponentiated scores; 0 where there is none.

    All means the whole catalog, whoever goes over it.
    """
    sums = [each.logarithm() for each in found]
    sums_B = sums[0] if len(sums) == 1 else torch.stack(sums).logsumexp(0)
    sums_B = blocks.of_all(sums_B, partial(torch.logsumexp, dim=0))
    return sums_B.masked_fill(sums_B == -math.inf, 0.0)


def _competing(
    blocks: Blocks, block: Block, found: _Shares, edge_B: Tensor, margins: Margins
) -> _Shares:
    """The same of the items alone that compete, each as often as it counts."""
    kept_BC = found.kept_BC
    if kept_BC is None:
        kept_BC = (blocks.scores(block) - found.of_B[:, None]).exp_()
    _scaled(edge_B - found.of_B, margins, block, kept_BC, kept_BC)
    sum_B = kept_BC.sum(1, dtype=found.of_B.dtype)
    return _Shares(found.of_B, sum_B, None if found.kept_BC is None else kept_BC)


def _scaled(
    edge_B: Tensor, margins: Margins, block: Block, scores_BC: Tensor, exponentials_BC: Tensor
) -> None:
    """Changes the exponentials of a block's other items to what counts of them.

    Args:
        edge_B: what a score must be above, or its logarithm if these are exponentials.
        margins: of it.
        block: whose targets stay.
        scores_BC: compared with the edge; may be the exponentials themselves.
        exponentials_BC: changed in place.
    """
    of_targets = exponentials_BC[block.places]
    if margins.zero > -math.inf:
        edge_B = edge_B.exp() if scores_BC is exponentials_BC else edge_B
        exponentials_BC *= scores_BC > edge_B[:, None]
    exponentials_BC *= margins.zero_scale
    exponentials_BC[block.places] = of_targets


def _shares(scores_BC: Tensor, kept_BC: Tensor | None) -> _Shares:
    same = kept_BC is not None and kept_BC.dtype == scores_BC.dtype
    shares_BC = torch.softmax(scores_BC, 1, out=kept_BC if same else None)
    # over itself the highest score is exponentiated to 1, so its share is 1 over the sum
    of_B = scores_BC.amax(1) - shares_BC.amax(1).log()
    if kept_BC is not None and not same:
        kept_BC.copy_(shares_BC)
    return _Shares(of_B, None, kept_BC)


def _hand_gradients(
    blocks: Blocks,
    gradient: Gradient | Lengths,
    found: list[_Shares],
    normaliser_B: Tensor,
    competes: Callable[[Block, Tensor, Tensor], None] | None,
) -> None:
    """What was kept needs no second product: its scale is one number per user and block.

    Args:
        competes: leaves of the exponentials of a block what counts, by its scores; None: all does.
    """
    mass_B = torch.zeros_like(normaliser_B)  # of targets; a user without any gets no gradient
    mass_B.index_add_(0, blocks.target.users_P, blocks.counted(blocks.weights_P))
    mass_B = blocks.of_all(mass_B, partial(torch.sum, dim=0))
    shift_B = normaliser_B - mass_B.log()
    for index, block in enumerate(blocks):
        weights_P, kept_BC = blocks.weights_P[block.targets], found[index].kept_BC
        if kept_BC is None:
            slope_BC = blocks.scores(block)
            scores_BC = None if competes is None else slope_BC.clone()
            slope_BC.sub_(shift_B[:, None]).exp_()
            if competes is not None and scores_BC is not None:
                competes(block, scores_BC, slope_BC)
            slope_BC[block.places] -= weights_P
            gradient.add(block, slope_BC)
        else:
            # not below what dividing a target by it can bear; so small, it adds nothing else
            factor_B = (found[index].of_B - shift_B).exp_().clamp_(min=SMALLEST_FACTOR)
            kept_BC[block.places] -= (weights_P / factor_B[block.places[0]]).to(kept_BC.dtype)
            gradient.add(block, kept_BC, factor_B * (mass_B > 0))
            found[index] = found[index]._replace(kept_BC=None)
