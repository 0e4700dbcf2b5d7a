"""Optimizers of a whole model: input tables updated inside backward, the rest by a step.

A config part here says how each kind of parameter (kinds.py) is trained. The learning rate of a
step is a pure function of its number, so that resuming needs no state of a schedule.
"""

from functools import partial
from typing import Protocol

import torch
from torch import nn

from deeprec import table as rules_of
from deeprec.model.dropping import check_share
from deeprec.table import TableRule
from deeprec.trainer.built import assemble
from deeprec.trainer.constraints import NO_CONSTRAINTS, Constraints
from deeprec.trainer.limits import Limits, check_positive

BETAS = (0.9, 0.999)


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


class Scheduled:
    """A learning rate that rises over the first steps and falls to the end of the run.

    Every optimizer here is one, and holds weights to `constraints`.

    Args:
        warmup_steps: steps over which the learning rates rise from 0.
        decay: they fall with (1 - step / total_steps) ** decay; 0: they stay.
        constraints: see `Constraints`; None: none.
    """

    def __init__(self, warmup_steps: int, decay: float, constraints: Constraints | None) -> None:
        for name, value in (("warmup_steps", warmup_steps), ("decay", decay)):
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.warmup_steps, self.decay = warmup_steps, decay
        self.constraints = NO_CONSTRAINTS if constraints is None else constraints

    def rate(self, step: int, total_steps: int) -> float:
        rising = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return float(rising * max(0.0, 1.0 - step / max(total_steps, 1)) ** self.decay)


