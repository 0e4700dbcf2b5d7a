"""Lists of a part: the same whether written in one piece or in many."""

from collections.abc import Callable
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pytest

from deeprec.data import part
from deeprec.data.part import index, pieces, seen_again
from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

Make = Callable[..., ir.Table]
NAMES = "user item time kind value part role"


def rows(seed: int) -> list[tuple[Any, ...]]:
    draw = np.random.default_rng(seed)
    return [
        (
            f"u{draw.integers(12)}", f"i{draw.integers(9)}", int(draw.integers(5)),
            str(draw.choice(["buy", "view"])), float(draw.integers(3)), int(draw.integers(3)),
            "all",
        )
        for _ in range(150)
    ]  # fmt: skip


def lists(space: Workspace, events: ir.Table, name: str) -> list[list[tuple[Any, ...]]]:
    indexed = index(space, events.mutate(in_core=events.item != "i8"))
    found: list[list[tuple[Any, ...]]] = []
    for piece in pieces(space, indexed, name):
        columns = list(zip(*piece.columns.values(), strict=True))
        cuts = zip(piece.offsets, piece.offsets[1:], strict=False)
        found.extend([tuple(x.item() for x in row) for row in columns[a:b]] for a, b in cuts)
    return found


@pytest.mark.parametrize("piece_events", [1, 7, 10**6])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_lists_hold_each_users_events_in_order(
    space: Workspace, events: Make, monkeypatch: pytest.MonkeyPatch, number: int, piece_events: int
) -> None:
    monkeypatch.setattr(part, "PIECE_EVENTS", piece_events)
    monkeypatch.setattr(part, "PIECE_USERS", 5)
    given = rows(0)
    items = sorted({row[1] for row in given if row[5] < 2 and row[1] != "i8"})
    expected = [
        sorted(
            (items.index(i), t, ["buy", "view"].index(k), v)
            for u, i, t, k, v, p, _ in given
            if u == user and p == number and i in items
        )
        for user in sorted({row[0] for row in given})
    ]
    by_time = [sorted(mine, key=lambda e: (e[1], e[0], e[2], e[3])) for mine in expected]
    assert lists(space, events(NAMES, given), part.PARTS[number]) == by_time


def test_popularity_counts_training_users_and_unknown_items_are_counted(
    space: Workspace, events: Make
) -> None:
    given = [
        ("a", "x", 0, "all"), ("a", "x", 0, "all"), ("b", "x", 0, "all"), ("b", "y", 1, "all"),
        ("c", "z", 2, "all"), ("c", "x", 2, "all"), ("d", "w", 0, "holdout"),
        ("d", "x", 0, "holdout"), ("d", "w", 2, "holdout"), ("a", "x", 2, "all"),
    ]  # fmt: skip
    table = events("user item part role", given)
    indexed = index(space, table.mutate(in_core=True))
    items = space.fetch(indexed.items.order_by("row")).to_pydict()
    assert items["item"] == ["x", "y"]  # not w and z: nobody that is trained on had them before
    assert items["popularity"] == [2, 0]  # not c, who came later, nor d, who is never trained on
    assert indexed.unknown["holdout"].tolist() == [0, 0, 1, 1]
    assert indexed.lengths["train"].tolist() == [2, 1, 0, 1]
    assert seen_again(space, indexed.events) == 1  # a had x


def test_cold_items_are_in_the_catalog_where_they_are_asked_for(
    space: Workspace, events: Make
) -> None:
    given = [("a", "x", 0, "all"), ("b", "n", 0, "all"), ("a", "z", 2, "all")]
    table = events("user item part role", given).mutate(in_core=True)
    listed = events("item kind", [("m", "k"), ("x", "k"), ("z", "k"), ("m", "l"), (None, "k")])
    more = events("item", [("b",), ("m",)])
    indexed = index(space, table, [listed, more])
    items = space.fetch(indexed.items.order_by("row")).to_pydict()
    assert items["item"] == ["b", "m", "n", "x", "z"]
    assert items["popularity"] == [0, 0, 1, 1, 0]
    assert indexed.num_items == 5
    assert indexed.unknown["holdout"].tolist() == [0, 0]  # z is known from its list


def test_nothing_to_train_on_is_an_error(space: Workspace, events: Make) -> None:
    table = events("user item part role", [("a", "x", 2, "all")])
    with pytest.raises(DataError, match="no event is left to train on"):
        index(space, table.mutate(in_core=True))


def test_too_many_kinds_are_an_error(space: Workspace, events: Make) -> None:
    given = [("a", "x", f"k{n}", 0, "all") for n in range(128)]
    with pytest.raises(DataError, match="at most 127 kinds"):
        index(space, events("user item kind part role", given).mutate(in_core=True))
