"""Where events are worked on: a DuckDB database in a draft, gone afterwards.

Tables live on disk and are read in pieces, so events may be larger than memory. Everything is an
Ibis expression; only this file and `source.py` know that the engine is DuckDB.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from deeprec.errors import DataError, ResourceError
from deeprec.folder import drafting

# how the engine shows the text line (a quoted field may span several) or the value it stumbled on
SHOWN_LINE = re.compile(
    r"Original Line:.*?(?=\n(?:Expected|Value|Invalid|Error|Maximum|Possible)|\Z)", re.DOTALL
)
INVALID_VALUE = re.compile(r'value ".*"(?= is not valid)', re.DOTALL)


class Workspace:
    """Tables under way from event files to a prepared folder.

    Args:
        folder: holds the database and whatever spills out of memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.con: Any = ibis.duckdb.connect(folder / "events.duckdb", temp_directory=str(folder))
        self._num_tables = 0

    @staticmethod
    @contextmanager
    def telling_errors() -> Iterator[None]:
        """What the engine finds wrong, as errors of ours."""
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise ResourceError(
                f"not enough memory or disk to prepare the events: {_first_lines(error)}; free "
                "some, or keep fewer events (data.filters.first_time, data.filters.max_history)"
            ) from error
        except duckdb.Error as error:
            raise DataError(f"the events cannot be read: {_first_lines(error)}") from error

    def keep(self, name: str, expression: ir.Table) -> ir.Table:
        """Computes a table once and keeps it on disk. Its rows stay in the order of the expression.

        Raises:
            DataError: a file cannot be read as it should.
            ResourceError: memory or disk does not suffice.
        """
        self._num_tables += 1
        with self.telling_errors():
            return self.con.create_table(f"{name}_{self._num_tables}", expression)

    def fetch(self, expression: ir.Table) -> pa.Table:
        """Computes a table that fits memory."""
        with self.telling_errors():
            return self.con.to_pyarrow(expression)

    def one(self, table: ir.Table, **aggregates: ir.Value) -> dict[str, Any]:
        """Computes a few numbers over a table in one pass."""
        row: dict[str, Any] = self.fetch(table.aggregate(**aggregates)).to_pylist()[0]
        return row

    def count(self, table: ir.Table) -> int:
        """Its rows."""
        return int(self.one(table, count=table.count())["count"])


@contextmanager
def workspace(output: Path) -> Iterator[Workspace]:
    """A workspace beside what is made in it, which the next one takes away if this process dies.

    Folders around `output` that are not there yet are made; if it fails, they go again.

    Raises:
        ResourceError: nothing can be written there.
    """
    output = output.absolute()
    new = [one for one in output.parents if not one.exists()]
    try:
        with drafting(output.with_name(f"{output.name}.events")) as place:
            opened = Workspace(place)
            try:
                yield opened
            finally:
                opened.con.disconnect()
    finally:
        with suppress(OSError):  # what was made is in it
            for one in new:
                one.rmdir()


def _first_lines(error: Exception) -> str:
    """What happened and in which file, without the engine's advice on its own options.

    And without the values it shows: they may be the ids of people, and messages are logged.
    """
    told = INVALID_VALUE.sub("a value", SHOWN_LINE.sub("", str(error)))
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    said = [line for line in lines[:4] if not line.startswith(("Possible", "*", "LINE"))]
    said.extend(line for line in lines[4:] if line.startswith("file = "))
    if "not utf-8" in str(error):
        said.append("set data.encoding=latin-1, or convert the file")
    return "; ".join(line[:200] for line in said if line != "^")
