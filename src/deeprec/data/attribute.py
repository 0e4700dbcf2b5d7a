"""What is known of users and items beside events: tables joined by id, and their vocabularies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deeprec.catalog import Catalog
from deeprec.data.bucket import buckets_of, numbers_of
from deeprec.data.column import as_id
from deeprec.data.contract import Check, Level
from deeprec.data.source import Delimiter, Encoding, open_files
from deeprec.data.store import RESERVED, is_reserved
from deeprec.data.vocabulary import Hashed, flattened, holds_lists, rows_of
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError, did_you_mean

MAX_PLAIN_NUMBERS = 32  # distinct numbers that stay as they are; more are cut into buckets
NUM_BUCKETS = 16
MANY_VALUES = 1000  # values of a user attribute, from which it may be a name rather than a kind
OWN_VALUE = 0.5  # values a user, from which an open vocabulary may be one of names
ALONE = (
    "a name or a number of its own for each user teaches nothing and says who it is; leave it out "
    "(columns of data.user_attributes)"
)
KEYS = ("file", "key", "columns")

AttributeFiles = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


def read_attributes(
    workspace: Workspace,
    files: AttributeFiles,
    of: str,
    *,
    delimiter: Delimiter | None = None,
    encoding: Encoding = "utf-8",
) -> tuple[tuple[ir.Table, ...], tuple[Path, ...]]:
    """Opens attribute tables, each with the ids as its first column.

    Args:
        files: one or several of {file, key, columns}: where it is, its column of ids, and the
            columns to take (default: all others).
        of: user or item.

    Returns:
        The tables and the files they are read from.

    Raises:
        ConfigError: a mapping has another key.
        DataError: a file or column is missing, or a column is named as one of ours.
    """
    given = [files] if isinstance(files, Mapping) else list(files or [])
    tables: list[ir.Table] = []
    read: list[Path] = []
    for one in given:
        _refuse_keys(one, of)
        source = open_files(workspace, one["file"], delimiter=delimiter, encoding=encoding)
        use = f"{of}_attributes"
        source.column(one["key"], use)
        names = one.get("columns") or "all"
        if names == "all":
            names = [name for name in source.table.columns if name != one["key"]]
        columns = {name: source.column(name, use) for name in names}
        shown = f"{source.files[0]}: {one['key']}"
        ids, _ = as_id(workspace, source.table, one["key"], shown)
        tables.append(workspace.keep(use, source.table.select(**{of: ids}, **columns)))
        read.extend(source.files)
    return tuple(tables), tuple(read)


def join_attributes(
    workspace: Workspace, ids: ir.Table, tables: Sequence[ir.Table], of: str
) -> tuple[pa.Table, list[Check]]:
    """The attributes of these ids, in order of `row`, null where unknown.

    Of an id that a table holds more than once, each attribute's smallest value is taken and the id
    is counted: the order of a file's rows must not matter.

    Args:
        ids: `user` or `item`, and `row`.
        of: user or item.
    """
    checks: list[Check] = []
    columns: dict[str, pa.Array] = {}
    for table in tables:
        names = [name for name in table.columns if name != of]
        _refuse_names(names, columns, of)
        mine = table.semi_join(ids, of).group_by(of)
        single = workspace.keep(
            "single", mine.aggregate(**{n: ibis._[n].min() for n in names}, _rows=ibis._.count())
        )
        joined = ids.left_join(single, of).select("row", *names).order_by("row")
        fetched = workspace.fetch(joined)
        columns.update({name: fetched[name].combine_chunks() for name in names})
        checks.append(_coverage(workspace, single, fetched.num_rows, names, of))
    return pa.table(columns), checks


def vocabulary(
    name: str,
    column: pa.Array,
    *,
    trained: npt.NDArray[np.bool_] | None = None,
    min_users: int | None = None,
) -> tuple[pa.Array, list[str], list[Check]]:
    """A user attribute as strings, and its distinct values in ascending order.

    Numbers of more than 32 distinct values become 16 buckets of about as many users each, named by
    their range; fewer stay as they are.

    A column of lists stays one of lists, each of distinct values in ascending order; no numbers of
    it become buckets.

    Args:
        name: of the attribute.
        column: of each user; null where unknown.
        trained: bool [U], who may be trained on; None: everybody.
        min_users: of these, that a value needs to be known; None: none.

    Example:
        >>> vocabulary("age", pa.array(["old", None, "young"]))[1]
        ['old', 'young']
        >>> vocabulary("income", pa.array(range(160)))[1][:2]
        ['0 to 9', '10 to 19']
    """
    if listed := holds_lists(column.type):
        _refuse_nested(name, column.type)
        column = _in_lists(column, _texts_of(column))
    lengths, flat = flattened(column)
    if trained is not None:
        trained = np.repeat(trained, lengths)
    numbers = None if listed else numbers_of(column)
    if numbers is not None and len(np.unique(numbers[~np.isnan(numbers)])) > MAX_PLAIN_NUMBERS:
        text = buckets_of(numbers, NUM_BUCKETS)
    else:
        text = pc.cast(flat, pa.string())
    rare = 0
    if min_users is not None:
        text, rare = _admitted(text, trained, min_users)
    values = sorted(pc.unique(text.drop_null()).to_pylist(), key=str.encode)
    says = f"{len(values):,} values" + (f", and {rare:,} too rare to be known" if rare else "")
    facts = {"values": len(values), "rare_values": rare}
    check = Check(f"user attribute {name}", "ok", says, facts=facts)
    if len(values) > max(MANY_VALUES, (OWN_VALUE if listed else 0.1) * len(flat)):
        check = Check(
            check.name,
            "warn",
            check.says,
            ALONE,
            check.facts,
        )
    return _in_lists(column, values) if listed else text, values, [check]


def hashed_column(name: str, column: pa.ChunkedArray, rows: int) -> tuple[pa.Array, Check]:
    """A user attribute of an open vocabulary as strings, and how many of its values share a row."""
    text = column.combine_chunks()
    if lists := holds_lists(text.type):
        _refuse_nested(name, text.type)
    text = _in_lists(text, _texts_of(text)) if lists else pc.cast(text, pa.string())
    given = flattened(text)[1].drop_null()
    values = pc.unique(given)
    used = len(np.unique(Hashed(rows).indices_of(values)))
    says = f"{len(values):,} values hashed into {used:,} of {rows:,} rows"
    facts = {"values": len(values), "rows": rows, "rows_used": used}
    if len(values) > max(MANY_VALUES, OWN_VALUE * len(given)):
        return text, Check(f"user attribute {name}", "warn", says, ALONE, facts)
    if len(values) <= rows:
        return text, Check(f"user attribute {name}", "ok", says, facts=facts)
    advice = (
        "several values share each row, and learn together; give data.filters.hashed_attributes"
        f".{name} more rows"
    )
    return text, Check(f"user attribute {name}", "warn", says, advice, facts)


def refuse_unknown(hashed: Mapping[str, int], known: Sequence[str]) -> None:
    """Raises ConfigError for an attribute that is to be hashed and is not there."""
    for name in hashed:
        if name not in known:
            raise ConfigError(
                f"data.filters.hashed_attributes.{name}: there is no such user attribute; "
                f"{did_you_mean(name, known)}"
            )


def _admitted(
    text: pa.Array, trained: npt.NDArray[np.bool_] | None, min_users: int
) -> tuple[pa.Array, int]:
    """The column with null for values that too few users have, and how many values that were."""
    of_trained = text if trained is None else text.filter(pa.array(trained))
    counts = pc.value_counts(of_trained.drop_null())
    known = counts.field("values").filter(pc.greater_equal(counts.field("counts"), min_users))
    rare = len(pc.unique(text.drop_null())) - len(known)
    return pc.if_else(pc.is_in(text, value_set=known), text, pa.scalar(None, text.type)), rare


def _refuse_nested(name: str, kind: pa.DataType) -> None:
    if pa.types.is_nested(kind.value_type):
        raise DataError(
            f"user attribute {name!r}: a list must hold text or numbers, this column is {kind}; "
            "leave it out (columns of data.user_attributes), or flatten it"
        )


def _texts_of(lists: pa.Array) -> list[str]:
    """The distinct values of a column of lists as text, ascending."""
    values = pc.unique(pc.cast(flattened(lists)[1], pa.string()).drop_null())
    return sorted(values.to_pylist(), key=str.encode)


def _in_lists(lists: pa.Array, values: Sequence[str]) -> pa.Array:
    """The known values of each list as text, each once, ascending; null where a list is null."""
    known = rows_of(lists.cast(pa.list_(pa.string())), Catalog(values))
    texts = pa.array(values, pa.string()).take(pa.array(known.values.numpy()))
    offsets = pa.array(known.offsets.numpy(), pa.int32())
    return pa.ListArray.from_arrays(offsets, texts, mask=pc.is_null(lists))


def _coverage(
    workspace: Workspace, single: ir.Table, num_ids: int, names: Sequence[str], of: str
) -> Check:
    facts = workspace.one(single, known=single.count(), twice=(single["_rows"] > 1).sum())
    facts["twice"] = facts["twice"] or 0
    says = f"{', '.join(names)}: known of {facts['known']:,} of {num_ids:,} {of}s"
    if not facts["twice"]:
        level: Level = "ok" if facts["known"] else "warn"
        advice = "" if facts["known"] else "does its key hold the same ids as the events?"
        return Check(f"{of} attributes", level, says, advice, facts)
    says += f"; {facts['twice']:,} {of}s stand in it more than once"
    advice = "the smallest value of each column is taken; mend the file if that is wrong"
    return Check(f"{of} attributes", "warn", says, advice, facts)


def _refuse_keys(one: Mapping[str, Any], of: str) -> None:
    for key in one:
        if key not in KEYS:
            raise ConfigError(f"data.{of}_attributes.{key}: unknown key; {did_you_mean(key, KEYS)}")
    if not one.get("file") or not one.get("key"):
        raise ConfigError(f"data.{of}_attributes: needs a file and its key column, got {dict(one)}")


def _refuse_names(names: Sequence[str], taken: Mapping[str, Any], of: str) -> None:
    for name in names:
        if is_reserved(name, of) or name in taken:
            raise DataError(
                f"data.{of}_attributes: no column may be named {name!r}: it is in two tables, or "
                f"one of {', '.join(RESERVED[of])}; rename it or choose other columns"
            )
