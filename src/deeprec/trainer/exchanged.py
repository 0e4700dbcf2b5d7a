"""Rules of tables of which other processes find a part of the gradient, or hold a part."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from deeprec.model.sparse_input import SparseInput
from deeprec.table import Rows, RuleAround, State, TableRule, update_rows
from deeprec.trainer.catalog_shards import CatalogShards
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
    """A rule of a table of which this process will hold the rows of its own items alone.

    Args:
        rule: what changes rows.
        catalog: whose items they are.
    """

    def __init__(self, rule: TableRule, catalog: CatalogShards) -> None:
        super().__init__(rule)
        self._catalog = catalog

    def new_state(self, table: Tensor) -> State:
        return self.rule.new_state(self._catalog.new_part(table))

    def update(self, table: Tensor, state: State, rows: Rows, gradient: Tensor) -> None:
        self.rule.update(table, state, rows, gradient)


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


def exchanged_of_items(rule: TableRule) -> TableRule:
    """The same of a table with a row for each item, of which each process may hold its own."""
    catalog = _catalog()
    return exchanged(rule) if catalog is None else OfOwnItems(rule, catalog)


def of_own_items(values_V: Tensor) -> Tensor:
    """Of these, one for each item, those of the items whose rows this process will hold."""
    catalog = _catalog()
    return values_V if catalog is None else values_V[catalog.own.items]


def _catalog() -> CatalogShards | None:
    shards = _among[-1][1] if _among else None
    return None if shards is None else shards.catalog


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
