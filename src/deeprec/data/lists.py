"""Recommendation lists in a file, from any library.

Parquet, as `recommend` writes it:

    user_id    string or integer, one row per user
    item_ids   list of string or integer, best first
    scores     list of float, as long as item_ids; may be missing

or the text that DSSTNE's `predict` writes, one user a line, best first:

    user TAB item,score:item,score:...:
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deeprec.catalog import Catalog
from deeprec.errors import DataError, NonFiniteError

ROWS_AT_ONCE = 16_384

IntArray = npt.NDArray[np.int64]


@dataclass
class Lists:
    """Lists of A users asked about, of U known ones; the order of the file leaves no trace."""

    rows: IntArray  # [A], rows of the users asked about, ascending
    items: IntArray  # [A, k], item index; -1 where the list has ended or the item is unknown
    unknown_items: IntArray  # [A], unknown items among the k of each list
    lengths: IntArray  # [U], length of each user's list as it was in the file; -1: no list
    num_unknown_users: int = 0  # lists of users that the prepared folder does not know; ignored
    knows_an_item: bool = False  # among the k of any known user's list
    unknown_item: str | None = None  # one of them

    def places(self, user_rows: IntArray) -> IntArray:
        """Where the lists of these users are, who were asked about."""
        return np.searchsorted(self.rows, user_rows)


def read_lists(path: Path, users: Catalog, items: Catalog, k: int, asked: IntArray) -> Lists:
    """Reads the first k items of the lists of users asked about; the others' are checked alone.

    An unknown item keeps its place in the list, as -1: it can only miss.

    Args:
        path: a file of either form; more columns of a Parquet file are ignored.
        users: ids of the users by row; lists of others are counted and left out.
        items: the catalog.
        k: items kept of each list; longer lists are cut, after they were checked in full.
        asked: rows of the users whose lists are kept, ascending.

    Raises:
        DataError: the file cannot be read as such; a list or user is there twice, an item twice in
            a list, scores rise inside a list, or no user or no item of the file is known.
        NonFiniteError: a score is NaN.
    """
    lists = Lists(
        rows=asked,
        items=np.full((len(asked), k), -1, np.int64),
        unknown_items=np.zeros(len(asked), np.int64),
        lengths=np.full(len(users), -1, np.int64),
    )
    first_row = 0
    for rows in _batches(path):
        _add(lists, _Rows(path, first_row, rows), users, items)
        first_row += rows.num_rows
    _check_that_something_is_known(path, lists, users, items)
    return lists


class _Rows:
    """Some rows of the file, checked: user ids, and items and scores as jagged arrays."""

    def __init__(self, path: Path, first_row: int, rows: pa.RecordBatch) -> None:
        self.path, self.first_row = path, first_row
        self.user_ids = self._ids(rows["user_id"], "user_id")
        self.lengths, item_ids = self._flat(rows["item_ids"], "item_ids")
        self.item_ids = self._ids(item_ids, "item_ids")
        self._refuse_repeated_items()
        if "scores" in rows.schema.names:
            self._check_scores(rows["scores"])

    def where(self, row: int) -> str:
        """Says which list is meant, without its user: logs are read by more people than lists."""
        return f"{self.path}: row {self.first_row + row + 1}"

    def _ids(self, ids: pa.Array, name: str) -> pa.Array:
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        text = pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)
        if not (text or pa.types.is_string_view(ids.type) or pa.types.is_integer(ids.type)):
            raise DataError(
                f"{self.path}: {name} must hold strings or integers, got {ids.type}; "
                "write ids as strings, exactly as in the events"
            )
        if ids.null_count:
            raise DataError(
                f"{self.path}: {name} holds {ids.null_count} nulls in rows {self.first_row + 1} to "
                f"{self.first_row + len(ids)}; every id must be known"
            )
        return ids.cast(pa.large_string())

    def _flat(self, lists: pa.Array, name: str) -> tuple[IntArray, pa.Array]:
        """Lengths and values; a null list is an empty one."""
        kind = lists.type
        if not (
            pa.types.is_list(kind)
            or pa.types.is_large_list(kind)
            or pa.types.is_fixed_size_list(kind)
        ):
            raise DataError(f"{self.path}: {name} must hold lists, one row per user, got {kind}")
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
        return lengths, lists.flatten()

    @property
    def _row_of_value(self) -> IntArray:
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def _refuse_repeated_items(self) -> None:
        codes = pc.dictionary_encode(self.item_ids).indices.to_numpy().astype(np.int64)
        pairs = self._row_of_value * (len(codes) + 1) + codes
        _, first = np.unique(pairs, return_index=True)
        if len(first) < len(pairs):
            repeated = int(np.setdiff1d(np.arange(len(pairs)), first)[0])
            raise DataError(
                f"{self.where(int(self._row_of_value[repeated]))}: item "
                f"{self.item_ids[repeated].as_py()!r} is in the list twice; an item may stand in a "
                "list once, or it would be counted as found twice"
            )

    def _check_scores(self, column: pa.Array) -> None:
        lengths, values = self._flat(column, "scores")
        differ = np.flatnonzero(lengths != self.lengths)
        if len(differ):
            row = int(differ[0])
            raise DataError(
                f"{self.where(row)}: {self.lengths[row]} items but {lengths[row]} scores; give one "
                "score per item, or leave the column out"
            )
        scores = np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan))
        missing = np.flatnonzero(np.isnan(scores))
        if len(missing):
            raise NonFiniteError(
                f"{self.where(int(self._row_of_value[missing[0]]))}: a score is NaN or null; such "
                "an item has no place in a ranking"
            )
        rows = self._row_of_value
        rises = np.flatnonzero((scores[1:] > scores[:-1]) & (rows[1:] == rows[:-1]))
        if len(rises):
            before, after = scores[rises[0]], scores[rises[0] + 1]
            raise DataError(
                f"{self.where(int(rows[rises[0]]))}: lists are best first, but a score of "
                f"{before:g} is followed by {after:g}; sort each list by score, highest first"
            )


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The lists of a file, some users at a time."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; recommendations are one file")
    with path.open("rb") as file:
        magic = file.read(4)
    if not magic:
        raise DataError(f"{path}: holds no lists")
    return _parquet(path).iter_batches(ROWS_AT_ONCE) if magic == b"PAR1" else _text(path)


def _text(path: Path) -> Iterator[pa.RecordBatch]:
    """Lists in DSSTNE's text."""
    kinds = {
        "user_id": pa.string(),
        "item_ids": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
    }
    with path.open(encoding="utf-8", newline="\n") as file:
        lines = enumerate(file, start=1)
        try:
            while some := [_line(path, *numbered) for numbered in islice(lines, ROWS_AT_ONCE)]:
                columns = map(pa.array, zip(*some, strict=True), kinds.values())
                yield pa.record_batch(list(columns), list(kinds))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: is neither Parquet nor UTF-8 text ({error}); give lists as Parquet, or "
                "as lines of user TAB item,score:item,score:"
            ) from error


