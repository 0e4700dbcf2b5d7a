"""Multinomial cross entropy: the whole catalog competes for each user's targets."""

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded, Jagged
from deeprec.loss.catalog_blocks import (
    BLOCK_ITEMS,
    Blocks,
    Gradient,
    catalog_loss,
    check_block_items,
)


class Softmax(nn.Module):
    """Cross entropy between a user's targets and the softmax over the catalog.

    Args:
        normalise_targets: give each user the same weight by dividing by the number of its targets;
            False sums over targets, so that long histories count more.
        block_items: items scored at once.

    Raises:
        ValueError: block_items is below 1.

    Reference:
        Liang et al., Variational Autoencoders for Collaborative Filtering, WWW 2018, equation 2,
        which sums over targets (`normalise_targets=False`).
    """

    def __init__(self, *, normalise_targets: bool = False, block_items: int = BLOCK_ITEMS) -> None:
        super().__init__()
        check_block_items(block_items)
        self.normalise_targets, self.block_items = normalise_targets, block_items

    def forward(
        self, encoded: Encoded, item_weight_VD: Tensor, item_bias_V: Tensor, target: Jagged
    ) -> Tensor:
        """Mean over users with targets of `-sum over targets of log softmax(scores)`.

        Scores are computed twice, once for the normaliser and once for the gradient; no `[B, V]`
        tensor is held.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V); a user without any costs nothing
                and is not in the mean.

        Returns:
            float32 []. Unit: nats per user.

        Example:
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0, 2]), torch.tensor([0, 2]))
            >>> Softmax()(flat, torch.zeros(3, 4), torch.zeros(3), target)  # 2 log 3
            tensor(2.1972)
        """
        lengths_B = target.offsets.diff()
        weights_P = target.weights
        if weights_P is None:
            weights_P = encoded.hidden_BD.new_ones(target.values.shape)
        if self.normalise_targets:
            shares_B = 1.0 / lengths_B.clamp(min=1).to(weights_P.dtype)
            weights_P = weights_P * shares_B.repeat_interleave(
                lengths_B, output_size=weights_P.shape[0]
            )
        return catalog_loss(
            _walk,
            encoded,
            item_weight_VD,
            item_bias_V,
            Jagged(target.values, target.offsets, weights_P),
            num_users=(lengths_B > 0).sum().clamp(min=1),
            block_items=self.block_items,
        )


def _walk(blocks: Blocks, gradient: Gradient | None) -> Tensor:
    normaliser_B, value = _normaliser_and_value(blocks)
    if gradient is not None:
        mass_B = torch.zeros_like(normaliser_B)  # of targets; a user without any gets no gradient
        mass_B.index_add_(0, blocks.target.users_P, blocks.weights_P)
        shift_B1 = (normaliser_B - mass_B.log())[:, None]
        for block in blocks:
            slope_BC = block.scores_BC.sub_(shift_B1).exp_()
            slope_BC[block.places] -= blocks.weights_P[block.targets]
            gradient.add(block, slope_BC)
    return value


def _normaliser_and_value(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """The logarithm of each user's normaliser, and the loss summed over users."""
    normaliser_B = blocks.hidden_BD.new_full((blocks.hidden_BD.shape[0],), -torch.inf)
    scores_P = torch.empty_like(blocks.weights_P)
    for block in blocks:
        normaliser_B = torch.logaddexp(normaliser_B, block.scores_BC.logsumexp(1))
        scores_P[block.targets] = block.scores_BC[block.places]
    value = (blocks.weights_P * (normaliser_B[blocks.target.users_P] - scores_P)).sum()
    return normaliser_B, value
