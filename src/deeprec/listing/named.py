"""Items and users that a command names in files of their ids."""

import hashlib
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from deeprec.catalog import Catalog
from deeprec.console import console
from deeprec.data.column import as_id
from deeprec.data.source import listed, open_files
from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Named:
    """The ids in a table of one column, each once.

    Args:
        path: the file.
        kind: what they are ids of: item or user.
        header: the name of the column.
    """

    path: str
    kind: str
    header: str
    ids: pa.Array

    def check(self, num_known: int, *, header_known: bool, where: str, otherwise: str) -> None:
        """Says what is not known, if anything is.

        Args:
            num_known: how many of the ids are known.
            header_known: whether the name of the column is one too.
            where: they are known.
            otherwise: what it would mean if none were.

        Raises:
            DataError: an id stands where a name should, or none is known.
        """
        number, kind = len(self.ids), self.kind
        if header_known:
            raise DataError(
                f"{self.path}: its first line must name the column, and {self.header!r} is one of "
                f"the {kind}s of {where}; write {kind}_id above it"
            )
        if not num_known:
            raise DataError(
                f"{self.path}: {where} knows none of its {number:,} {kind}s, so {otherwise}; are "
                f"they ids of {where}?"
            )
        if num_known < number:
            console.print(
                f"[yellow]note[/yellow] {where} does not know {number - num_known:,} of "
                f"{number:,} {kind}s that {self.path} names",
                soft_wrap=True,
            )


def read_ids(
    space: Workspace, path: str, kind: str, *, column: str, delimiter: str | None
) -> Named:
    """The ids in a table of one column.

    Args:
        path: Parquet or text, whose first line names its columns.
        kind: what they are ids of: item or user.
        column: the one that holds ids, where there are more.
        delimiter: between columns of text.

    Raises:
        DataError: the file cannot be read as such.
    """
    source = open_files(space, path, delimiter=delimiter)
    table = source.table
    name = table.columns[0] if len(table.columns) == 1 else column
    if name not in table.columns:
        raise DataError(
            f"{path}: has no column {name!r} and more than one, {listed(table.columns)}; keep the "
            f"column of {kind} ids alone, or give it the name of that of the histories"
        )
    source.refuse_other_kinds(name)
    ids = as_id(space, table, name, f"{path}: {name}")[0].name("id")
    given = space.fetch(table.select(ids).filter(ids.notnull()).distinct())["id"]
    return Named(path, kind, name, given.combine_chunks())


def places_in(named: Named, catalog: Catalog, *, where: str, otherwise: str) -> Int64:
    """int64 [A]: the indices of those that a catalog knows, in order; see `Named.check`."""
    indices = catalog.indices_of(named.ids)
    known = np.sort(indices[indices >= 0])
    header_known = bool(catalog.indices_of([named.header])[0] >= 0)
    named.check(len(known), header_known=header_known, where=where, otherwise=otherwise)
    return known


def events_of(
    space: Workspace, events: ir.Table, named: Named, *, where: str, otherwise: str
) -> tuple[ir.Table, int]:
    """The events of these users, and how many of them have any; see `Named.check`."""
    table = space.keep("named", ibis.memtable(pa.table({"user": named.ids})))
    theirs = events.semi_join(table, "user")
    num_known = int(space.one(theirs, users=theirs.user.nunique())["users"])
    header_known = space.count(events.filter(events.user == named.header)) > 0
    named.check(num_known, header_known=header_known, where=where, otherwise=otherwise)
    return theirs, num_known


def digest(items: Int64) -> str:
    """Hex SHA-256: the same items, the same text."""
    return hashlib.sha256(items.tobytes()).hexdigest()
