"""Events with a part and a role -> the tables and lists of a prepared folder.

Ids become indices here: items and users in ascending order of their ids' UTF-8 bytes. The catalog
is what the users that a model is trained on had before the holdout, and cold items where they are
asked for; events on other items are counted for users who are judged on them, and left out of the
lists. The catalog and the core count
the validation part too: it is known before the holdout, and only the holdout must stay unknown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from deeprec.data.store import COLUMNS, PARTS, Events
from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

PIECE_EVENTS = 2**22  # events in memory at once while writing; also a record batch of the file
PIECE_USERS = 2**20
MAX_KINDS = 127  # int8
SINGULAR = {"times": "time", "kinds": "kind", "values": "value", "prices": "price"}


@dataclass(frozen=True)
class Indexed:
    """Events whose users and items are rows of two tables.

    Args:
        events: part, row (of the user), index (of the item; null if outside the catalog), and where
            known times, kinds, values and prices as they are stored.
        users: row, user, role.
        items: index as `row`, item, popularity.
        num_items: size of the catalog.
        kinds: names of the kinds, in index order.
        lengths: events of each user in each part, catalog items only; int64 [U].
        unknown: likewise, events outside the catalog.
    """

    events: ir.Table
    users: ir.Table
    items: ir.Table
    num_items: int
    kinds: list[str]
    lengths: Mapping[str, npt.NDArray[np.int64]]
    unknown: Mapping[str, npt.NDArray[np.int64]]

    @property
    def num_users(self) -> int:
        return len(self.lengths["train"])

    @property
    def columns(self) -> list[str]:
        """The columns of a part's lists."""
        return ["items", *(name for name in SINGULAR if name in self.events.columns)]


def index(workspace: Workspace, events: ir.Table, cold: Sequence[ir.Table] = ()) -> Indexed:
    """Gives every user and item its row.

    Args:
        events: user, item, part, role, in_core and, where known, time, kind, value, price.
        cold: tables of `item`: in the catalog, whether anybody had them or not.

    Raises:
        DataError: there is nothing to train on, or there are too many kinds.
    """
    users = _users(workspace, events)
    items = _items(workspace, events, cold)
    kinds = _kinds(workspace, events)
    joined = events.join(users.select("user", "row"), "user")
    joined = joined.left_join(items.select("item", index=items.row), "item")
    stored = joined.select("part", "row", "index", **_stored(joined, kinds))
    kept = workspace.keep("indexed", stored.order_by(["part", "row"]))
    num_users, num_items = (workspace.count(table) for table in (users, items))
    if not num_items:
        raise DataError(
            "no event is left to train on: the split, data.filters.min_users_per_item or "
            "min_items_per_user took them all; loosen them"
        )
    lengths = _per_user(workspace, kept.filter(kept["index"].notnull()), num_users)
    unknown = _per_user(workspace, kept.filter(kept["index"].isnull()), num_users)
    return Indexed(kept, users, items, num_items, kinds, lengths, unknown)


def pieces(workspace: Workspace, indexed: Indexed, part: str) -> Iterator[Events]:
    """The lists of one part, some users at a time, in order; never more than a piece in memory.

    The cuts between pieces follow from the lists alone, so equal events give equal files.
    """
    lengths = indexed.lengths[part]
    for first, end in _cuts(lengths):
        offsets = np.concatenate([[0], np.cumsum(lengths[first:end])])
        yield Events(offsets, **_columns(workspace, indexed, part, first, end))


def seen_again(workspace: Workspace, events: ir.Table) -> int:
    """Holdout events on items that the same user has in train or validation."""
    history = events.filter((events.part < 2) & events["index"].notnull())
    judged = events.filter((events.part == 2) & events["index"].notnull())
    again = judged.semi_join(history, ["row", "index"])
    return workspace.count(again)


def of_one_moment(workspace: Workspace, events: ir.Table) -> int:
    """Users all of whose events happened at once, where times are known."""
    if "times" not in events.columns:
        return 0
    spans = events.group_by("row").aggregate(span=events.times.max() - events.times.min())
    return workspace.count(spans.filter(spans.span == 0))


