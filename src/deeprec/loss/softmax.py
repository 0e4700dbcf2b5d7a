"""Multinomial cross entropy: the whole catalog competes for each user's targets."""

import torch
from torch import Tensor, nn

from deeprec.batch import Encoded, Jagged
from deeprec.loss.catalog_blocks import BLOCK_ITEMS, Blocks, catalog_loss, check_block_items


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
        weighted = Jagged(target.values, target.offsets, weights_P)
        loss = _SoftmaxBlocks(weighted)
        total = catalog_loss(loss, encoded, item_weight_VD, item_bias_V, weighted, self.block_items)
        return total / (lengths_B > 0).sum().clamp(min=1)


class _SoftmaxBlocks:
    def __init__(self, target: Jagged) -> None:
        num_users = target.offsets.shape[0] - 1
        assert target.weights is not None
        users_P = torch.repeat_interleave(target.offsets.diff(), output_size=target.values.shape[0])
        mass_B = target.weights.new_zeros(num_users)
        self.mass_B1 = mass_B.index_add(0, users_P, target.weights)[:, None]

    def prepare(self, blocks: Blocks) -> None:
        """The logarithm of each user's normaliser."""
        parts = [blocks.scores(block).logsumexp(1) for block in range(len(blocks.starts))]
        self.normaliser_B1 = torch.stack(parts).logsumexp(0)[:, None]

    def block(
        self, scores_BC: Tensor, places: tuple[Tensor, Tensor], weights_P: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_probability_BC = scores_BC.sub_(self.normaliser_B1)
        value = -(log_probability_BC[places] * weights_P).sum()
        grad_BC = log_probability_BC.exp_().mul_(self.mass_B1)
        grad_BC.index_put_(places, -weights_P, accumulate=True)
        return value, grad_BC
