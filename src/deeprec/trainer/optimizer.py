"""Optimizers of a whole model: input tables updated inside backward, the rest by a step.

A config part here says how each kind of parameter (kinds.py) is trained. The learning rate of a
step is a pure function of its number, so that resuming needs no state of a schedule.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from deeprec import table as rules_of
from deeprec.model.dropping import check_share
from deeprec.table import TableRule
from deeprec.trainer.built import assemble, tell_without_effect
from deeprec.trainer.constraints import NO_CONSTRAINTS, Constraints
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.limits import Limits, check_positive

BETAS = (0.9, 0.999)
USUAL_RATE, USUAL_USERS = 0.003, 256  # of Adam: a learning rate, and users in a step it is for


def usual_rate(batch_users: int) -> float:
    """Adam's learning rate where none is given: it goes with the root of the users in a step.

    On MovieLens 1M half of it is best of 64 users in a step, and twice it of 1,024.

    Example:
        >>> usual_rate(256), usual_rate(64)
        (0.003, 0.0015)
    """
    return USUAL_RATE * math.sqrt(batch_users / USUAL_USERS)


class Optimizer(Protocol):
    """The contract of a config part in the group `optimizer`.

    One whose rule of input tables TorchRec has too says `known_to_torchrec = True`.
    """

    constraints: Constraints

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Optimizers that together train the model; fuses the updates of its input tables."""
        ...

    def rate(self, step: int, total_steps: int) -> float:
        """What the learning rates of a step, counted from 0, are multiplied with."""
        ...

    def state_floats(self, table_rows: int, width: int) -> int:
        """Floats remembered for a table, input or catalog."""
        ...


@dataclass(kw_only=True)
class BaseOptimizer(ABC):
    """What every optimizer here has: limits, constraints, and a learning rate that rises and falls.

    Args:
        lr: learning rate of the layers; None, where an optimizer allows it: `usual_rate`.
        batch_users: in a step of all processes, known from the trainer.
        weight_decay: share of its value, times the learning rate, that a weight of the layers loses
            at each step that trains it; biases and gains of norms do not.
        table_weight_decay: the same of a table's row whenever it changes; per-item numbers do not.
        clip_norm: longest gradient of all layers together; None: any.
        table_clip_norm: longest gradient of a table's row; None: any.
        constraints: what weights and slopes are held to; None: to nothing.
        warmup_steps: steps over which the learning rates rise from 0.
        decay: they fall with (1 - step / total_steps) ** decay; 0: they stay.

    Raises:
        ValueError: a setting lies outside its range.
    """

    lr: float | None = None
    batch_users: int = USUAL_USERS
    weight_decay: float = 0.0
    table_weight_decay: float = 0.0
    clip_norm: float | None = None
    table_clip_norm: float | None = None
    constraints: Constraints | None = None
    warmup_steps: int = 0
    decay: float = 0.0
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.constraints is None:
            self.constraints = NO_CONSTRAINTS
        rates = ("lr", "table_lr", "item_lr", "eps")
        check_positive(**{name: getattr(self, name) for name in rates if hasattr(self, name)})
        self.limits = Limits(
            self.weight_decay, self.table_weight_decay, self.clip_norm, self.table_clip_norm
        )

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """See `Optimizer`."""
        limits = self.limits
        return assemble(
            model,
            self.of_layers,
            lambda: self.of_table(**limits.of_tables()),
            lambda: self.of_numbers(clip_norm=limits.table_clip_norm),
            self.limits,
            self.constraints or NO_CONSTRAINTS,
        )

    def rate(self, step: int, total_steps: int) -> float:
        """See `Optimizer`."""
        rising = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return float(rising * max(0.0, 1.0 - step / max(total_steps, 1)) ** self.decay)

    def lr_of(self, given: float | None = None) -> float:
        """The learning rate of a kind of parameter: that given to it, or that of the layers."""
        lr = self.lr if given is None else given
        return usual_rate(self.batch_users) if lr is None else lr

    @abstractmethod
    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """What trains layers."""

    @abstractmethod
    def of_table(self, **limits: Any) -> TableRule:
        """What changes rows of input tables and of the catalog table."""

    @abstractmethod
    def of_numbers(self, **limits: Any) -> TableRule:
        """What changes per-item numbers, such as the output bias."""


