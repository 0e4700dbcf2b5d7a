"""The optimizers of one model: put together, and told what holds for all of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deeprec.console import console
from deeprec.errors import ConfigError
from deeprec.table import RowUpdate, TableRule
from deeprec.trainer.constraints import Constraints
from deeprec.trainer.exchanged import exchanged, exchanged_of_items, fuse, of_own_items
from deeprec.trainer.kinds import Kinds, kinds_of
from deeprec.trainer.limits import Limits
from deeprec.trainer.row_length import KeptLength
from deeprec.trainer.row_optimizer import InBackward, InLoss

# what torch's optimizers remember of each parameter, beside their step, only from the first one on
LATE_STATE: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.RMSprop: ("square_avg",),
    torch.optim.Adadelta: ("square_avg", "acc_delta"),
}


def assemble(
    model: nn.Module,
    layers: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    of_table: Callable[[], TableRule],
    of_numbers: Callable[[], TableRule],
    limits: Limits,
    constraints: Constraints,
) -> list[torch.optim.Optimizer]:
    """One optimizer a kind; each table has a rule of its own, because rules hold learning rates."""
    kinds = kinds_of(model)
    _refuse_limits(kinds, limits)
    constraints.refuse(model, kinds)
    length_V = kinds.row_length_V

    def held(rule: TableRule) -> TableRule:
        kept = rule if length_V is None else KeptLength(rule, of_own_items(length_V))
        return constraints.of_catalog(kept)

    units, scored = constraints.units(model, kinds), {*kinds.scored}
    rules = [
        *(exchanged_of_items(held(of_table())) for _ in kinds.catalog),
        *(
            (exchanged_of_items if one in scored else exchanged)(of_numbers())
            for one in kinds.per_item
        ),
    ]
    built = [
        *([limits.hold(layers(kinds.layers))] if kinds.layers else []),
        InLoss(
            [*kinds.catalog, *kinds.per_item],
            rules,
            at_step=kinds.catalog if kinds.tied else [],
            read_once=[one for one in kinds.per_item if one not in scored],
        ),
        *(
            InBackward(inputs, fuse(inputs, constraints.of_inputs(of_table(), units)))
            for inputs in kinds.inputs
        ),
    ]
    constraints.hold(model, built, units)
    return built


def _refuse_limits(kinds: Kinds, limits: Limits) -> None:
    """Raises ConfigError for a limit that would be without effect on this model."""
    for name in ("clip_norm", "weight_decay"):
        if not kinds.layers and getattr(limits, name):
            raise ConfigError(
                f"optimizer.{name} is for layers, and this model has none, got "
                f"{getattr(limits, name)}; leave it at its default"
            )
    if limits.weight_decay and not any(one.dim() > 1 for one in kinds.layers):
        tell_without_effect("weight_decay", "weights of layers", "biases of layers alone")
    if kinds.row_length_V is not None and limits.table_weight_decay:
        raise ConfigError(
            "optimizer.table_weight_decay would shorten rows, and this model keeps their length, "
            f"got {limits.table_weight_decay}; leave it at 0"
        )


def tell_without_effect(name: str, of: str, there: str) -> None:
    """A setting that another model beside this one, or a run of before, may have a use for."""
    console.print(
        f"[yellow]note[/yellow] optimizer.{name} has no effect: it is for {of}, and this model "
        f"trains {there}",
        soft_wrap=True,
    )


def row_updates(
    optimizers: Iterable[torch.optim.Optimizer], *, at_step: bool = False
) -> dict[Tensor, RowUpdate]:
    """By table, what changes rows of it where a loss finds their gradient, or only at the step."""
    found: dict[Tensor, RowUpdate] = {}
    for optimizer in optimizers:
        if isinstance(optimizer, InLoss):
            found |= optimizer.updates(at_step=at_step)
    return found


def leave_out(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Forgets what a loss has told the optimizers of a step that is not taken."""
    for optimizer in optimizers:
        if isinstance(optimizer, InLoss):
            optimizer.leave_out()


def set_rates(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Sets every learning rate to `factor` times the one it was built with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            rate = group.setdefault("base_lr", group["lr"]) * factor
            if isinstance(group["lr"], Tensor):  # read where kernels run
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if isinstance(optimizer, InBackward):
            optimizer.set_learning_rate()


def state_tensors(optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Everything the optimizers remember, by `optimizer/parameter/name`.

    Loading copies into these tensors, because those of fused tables live in their backend.
    """
    return {
        f"{place}/{name}": value
        for optimizer, parameter, place in _places(optimizers)
        for name, value in optimizer.state[parameter].items()
    }


def state_names(optimizers: Iterable[torch.optim.Optimizer]) -> dict[nn.Parameter, str]:
    """By parameter, what its names in `state_tensors` begin with."""
    return {parameter: place for _, parameter, place in _places(optimizers)}


def _places(
    optimizers: Iterable[torch.optim.Optimizer],
) -> Iterator[tuple[torch.optim.Optimizer, nn.Parameter, str]]:
    for i, optimizer in enumerate(optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for j, parameter in enumerate(parameters):
            yield optimizer, parameter, f"{i}/{j}"


def state_of_rows(
    optimizers: Sequence[torch.optim.Optimizer], tables: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Of `state_tensors` those that have a row for each row of one of these tables."""
    states = [one.state[table] for one in optimizers for table in tables if table in one.state]
    of_rows = {id(value) for state in states for value in state.values() if value.dim()}
    return {
        name: value for name, value in state_tensors(optimizers).items() if id(value) in of_rows
    }


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


def begin_again(optimizers: Iterable[torch.optim.Optimizer], *, step: int) -> None:
    """Forgets what the optimizers remember, and has them count steps from `step` on."""
    for name, value in state_tensors(optimizers).items():
        value.fill_(step if name.endswith("/step") else 0)


def _late_state(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> tuple[str, ...]:
    if isinstance(optimizer, torch.optim.SGD):
        return ("momentum_buffer",) if group["momentum"] else ()
    return next((names for kind, names in LATE_STATE.items() if isinstance(optimizer, kind)), ())
