"""What is wrong with events is found, counted and said."""

from collections.abc import Callable

import ibis.expr.types as ir
import pytest

from deeprec.data import contract
from deeprec.data.contract import Check
from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

Make = Callable[..., ir.Table]


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_events_duplicates_and_repeats_are_counted(space: Workspace, events: Make) -> None:
    given = [("a", "x", 1), ("a", "x", 1), ("a", "x", 2), ("a", "y", 2), ("b", "x", 1)]
    checks = by_name(contract.look_at_events(space, events("user item time", given), repeats=False))
    assert checks["events"].facts == {"events": 5, "users": 2, "items": 2}
    assert checks["exact duplicates"].facts == {"duplicates": 1}
    assert checks["exact duplicates"].level == "warn"
    assert checks["repeats"].facts["repeats"] == 2
    assert checks["repeats"].level == "warn"
    assert "data.repeats=true" in checks["repeats"].advice
    assert checks["histories"].facts["longest"] == 4


def test_repeats_that_fit_the_config_are_fine(space: Workspace, events: Make) -> None:
    twice, once = [("a", "x"), ("a", "x")], [("a", "x"), ("a", "y")]
    levels = [
        by_name(contract.look_at_events(space, events("user item", rows), repeats=allowed))[
            "repeats"
        ].level
        for rows, allowed in [(twice, True), (once, False), (once, True)]
    ]
    assert levels == ["ok", "ok", "warn"]


@pytest.mark.parametrize(
    "twins",
    [
        ("007", "7"),
        ("Café", "café"),
        ("cafe\u0301", "caf\u00e9"),  # two Unicode forms of one word
        ("ＡＢＣ", "abc"),  # full width
        ("straße", "STRASSE"),
        (" x", "x"),
        ("17850.0", "17850"),
        ("0", "000"),
    ],
)
def test_ids_that_look_alike_are_found(
    space: Workspace, events: Make, twins: tuple[str, str]
) -> None:
    different = [*twins, "70", "cafes", "1785", "0x", "00x"]
    table = events("user item", [(one, one) for one in different])
    for column in ("user", "item"):
        check = by_name(contract.look_at_ids(space, table, column))[f"look-alike {column} ids"]
        assert (check.level, check.facts) == ("warn", {"groups": 1, "ids": 2})
        # the contract is kept and passed on: it may show items, never a user
        assert all((repr(twin) in check.says) == (column == "item") for twin in twins)


def test_ids_that_do_not_look_alike_are_fine(space: Workspace, events: Make) -> None:
    ids = ["1", "10", "100", "a", "b", "ä", "1.5", "15", "é", "", "-1"]
    table = events("user item", [("u", item) for item in ids])
    assert {check.level for check in contract.look_at_ids(space, table, "item")} == {"ok"}


def test_traces_of_a_wrong_encoding_are_found(space: Workspace, events: Make) -> None:
    table = events("user item", [("u", item) for item in ["caf\ufffd", "a\tb", "a\x00", "fine é"]])
    check = by_name(contract.look_at_ids(space, table, "item"))["item ids in UTF-8"]
    assert check.level == "warn"
    assert (check.facts["replacement"], check.facts["control"]) == (1, 2)


COUNTS = {
    "users": 10, "items": 5, "train": 9, "train_users": 9, "validation": 3, "validation_users": 3,
    "holdout": 3, "holdout_users": 3, "holdout_unknown": 0, "holdout_seen": 0,
    "judged_users": 3, "empty_users": 0, "one_moment_users": 1,
}  # fmt: skip


@pytest.mark.parametrize("part", ["train", "validation", "holdout"])
def test_an_empty_part_fails(part: str) -> None:
    contract.refuse(contract.look_at_split(COUNTS, "train", repeats=False))
    with pytest.raises(DataError, match="0 events of 0 users"):
        contract.refuse(
            contract.look_at_split({**COUNTS, part: 0, f"{part}_users": 0}, "train", repeats=False)
        )


def test_what_cannot_be_hit_is_said() -> None:
    counts = {**COUNTS, "holdout_unknown": 3, "empty_users": 2, "holdout_seen": 2}
    levels = {c.name: c.level for c in contract.look_at_split(counts, "train", repeats=False)}
    assert levels["cold items"] == levels["empty users"] == levels["holdout in history"] == "warn"
    repeated = by_name(contract.look_at_split(counts, "train", repeats=True))
    assert "holdout in history" not in repeated
    assert "leave_last_out" in repeated["empty users"].advice
    baskets = {**counts, "one_moment_users": 10}
    advice = by_name(contract.look_at_split(baskets, "train", repeats=True))["empty users"].advice
    assert "random_fraction" in advice
    assert "leave_last_out" not in advice


@pytest.mark.parametrize(
    ("minimum_value", "count"), [(None, 2), (-1.0, 2), (0.0, None), (1.0, None)]
)
def test_values_below_zero_are_counted_unless_filtered(
    space: Workspace, events: Make, minimum_value: float | None, count: int | None
) -> None:
    table = events("user item value", [("u", "i", value) for value in (-2.0, -0.5, 0.0, 3.0)])
    found = contract.look_at_values(space, table, minimum_value)
    expected = [] if count is None else [("warn", {"events": count})]
    assert [(check.level, check.facts) for check in found] == expected
    assert contract.look_at_values(space, events("user item", [("u", "i")]), None) == []


@pytest.mark.parametrize(
    ("values", "least"),
    [
        ([0.5, 1.0, 2.0, 3.0, 3.5, 4.0, 4.5, 5.0], "minimum_value=4 keeps the 37.5%"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], "minimum_value=4 keeps the 40.0%"),
        ([1.0, 1.0, 1.0, 2.0, 3.0, 6.0], None),  # pieces
        ([0.0, 1.0], None),
        ([3.0, 14.0, 250.0], None),  # prices
    ],
)
def test_low_ratings_are_told_from_pieces(
    space: Workspace, events: Make, values: list[float], least: str | None
) -> None:
    table = events("user item value", [("u", "i", value) for value in values])
    found = contract.look_at_values(space, table, None)
    assert [check.name for check in found] == ([] if least is None else ["values"])
    assert least is None or least in found[0].advice
    assert contract.look_at_values(space, table, 0.0) == []


def test_the_report_is_as_bad_as_its_worst_check() -> None:
    checks = [Check("a", "ok", "x"), Check("b", "fail", "y", "z"), Check("c", "warn", "y")]
    assert contract.report(checks)["level"] == "fail"
    assert contract.worst([]) == "ok"
    assert contract.shown(checks).row_count == 3


def test_the_memory_of_a_table_is_items_times_width_times_four_bytes() -> None:
    check = contract.look_at_memory(1_000_000)
    assert check.facts["catalog_table_bytes"] == 1_000_000 * check.facts["width"] * 4
    assert contract.look_at_memory(10**12).level == "warn"
