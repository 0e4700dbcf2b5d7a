"""Optimizers with a velocity, and AdaDelta, which needs no learning rate; see optimizer.py."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deeprec import table as rules_of
from deeprec.model.dropping import check_share
from deeprec.table import TableRule
from deeprec.trainer.optimizer import BaseOptimizer, OneRule


@dataclass(kw_only=True)
class Momentum(OneRule):
    """Gradient descent with a velocity, Nesterov's too; of input tables only touched rows move.

    Args:
        momentum: share of the velocity that stays at a step, in [0, 1).
        nesterov: move by the velocity as it will be, not as it is.

    All others are those of `OneRule`.
    """

    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("momentum", self.momentum)
        self.nesterov = self.nesterov and self.momentum > 0.0

    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, self.lr, self.momentum, nesterov=self.nesterov)

    def rule(self, lr: float, **limits: Any) -> TableRule:
        return rules_of.Momentum(lr, self.momentum, self.nesterov, **limits)

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows * width


@dataclass(kw_only=True)
class AdaDelta(BaseOptimizer):
    """AdaDelta everywhere: a step as long as the last ones were, over the root of mean squares.

    Args:
        smoothing: share of both means that stays at a step, in [0, 1).
        lr: what a step is multiplied with.
        eps: added to both means.

    All others are those of `BaseOptimizer`.
    """

    smoothing: float = 0.9
    lr: float = 1.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("smoothing", self.smoothing)

    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adadelta(parameters, self.lr, self.smoothing, self.eps)

    def of_table(self, **limits: Any) -> TableRule:
        return rules_of.AdaDelta(self.lr, self.smoothing, self.eps, **limits)

    def of_numbers(self, **limits: Any) -> TableRule:
        return self.of_table(**limits)

    def state_floats(self, table_rows: int, width: int) -> int:
        return 2 * table_rows * width
