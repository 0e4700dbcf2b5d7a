"""Optimizers of a whole model: input tables updated inside backward, the rest by a step.

A config part here says how each kind of parameter is trained:

    input tables     only the rows that a batch touched, in backward (model/sparse_input.py)
    catalog table    item_weight: rows change where a loss finds their gradient, block by block
    per-item numbers item_bias and its like, one float an item: likewise
    layers           everything else

The learning rate of a step is a pure function of its number, so that resuming needs no state of a
schedule.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deeprec.model.sparse_input import SparseInput
from deeprec.table import LazyAdam, Rows, RowUpdate, TableRule
from deeprec.table import RowwiseAdagrad as RowwiseAdagradRule

BETAS = (0.9, 0.999)


@dataclass
class Kinds:
    """The parameters of a model by how they are trained."""

    inputs: list[SparseInput] = field(default_factory=list)
    catalog: list[nn.Parameter] = field(default_factory=list)
    per_item: list[nn.Parameter] = field(default_factory=list)
    layers: list[nn.Parameter] = field(default_factory=list)


def kinds_of(model: nn.Module) -> Kinds:
    """Sorts every trainable parameter of the model into its kind."""
    kinds = Kinds([module for module in model.modules() if isinstance(module, SparseInput)])
    tables = {id(table) for inputs in kinds.inputs for table in inputs.tables.values()}
    catalog = model.item_weight
    assert isinstance(catalog, nn.Parameter)
    kinds.catalog.append(catalog)
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


class Adam:
    """Adam everywhere; on input tables only the rows touched move (lazy Adam).

    Args:
        lr: learning rate of the layers.
        table_lr: of the input tables and the catalog table; None: `lr`.
        item_lr: of per-item numbers such as the output bias; None: `lr`.
        betas: of the running means of gradients and squared gradients.
        eps: added to the root of the squared mean.
        warmup_steps: steps over which the learning rate rises from 0.
        decay: the learning rate falls with (1 - step / total_steps) ** decay; 0: it stays.
    """

    def __init__(
        self,
        *,
        lr: float = 0.003,
        table_lr: float | None = None,
        item_lr: float | None = None,
        betas: tuple[float, float] = BETAS,
        eps: float = 1e-8,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        _check_positive(lr=lr, table_lr=table_lr, item_lr=item_lr, eps=eps)
        self.lr, self.betas, self.eps = lr, (betas[0], betas[1]), eps
        self.table_lr = lr if table_lr is None else table_lr
        self.item_lr = lr if item_lr is None else item_lr
        self.warmup_steps, self.decay = warmup_steps, decay

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        kinds = kinds_of(model)
        of_tables = [LazyAdam(self.table_lr, self.betas, self.eps) for _ in kinds.catalog]
        of_numbers = [LazyAdam(self.item_lr, self.betas, self.eps) for _ in kinds.per_item]
        of_inputs = [LazyAdam(self.table_lr, self.betas, self.eps) for _ in kinds.inputs]
        return [
            _layers_by_adam(kinds, self.lr, self.betas, self.eps),
            InLoss([*kinds.catalog, *kinds.per_item], [*of_tables, *of_numbers]),
            *map(InBackward, kinds.inputs, of_inputs),
        ]

    def rate(self, step: int, total_steps: int) -> float:
        return _rate(step, total_steps, self.warmup_steps, self.decay)

    def state_floats(self, table_rows: int, width: int) -> int:
        return 2 * table_rows * width


class RowwiseAdagrad:
    """Row-wise Adagrad on input and catalog tables, one float of state a row; Adam on the rest.

    Args:
        table_lr: learning rate of the input tables and the catalog table.
        lr: of layers and per-item numbers, by Adam.
        eps: added to the root of a row's summed mean squares.
        warmup_steps: steps over which the learning rates rise from 0.
        decay: the learning rates fall with (1 - step / total_steps) ** decay; 0: they stay.
    """

    def __init__(
        self,
        *,
        table_lr: float = 0.05,
        lr: float = 0.003,
        eps: float = 1e-8,
        warmup_steps: int = 0,
        decay: float = 0.0,
    ) -> None:
        _check_positive(table_lr=table_lr, lr=lr, eps=eps)
        self.table_lr, self.lr, self.eps = table_lr, lr, eps
        self.warmup_steps, self.decay = warmup_steps, decay

    def build(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        kinds = kinds_of(model)
        of_tables = [RowwiseAdagradRule(self.table_lr, self.eps) for _ in kinds.catalog]
        of_numbers = [LazyAdam(self.lr) for _ in kinds.per_item]
        of_inputs = [RowwiseAdagradRule(self.table_lr, self.eps) for _ in kinds.inputs]
        return [
            _layers_by_adam(kinds, self.lr, BETAS, 1e-8),
            InLoss([*kinds.catalog, *kinds.per_item], [*of_tables, *of_numbers]),
            *map(InBackward, kinds.inputs, of_inputs),
        ]

    def rate(self, step: int, total_steps: int) -> float:
        return _rate(step, total_steps, self.warmup_steps, self.decay)

    def state_floats(self, table_rows: int, width: int) -> int:
        return table_rows


class InLoss(torch.optim.Optimizer):
    """Per-item tables whose rows change where a loss finds their gradient.

    A table that has a `grad` instead, because its loss could not do so, changes at the step.

    Args:
        tables: float [V, D] or [V].
        rules: of each table.
    """

    def __init__(self, tables: list[nn.Parameter], rules: Sequence[TableRule]) -> None:
        groups = [
            {"params": [table], "lr": rule.lr} for table, rule in zip(tables, rules, strict=True)
        ]
        super().__init__(groups, {})
        self._rules = {table: rule for table, rule in zip(tables, rules, strict=True)}
        for table, rule in self._rules.items():
            self.state[table] = rule.new_state(table.data)

    def updates(self) -> dict[Tensor, RowUpdate]:
        """By table, what changes rows of it by their gradient, at once."""
        return {group["params"][0]: partial(self._update, group) for group in self.param_groups}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "a closure would run after its own updates"
        for group in self.param_groups:
            (table,) = group["params"]
            if table.grad is not None:
                self._update(group, *_rows_of(table.grad))
            self._rules[table].finish_step(self.state[table])

    def _update(self, group: dict[str, Any], rows: Rows, gradient: Tensor) -> None:
        (table,) = group["params"]
        rule = self._rules[table]
        rule.lr = group["lr"]
        rule.update(table, self.state[table], rows, gradient)


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
    """Makes the state that `torch.optim.Adam` only makes at its first step."""
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.Adam):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter] = {
                        "step": torch.zeros((), device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }


def _layers_by_adam(
    kinds: Kinds, lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.Adam:
    return torch.optim.Adam(kinds.layers, lr=lr, betas=betas, eps=eps, fused=True)


def _rate(step: int, total_steps: int, warmup_steps: int, decay: float) -> float:
    rising = min(1.0, (step + 1) / (warmup_steps + 1))
    return float(rising * max(0.0, 1.0 - step / max(total_steps, 1)) ** decay)


def _check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