@dataclass(kw_only=True)
class OneRule(BaseOptimizer):
    """One rule for rows of tables and for per-item numbers, each at a learning rate of its own.

    Args:
        lr: learning rate of layers and per-item numbers.
        table_lr: of the input tables and the catalog table; None: `lr`.

    All others are those of `BaseOptimizer`.
    """

    table_lr: float | None = None

    def of_table(self, **limits: Any) -> TableRule:
        return self.rule(self.lr_of(self.table_lr), **limits)

    def of_numbers(self, **limits: Any) -> TableRule:
        return self.rule(self.lr_of(), **limits)

    @abstractmethod
    def rule(self, lr: float, **limits: Any) -> TableRule:
        """It, at a learning rate."""


@dataclass(kw_only=True)
class Adam(OneRule):
    """Adam everywhere; on input tables only the rows touched move (lazy Adam).

    Args:
        lr: of the layers; None: .003 at 256 users in a step, otherwise see `usual_rate`.
        item_lr: of per-item numbers such as the output bias; None: `lr`.
        betas: of the running means of gradients and squared gradients.
        eps: added to the root of the squared mean.

    All others are those of `OneRule`.
    """

    item_lr: float | None = None
    betas: tuple[float, float] = BETAS
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {list(self.betas)}")
        self.betas = (self.betas[0], self.betas[1])

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """See `Optimizer`."""
        if self.item_lr is not None and not kinds_of(model).per_item:
            tell_without_effect("item_lr", "single numbers of an item, such as its bias", "none")
        return super().build(model)

    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.lr_of(), self.betas, self.eps, fused=True)

    def of_numbers(self, **limits: Any) -> TableRule:
        return self.rule(self.lr_of(self.item_lr), **limits)

    def rule(self, lr: float, **limits: Any) -> TableRule:
        return rules_of.LazyAdam(lr, self.betas, self.eps, **limits)

    def state_floats(self, table_rows: int, width: int) -> int:
        return 2 * table_rows * width


@dataclass(kw_only=True)
class RowwiseAdagrad(BaseOptimizer):
    """Row-wise Adagrad on input and catalog tables, one float of state a row; Adam on the rest.

    Args:
        table_lr: learning rate of the input tables and the catalog table.
        lr: of layers and per-item numbers, by Adam; None: as of `Adam`.
        eps: added to the root of a row's summed mean squares.

    All others are those of `BaseOptimizer`.
    """

    known_to_torchrec = True

    table_lr: float = 0.05
    eps: float = 1e-8

    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.lr_of(), BETAS, fused=True)

    def of_table(self, **limits: Any) -> TableRule:
        return rules_of.RowwiseAdagrad(self.table_lr, self.eps, **limits)

    def of_numbers(self, **limits: Any) -> TableRule:
        return rules_of.LazyAdam(self.lr_of(), **limits)

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows


@dataclass(kw_only=True)
class Adagrad(OneRule):
    """Adagrad everywhere, one float of state a weight.

    Args:
        eps: added to the root of the summed squares.

    All others are those of `OneRule`.
    """

    known_to_torchrec = True

    lr: float = 0.05
    eps: float = 1e-8

    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(parameters, self.lr, eps=self.eps)

    def rule(self, lr: float, **limits: Any) -> TableRule:
        return rules_of.Adagrad(lr, self.eps, **limits)

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows * width


@dataclass(kw_only=True)
class RmsProp(OneRule):
    """RMSProp everywhere, DSSTNE's usual choice; on input tables only the rows touched move.

    Args:
        smoothing: share of the mean squared gradient that stays at a step, in [0, 1).
        eps: added to the root of the mean.

    All others are those of `OneRule`.
    """

    lr: float = 0.001
    smoothing: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("smoothing", self.smoothing)

    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, self.lr, self.smoothing, self.eps)

    def rule(self, lr: float, **limits: Any) -> TableRule:
        return rules_of.RmsProp(lr, self.smoothing, self.eps, **limits)

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows * width


@dataclass(kw_only=True)
class Sgd(OneRule):
    """Plain gradient descent everywhere, no state.

    Args: those of `OneRule`.
    """

    known_to_torchrec = True

    lr: float = 0.1

    def of_layers(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, self.lr)

    def rule(self, lr: float, **limits: Any) -> TableRule:
        return rules_of.Sgd(lr, **limits)

    def state_floats(self, table_rows: int, width: int) -> int:
        return 0
