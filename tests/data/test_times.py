"""Times that cannot be meant are found, counted and said."""

from collections.abc import Callable

import ibis.expr.types as ir
import pytest

from deeprec.data.contract import Check
from deeprec.data.times import look_at_span, look_at_times
from deeprec.data.workspace import Workspace

Make = Callable[..., ir.Table]
YEAR = 365 * 86_400


def timed(events: Make, times: list[int]) -> ir.Table:
    return events("user item time", [("u", "i", time) for time in times])


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_odd_times_are_counted(space: Workspace, events: Make) -> None:
    now = 1_700_000_000
    times = [0, 0, -5, 20_170_131, now - 1, now, now + 1, now + 10**6]
    checks = by_name(
        look_at_times(space, events("user item time", [("u", "i", t) for t in times]), now)
    )
    assert checks["times"].facts["first"] == -5
    assert checks["times"].facts["last"] == now + 10**6
    found = {name: check.facts["events"] for name, check in checks.items() if name != "times"}
    assert found == {
        "times of zero": 2,
        "times before 1970": 1,
        "times from 1970 to 1989": 1,
        "times in the future": 2,
    }
    one = look_at_times(space, events("user item time", [("u", "i", 10**9)] * 2), now)
    assert [check.level for check in one] == ["ok", "warn"]


def test_times_whose_form_was_told_are_as_old_as_they_say(space: Workspace, events: Make) -> None:
    table = timed(events, [-(10**9), 0, 10**6, 10**9, 2 * 10**9])
    checks = look_at_times(space, table, 1_700_000_000, told=True)
    assert [check.name for check in checks] == ["times", "times in the future"]


@pytest.mark.parametrize(
    ("times", "meant"),
    [([1871, 1987, 2007], True), ([1987] * 9 + [0], True), ([1987, 20_170_131, 5], False)],
)
def test_years_are_told_from_seconds(
    space: Workspace, events: Make, times: list[int], meant: bool
) -> None:
    early = by_name(look_at_times(space, timed(events, times)))["times from 1970 to 1989"]
    assert ("data.time_format=%Y" in early.advice) == meant


@pytest.mark.parametrize(
    ("far", "filters"),
    [
        ([15 * YEAR, 16 * YEAR], ["last_time=1980-"]),
        ([2 * YEAR], ["first_time=1979-"]),
        ([0, 20 * YEAR], ["first_time=1979-", "last_time=1980-"]),
        ([int(11.9 * YEAR)], []),  # the whole is not twice as long
        ([15 * YEAR] * 6, []),  # not a few of 5,000
    ],
)
def test_a_few_events_of_another_decade_are_told(
    space: Workspace, events: Make, far: list[int], filters: list[str]
) -> None:
    year = [int((10 + n / 5000) * YEAR) for n in range(5000)]  # from 1979-12-29 on
    checks = look_at_span(space, timed(events, [*year, *far]))
    assert len(checks) == bool(filters)
    for check in checks:
        assert (check.level, check.facts["events"]) == ("warn", len(far))
        assert check.facts["others_span_seconds"] == year[-1] - year[0]
        assert all(f"data.filters.{one}" in check.advice for one in filters)
        assert check.advice.count("data.filters.") == len(filters)


def test_growth_that_was_slow_at_first_is_no_stray_decade(space: Workspace, events: Make) -> None:
    table = timed(events, [int(10 * YEAR * (n / 4000) ** 0.1) for n in range(1, 4001)])
    assert look_at_span(space, table) == []
