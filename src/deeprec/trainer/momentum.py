"""Optimizers with a velocity, and AdaDelta, which needs no learning rate; see optimizer.py."""

from functools import partial

import torch
from torch import nn

from deeprec import table as rules_of
from deeprec.model.dropping import check_share
from deeprec.table import TableRule
from deeprec.trainer.built import assemble
from deeprec.trainer.constraints import Constraints
from deeprec.trainer.limits import Limits, check_positive
from deeprec.trainer.optimizer import Scheduled


class Momentum(Scheduled):
    """Gradient descent with a velocity, Nesterov's too; of input tables only touched rows move.

    Args:
        lr: learning rate of layers and per-item numbers.
        table_lr: of the input tables and the catalog table; None: `lr`.
        momentum: share of the velocity that stays at a step, in [0, 1).
        nesterov: move by the velocity as it will be, not as it is.
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
        lr: float = 0.01,
        table_lr: float | None = None,
        momentum: float = 0.9,
        nesterov: bool = False,
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
        check_share("momentum", momentum)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.table_lr = lr, lr if table_lr is None else table_lr
        self.momentum, self.nesterov = momentum, nesterov and momentum > 0.0

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def rule(lr: float) -> TableRule:
            how = self.momentum, self.nesterov
            return rules_of.Momentum(lr, *how, **self.limits.of_tables())

        return assemble(
            model,
            partial(torch.optim.SGD, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov),
            lambda: rule(self.table_lr),
            lambda: rule(self.lr),
            self.limits,
            self.constraints,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows * width


class AdaDelta(Scheduled):
    """AdaDelta everywhere: a step as long as the last ones were, over the root of mean squares.

    Args:
        smoothing: share of both means that stays at a step, in [0, 1).
        lr: what a step is multiplied with.
        eps: added to both means.
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
        smoothing: float = 0.9,
        lr: float = 1.0,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        table_weight_decay: float = 0.0,
        clip_norm: float | None = None,
        table_clip_norm: float | None = None,
        constraints: Constraints | None = None,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay, constraints)
        check_positive(lr=lr, eps=eps)
        check_share("smoothing", smoothing)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.smoothing, self.eps = lr, smoothing, eps

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def rule() -> TableRule:
            how = self.smoothing, self.eps
            return rules_of.AdaDelta(self.lr, *how, **self.limits.of_tables())

        return assemble(
            model,
            partial(torch.optim.Adadelta, lr=self.lr, rho=self.smoothing, eps=self.eps),
            rule,
            rule,
            self.limits,
            self.constraints,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return 2 * table_rows * width
