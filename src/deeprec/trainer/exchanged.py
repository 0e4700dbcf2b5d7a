"""Rules of tables that wait, at the end of a step, for what other processes found."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from deeprec.table import Rows, RuleAround, State, TableRule, update_rows
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.row_gradient import RowGradient


class Exchanged(RuleAround):
    """A rule that is handed, at the end of a step, the gradients of all processes.

    Args:
        rule: what changes rows.
        group: the processes.
    """

    told = "what several processes add up"

    def __init__(self, rule: TableRule, group: Group) -> None:
        super().__init__(rule)
        self._group = group
        self._tables: dict[int, tuple[State, Tensor]] = {}  # by the identity of the state
        self._found: dict[int, RowGradient] = {}

    def new_state(self, table: Tensor) -> State:
        state = self.rule.new_state(table)
        self._tables[id(state)] = state, table
        return state

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        self._found.setdefault(id(state), RowGradient()).add(table, rows, gradient)

    def finish_step(self, state: State) -> None:
        _, table = self._tables[id(state)]
        together = self._group.add_rows(self._found.pop(id(state), RowGradient()), table)
        if together is not None:
            update_rows(self.rule, table, state, *together)
        self.rule.finish_step(state)


_among: list[Group] = []


@contextmanager
def exchanging(group: Group | None) -> Iterator[None]:
    """Rules that are made within hand each other their gradients; None: there is one process."""
    if group is None:
        yield
        return
    _among.append(group)
    try:
        yield
    finally:
        _among.pop()


def exchanged(rule: TableRule) -> TableRule:
    """The rule, within `exchanging` around it."""
    return Exchanged(rule, _among[-1]) if _among else rule