def _users(workspace: Workspace, events: ir.Table) -> ir.Table:
    users = events.select("user", "role").distinct()
    row = ibis.row_number().over(order_by=users.user)
    return workspace.keep("users", users.mutate(row=row).order_by("row"))


def _items(workspace: Workspace, events: ir.Table, cold: Sequence[ir.Table]) -> ir.Table:
    trained = events.role.isin(["all", "train"])
    known = events.filter((events.part < 2) & trained & events.in_core)
    items = known.group_by("item").aggregate(
        popularity=known.user.nunique(where=known.part == 0)  # users, not events
    )
    for table in cold:
        listed = table.filter(table.item.notnull()).select("item").distinct()
        none = ibis.literal(0, "int64")
        items = items.union(listed.anti_join(items, "item").mutate(popularity=none))
    row = ibis.row_number().over(order_by=items.item)
    return workspace.keep("items", items.mutate(row=row).order_by("row"))


def _kinds(workspace: Workspace, events: ir.Table) -> list[str]:
    if "kind" not in events.columns:
        return []
    names = workspace.fetch(events.select("kind").distinct().order_by("kind"))["kind"].to_pylist()
    if len(names) > MAX_KINDS:
        raise DataError(
            f"data.kind: at most {MAX_KINDS} kinds of events, found {len(names):,} such as "
            f"{names[0]!r}; is it the right column? data.filters.kinds keeps some"
        )
    return list(names)


def _stored(events: ir.Table, kinds: Sequence[str]) -> dict[str, ir.Column]:
    """Columns as they are stored, null-free."""
    columns: dict[str, ir.Column] = {}
    if "time" in events.columns:
        columns["times"] = events.time
    if kinds:
        cases = [(events.kind == name, number) for number, name in enumerate(kinds)]
        columns["kinds"] = ibis.cases(*cases).cast("int8")
    for name in ("value", "price"):
        if name in events.columns:
            columns[f"{name}s"] = events[name].cast("float32")
    return columns


def _per_user(
    workspace: Workspace, events: ir.Table, num_users: int
) -> dict[str, npt.NDArray[np.int64]]:
    counts = workspace.fetch(events.group_by("part", "row").aggregate(count=ibis._.count()))
    part, row, count = (counts[name].to_numpy() for name in ("part", "row", "count"))
    totals: dict[str, npt.NDArray[np.int64]] = {}
    for number, name in enumerate(PARTS):
        totals[name] = np.zeros(num_users, np.int64)
        totals[name][row[part == number]] = count[part == number]
    return totals


def _cuts(lengths: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges of users of at most PIECE_EVENTS events, or of one user who has more."""
    ends = np.cumsum(lengths)
    cuts: list[tuple[int, int]] = []
    first = 0
    while first < len(lengths) or not cuts:
        before = int(ends[first - 1]) if first else 0
        end = int(np.searchsorted(ends, before + PIECE_EVENTS, side="right"))
        end = min(max(end, first + 1), first + PIECE_USERS, len(lengths))
        cuts.append((first, end))
        first = max(end, first + 1)
    return cuts


def _columns(
    workspace: Workspace, indexed: Indexed, part: str, first: int, end: int
) -> dict[str, npt.NDArray[Any]]:
    events = indexed.events
    mine = events.filter(
        (events.part == PARTS.index(part))
        & events.row.between(first, end - 1)
        & events["index"].notnull()
    )
    order = ["row", "times", "index", "kinds", "values", "prices"]
    found = workspace.fetch(mine.order_by([name for name in order if name in mine.columns]))
    names = {"items": "index", **{name: name for name in indexed.columns if name != "items"}}
    return {name: _array(found[column], name) for name, column in names.items()}


def _array(column: pa.ChunkedArray, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = column.to_numpy()
    return array.astype(COLUMNS[name].to_pandas_dtype(), copy=False)
