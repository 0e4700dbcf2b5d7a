"""Parquet files as one table: a column that is read has one kind of type in all of them.

The engine would cast every file to the first one's types, and so change what the others hold: of
int64 and then "007" it makes 7, of 2 and then 0.5 it makes 0.
"""

from collections.abc import Sequence
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

KINDS = {  # in each, the widest type holds what the others do
    "text": (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
    ),
    "whole numbers": (pa.types.is_integer,),
    "numbers with a point": (pa.types.is_floating,),
    "decimals": (pa.types.is_decimal,),
    "dates": (pa.types.is_date,),
    "timestamps": (lambda dtype: pa.types.is_timestamp(dtype) and dtype.tz is None,),
    "timestamps of a time zone": (pa.types.is_timestamp,),
}


def open_parquet(
    workspace: Workspace, files: Sequence[Path], schemas: Sequence[pa.Schema] = ()
) -> ir.Table:
    """Opens Parquet files; a column whose types differ has the widest of them.

    Args:
        schemas: of the files, as `schemas_of` gives them.
    """
    differ = any(not schema.equals(schemas[0]) for schema in schemas)
    with workspace.telling_errors():
        table: ir.Table = workspace.con.read_parquet(
            [str(file) for file in files], binary_as_string=True, union_by_name=differ
        )
    return table


def schemas_of(files: Sequence[Path]) -> tuple[pa.Schema, ...]:
    """What each file holds; nothing of a single one, which agrees with itself.

    Raises:
        DataError: a file is not Parquet, or damaged.
    """
    return tuple(map(_schema, files)) if len(files) > 1 else ()


def refuse_other_kinds(files: Sequence[Path], schemas: Sequence[pa.Schema], name: str) -> None:
    """Raises DataError if a column is missing in a file, or of another kind than in one before.

    A file in which it holds nothing at all fits every other.
    """
    has = [name in schema.names for schema in schemas]
    if not any(has):  # it is in no file, but in the names of their folders
        return
    first: tuple[Path, pa.DataType] | None = None
    for file, schema, is_there in zip(files, schemas, has, strict=True):
        if not is_there:
            raise DataError(
                f"{file}: no column {name!r}, which {files[has.index(True)]} has; each file needs "
                "it"
            )
        dtype = schema.field(name).type
        if pa.types.is_null(dtype):
            continue
        first = first or (file, dtype)
        if _kind(dtype) != _kind(first[1]):
            raise DataError(
                f"{file}: column {name!r} holds {_kind(dtype)} ({dtype}), that of {first[0]} "
                f"{_kind(first[1])} ({first[1]}); a column needs one type in all files, so write "
                "these again with one (ids as text, if any begins with 0 or is no number)"
            )


def _kind(dtype: pa.DataType) -> str:
    if pa.types.is_dictionary(dtype):
        return _kind(dtype.value_type)
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return f"lists of {_kind(dtype.value_type)}"
    return next((name for name, tests in KINDS.items() if any(is_(dtype) for is_ in tests)),
                str(dtype))  # fmt: skip


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({error})") from error
