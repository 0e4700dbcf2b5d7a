"""A few judged users up close: what they had, what they took, and what each system said.

They are numbered, never named: a report is passed on more freely than the data it was made from.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deeprec.batch import Batch, Jagged
from deeprec.catalog import Catalog
from deeprec.data.dataset import drawn_users
from deeprec.data.judge import judged_batch, without_seen
from deeprec.data.store import Prepared, attribute_names
from deeprec.errors import ConfigError
from deeprec.evaluation.question import Question
from deeprec.evaluation.system import System
from deeprec.metric.hits import found

LENGTH = 10  # items shown of each list
NAMES = ("name", "title", "description", "item_name", "product_name")


def examples(
    question: Question, systems: Sequence[System], names: Sequence[str], number: int, seed: int
) -> list[dict[str, Any]]:
    """Those whom the question names, then as many of the judged users as asked for, drawn.

    Returns:
        Per user: `history` (the latest items first, with how often), `taken`, and `lists` per
        system, whose items say whether they are a hit and whether the user had them before. Items
        are places in a table of names: `{"item": id, "name": text or None}`. Of one who was named
        `asked_for` is true; who has nothing in the part took nothing.
    """
    users = drawn_users(question.users, number, seed)
    asked = Question(
        question.prepared,
        question.part,
        question.exclude_seen,
        [LENGTH],
        question.batch_users,
        users,
    )
    shown = []
    if len(question.up_close):
        batch = judged_batch(question.prepared, question.up_close, question.part)
        batch = without_seen(batch) if question.exclude_seen else batch
        shown = [one | {"asked_for": True} for one in _of_batch(asked, batch, systems, names)]
    for _, batch in asked.batches():
        if batch.num_users:
            shown += _of_batch(asked, batch, systems, names)
    return shown


def rows_up_close(prepared: Prepared, user_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    """int64 [N]: the rows of users, as their ids are given.

    Raises:
        ConfigError: an id is that of no user.
    """
    rows = Catalog(prepared.users["user_id"]).indices_of(user_ids)
    for user_id, row in zip(user_ids, rows, strict=True):
        if row < 0:
            raise ConfigError(
                f"users_up_close: {prepared.path} has no user {user_id!r}; give ids as they stand "
                "in the events"
            )
    return rows


def name_column(prepared: Prepared) -> str | None:
    """The item attribute that people call an item by; None if there is none.

    It is the one called so, or else the text of most different values.
    """
    attributes = attribute_names(prepared.items, "item")
    called = [name for name in NAMES if name in attributes]
    return next(iter(called or sorted(attributes, key=lambda a: -_variety(prepared, a))), None)


def _variety(prepared: Prepared, name: str) -> int:
    variety: int = pc.count_distinct(prepared.items[name]).as_py()
    return variety


def _of_batch(
    question: Question, batch: Batch, systems: Sequence[System], names: Sequence[str]
) -> list[dict[str, Any]]:
    assert batch.target is not None
    called = _Called(question.prepared)
    lists = {}
    for name, system in zip(names, systems, strict=True):
        items = system.lists(batch, LENGTH)[:, :LENGTH].numpy()
        hits = np.zeros(items.shape, bool)
        users, places, _ = found(items, batch.target)
        hits[users, places] = True
        lists[name] = items, hits
    return [
        _of_user(_row(batch.history, user), _row(batch.target, user), called)
        | {
            "lists": {
                name: _list(items[user], hits[user], _row(batch.history, user), called)
                for name, (items, hits) in lists.items()
            }
        }
        for user in range(batch.num_users)
    ]


def _of_user(history: list[int], taken: list[int], called: "_Called") -> dict[str, Any]:
    times = Counter(history)
    latest = list(dict.fromkeys(reversed(history)))[:LENGTH]
    return {
        "events": len(history),
        "history": [{**called(item), "times": times[item]} for item in latest],
        "num_taken": len(taken),
        "taken": [{**called(item), "had": item in times} for item in taken],
    }


def _list(
    items: np.ndarray[Any, Any], hits: np.ndarray[Any, Any], history: list[int], called: "_Called"
) -> list[dict[str, Any]]:
    had = set(history)
    return [
        {**called(int(item)), "hit": bool(hit), "had": int(item) in had}
        for item, hit in zip(items, hits, strict=True)
        if item >= 0
    ]


def _row(rows: Jagged, user: int) -> list[int]:
    row: list[int] = rows.values[rows.offsets[user] : rows.offsets[user + 1]].tolist()
    return row


class _Called:
    """What people call an item."""

    def __init__(self, prepared: Prepared) -> None:
        self._catalog = prepared.catalog
        column = name_column(prepared)
        self._names = prepared.items[column].cast(pa.string()) if column else None

    def __call__(self, item: int) -> dict[str, Any]:
        name = self._names[item].as_py() if self._names is not None else None
        return {"item": self._catalog.ids_of([item])[0], "name": name}
