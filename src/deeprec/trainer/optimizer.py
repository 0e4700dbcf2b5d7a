"""Optimizers of a whole model: input tables updated inside backward, the rest by a step.

A config part here says how each kind of parameter is trained:

    input tables     only the rows that a batch touched, in backward (model/sparse_input.py)
    catalog table    item_weight: rows change where a loss finds their gradient, block by block
                     a tied table, which the input reads too, changes at the step instead
    per-item numbers item_bias and its like, one float an item: likewise
    layers           everything else

The learning rate of a step is a pure function of its number, so that resuming needs no state of a
schedule.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deeprec import table as rules_of
from deeprec.errors import ConfigError
from deeprec.model.dropping import check_share
from deeprec.model.sparse_input import SparseInput
from deeprec.table import Rows, RowUpdate, TableRule, update_rows
from deeprec.trainer.row_length import KeptLength

BETAS = (0.9, 0.999)
# what torch's optimizers remember of each parameter, beside their step, only from the first one on
LATE_STATE: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.RMSprop: ("square_avg",),
    torch.optim.Adadelta: ("square_avg", "acc_delta"),
}


@dataclass
class Kinds:
    """The parameters of a model by how they are trained."""

    inputs: list[SparseInput] = field(default_factory=list)
    catalog: list[nn.Parameter] = field(default_factory=list)
    tied: bool = False  # the input reads the catalog table too
    row_length_V: Tensor | None = None  # which the rows of the catalog table keep; None: any
    per_item: list[nn.Parameter] = field(default_factory=list)
    layers: list[nn.Parameter] = field(default_factory=list)


def kinds_of(model: nn.Module) -> Kinds:
    """Sorts every trainable parameter of the model into its kind."""
    inputs = [module for module in model.modules() if isinstance(module, SparseInput)]
    kinds = Kinds([one for one in inputs if one.tables], tied=any(one.borrowed for one in inputs))
    tables = {id(table) for inputs in kinds.inputs for table in inputs.tables.values()}
    catalog = model.item_weight
    assert isinstance(catalog, nn.Parameter)
    kinds.catalog.append(catalog)
    kinds.row_length_V = getattr(model, "row_length_V", None)
    for parameter in model.parameters():
        if id(parameter) in tables or parameter is catalog or not parameter.requires_grad:
            continue
        per_item = parameter.shape == catalog.shape[:1]
        (kinds.per_item if per_item else kinds.layers).append(parameter)
    return kinds


class Optimizer(Protocol):
    """The contract of a config part in the group `optimizer`."""

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

    Args:
        warmup_steps: steps over which the learning rates rise from 0.
        decay: they fall with (1 - step / total_steps) ** decay; 0: they stay.
    """

    def __init__(self, warmup_steps: int, decay: float) -> None:
        for name, value in (("warmup_steps", warmup_steps), ("decay", decay)):
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.warmup_steps, self.decay = warmup_steps, decay

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
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay)
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
            kinds_of(model),
            partial(_adam, lr=self.lr, betas=self.betas, eps=self.eps),
            lambda: rule(self.table_lr),
            lambda: rule(self.item_lr),
            self.limits,
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
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

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
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay)
        check_positive(table_lr=table_lr, lr=lr, eps=eps)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.table_lr, self.lr, self.eps = table_lr, lr, eps

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return assemble(
            kinds_of(model),
            partial(_adam, lr=self.lr, betas=BETAS, eps=1e-8),
            lambda: rules_of.RowwiseAdagrad(self.table_lr, self.eps, **self.limits.of_tables()),
            lambda: rules_of.LazyAdam(self.lr, **self.limits.of_tables()),
            self.limits,
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
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

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
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay)
        check_positive(lr=lr, table_lr=table_lr, eps=eps)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.eps = lr, eps
        self.table_lr = lr if table_lr is None else table_lr

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def rule(lr: float) -> TableRule:
            return rules_of.Adagrad(lr, self.eps, **self.limits.of_tables())

        return assemble(
            kinds_of(model),
            partial(torch.optim.Adagrad, lr=self.lr, eps=self.eps),
            lambda: rule(self.table_lr),
            lambda: rule(self.lr),
            self.limits,
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
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay)
        check_positive(lr=lr, table_lr=table_lr, eps=eps)
        check_share("smoothing", smoothing)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.smoothing, self.eps = lr, smoothing, eps
        self.table_lr = lr if table_lr is None else table_lr

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        def rule(lr: float) -> TableRule:
            return rules_of.RmsProp(lr, self.smoothing, self.eps, **self.limits.of_tables())

        return assemble(
            kinds_of(model),
            partial(torch.optim.RMSprop, lr=self.lr, alpha=self.smoothing, eps=self.eps),
            lambda: rule(self.table_lr),
            lambda: rule(self.lr),
            self.limits,
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
        warmup_steps: see `Scheduled`.
        decay: see `Scheduled`.
    """

    def __init__(
        self,
        *,
        lr: float = 0.1,
        table_lr: float | None = None,
        weight_decay: float = 0.0,
        table_weight_decay: float = 0.0,
        clip_norm: float | None = None,
        table_clip_norm: float | None = None,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        super().__init__(warmup_steps, decay)
        check_positive(lr=lr, table_lr=table_lr)
        self.limits = Limits(weight_decay, table_weight_decay, clip_norm, table_clip_norm)
        self.lr, self.table_lr = lr, lr if table_lr is None else table_lr

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        return assemble(
            kinds_of(model),
            partial(torch.optim.SGD, lr=self.lr),
            lambda: rules_of.Sgd(self.table_lr, **self.limits.of_tables()),
            lambda: rules_of.Sgd(self.lr, **self.limits.of_tables()),
            self.limits,
        )

    def state_floats(self, table_rows: int, width: int) -> int:
        return 0


@dataclass(frozen=True)
class Limits:
    """What keeps weights and gradients small; see `Adam`."""

    weight_decay: float
    table_weight_decay: float
    clip_norm: float | None
    table_clip_norm: float | None

    def __post_init__(self) -> None:
        check_positive(clip_norm=self.clip_norm, table_clip_norm=self.table_clip_norm)
        for name in ("weight_decay", "table_weight_decay"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def of_tables(self) -> dict[str, Any]:
        """Arguments of a rule."""
        return {"weight_decay": self.table_weight_decay, "clip_norm": self.table_clip_norm}

    def hold(self, layers: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Clips and decays before each step of the optimizer of the layers."""
        layers.register_step_pre_hook(lambda optimizer, *_: self._before_step(optimizer))
        return layers

    @torch.no_grad()
    def _before_step(self, layers: torch.optim.Optimizer) -> None:
        for group in layers.param_groups:
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(group["params"], self.clip_norm)
            if self.weight_decay:
                for parameter in group["params"]:
                    parameter.mul_(1.0 - group["lr"] * self.weight_decay)


def assemble(
    kinds: Kinds,
    layers: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    of_table: Callable[[], TableRule],
    of_numbers: Callable[[], TableRule],
    limits: Limits,
) -> list[torch.optim.Optimizer]:
    """One optimizer a kind; each table has a rule of its own, because rules hold learning rates."""
    _refuse_limits(kinds, limits)
    tables = [*kinds.catalog, *kinds.per_item]
    length_V = kinds.row_length_V
    of_catalog = (lambda: KeptLength(of_table(), length_V)) if length_V is not None else of_table
    rules = [*(of_catalog() for _ in kinds.catalog), *(of_numbers() for _ in kinds.per_item)]
    return [
        *([limits.hold(layers(kinds.layers))] if kinds.layers else []),
        InLoss(tables, rules, at_step=kinds.catalog if kinds.tied else []),
        *(InBackward(inputs, of_table()) for inputs in kinds.inputs),
    ]


def _refuse_limits(kinds: Kinds, limits: Limits) -> None:
    """Raises ConfigError for a limit that would be without effect on this model."""
    for name in ("clip_norm", "weight_decay"):
        if not kinds.layers and getattr(limits, name):
            raise ConfigError(
                f"optimizer.{name} is of layers, and this model has none, got "
                f"{getattr(limits, name)}; leave it at its default"
            )
    if kinds.row_length_V is not None and limits.table_weight_decay:
        raise ConfigError(
            "optimizer.table_weight_decay would shorten rows, and this model keeps their length, "
            f"got {limits.table_weight_decay}; leave it at 0"
        )


def _adam(
    parameters: list[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=lr, betas=betas, eps=eps, fused=True)


class InLoss(torch.optim.Optimizer):
    """Per-item tables whose rows change where a loss finds their gradient.

    A table that has a `grad` instead, because its loss could not do so, changes at the step.

    Args:
        tables: float [V, D] or [V].
        rules: of each table.
        at_step: those of them that have gradients from elsewhere too; they change once, at the
            step, by all of it.
    """

    def __init__(
        self,
        tables: list[nn.Parameter],
        rules: Sequence[TableRule],
        *,
        at_step: Sequence[nn.Parameter] = (),
    ) -> None:
        groups = [
            {"params": [table], "lr": rule.lr} for table, rule in zip(tables, rules, strict=True)
        ]
        super().__init__(groups, {})
        self._at_step = {*at_step}
        self._held: dict[Tensor, Tensor] = {}  # gradients of those, until the step
        self._rules = {table: rule for table, rule in zip(tables, rules, strict=True)}
        for table, rule in self._rules.items():
            self.state[table] = rule.new_state(table.data)

    def updates(self) -> dict[Tensor, RowUpdate]:
        """By table, what takes the gradient of some rows: changes them at once, or keeps it."""
        return {
            table: partial(self._hold, table)
            if table in self._at_step
            else partial(self._update, group)
            for group in self.param_groups
            for table in group["params"]
        }

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "a closure would run after its own updates"
        for group in self.param_groups:
            (table,) = group["params"]
            gradient = _sum(self._held.pop(table, None), table.grad)
            if gradient is not None:
                self._update(group, *_rows_of(gradient))
            self._rules[table].finish_step(self.state[table])

    def _hold(self, table: Tensor, rows: Rows, gradient: Tensor) -> None:
        """Keeps a gradient for the step: of drawn rows as it is, of blocks as one of all rows."""
        held = self._held.get(table)
        if isinstance(rows, Tensor):
            drawn = torch.sparse_coo_tensor(
                rows[None], gradient, table.shape, check_invariants=False
            )
            self._held[table] = drawn if held is None else held + drawn
            return
        if held is None:
            held = self._held[table] = torch.zeros_like(table, requires_grad=False)
        held[rows].add_(gradient)

    def _update(self, group: dict[str, Any], rows: Rows, gradient: Tensor) -> None:
        (table,) = group["params"]
        rule = self._rules[table]
        rule.lr = group["lr"]
        update_rows(rule, table, self.state[table], rows, gradient)


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two gradients, either of which may be sparse or absent."""
    if one is None or other is None:
        return other if one is None else one
    return other + one if one.is_sparse else one + other  # torch wants the dense one first


def _rows_of(gradient: Tensor) -> tuple[Rows, Tensor]:
    """The rows that a gradient is about, and their part of it."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    return slice(0, len(gradient)), gradient


class InBackward(torch.optim.Optimizer):
    """What the fused input tables remember, and their learning rate; backward does the steps."""

    def __init__(self, inputs: SparseInput, rule: TableRule) -> None:
        super().__init__(list(inputs.tables.values()), {"lr": rule.lr})
        inputs.fuse(rule)
        self._inputs = inputs
        for name, table in inputs.tables.items():
            self.state[table] = inputs.optimizer_state[name]

    def set_learning_rate(self) -> None:
        """Hands the learning rate of the parameter group to the tables."""
        self._inputs.set_learning_rate(self.param_groups[0]["lr"])

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "a closure would run after its own updates"
        self._inputs.finish_step()


def row_updates(optimizers: Iterable[torch.optim.Optimizer]) -> dict[Tensor, RowUpdate]:
    """By table, what changes rows of it where a loss finds their gradient."""
    found: dict[Tensor, RowUpdate] = {}
    for optimizer in optimizers:
        if isinstance(optimizer, InLoss):
            found |= optimizer.updates()
    return found


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Sets every learning rate to `factor` times the one it was built with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("base_lr", group["lr"]) * factor
        if isinstance(optimizer, InBackward):
            optimizer.set_learning_rate()


def state_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Everything the optimizers remember, by `optimizer/parameter/name`.

    Loading copies into these tensors, because those of fused tables live in their backend.
    """
    found = {}
    for i, optimizer in enumerate(optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for j, parameter in enumerate(parameters):
            for name, value in optimizer.state[parameter].items():
                found[f"{i}/{j}/{name}"] = value
    return found


def begin_state(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Makes the state that torch's optimizers only make at their first step."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            names = _late_state(optimizer, group)
            for parameter in group["params"] if names else []:
                state = {name: torch.zeros_like(parameter) for name in names}
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    **state,
                }


def _late_state(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> tuple[str, ...]:
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if group["momentum"] else ()
    return next((names for kind, names in LATE_STATE.items() if isinstance(optimizer, kind)), ())


def check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
        if value == math.inf:
            raise ValueError(f"{name} must be finite, got {value}")
