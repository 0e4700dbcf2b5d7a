"""The prepared folder: names, schema, writing and reading by memory map.

    manifest.json        config, counts, split instants, hashes
    catalog.parquet      one row per item: item_id, popularity in training, item attributes
    users.parquet        one row per user: user_id, role, user attributes (a value, or a list of
                         them), validation_unknown and holdout_unknown (events to be judged on,
                         their item not in the catalog); where users are weighed, _weight (float32,
                         what its loss counts), and _input_weight:INPUT (float32, what all that a
                         user has of the input counts in training)
    vocabularies.json    per user attribute, its values in index order, or {"hashed": rows}
    contract.json        what the data contract report said
    train.arrow validation.arrow holdout.arrow
                         one row per user, in the order of users.parquet: parallel lists of that
                         part's events, oldest first (items, and where known times, kinds, values,
                         prices)

Who is trained on and who is judged follows from `role`:

    role         trained on   judged on validation        judged on holdout
    all          train        train -> validation         train + validation -> holdout
    train        train        -                           -
    validation   -            train -> validation         -
    holdout      -            -                           train + validation -> holdout
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from deeprec import folder
from deeprec.batch import Jagged
from deeprec.catalog import Catalog
from deeprec.data.vocabulary import Stored, Vocabulary, rows_of, vocabulary_of
from deeprec.errors import IntegrityError

KIND = "prepared"
SECONDS_PER_DAY = 86_400
WEIGHT = "_weight"  # column of users; no attribute can have its name
INPUT_WEIGHT = "_input_weight:"  # before `history` or `user:NAME`, likewise
USERS_A_READ = 4096
# columns that no attribute can have the name of: ours here, in preparing, or in a bundle
RESERVED = {
    "user": ("user_id", "role", "holdout_unknown", "validation_unknown", "row"),
    "item": ("item_id", "popularity", "row", "item_index", "retired_in", "added_in"),
}

Kind = Literal["user", "item"]
PartName = Literal["train", "validation", "holdout"]
PARTS: tuple[PartName, ...] = ("train", "validation", "holdout")

COLUMNS: dict[str, pa.DataType] = {
    "items": pa.int32(),  # item index in [0, V)
    "times": pa.int64(),  # seconds since 1970-01-01 UTC
    "kinds": pa.int8(),  # index into manifest["kinds"]
    "values": pa.float32(),  # quantity, rating, ...
    "prices": pa.float32(),  # what was paid for the event
}


@dataclass(frozen=True)
class Events:
    """Events of some users, user after user, oldest first. Optional columns are None if unknown."""

    offsets: npt.NDArray[np.int64]  # [U + 1]
    items: npt.NDArray[np.int32]  # [N]
    times: npt.NDArray[np.int64] | None = None  # [N], seconds
    kinds: npt.NDArray[np.int8] | None = None
    values: npt.NDArray[np.float32] | None = None
    prices: npt.NDArray[np.float32] | None = None

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)

    @property
    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that are known, by name."""
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}


