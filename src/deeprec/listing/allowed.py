"""The only items that lists may hold, read from a file of their ids."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deeprec.catalog import Catalog
from deeprec.console import console
from deeprec.data.column import as_id
from deeprec.data.source import listed, open_files
from deeprec.data.workspace import workspace
from deeprec.errors import DataError
from deeprec.serve import Bundle

Int64 = npt.NDArray[np.int64]


def read_allowed(
    path: str, opened: Bundle, *, column: str, delimiter: str | None, beside: Path
) -> Int64:
    """int64 [A]: the indices of the items in a table of one column, each once, in order.

    An id that the bundle does not know is left out, and a line says how many are.

    Args:
        path: Parquet or text, whose first line names its columns.
        column: the one that holds ids, where there are more.
        delimiter: between columns of text.
        beside: what is written, beside which there is room to work.

    Raises:
        DataError: the file cannot be read as such, or an id stands where a name should.
    """
    with workspace(beside) as space:
        table = open_files(space, path, delimiter=delimiter).table
        catalog = Catalog(opened.item_ids)
        name = table.columns[0] if len(table.columns) == 1 else column
        if name not in table.columns:
            raise DataError(
                f"{path}: has no column {name!r} and more than one, {listed(table.columns)}; keep "
                "the column of item ids alone, or give it the name of that of the histories"
            )
        if catalog.indices_of([name])[0] >= 0:
            raise DataError(
                f"{path}: its first line must name the column, and {name!r} is an item of the "
                "bundle; write item_id above it"
            )
        ids = as_id(space, table, name, f"{path}: {name}")[0].name("id")
        given = space.fetch(table.select(ids).filter(ids.notnull()).distinct())["id"]
    indices = catalog.indices_of(given.combine_chunks())
    known = np.sort(indices[indices >= 0])
    if not len(known):
        raise DataError(
            f"{path}: the bundle knows none of its {len(indices):,} items, so every list would be "
            "empty; are they ids of this catalog?"
        )
    if len(known) < len(indices):
        console.print(
            f"[yellow]note[/yellow] the bundle does not know {len(indices) - len(known):,} of "
            f"{len(indices):,} items that are allowed; they are in no list",
            soft_wrap=True,
        )
    return known


def digest(allowed: Int64) -> str:
    """Hex SHA-256: the same items, the same text."""
    return hashlib.sha256(allowed.tobytes()).hexdigest()
