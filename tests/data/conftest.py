"""A place to work in, and events from plain Python rows."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pytest

from deeprec.data.filter import Filters
from deeprec.data.log import EventLog
from deeprec.data.workspace import Workspace, workspace

Rows = Sequence[tuple[Any, ...]]
TYPES = {
    "user": pa.string(), "item": pa.string(), "time": pa.int64(), "kind": pa.string(),
    "value": pa.float64(), "price": pa.float64(), "part": pa.int8(), "role": pa.string(),
}  # fmt: skip


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Workspace]:
    with workspace(tmp_path / "prepared") as opened:
        yield opened


@pytest.fixture
def events(space: Workspace) -> Callable[..., ir.Table]:
    """`events("user item time", rows)`: a table of these columns."""

    def make(names: str, rows: Rows) -> ir.Table:
        columns = {
            name: pa.array([row[place] for row in rows], TYPES[name])
            for place, name in enumerate(names.split())
        }
        return space.keep("given", ibis.memtable(pa.table(columns)))

    return make


@pytest.fixture
def log(events: Callable[..., ir.Table]) -> Callable[..., EventLog]:
    def make(names: str, rows: Rows) -> EventLog:
        return EventLog(events(names, rows), repeats=True, filters=Filters())

    return make
