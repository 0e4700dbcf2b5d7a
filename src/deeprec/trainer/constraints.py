"""L1 decay, and how long the weights into a unit and the slopes of one user may be.

Shapes as in deeprec/batch.py, and H, the units of a layer.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deeprec.errors import ConfigError
from deeprec.model.hidden import HiddenLayer
from deeprec.model.layered import Layered
from deeprec.model.layers import ACTIVATIONS, Decoder, Layers
from deeprec.model.sparse_input import SparseInput
from deeprec.table import Rows, RuleAround, State, TableRule
from deeprec.trainer.kinds import Kinds
from deeprec.trainer.limits import check_positive, shrinking


class Units(NamedTuple):
    """Weights into hidden units, and how long they may be; None: any."""

    weights: Tensor
    dim: int  # along which those of a unit lie
    norm: float | None


@dataclass(frozen=True)
class Constraints:
    """What an optimizer holds weights and slopes to, beside decay and clipping.

    Args:
        l1_decay: times the learning rate, what a weight of the layers moves towards 0 at each step,
            and not beyond; biases do not.
        table_l1_decay: the same of the weights of a table's row whenever it changes.
        unit_norm: longest weights into a hidden unit, from the layers that it reads together, and
            from each table of the input: a step that touched some rows of that may shorten all.
            None: any.
        item_norm: longest row of the catalog table, the weights into an item; None: any.
        unit_slope_norm: longest slope of one user's loss in what the units of a hidden layer read;
            None: any.
        score_slope_norm: longest slope of one user's loss in its scores over the whole catalog,
            which then are made twice; None: any.

    Raises:
        ValueError: a decay is below 0, or a length not above it.

    Reference:
        DSSTNE: lambda1, WeightNorm and DeltaNorm of hidden layers, WeightNorm and DeltaNorm of the
        output. Differs: L1 decay stops at 0, where DSSTNE steps past it and back.
    """

    l1_decay: float = 0.0
    table_l1_decay: float = 0.0
    unit_norm: float | None = None
    item_norm: float | None = None
    unit_slope_norm: float | None = None
    score_slope_norm: float | None = None

    def __post_init__(self) -> None:
        for name in ("l1_decay", "table_l1_decay"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        check_positive(
            **{one.name: getattr(self, one.name) for one in fields(self) if "norm" in one.name}
        )

    def of_catalog(self, rule: TableRule) -> TableRule:
        """The rule of the catalog table, held to these."""
        return self._of(rule, self.item_norm)

    def of_inputs(self, rule: TableRule, units: Sequence[Units]) -> TableRule:
        """The rule of an input table, held to these."""
        held = self._of(rule, None)
        # by plain torch, whose tables a step can shorten
        return Constrained(rule) if units and held is rule else held

    def units(self, model: nn.Module, kinds: Kinds) -> list[Units]:
        """Weights into hidden units that are to stay short."""
        if isinstance(model, Layered):
            found = list(self._of_layers(model))
        else:
            tables = [table for inputs in kinds.inputs for table in inputs.tables.values()]
            by_column = [*tables, *(kinds.catalog if kinds.tied else [])]
            found = [Units(table, 0, self.unit_norm) for table in by_column]
            found += [Units(linear.weight, 1, self.unit_norm) for linear in _linears(model)]
        return [one for one in found if one.norm is not None]

    def _of_layers(self, model: Layered) -> Iterator[Units]:
        for part, held in zip(model.parts, model.layers, strict=True):
            if not isinstance(held, HiddenLayer):
                continue
            norm = self.unit_norm if part.unit_norm is None else part.unit_norm
            if isinstance(held.from_layers, nn.Linear):
                yield Units(held.from_layers.weight, 1, norm)
            if held.reads >= 0:
                inputs = model.inputs[held.reads]
                assert isinstance(inputs, SparseInput)
                borrowed = [model.item_weight] if inputs.borrowed else []
                tables = [*inputs.tables.values(), *borrowed]
                yield from (Units(table, 0, norm) for table in tables)

    def slopes(self, model: nn.Module) -> list[tuple[nn.Module, float]]:
        """Activations of hidden layers, and how long the slopes of what they read may be."""
        if isinstance(model, Layered):
            own = [part.slope_norm for part in model.parts if part.pooling == "none"]
        else:
            own = [None] * len(list(activations_of(model)))
        norms = [self.unit_slope_norm if norm is None else norm for norm in own]
        found = zip(activations_of(model), norms, strict=True)
        return [(activation, norm) for activation, norm in found if norm is not None]

    def _of(self, rule: TableRule, row_norm: float | None) -> TableRule:
        if not self.table_l1_decay and row_norm is None:
            return rule
        return Constrained(rule, l1_decay=self.table_l1_decay, row_norm=row_norm)

    def refuse(self, model: nn.Module, kinds: Kinds) -> None:
        """Raises ConfigError for what would be without effect on this model, or wrong."""
        has_units = bool(kinds.inputs) or kinds.tied or any(_linears(model))
        if kinds.row_length_V is not None:
            for name in ("table_l1_decay", "item_norm", "unit_norm"):
                if getattr(self, name):
                    raise ConfigError(
                        f"optimizer.constraints.{name} changes the length of rows, and this model "
                        f"keeps it, got {getattr(self, name)}; leave it at its default"
                    )
        for name, there, what in (
            ("l1_decay", any(one.dim() > 1 for one in kinds.layers), "weights of layers"),
            ("unit_norm", has_units, "hidden units"),
            ("unit_slope_norm", any(activations_of(model)), "hidden layers"),
        ):
            if getattr(self, name) and not there:
                raise ConfigError(
                    f"optimizer.constraints.{name} is of {what}, and this model has none, got "
                    f"{getattr(self, name)}; leave it at its default"
                )

    def hold(
        self, model: nn.Module, built: list[torch.optim.Optimizer], units: list[Units]
    ) -> None:
        """Has the optimizers keep them at every step, and the layers in backward."""
        if self.l1_decay:
            built[0].register_step_pre_hook(lambda layers, *_: self._shrink(layers))
        if units:
            built[-1].register_step_post_hook(lambda *_: _shorten_all(units))
        for activation, norm in self.slopes(model):
            activation.register_full_backward_hook(_clipping(norm))

    @torch.no_grad()
    def _shrink(self, layers: torch.optim.Optimizer) -> None:
        for group in layers.param_groups:
            for weight in shrinking(group["params"]):
                weight.copy_(_nearer_0(weight, group["lr"] * self.l1_decay))


NO_CONSTRAINTS = Constraints()


class Constrained(RuleAround):
    """A rule whose rows move towards 0 before it, and are no longer than they may be after it.

    Args:
        rule: what changes rows.
        l1_decay: times its learning rate, how far every weight of them moves.
        row_norm: longest row; None: any.
    """

    def __init__(
        self, rule: TableRule, *, l1_decay: float = 0.0, row_norm: float | None = None
    ) -> None:
        super().__init__(rule)
        self.l1_decay, self.row_norm = l1_decay, row_norm

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        if self.l1_decay:
            table[rows] = _nearer_0(table[rows], self.rule.lr * self.l1_decay)
        self.rule.update(table, state, rows, gradient)
        if self.row_norm is not None:
            table[rows] = _shortened(table[rows], self.row_norm, dim=1)


def activations_of(model: nn.Module) -> Iterator[nn.Module]:
    """The activations of hidden layers."""
    kinds = tuple(ACTIVATIONS.values())
    for module in model.modules():
        if isinstance(module, HiddenLayer):
            yield module.activation
        elif isinstance(module, Layers | Decoder):
            layers = module.layers if isinstance(module, Layers) else module
            yield from (one for one in layers if isinstance(one, kinds))


def _linears(model: nn.Module) -> Iterator[nn.Linear]:
    return (module for module in model.modules() if isinstance(module, nn.Linear))


def _nearer_0(weights: Tensor, by: float) -> Tensor:
    return torch.sign(weights) * (weights.abs() - by).clamp_(min=0.0)


def _shortened(weights: Tensor, norm: float, dim: int) -> Tensor:
    """The weights, no longer than `norm` along `dim`."""
    lengths: Tensor = torch.linalg.vector_norm(weights, dim=dim, keepdim=True)
    return weights * (norm / lengths.clamp_(min=norm))


@torch.no_grad()
def _shorten_all(units: Sequence[Units]) -> None:
    for weights, dim, norm in units:
        assert norm is not None
        lengths = torch.linalg.vector_norm(weights, dim=dim, keepdim=True)
        if weights.device.type != "cpu" or bool((lengths > norm).any()):
            weights.mul_(norm / lengths.clamp_(min=norm))


def _clipping(norm: float) -> Callable[..., Any]:
    """Shortens what each user hands down; a loss is a mean, so of B users each has a share."""

    def clip(_: nn.Module, given: tuple[Tensor, ...], __: object) -> tuple[Tensor, ...]:
        [slope_BH] = given
        return (_shortened(slope_BH, norm / len(slope_BH), dim=1),)

    return clip
