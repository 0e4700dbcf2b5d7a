"""Errors of activated scores over the whole catalog: a target should be 1, any other item 0."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

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

Error = Literal["absolute", "squared", "squared_hinge"]
Output = Literal["identity", "sigmoid", "tanh", "relu"]

# activation -> (what becomes of a score, its derivative by what it became)
ACTIVATED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "identity": (lambda s: s.clone(), torch.ones_like),
    "sigmoid": (torch.sigmoid, lambda a: a * (1.0 - a)),
    "tanh": (torch.tanh, lambda a: 1.0 - a * a),
    "relu": (torch.relu, lambda a: (a > 0).to(a.dtype)),
}


class Regression(nn.Module):
    """Every item's score, activated, against 1 if it is a target and 0 if not.

    With d what it misses by, an item costs

        absolute       |d|
        squared        d^2 / 2
        squared_hinge  d^2 / 2 where a target is below 1, or any other item above 0

    Args:
        error: which of these.
        output: what becomes of a score first.
        one_scale: weight of the targets.
        zero_scale: weight of all other items; 0: only targets are learned from.
        block_items: items scored at once.

    Raises:
        ValueError: there is no such error or output, or block_items is below 1.

    Reference:
        DSSTNE, `engine/kLoss.cu`, its L1, L2 and L2Hinge errors. Differs: the slope is that of the
        value, where DSSTNE has another one for SELU, ELU and analog targets; the scales are in the
        value too, where its DeltaBoost is in the slope alone.
    """

    log_odds = False  # scores are, activated, the targets themselves

    def __init__(
        self,
        *,
        error: Error = "squared",
        output: Output = "sigmoid",
        one_scale: float = 1.0,
        zero_scale: float = 1.0,
        block_items: int = BLOCK_ITEMS,
    ) -> None:
        super().__init__()
        check_block_items(block_items)
        if error not in get_args(Error):
            raise ValueError(f"error must be one of {', '.join(get_args(Error))}; got {error!r}")
        if output not in ACTIVATED:
            raise ValueError(f"output must be one of {', '.join(ACTIVATED)}; got {output!r}")
        self.error, self.output, self.block_items = error, output, block_items
        self.one_scale, self.zero_scale = one_scale, zero_scale

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
            float32 [].

        Example:
            >>> from deeprec.batch import Jagged
            >>> none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
            >>> flat = Encoded(torch.zeros(1, 4), *none, torch.zeros(0))
            >>> target, bias = Jagged(torch.tensor([0]), torch.tensor([0, 1])), torch.zeros(3)
            >>> Regression()(flat, torch.zeros(3, 4), bias, target)  # 3 * 0.5 ** 2 / 2
            tensor(0.3750)
        """
        return catalog_loss(
            separable(self._cost(1.0, self.one_scale), self._cost(0.0, self.zero_scale)),
            encoded,
            item_weight_VD,
            item_bias_V,
            target,
            num_users=item_bias_V.new_full((), encoded.hidden_BD.shape[0]),
            block_items=self.block_items,
            updates=updates,
        )

    def _cost(self, wanted: float, scale: float) -> Cost:
        activate, derivative = ACTIVATED[self.output]

        def both(scores: Tensor) -> tuple[Tensor, Tensor]:
            activated = activate(scores)
            missed = self._missed(activated - wanted, wanted)
            slope = torch.sign(missed) if self.error == "absolute" else missed
            value = missed.abs() if self.error == "absolute" else missed.square().mul_(0.5)
            return value.mul_(scale), slope.mul(derivative(activated)).mul_(scale)

        return Cost(lambda scores: both(scores)[0], lambda scores: both(scores)[1], both)

    def _missed(self, missed: Tensor, wanted: float) -> Tensor:
        if self.error != "squared_hinge":
            return missed
        return missed.clamp_(max=0.0) if wanted else missed.clamp_(min=0.0)