class PartWriter:
    """Writes one part of a prepared folder, users in order, one record batch an append.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "train.arrow"
        >>> with PartWriter(path, ["items"]) as part:
        ...     part.append(Events(np.array([0, 2, 2, 3]), np.array([7, 5, 7], np.int32)))
        >>> Part(path).take(np.array([2, 0])).items.tolist()
        [7, 7, 5]
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self._schema = pa.schema([(name, pa.large_list(COLUMNS[name])) for name in self.columns])
        self._writer = pa.ipc.new_file(str(path), self._schema)

    def append(self, events: Events) -> None:
        """Adds these users after those already written."""
        offsets = pa.array(events.offsets, pa.int64())
        known = events.columns
        lists = [
            pa.LargeListArray.from_arrays(offsets, pa.array(known[name], COLUMNS[name]))
            for name in self.columns
        ]
        self._writer.write_batch(pa.record_batch(lists, schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


class Part:
    """One part of a prepared folder, memory-mapped: nothing is copied until users are taken."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.columns: list[str] = reader.schema.names
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._offsets = [batch.column("items").offsets.to_numpy() for batch in batches]
        self._columns = [
            {name: batch.column(name).values.to_numpy() for name in self.columns}
            for batch in batches
        ]

    @property
    def num_users(self) -> int:
        return int(self._starts[-1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """int64 [U]: events of each user in this part."""
        parts = [np.diff(offsets) for offsets in self._offsets]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def take(self, user_rows: npt.NDArray[np.int64]) -> Events:
        """Copies the events of these users, in this order."""
        chunks = np.searchsorted(self._starts, user_rows, side="right") - 1
        starts = np.zeros(len(user_rows), np.int64)
        lengths = np.zeros(len(user_rows), np.int64)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            rows = user_rows[here] - self._starts[chunk]
            starts[here] = self._offsets[chunk][rows]
            lengths[here] = self._offsets[chunk][rows + 1] - starts[here]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        columns = {
            name: np.empty(offsets[-1], COLUMNS[name].to_pandas_dtype()) for name in self.columns
        }
        for chunk in np.unique(chunks):
            here = np.flatnonzero(chunks == chunk)
            source = ranges(starts[here], lengths[here])
            destination = ranges(offsets[here], lengths[here])
            for name, column in columns.items():
                column[destination] = self._columns[chunk][name][source]
        return Events(offsets, **columns)


class Prepared:
    """A finished prepared folder, opened for reading.

    Args:
        path: the folder.
        parts: that are opened; the files of others must be there and are not read.

    Raises:
        ConfigError: there is no such folder, or it is another kind of folder.
        IntegrityError: it is unfinished or damaged; the file is named.
    """

    def __init__(self, path: Path, *, parts: Sequence[PartName] = PARTS) -> None:
        self.path = path
        unread = [f"{name}.arrow" for name in PARTS if name not in parts]
        self.manifest = folder.verify(path, KIND, unread=unread)
        self.num_items = int(pq.read_metadata(path / "catalog.parquet").num_rows)
        self.users: pa.Table = pq.read_table(path / "users.parquet")
        self.roles: npt.NDArray[Any] = self.users["role"].to_numpy(zero_copy_only=False)
        self.vocabularies: dict[str, Stored] = json.loads((path / "vocabularies.json").read_text())
        self._attributes: dict[str, Jagged] = {}  # as rows of their tables, once asked for
        self.parts: dict[str, Part] = {name: Part(path / f"{name}.arrow") for name in parts}
        for name, part in self.parts.items():
            if part.num_users != self.num_users:
                raise IntegrityError(
                    f"{path / name}.arrow holds {part.num_users} users, users.parquet "
                    f"{self.num_users}; prepare the folder again"
                )

    @cached_property
    def items(self) -> pa.Table:
        """One row per item. Read when asked for: training needs neither ids nor names."""
        return pq.read_table(self.path / "catalog.parquet")

    @cached_property
    def catalog(self) -> Catalog:
        """The item ids, in index order."""
        return Catalog(pq.read_table(self.path / "catalog.parquet", columns=["item_id"])["item_id"])

    @cached_property
    def popularity(self) -> npt.NDArray[np.int64]:
        """int64 [V]: training users that had each item."""
        column = pq.read_table(self.path / "catalog.parquet", columns=["popularity"])["popularity"]
        popularity: npt.NDArray[np.int64] = column.to_numpy()
        return popularity

    @cached_property
    def user_weights(self) -> npt.NDArray[np.float32] | None:
        """float32 [U]: what the loss of each user counts; None: all alike."""
        if WEIGHT not in self.users.column_names:
            return None
        return np.asarray(self.users[WEIGHT].to_numpy(), np.float32)

    @cached_property
    def input_weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """By input, float32 [U]: what all that a user has of it counts in training; absent: 1."""
        return {
            name.removeprefix(INPUT_WEIGHT): np.asarray(self.users[name].to_numpy(), np.float32)
            for name in self.users.column_names
            if name.startswith(INPUT_WEIGHT)
        }

    @cached_property
    def training_period(self) -> tuple[int, int] | None:
        """First second of the training events and the second at which they end; None: no times."""
        if not self.has_times:
            return None
        users = self.training_users()
        first, last = np.iinfo(np.int64).max, np.iinfo(np.int64).min
        for start in range(0, len(users), USERS_A_READ):
            times = self.parts["train"].take(users[start : start + USERS_A_READ]).times
            assert times is not None
            first, last = min(first, int(times.min())), max(last, int(times.max()))
        return first, self.instant("validation") or last + 1

    @property
    def num_users(self) -> int:
        return int(self.users.num_rows)

    @property
    def has_times(self) -> bool:
        return "times" in self.parts["train"].columns

    @property
    def repeats(self) -> bool:
        """Whether an item of the history may be recommended again."""
        return bool(self.manifest["repeats"])

    @property
    def has_holdout(self) -> bool:
        """Whether there is anybody to judge in the end; of the holdout nothing is read for it."""
        return bool(self.manifest.get("counts", {}).get("holdout_users", True))

    @property
    def identity(self) -> str:
        """SHA-256 over the folder's content."""
        return folder.identity(self.manifest)

    def training_users(self) -> npt.NDArray[np.int64]:
        """Rows of the users with training events, ascending."""
        eligible = np.isin(self.roles, ["all", "train"]) & (self.parts["train"].lengths > 0)
        return np.flatnonzero(eligible)

    def judged_users(self, part: PartName) -> npt.NDArray[np.int64]:
        """Rows of the users with events in `part` to be judged on, ascending."""
        eligible = np.isin(self.roles, ["all", part]) & (self.parts[part].lengths > 0)
        return np.flatnonzero(eligible)

    def history(self, user_rows: npt.NDArray[np.int64], part: PartName) -> Events:
        """What these users did before `part`: train, and for the holdout validation as well."""
        history = self.parts["train"].take(user_rows)
        if part == "holdout":
            return join(history, self.parts["validation"].take(user_rows))
        return history

    def instant(self, part: PartName) -> int | None:
        """The moment of prediction of a time cut, int64 seconds; None for other splits."""
        instant: int | None = self.manifest["instants"][part]
        return instant

    @property
    def judged_apart(self) -> bool:
        """Whether each user is judged at an own moment, as where the last events are held out.

        After a time cut all are judged at once, and without a holdout all are served at once.
        """
        return self.has_holdout and self.instant("holdout") is None

    def vocabulary(self, name: str) -> Vocabulary:
        """The values of a user attribute, as rows of a table."""
        return vocabulary_of(self.vocabularies[name])

    def attribute(self, name: str, user_rows: npt.NDArray[np.int64]) -> Jagged:
        """What these users have of an attribute, as rows of its table."""
        if name not in self._attributes:
            self._attributes[name] = rows_of(self.users[name], self.vocabulary(name))
        known = self._attributes[name]
        starts, ends = known.offsets.numpy()[user_rows], known.offsets.numpy()[user_rows + 1]
        values = known.values.numpy()[ranges(starts, ends - starts)]
        offsets = np.concatenate([[0], np.cumsum(ends - starts)])
        return Jagged(torch.from_numpy(values), torch.from_numpy(offsets))


def join(first: Events, second: Events) -> Events:
    """The events of the same users, each user's `first` before its `second`."""
    lengths = first.lengths + second.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    to_first = ranges(offsets[:-1], first.lengths)
    to_second = ranges(offsets[:-1] + first.lengths, second.lengths)
    columns = {}
    for name, column in first.columns.items():
        columns[name] = np.empty(offsets[-1], column.dtype)
        columns[name][to_first] = column
        columns[name][to_second] = second.columns[name]
    return Events(offsets, **columns)


def is_reserved(name: str, of: str) -> bool:
    """Whether no attribute of a user or an item may have this name."""
    return name in RESERVED[of] or name.startswith("_")


def attribute_names(table: pa.Table, of: Kind) -> list[str]:
    """The columns of `users` or `items` that are attributes.

    Example:
        >>> items = pa.table({"item_id": ["a"], "popularity": [3], "role": ["toy"]})
        >>> attribute_names(items, "item"), attribute_names(items, "user")
        (['role'], ['item_id', 'popularity'])
    """
    return [name for name in table.column_names if not is_reserved(name, of)]


def write(
    path: Path,
    *,
    items: pa.Table,
    users: pa.Table,
    vocabularies: Mapping[str, Stored],
    parts: Mapping[str, Iterable[Events]],
    contract: Mapping[str, Any],
    manifest: dict[str, Any],
) -> None:
    """Writes a whole prepared folder at `path`, or nothing.

    Args:
        items: item_id (string), popularity (int64, training events of distinct users), attributes.
        users: user_id (string), role (string), attributes (string or a list of them, null where
            unknown), validation_unknown and holdout_unknown (int64).
        vocabularies: per user attribute that is a sparse input, its values in index order, or
            {"hashed": rows}.
        parts: per part, its users' events in the order of `users`, in one or more pieces, taken
            one at a time.
        contract: the data contract report.
        manifest: at least repeats (bool), instants (part -> seconds or None), split, config.
    """
    with folder.writing(path, KIND, manifest) as draft:
        pq.write_table(items, draft / "catalog.parquet", write_page_checksum=True)
        pq.write_table(users, draft / "users.parquet", write_page_checksum=True)
        (draft / "vocabularies.json").write_text(json.dumps(vocabularies, ensure_ascii=False))
        (draft / "contract.json").write_text(json.dumps(contract, indent=2, ensure_ascii=False))
        for name in PARTS:
            _write_part(draft / f"{name}.arrow", iter(parts[name]))


def _write_part(path: Path, pieces: Iterator[Events]) -> None:
    first = next(pieces)
    with PartWriter(path, list(first.columns)) as part:
        for piece in chain([first], pieces):
            part.append(piece)


def ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """starts[0], starts[0] + 1, ..., for each range, one after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
