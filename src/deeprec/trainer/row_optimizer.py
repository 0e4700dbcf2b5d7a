"""Tables whose rows change in the loss or in backward, as optimizers of torch.

They hold learning rates and what is remembered, where checkpoints and schedules look for them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deeprec.model.sparse_input import SparseInput
from deeprec.table import Rows, RowUpdate, TableRule, update_rows


class InLoss(torch.optim.Optimizer):
    """Per-item tables whose rows change where a loss finds their gradient.

    A table that has a `grad` instead, because its loss could not do so, changes at the step.

    Args:
        tables: float [V, D] or [V].
        rules: of each table.
        at_step: those of them that have gradients from elsewhere too; they change once, at the
            step, by all of it.
        read_once: those that a model reads once a step, so that no row of their gradient has to
            be added up, for which a device would be waited for.
    """

    def __init__(
        self,
        tables: list[nn.Parameter],
        rules: Sequence[TableRule],
        *,
        at_step: Sequence[nn.Parameter] = (),
        read_once: Sequence[nn.Parameter] = (),
    ) -> None:
        groups = [
            {"params": [table], "lr": rule.lr} for table, rule in zip(tables, rules, strict=True)
        ]
        super().__init__(groups, {})
        self._at_step, self._read_once = {*at_step}, {*read_once}
        self._held: dict[Tensor, Tensor] = {}  # gradients of those, until the step
        self._rules = {table: rule for table, rule in zip(tables, rules, strict=True)}
        self.rules = [*rules]
        for table, rule in self._rules.items():
            self.state[table] = rule.new_state(table.data)

    def updates(self, *, at_step: bool = False) -> dict[Tensor, RowUpdate]:
        """By table, what takes the gradient of some rows: changes them at once, or keeps it.

        Args:
            at_step: keep those of all tables, for a step that may be left out.
        """
        return {
            table: partial(self._hold, table)
            if at_step or table in self._at_step
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
                self._update(group, *_rows_of(gradient, table in self._read_once))
            rule = self._rules[table]
            rule.lr = group["lr"]  # some change rows only now
            rule.finish_step(self.state[table])

    def leave_out(self) -> None:
        """Forgets the gradients that were kept for a step."""
        self._held.clear()

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


def _rows_of(gradient: Tensor, as_it_is: bool) -> tuple[Rows, Tensor]:
    """The rows that a gradient is about, and their part of it.

    Args:
        as_it_is: no row of a sparse one stands there twice, but to change to the same.
    """
    if gradient.is_sparse:
        gradient = gradient if as_it_is else gradient.coalesce()
        return gradient._indices()[0], gradient._values()
    return slice(0, len(gradient)), gradient


class InBackward(torch.optim.Optimizer):
    """What the fused input tables remember, and their learning rate; backward does the steps.

    Args:
        inputs: fused.
        rule: by which they are.
    """

    def __init__(self, inputs: SparseInput, rule: TableRule) -> None:
        super().__init__(list(inputs.tables.values()), {"lr": rule.lr})
        self.rules = [rule]
        self._inputs = inputs
        for name, state in inputs.optimizer_state.items():  # empty where processes share them
            self.state[inputs.tables[name]] = state

    def set_learning_rate(self) -> None:
        """Hands the learning rate of the parameter group to the tables."""
        self._inputs.set_learning_rate(self.param_groups[0]["lr"])

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "a closure would run after its own updates"
        self._inputs.finish_step()