def _line(path: Path, number: int, line: str) -> tuple[str, list[str], list[float]]:
    """User, items and scores of one line."""
    user_id, tab, rest = line.rstrip("\r\n").partition("\t")
    entries = [entry.rpartition(",") for entry in rest.split(":") if entry]
    try:
        if not (tab and user_id) or not all(item for item, _, _ in entries):
            raise ValueError("no user before a TAB, or no item before a comma")
        return user_id, [item for item, _, _ in entries], [float(score) for *_, score in entries]
    except ValueError as error:
        raise DataError(
            f"{path}: row {number} is no list ({error}); expected Parquet, or lines of "
            "user TAB item,score:item,score:"
        ) from error


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error
    missing = {"user_id", "item_ids"} - set(file.schema_arrow.names)
    if missing:
        raise DataError(
            f"{path}: recommendations need the columns user_id and item_ids (and may have scores); "
            f"missing: {', '.join(sorted(missing))}; found: {', '.join(file.schema_arrow.names)}"
        )
    if not file.metadata.num_rows:
        raise DataError(f"{path}: holds no lists")
    return file


def _add(lists: Lists, rows: _Rows, users: Catalog, items: Catalog) -> None:
    user_rows = users.indices_of(rows.user_ids)
    _refuse_repeated_users(lists, rows, user_rows)
    known = user_rows >= 0
    lists.num_unknown_users += int((~known).sum())

    starts = np.cumsum(rows.lengths) - rows.lengths
    row_of_value = np.repeat(np.arange(len(user_rows)), rows.lengths)
    place = np.arange(len(row_of_value)) - starts[row_of_value]
    first_k = known[row_of_value] & (place < lists.items.shape[1])
    indices = items.indices_of(rows.item_ids)
    lists.lengths[user_rows[known]] = rows.lengths[known]
    unknown = first_k & (indices < 0)
    lists.knows_an_item |= bool((first_k & (indices >= 0)).any())
    if unknown.any() and lists.unknown_item is None:
        lists.unknown_item = rows.item_ids[int(np.argmax(unknown))].as_py()

    at, asked = lists.places(user_rows)[row_of_value], np.isin(user_rows, lists.rows)[row_of_value]
    kept = first_k & asked
    lists.items[at[kept], place[kept]] = indices[kept]
    np.add.at(lists.unknown_items, at[unknown & asked], 1)


def _refuse_repeated_users(lists: Lists, rows: _Rows, user_rows: IntArray) -> None:
    known = np.flatnonzero(user_rows >= 0)
    _, first = np.unique(user_rows[known], return_index=True)
    again = lists.lengths[user_rows[known]] >= 0
    again |= ~np.isin(np.arange(len(known)), first)
    if again.any():
        raise DataError(
            f"{rows.where(int(known[np.argmax(again)]))}: this user has a list already; give one "
            "row per user"
        )


def _check_that_something_is_known(
    path: Path, lists: Lists, users: Catalog, items: Catalog
) -> None:
    if not (lists.lengths >= 0).any():
        raise DataError(
            f"{path}: none of its {lists.num_unknown_users:,} users is among the {len(users):,} of "
            "the prepared folder; were the lists made from these events?"
        )
    if lists.unknown_item is not None and not lists.knows_an_item:
        known = items.ids_of([0])[0] if len(items) else None
        raise DataError(
            f"{path}: no item id of the lists is in the prepared folder; the lists hold for "
            f"example {lists.unknown_item!r}, the prepared folder {known!r}; were they made from "
            "these events?"
        )
