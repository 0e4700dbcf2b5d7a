"""Asymmetric and focal loss: binary cross entropy that looks away from what is easy."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Encoded
from deeprec.loss.asked import Target
from deeprec.loss.catalog_blocks import (
    BLOCK_ITEMS,
    Cost,
    catalog_loss,
    check_block_items,
    separable,
)
from deeprec.table import NO_UPDATES, Updates


class Asymmetric(nn.Module):
    """Binary cross entropy, each item weighted by how wrong its probability p is.

    A target costs `-(1 - p) ** one_focus * log(p)`; any other item costs
    `-q ** zero_focus * log(1 - q)` with `q = max(p - zero_shift, 0)`. Focal loss is
    `one_focus = zero_focus`, `zero_shift = 0`; both 0 is binary cross entropy.

    Args:
        one_focus: exponent of the targets, 0 or more.
        zero_focus: exponent of all other items, 0 or 1 or more.
        zero_shift: probability below which any other item costs nothing, in [0, 1).
        one_scale: weight of the targets.
        zero_scale: weight of all other items.
        block_items: items scored at once.

    Raises:
        ValueError: an exponent or the shift lies outside its range, or block_items is below 1.

    Reference:
        Ridnik et al., Asymmetric Loss for Multi-Label Classification, ICCV 2021, equations 5-7;
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """

    def __init__(
        self,
        *,
        one_focus: float = 0.0,
        zero_focus: float = 2.0,
        zero_shift: float = 0.0,
        one_scale: float = 1.0,
        zero_scale: float = 1.0,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        if not one_focus >= 0.0:
            raise ValueError(f"one_focus must be 0 or more, got {one_focus}")
        if not (zero_focus == 0.0 or zero_focus >= 1.0):
            # between them the slope is infinite where q is 0
            raise ValueError(f"zero_focus must be 0, or 1 or more, got {zero_focus}")
        if not 0.0 <= zero_shift < 1.0:
            raise ValueError(f"zero_shift must be in [0, 1), got {zero_shift}")
        self.one_focus, self.zero_focus, self.zero_shift = one_focus, zero_focus, zero_shift
        self.one_scale, self.zero_scale, self.block_items = one_scale, zero_scale, block_items

    def forward(
        self,
        encoded: Encoded,
        item_weight_VD: Tensor,
        item_bias_V: Tensor,
        target: Target,
        updates: Updates = NO_UPDATES,
    ) -> Tensor:
        """Sum over users and items of what each costs, divided by B.

        Args:
            encoded: hidden float [B, D] and the scores of own-history items.
            item_weight_VD: float [V, D].
            item_bias_V: float [V].
            target: distinct item indices of each user in [0, V). Weights multiply `one_scale`.
            updates: change rows of the catalog table and bias as soon as their gradient is known.

        Returns:
            float32 []. Unit: nats per user.

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target = Jagged(torch.tensor([0]), torch.tensor([0, 1]))
            >>> Asymmetric()(flat, torch.zeros(3, 4), torch.zeros(3), target)  # (1 + 2/4) log 2
            tensor(1.0397)
        """
        return catalog_loss(
            separable(
                Cost(self._target_value, self._target_slope),
                Cost(self._other_value, self._other_slope),
            ),
            encoded,
            item_weight_VD,
            item_bias_V,
            target,
            num_users=item_bias_V.new_full((), encoded.hidden_BD.shape[0]),
            block_items=self.block_items,
            updates=updates,
        )

    def _target_value(self, scores: Tensor) -> Tensor:
        miss = torch.sigmoid(-scores) ** self.one_focus
        return miss * F.softplus(-scores) * self.one_scale

    def _target_slope(self, scores: Tensor) -> Tensor:
        p, miss = torch.sigmoid(scores), torch.sigmoid(-scores)
        of_log = self.one_focus * p * F.logsigmoid(scores) - miss
        return miss**self.one_focus * of_log * self.one_scale

    def _other_value(self, scores: Tensor) -> Tensor:
        q, minus_log = self._shifted(scores)
        return q**self.zero_focus * minus_log * self.zero_scale

    def _other_slope(self, scores: Tensor) -> Tensor:
        q, minus_log = self._shifted(scores)
        p, miss = torch.sigmoid(scores), torch.sigmoid(-scores)
        slope = q**self.zero_focus * (p if self.zero_shift == 0.0 else p * miss / (1.0 - q))
        if self.zero_focus > 0.0:
            slope += self.zero_focus * q ** (self.zero_focus - 1.0) * minus_log * p * miss
        return slope * (q > 0) * self.zero_scale

    def _shifted(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The shifted probability q of other items, and -log(1 - q)."""
        if self.zero_shift == 0.0:
            return torch.sigmoid(scores), F.softplus(scores)
        q = (torch.sigmoid(scores) - self.zero_shift).clamp_(min=0)
        return q, -torch.log1p(-q)
