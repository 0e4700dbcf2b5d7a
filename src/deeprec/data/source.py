"""Finding and opening files of events or attributes: Parquet, CSV, TSV; plain, gzip or zstd.

Text is read as text: "007" stays "007". The header is read here and every line must fit it, because
an engine that guesses the layout of a file skips what does not fit its guess.
"""

import csv
import glob
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import ibis.expr.types as ir
import pyarrow as pa

from deeprec.annotation import Rule
from deeprec.data.parquet import open_parquet, refuse_other_kinds, schemas_of
from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

DELIMITERS = {
    ".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t",
    ".inter": "\t", ".user": "\t", ".item": "\t",  # RecBole's atomic files
}  # fmt: skip
COMPRESSIONS = (".gz", ".zst")
FORMATS = (".parquet", *DELIMITERS)
Encoding = Literal["utf-8", "utf-16", "latin-1"]
Delimiter = Annotated[
    str,
    Rule(
        lambda text: 1 <= len(text.encode()) <= 4 and not set(text) & set('"\r\n'),
        "1 to 4 bytes that are no quote and no end of line",
    ),
]
LONGEST_LINE = 2**26  # bytes; a text line of one user may hold a million items
LONGEST_HEADER = 2**20  # characters
LONGEST_NAME = 60  # characters of a column's name that a message holds
MOST_NAMES = 20  # columns that a message names
# a line of text samples: sample TAB feature,value:feature,value... of which values may be left out
SAMPLE = re.compile(r"[^\t:]+\t([^\t,:]+,[-+.\de]+(:|$)|[^\t,:]+:[^\t]+$)")


@dataclass(frozen=True)
class Source:
    """A table as its files hold it, and which files these are."""

    table: ir.Table
    files: tuple[Path, ...]
    columnar: bool = False  # a column of it can be read again at little cost
    schemas: tuple[pa.Schema, ...] = ()  # of the files, where there are several of Parquet

    def column(self, name: str, use: str) -> ir.Column:
        """The column `name`, which the config calls the `use` column.

        Raises:
            DataError: there is none; says which there are and which is nearest. Or its type differs
                in kind from file to file.
        """
        if name in self.table.columns:
            self.refuse_other_kinds(name)
            return self.table[name]
        self.refuse_samples()
        if within := self.delimiter_within():
            raise DataError(
                f"{self.files[0]}: no column {name!r} (wanted for data.{use}); its only column is "
                f"called {listed(self.table.columns)}; if {within!r} stands between the columns, "
                f"set {typed('data.delimiter', within)}"
            )
        near = get_close_matches(name, self.table.columns, n=1, cutoff=0.5)
        raise DataError(
            f"{self.files[0]}: no column {name!r} (wanted for data.{use}); it has "
            f"{listed(self.table.columns)}" + (f"; did you mean {near[0]!r}?" if near else "")
        )

    def refuse_other_kinds(self, name: str) -> None:
        """Raises DataError if the files hold a column as types that differ in kind."""
        refuse_other_kinds(self.files, self.schemas, name)

    def refuse_samples(self) -> None:
        """Raises DataError if its files hold text samples, whose first line names no columns."""
        if not self.columnar:
            _refuse_samples(self.files[0])

    def delimiter_within(self) -> str | None:
        """What may stand between columns that were read as one."""
        if len(self.table.columns) > 1:
            return None
        return next((mark for mark in ",;|\t" if mark in self.table.columns[0]), None)


def typed(key: str, delimiter: str) -> str:
    """An override that sets a delimiter, as a shell and Hydra take it.

    Example:
        >>> typed("delimiter", ";")
        "delimiter=';'"
    """
    return f"{key}=" + ("$'\"\\t\"'" if delimiter == "\t" else f"'{delimiter}'")


