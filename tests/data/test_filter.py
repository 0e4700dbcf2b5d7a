"""Filters against the same thing in plain Python; the core never looks at the holdout."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import ibis.expr.types as ir
import pytest

from deeprec.data.filter import Filters, cap_histories, keep_core, keep_events
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError

Make = Callable[..., ir.Table]
NAMES = "user item time kind value"
DAY = 86_400


def rows(space: Workspace, table: ir.Table, names: str) -> list[tuple[Any, ...]]:
    found = space.fetch(table.select(*names.split())).to_pydict()
    return sorted(zip(*found.values(), strict=True))


def random_rows(seed: int, count: int = 80) -> list[tuple[str, str, int, int, str]]:
    """(user, item, time, part, role) with unseen users among them."""
    draw = random.Random(seed)
    role = {f"u{u}": draw.choice(["all", "all", "all", "holdout"]) for u in range(14)}
    users = [draw.choice(list(role)) for _ in range(count)]
    return [
        (user, f"i{draw.randint(0, 11)}", draw.randint(0, 9), draw.choice([0, 0, 1, 2]), role[user])
        for user in users
    ]


def core_by_hand(
    rows: Iterable[tuple[Any, ...]], least_users: int, least_items: int
) -> tuple[set[str], set[str]]:
    """Users and items left, taking one away at a time until every one has enough."""
    pairs = {(user, item, role) for user, item, _, part, role in rows if part < 2}
    while True:
        poor_items = {
            i for _, i, _ in pairs
            if len({u for u, other, role in pairs if other == i and role == "all"}) < least_users
        }  # fmt: skip
        poor_users = {
            u for u, _, _ in pairs if len({i for other, i, _ in pairs if other == u}) < least_items
        }
        if not poor_items and not poor_users:
            return {u for u, _, _ in pairs}, {i for _, i, _ in pairs}
        if poor_items:
            pairs = {pair for pair in pairs if pair[1] != min(poor_items)}
        else:
            pairs = {pair for pair in pairs if pair[0] != min(poor_users)}


@pytest.mark.parametrize("seed", [1, 2, 9, 13, 16, 17])  # a core is left, and it is smaller
def test_the_core_is_the_largest_set_in_which_everyone_has_enough(
    space: Workspace, events: Make, seed: int
) -> None:
    given = random_rows(seed)
    users, items = core_by_hand(given, 3, 3)
    core, _ = keep_core(
        space,
        events("user item time part role", given),
        Filters(min_users_per_item=3, min_items_per_user=3),
    )
    expected = [
        (*row, row[1] in items) for row in given
        if row[0] in users and (row[1] in items or row[3] > 0)
    ]  # fmt: skip
    assert rows(space, core, "user item time part role in_core") == sorted(expected)


def test_the_holdout_does_not_decide_the_core(space: Workspace, events: Make) -> None:
    known = [("a", "x", 0, 0, "all"), ("b", "x", 0, 0, "all"), ("a", "y", 0, 0, "all")]
    later = [("b", "y", 1, 2, "all"), ("c", "y", 1, 2, "all")]  # would make y an item of three
    core, checks = keep_core(
        space, events("user item time part role", known + later), Filters(min_users_per_item=2)
    )
    kept = rows(space, core, "user item part in_core")
    assert kept == [
        ("a", "x", 0, True),
        ("b", "x", 0, True),
        ("b", "y", 2, False),
        ("c", "y", 2, False),
    ]
    assert checks[0].facts == {"events_dropped": 1, "users_dropped": 0, "items_dropped": 1}


def test_each_filter_keeps_what_it_says_and_counts_the_rest(space: Workspace, events: Make) -> None:
    given = [
        ("a", "x", 0, "view", 1.0),
        ("a", "y", DAY, "buy", 2.0),
        ("b", "x", 2 * DAY, "buy", 3.0),
        ("b", "y", 3 * DAY - 1, "buy", 4.0),
        ("b", "z", 3 * DAY, "buy", 5.0),
        ("b", "z", 3 * DAY, "buy", 5.0),
    ]
    table = events(NAMES, given)
    cases: list[tuple[Filters, list[int]]] = [
        (Filters(), [0, 1, 2, 3, 4, 5]),
        (Filters(minimum_value=3), [2, 3, 4, 5]),
        (Filters(kinds=["view"]), [0]),
        (Filters(first_time="1970-01-02", last_time="1970-01-03"), [1, 2, 3]),
        (Filters(first_time=1, last_time="1970-01-03T00:00:00"), [1, 2]),
        (Filters(drop_duplicates=True), [0, 1, 2, 3, 4]),
    ]
    for filters, kept in cases:
        found, checks = keep_events(space, table, filters)
        assert rows(space, found, NAMES) == sorted(given[place] for place in kept)
        if checks:
            dropped = sum(check.facts["events_dropped"] for check in checks)
            assert dropped == len(given) - len(kept)


def test_a_filter_that_leaves_nothing_or_lacks_its_column_says_so(
    space: Workspace, events: Make
) -> None:
    table = events("user item", [("a", "x")])
    with pytest.raises(DataError, match=r"filters\.kinds needs the kind"):
        keep_events(space, table, Filters(kinds=["buy"]))
    with pytest.raises(DataError, match=r"filters\.kinds=\['sale'\] left none of 1 events"):
        keep_events(space, events("user item kind", [("a", "x", "buy")]), Filters(kinds=["sale"]))
    with pytest.raises(DataError, match="min_users_per_item=9"):
        keep_core(
            space,
            events("user item part role", [("a", "x", 0, "all")]),
            Filters(min_users_per_item=9),
        )


@pytest.mark.parametrize("longest", [1, 3])
def test_the_cap_keeps_the_latest_of_training(space: Workspace, events: Make, longest: int) -> None:
    given = random_rows(seed=9)
    capped, _ = cap_histories(space, events("user item time part role", given), longest, 0)
    kept = rows(space, capped, "user item time part role")
    assert not Counter(kept) - Counter(given)
    assert [row for row in kept if row[3] > 0] == sorted(row for row in given if row[3] > 0)
    for user in {row[0] for row in given}:  # the latest times, whichever of equal ones
        times = [
            sorted(row[2] for row in some if row[0] == user and row[3] == 0)
            for some in (given, kept)
        ]
        assert times[1] == times[0][-longest:]
    with pytest.raises(DataError, match="no time"):
        cap_histories(space, events("user item part", [("a", "x", 0)]), 1, 0)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_users_per_item"):
        Filters(min_users_per_item=0)
    with pytest.raises(ConfigError, match="'soon'"):
        Filters(first_time="soon")
    with pytest.raises(ConfigError, match="cold_items keeps items that nobody had"):
        Filters(cold_items=True, min_users_per_item=2)


def test_items_that_nobody_had_lately_leave(space: Workspace, events: Make) -> None:
    """The end is the latest known event, day 10: what the holdout shows of an item counts not."""
    given = [
        ("a", "old", 1 * DAY, 0, "all"),
        ("b", "old", 6 * DAY, 0, "all"),
        ("a", "edge", 7 * DAY, 0, "all"),
        ("b", "new", 9 * DAY, 0, "all"),
        ("b", "validated", 10 * DAY, 1, "all"),
        ("a", "validated", 2 * DAY, 0, "all"),
        ("a", "old", 30 * DAY, 2, "all"),
    ]
    kept, checks = keep_core(
        space, events("user item time part role", given), Filters(max_idle_days=3)
    )
    found = {
        (item, part): in_core for item, part, in_core in rows(space, kept, "item part in_core")
    }
    assert found == {
        ("edge", 0): True,
        ("new", 0): True,
        ("validated", 0): True,
        ("validated", 1): True,
        ("old", 2): False,  # still there to be counted as unknown
    }
    [check] = checks
    assert check.facts["events_dropped"] == 2
    assert check.name == "filters.max_idle_days=3"


def test_the_core_is_counted_without_idle_items(space: Workspace, events: Make) -> None:
    given = [
        ("a", "old", 0, 0, "all"),
        ("a", "x", 9 * DAY, 0, "all"),
        ("b", "x", 9 * DAY, 0, "all"),
        ("b", "y", 9 * DAY, 0, "all"),
    ]
    filters = Filters(max_idle_days=1, min_items_per_user=2)
    kept, _ = keep_core(space, events("user item time part role", given), filters)
    assert rows(space, kept, "user item") == [("b", "x"), ("b", "y")]


def test_idle_items_need_times_and_sense(space: Workspace, events: Make) -> None:
    with pytest.raises(DataError, match="max_idle_days needs the time of each event"):
        keep_core(
            space, events("user item part role", [("a", "x", 0, "all")]), Filters(max_idle_days=1)
        )
    with pytest.raises(ConfigError, match="max_idle_days: must be 0 or more, got -1"):
        Filters(max_idle_days=-1)
    with pytest.raises(ConfigError, match="keeps items that nobody had, and max_idle_days=3"):
        Filters(max_idle_days=3, cold_items=True)
    with pytest.raises(ConfigError, match="min_users_per_value: must be 1 or more, got 0"):
        Filters(min_users_per_value=0)
