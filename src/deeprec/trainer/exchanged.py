"""Rules of tables of which other processes find a part of the gradient, or train a part."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from deeprec.model.sparse_input import SparseInput
from deeprec.table import Rows, RuleAround, State, TableRule, update_rows
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.row_gradient import RowGradient
from deeprec.trainer.shards import Shards


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


class OfOwnItems(RuleAround):
    """A rule that changes the rows of some items alone, and remembers nothing of others.

    Args:
        rule: what changes rows, and is told of a table of these alone.
        own: with a start and a stop; a gradient of rows beyond is passed over, for it is 0.
    """

    def __init__(self, rule: TableRule, own: slice) -> None:
        super().__init__(rule)
        self.own = own

    def new_state(self, table: Tensor) -> State:
        return self.rule.new_state(table[self.own])

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        assert isinstance(rows, slice), "a loss of own items goes over them in blocks"
        start, stop = max(rows.start, self.own.start), min(rows.stop, self.own.stop)
        if start < stop:
            here = slice(start - rows.start, stop - rows.start)
            own = slice(start - self.own.start, stop - self.own.start)
            self.rule.update(table[self.own], state, own, gradient[here])


_among: list[tuple[Group, Shards | None]] = []


@contextmanager
def exchanging(group: Group | None, shards: Shards | None = None) -> Iterator[None]:
    """Rules that are made within hand each other their gradients; None: there is one process.

    Args:
        group: the processes.
        shards: what they share out; None: each has it all.
    """
    if group is None:
        yield
        return
    _among.append((group, shards))
    try:
        yield
    finally:
        _among.pop()


def exchanged(rule: TableRule) -> TableRule:
    """The rule, within `exchanging` around it."""
    return Exchanged(rule, _among[-1][0]) if _among else rule


def exchanged_of_items(
    rule: TableRule, around: Callable[[TableRule], TableRule] | None = None
) -> TableRule:
    """The same of a table with a row for each item, of which each process may train its own.

    Args:
        rule: what changes rows.
        around: makes of it what holds rows to something, by their places in the whole table.
    """
    shards = _among[-1][1] if _among else None
    catalog = None if shards is None else shards.catalog
    own = rule if catalog is None else OfOwnItems(rule, catalog.own.items)
    held = own if around is None else around(own)
    return exchanged(held) if catalog is None else held


def fuse(inputs: SparseInput, rule: TableRule) -> TableRule:
    """Has input tables trained by a rule, in parts if processes share them.

    Returns:
        The rule by which they are.
    """
    shards = _among[-1][1] if _among else None
    if shards is not None and shards.inputs is not None:
        shards.inputs.add(inputs, rule)
        return rule
    rule = exchanged(rule)
    inputs.fuse(rule)
    return rule
