"""Asymmetric and focal loss: binary cross entropy that looks away from what is easy."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Encoded
from deeprec.loss.asked import Target
from deeprec.loss.block_size import check_block_items
from deeprec.loss.catalog_blocks import Cost, catalog_loss, check_scales, separable
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
        block_items: items scored at once; None: as many as suit the device.

    Raises:
        ValueError: an exponent or the shift lies outside its range, or block_items is below 1.

    Reference:
        Ridnik et al., Asymmetric Loss for Multi-Label Classification, ICCV 2021, equations 5-7;
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """

    on_engine = True
    fills_targets = True

    def __init__(
        self,
        *,
        one_focus: float = 0.0,
        zero_focus: float = 2.0,
        zero_shift: float = 0.0,
        one_scale: float = 1.0,
        zero_scale: float = 1.0,
        block_items: int | None = None,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        check_scales(one_scale, zero_scale)
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
                Cost(self._other_value, self._other_slope, self._other),
            ),
            encoded,
            item_weight_VD,
            item_bias_V,
            target,
            num_users=encoded.hidden_BD.shape[0],
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
        q, minus_log = self._shifted(torch.sigmoid(scores), scores)
        return power(q, self.zero_focus).mul_(minus_log).mul_(self.zero_scale)

    def _other_slope(self, scores: Tensor) -> Tensor:
        return self._other(scores)[1]

    def _other(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Value and slope; sigmoid, logarithm and powers are taken once for both."""
        p = torch.sigmoid(scores)
        q, minus_log = self._shifted(p, scores)
        powers = power(q, self.zero_focus)
        miss = 1.0 - p
        # d/ds of q ** f * -log(1 - q), over q ** f; dq/ds = p (1 - p) where q > 0
        inner = p if self.zero_shift == 0.0 else p * miss / (1.0 - q)
        if self.zero_focus > 0.0:
            of_power = miss.mul_(minus_log).mul_(self.zero_focus)
            if self.zero_shift != 0.0:  # else p / q is 1
                of_power = of_power.mul_(p).div_(q.clamp(min=torch.finfo(q.dtype).tiny))
            inner = inner + of_power
        slope = inner.mul_(powers) if inner is not p else p * powers
        if self.zero_shift != 0.0:
            slope = slope.mul_(q > 0)
        return powers.mul_(minus_log).mul_(self.zero_scale), slope.mul_(self.zero_scale)

    def _shifted(self, p: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The shifted probability q of other items, and -log(1 - q)."""
        if self.zero_shift == 0.0:
            return p, F.softplus(scores)
        q = (p - self.zero_shift).clamp_(min=0)
        return q, -torch.log1p(-q)


def power(base: Tensor, exponent: float) -> Tensor:
    """A new tensor; small whole exponents by products, which take a tenth of the time.

    Example:
        >>> power(torch.tensor([2.0]), 3.0), power(torch.tensor([2.0]), 0.0)
        (tensor([8.]), tensor([1.]))
    """
    if exponent not in (0.0, 1.0, 2.0, 3.0, 4.0):
        return base**exponent
    if exponent == 0.0:
        return torch.ones_like(base)
    found = base.clone() if exponent == 1.0 else base * base
    if exponent == 3.0:
        found.mul_(base)
    return found.square_() if exponent == 4.0 else found