def listed(names: Sequence[str]) -> str:
    """Names of columns for a message, however many and long they are.

    Example:
        >>> listed(["user", "item"])
        "'user', 'item'"
        >>> listed("abcdefghijklmnopqrstuvwxyz")[-24:]
        "'r', 's', 't' and 6 more"
    """
    told = [
        repr(name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…") for name in names
    ]
    more = f" and {len(told) - MOST_NAMES:,} more" if len(told) > MOST_NAMES else ""
    return ", ".join(told[:MOST_NAMES]) + more


def find(location: str) -> tuple[Path, ...]:
    """The files that a path, a folder or a glob names, in the order of their names.

    Raises:
        DataError: there are none, or they are of different formats.
    """
    exact = Path(location)
    matches = [exact] if exact.exists() else map(Path, glob.glob(location, recursive=True))
    files = sorted({file for match in matches for file in _inside(match)})
    if not files:
        raise DataError(
            f"{location}: no such file, folder or glob with files of events ({', '.join(FORMATS)}, "
            "text also with .gz or .zst)"
        )
    formats = {_format(file) for file in files}
    if len(formats) > 1:
        raise DataError(f"{location}: files of one format are needed, found {sorted(formats)}")
    return tuple(files)


def short_names(files: Sequence[Path]) -> list[str]:
    """Names of different files without the folders they share: no path of this machine.

    Example:
        >>> short_names([Path("/mnt/a/events.csv"), Path("/mnt/users.csv")])
        ['events.csv', 'users.csv']
        >>> short_names([Path("/mnt/day=1/0.parquet"), Path("/mnt/day=2/0.parquet")])
        ['day=1/0.parquet', 'day=2/0.parquet']
    """
    twins: dict[str, list[Path]] = {}
    for file in files:
        twins.setdefault(file.name, []).append(file.absolute())
    return [_within(os.path.commonpath([one.parent for one in twins[f.name]]), f) for f in files]


def _within(folder: str, file: Path) -> str:
    return file.absolute().relative_to(folder).as_posix()


def open_files(
    workspace: Workspace,
    location: str,
    *,
    delimiter: Delimiter | None = None,
    encoding: Encoding = "utf-8",
) -> Source:
    """Opens a table of one or more files; nothing but headers is read yet.

    Args:
        delimiter: between the columns of a text file; default: by its name, comma for .csv, tab for
            .tsv.
        encoding: of a text file.

    Raises:
        DataError: there is no such file, it is of no known format, or its header does not serve.
    """
    files = find(location)
    if _format(files[0]) == ".parquet":
        schemas = schemas_of(files)
        return Source(open_parquet(workspace, files, schemas), files, True, schemas)
    return Source(open_text(workspace, files, delimiter=delimiter, encoding=encoding), files)


def open_text(
    workspace: Workspace,
    files: Sequence[Path],
    *,
    delimiter: Delimiter | None = None,
    encoding: Encoding = "utf-8",
    header: Sequence[str] | None = None,
    quote: str = '"',
) -> ir.Table:
    """Opens text files as columns of strings; empty fields are null.

    Args:
        header: the names of the columns, for files without a header line.
    """
    delimiter = delimiter or DELIMITERS.get(_format(files[0]), ",")
    names = header or _header(files, delimiter, encoding)
    for file in files:
        _refuse_cut_off(file)
    with workspace.telling_errors():
        table: ir.Table = workspace.con.read_csv(
            [str(file) for file in files],
            auto_detect=False,
            header=header is None,
            columns=dict.fromkeys(names, "VARCHAR"),
            delim=delimiter,
            quote=quote,
            escape=quote,
            encoding=encoding,
            max_line_size=LONGEST_LINE,
        )
    return table


def _header(files: Sequence[Path], delimiter: str, encoding: str) -> list[str]:
    """The column names, which every file must have in the same order."""
    headers = [_first_record(file, delimiter, encoding) for file in files]
    for file, header in zip(files, headers, strict=True):
        if header != headers[0]:
            _refuse_samples(file)
            raise DataError(
                f"{file}: its columns are {listed(header)}, those of {files[0]} "
                f"{listed(headers[0])}"
            )
        if "" in header or len({*header}) < len(header):
            _refuse_samples(file)
            raise DataError(f"{file}: each column needs a name of its own, found {listed(header)}")
    return headers[0]


def _refuse_samples(file: Path) -> None:
    with pa.input_stream(str(file), compression="detect") as stream:
        begins = stream.read(LONGEST_HEADER).decode("utf-8", "replace")
    if SAMPLE.match(begins.partition("\n")[0].rstrip("\r")):
        raise DataError(
            f"{file}: is text in the form of DSSTNE, `sample TAB feature,value:feature,value:...`, "
            "and no table of events; `deeprec prepare data=dsstne_text data.path=...` makes of it "
            "a prepared folder, which train, evaluate and recommend read, and `deeprec dsstne "
            "predict -r ...` answers it by a network file"
        )


def _first_record(file: Path, delimiter: str, encoding: str) -> list[str]:
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            decoded = "utf-8-sig" if encoding.lower() == "utf-8" else encoding
            text = io.TextIOWrapper(stream, decoded, newline="")
            lines = _header_lines(file, text)
            if len(delimiter) > 1:  # which csv.reader refuses
                return next(lines, "").rstrip("\r\n").split(delimiter)
            header = next(csv.reader(lines, delimiter=delimiter), None)
    except csv.Error as error:
        raise DataError(f"{file}: its first line names no columns ({error})") from error
    except (UnicodeError, LookupError) as error:
        raise DataError(
            f"{file}: not readable as {encoding} ({error}); set data.encoding=latin-1"
        ) from error
    except OSError as error:
        raise DataError(f"{file}: {error}; was it cut off? copy it again") from error
    if not header:
        raise DataError(f"{file}: the file is empty; its first line must name the columns")
    return header


def _header_lines(file: Path, text: io.TextIOWrapper) -> Iterator[str]:
    """Lines in bounded memory: a file may be one line of gigabytes."""
    while line := text.readline(LONGEST_HEADER):
        if len(line) == LONGEST_HEADER:
            _refuse_samples(file)
            raise DataError(
                f"{file}: its first line has {LONGEST_HEADER:,} characters or more; it must name "
                "the columns"
            )
        yield line


def _refuse_cut_off(file: Path) -> None:
    """Reads a compressed file to its end: the engine takes a cut-off one for a short one."""
    if file.suffix not in COMPRESSIONS:
        return
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            while stream.read(2**24):
                pass
    except OSError as error:
        raise DataError(f"{file}: {error}; was it cut off? copy it again") from error


def _format(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _inside(path: Path) -> list[Path]:
    """The file itself, or the files in a folder that are of a known format and not set aside."""
    if path.is_file():
        return [path]
    found = [file for file in path.rglob("*") if file.is_file() and _format(file) in FORMATS]
    aside = (".", "_")
    return [f for f in found if not any(p.startswith(aside) for p in f.relative_to(path).parts)]
