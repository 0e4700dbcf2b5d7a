"""Scaled marginal cross entropy, DSSTNE's loss for sparse multi-label targets."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Encoded
from deeprec.loss.asked import Target
from deeprec.loss.block_size import check_block_items
from deeprec.loss.catalog_blocks import Cost, catalog_loss, check_scales, separable
from deeprec.table import NO_UPDATES, Updates


class Marginal(nn.Module):
    """Binary cross entropy of every item that stops pushing past its margin.

    Args:
        one_target: a target costs until its probability reaches this, in (0, 1]; 1: always.
        zero_target: any other item costs until its probability falls to this, in [0, 1).
        one_scale: weight of the targets.
        zero_scale: weight of all other items.
        block_items: items scored at once; None: as many as suit the device.

    Raises:
        ValueError: zero_target is not below one_target, or one lies outside [0, 1];
            or block_items is below 1.
    """

    on_engine = True
    fills_targets = True

    def __init__(
        self,
        *,
        one_target: float = 1.0,
        zero_target: float = 0.0,
        one_scale: float = 1.0,
        zero_scale: float = 1.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        check_scales(one_scale, zero_scale)
        if not 0.0 <= zero_target < one_target <= 1.0:
            raise ValueError(
                f"zero_target must lie below one_target, both in [0, 1]; "
                f"got zero_target={zero_target}, one_target={one_target}"
            )
        self.one_logit, self.zero_logit = _logit(one_target), _logit(zero_target)
        self.one_scale, self.zero_scale = one_scale, zero_scale
        self.block_items = block_items

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Mean loss per user of scoring the whole catalog against each user's targets.

        An item the user chose costs `-one_scale * log(p)` until p reaches `one_target`; any other
        item costs `-zero_scale * log(1 - p)` until p falls to `zero_target`; past those margins
        both the cost and its gradient are zero. Here `p = sigmoid(score)`.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V); a user may have none. Weights
                multiply `one_scale`.
            updates: change rows of the catalog table and bias as soon as their gradient is known.

        Returns:
            float32 []. Sum over users and items, divided by B. Unit: nats per user.

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(2, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0, 2, 1]), torch.tensor([0, 2, 3]))
            >>> Marginal()(flat, torch.zeros(3, 4), torch.zeros(3), target)  # 3 log 2
            tensor(2.0794)

        Reference:
            DSSTNE, `engine/kLoss.cu`, kCalculateSparseNonZeroScaledMarginalCrossEntropyError.
            Differs in two ways: p is kept in log space instead of clamped at 1e-12, and the sum is
            divided by B here rather than in the optimizer.
        """
        target_cost = Cost(self._target_value, self._target_slope)
        other_cost = Cost(self._other_value, self._other_slope)
        return catalog_loss(
            separable(target_cost, other_cost),
            encoded,
            item_weight_VD,
            item_bias_V,
            target,
            num_users=encoded.hidden_BD.shape[0],
            block_items=self.block_items,
            updates=updates,
        )

    def _target_value(self, scores: Tensor) -> Tensor:
        return F.softplus(-scores) * (scores < self.one_logit) * self.one_scale

    def _target_slope(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(-scores) * (scores < self.one_logit) * -self.one_scale

    def _other_value(self, scores: Tensor) -> Tensor:
        return self._beyond_zero_target(scores, F.softplus(scores))

    def _other_slope(self, scores: Tensor) -> Tensor:
        return self._beyond_zero_target(scores, torch.sigmoid(scores))

    def _beyond_zero_target(self, scores: Tensor, cost: Tensor) -> Tensor:
        # the whole catalog passes here: a margin or a scale that is not there costs no pass
        if self.zero_logit > -math.inf:
            cost.mul_(scores > self.zero_logit)
        return cost if self.zero_scale == 1.0 else cost.mul_(self.zero_scale)


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return math.inf if probability else -math.inf
    return math.log(probability) - math.log1p(-probability)