class Adam(Scheduled):
    """Adam everywhere; on input tables only the rows touched move (lazy Adam).

    Args:
        lr: learning rate of the layers.
        table_lr: of the input tables and the catalog table; None: `lr`.
        item_lr: of per-item numbers such as the output bias; None: `lr`.
        betas: of the running means of gradients and squared gradients.
        eps: added to the root of the squared mean.
        weight_decay: share of its value, times the learning rate, that a weight of the layers loses
            at each step.
        table_weight_decay: the same of a table's row whenever it changes.
        clip_norm: longest gradient of all layers together; None: any.
        table_clip_norm: longest gradient of a table's row; None: any.
        constraints: see `Constraints`; None: none.
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

    def __init__(
        self,
        *,
        lr: float = 0.003,
        table_lr: float | None = None,
        item_lr: float | None = None,
        betas: tuple[float, float] = BETAS,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        table_weight_decay: float = 0.0,
        clip_norm: float | None = None,
        table_clip_norm: float | None = None,
        constraints: Constraints | None = None,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay, constraints)
        check_positive(lr=lr, table_lr=table_lr, item_lr=item_lr, eps=eps)
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {list(betas)}")
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.betas, self.eps = lr, (betas[0], betas[1]), eps
        self.table_lr = lr if table_lr is None else table_lr
        self.item_lr = lr if item_lr is None else item_lr

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def rule(lr: float) -> TableRule:
            return rules_of.LazyAdam(lr, self.betas, self.eps, **self.limits.of_tables())

        return assemble(
            model,
            partial(_adam, lr=self.lr, betas=self.betas, eps=self.eps),
            lambda: rule(self.table_lr),
            lambda: rule(self.item_lr),
            self.limits,
            self.constraints,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return 2 * table_rows * width


class RowwiseAdagrad(Scheduled):
    """Row-wise Adagrad on input and catalog tables, one float of state a row; Adam on the rest.

    Args:
        table_lr: learning rate of the input tables and the catalog table.
        lr: of layers and per-item numbers, by Adam.
        eps: added to the root of a row's summed mean squares.
        weight_decay: as of `Adam`.
        table_weight_decay: as of `Adam`.
        clip_norm: as of `Adam`.
        table_clip_norm: as of `Adam`.
        constraints: see `Constraints`; None: none.
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

    known_to_torchrec = True

    def __init__(
        self,
        *,
        table_lr: float = 0.05,
        lr: float = 0.003,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        table_weight_decay: float = 0.0,
        clip_norm: float | None = None,
        table_clip_norm: float | None = None,
        constraints: Constraints | None = None,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay, constraints)
        check_positive(table_lr=table_lr, lr=lr, eps=eps)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.table_lr, self.lr, self.eps = table_lr, lr, eps

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return assemble(
            model,
            partial(_adam, lr=self.lr, betas=BETAS, eps=1e-8),
            lambda: rules_of.RowwiseAdagrad(self.table_lr, self.eps, **self.limits.of_tables()),
            lambda: rules_of.LazyAdam(self.lr, **self.limits.of_tables()),
            self.limits,
            self.constraints,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows


class Adagrad(Scheduled):
    """Adagrad everywhere, one float of state a weight.

    Args:
        lr: learning rate of layers and per-item numbers.
        table_lr: of the input tables and the catalog table; None: `lr`.
        eps: added to the root of the summed squares.
        weight_decay: as of `Adam`.
        table_weight_decay: as of `Adam`.
        clip_norm: as of `Adam`.
        table_clip_norm: as of `Adam`.
        constraints: see `Constraints`; None: none.
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

    known_to_torchrec = True

    def __init__(
        self,
        *,
        lr: float = 0.05,
        table_lr: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        table_weight_decay: float = 0.0,
        clip_norm: float | None = None,
        table_clip_norm: float | None = None,
        constraints: Constraints | None = None,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay, constraints)
        check_positive(lr=lr, table_lr=table_lr, eps=eps)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.eps = lr, eps
        self.table_lr = lr if table_lr is None else table_lr

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def rule(lr: float) -> TableRule:
            return rules_of.Adagrad(lr, self.eps, **self.limits.of_tables())

        return assemble(
            model,
            partial(torch.optim.Adagrad, lr=self.lr, eps=self.eps),
            lambda: rule(self.table_lr),
            lambda: rule(self.lr),
            self.limits,
            self.constraints,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows * width


class RmsProp(Scheduled):
    """RMSProp everywhere, DSSTNE's usual choice; on input tables only the rows touched move.

    Args:
        lr: learning rate of layers and per-item numbers.
        table_lr: of the input tables and the catalog table; None: `lr`.
        smoothing: share of the mean squared gradient that stays at a step, in [0, 1).
        eps: added to the root of the mean.
        weight_decay: as of `Adam`.
        table_weight_decay: as of `Adam`.
        clip_norm: as of `Adam`.
        table_clip_norm: as of `Adam`.
        constraints: see `Constraints`; None: none.
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

    def __init__(
        self,
        *,
        lr: float = 0.001,
        table_lr: float | None = None,
        smoothing: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        table_weight_decay: float = 0.0,
        clip_norm: float | None = None,
        table_clip_norm: float | None = None,
        constraints: Constraints | None = None,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay, constraints)
        check_positive(lr=lr, table_lr=table_lr, eps=eps)
        check_share("smoothing", smoothing)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.smoothing, self.eps = lr, smoothing, eps
        self.table_lr = lr if table_lr is None else table_lr

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def rule(lr: float) -> TableRule:
            return rules_of.RmsProp(lr, self.smoothing, self.eps, **self.limits.of_tables())

        return assemble(
            model,
            partial(torch.optim.RMSprop, lr=self.lr, alpha=self.smoothing, eps=self.eps),
            lambda: rule(self.table_lr),
            lambda: rule(self.lr),
            self.limits,
            self.constraints,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows * width


class Sgd(Scheduled):
    """Plain gradient descent everywhere, no state.

    Args:
        lr: learning rate of layers and per-item numbers.
        table_lr: of the input tables and the catalog table; None: `lr`.
        weight_decay: as of `Adam`.
        table_weight_decay: as of `Adam`.
        clip_norm: as of `Adam`.
        table_clip_norm: as of `Adam`.
        constraints: see `Constraints`; None: none.
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

    known_to_torchrec = True

    def __init__(
        self,
        *,
        lr: float = 0.1,
        table_lr: float | None = None,
        weight_decay: float = 0.0,
        table_weight_decay: float = 0.0,
        clip_norm: float | None = None,
        table_clip_norm: float | None = None,
        constraints: Constraints | None = None,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay, constraints)
        check_positive(lr=lr, table_lr=table_lr)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.table_lr = lr, lr if table_lr is None else table_lr

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return assemble(
            model,
            partial(torch.optim.SGD, lr=self.lr),
            lambda: rules_of.Sgd(self.table_lr, **self.limits.of_tables()),
            lambda: rules_of.Sgd(self.lr, **self.limits.of_tables()),
            self.limits,
            self.constraints,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return 0


def _adam(
    parameters: list[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=lr, betas=betas, eps=eps, fused=True)
