"""Ids are kept exactly; times become the seconds that Python's own calendar says."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import ibis
import pyarrow as pa
import pytest

from deeprec.data.column import as_id, as_number, as_seconds, instant, iso
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError

MOMENTS = [
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2017, 3, 1, 0, 0, 0, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 30, 1, 1, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
]
SECONDS = [int(moment.timestamp() // 1) for moment in MOMENTS]
NAIVE = [moment.replace(tzinfo=None) for moment in MOMENTS]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECONDS = [(moment - EPOCH) // timedelta(microseconds=1) for moment in MOMENTS]
SOMEWHERE = timezone(timedelta(hours=5, minutes=45))
WESTWARD = timezone(timedelta(hours=-3, minutes=-30))


def converted(
    space: Workspace, convert: Any, values: Any, **settings: Any
) -> tuple[list[Any], str]:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    table = space.keep("given", ibis.memtable(pa.table({"place": range(len(array)), "x": array})))
    found = convert(space, table, "x", "file: x", **settings)
    column, said = found if isinstance(found, tuple) else (found, "")
    result = space.fetch(table.select("place", y=column).order_by("place"))
    return result["y"].to_pylist(), said


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["007", "7", " 7", "", None, "Ａ", "1.0"], ["007", "7", " 7", None, None, "Ａ", "1.0"]),
        (pa.array([7, -1, 2**63 - 1, None]), ["7", "-1", str(2**63 - 1), None]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([17850.0, float("nan"), None, 2.0**53]), ["17850", None, None, str(2**53)]),
        (pa.array([7], pa.int64()).cast(pa.decimal128(20, 0)), ["7"]),
        (pa.array([Decimal(10**20), Decimal("-7.00"), None]), [str(10**20), "-7", None]),
    ],
)
def test_ids_are_kept_exactly(space: Workspace, values: Any, expected: list[str | None]) -> None:
    found, said = converted(space, as_id, values)
    assert found == expected
    floats = isinstance(values, pa.Array) and pa.types.is_floating(values.type)
    assert ("17850" in said) == floats  # what may surprise is said


@pytest.mark.parametrize(
    "values",
    [
        pa.array([Decimal("1.5")]),
        pa.array([2.0**63]),
        pa.array([1.5, 2.0]),
        pa.array([float("inf")]),
        pa.array([[1]]),
        pa.array(NAIVE),
    ],
)
def test_what_cannot_be_an_id_is_refused(space: Workspace, values: pa.Array) -> None:
    with pytest.raises(DataError, match="whole numbers"):
        converted(space, as_id, values)


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (pa.array(SECONDS), "seconds"),
        (pa.array([m // 1000 for m in MICROSECONDS]), "milliseconds"),
        (pa.array(MICROSECONDS), "microseconds"),
        (pa.array([m * 1000 + 999 for m in MICROSECONDS]), "nanoseconds"),
        (pa.array([m / 1e6 for m in MICROSECONDS]), "seconds"),
        ([str(s) for s in SECONDS], "seconds"),
        ([str(m) for m in MICROSECONDS], "microseconds"),
        ([f"{m / 1e6:.6f}" for m in MICROSECONDS], "seconds"),
        ([m.isoformat() for m in NAIVE], "ISO"),
        ([m.isoformat().replace("+00:00", "Z") for m in MOMENTS], "ISO"),
        ([m.astimezone(SOMEWHERE).isoformat() for m in MOMENTS], "ISO"),
        ([m.astimezone(WESTWARD).strftime("%Y-%m-%d %H:%M:%S.%f%z") for m in MOMENTS], "ISO"),
        (pa.array(NAIVE, pa.timestamp("us")), "timestamps, as UTC"),
        (pa.array(NAIVE, pa.timestamp("ns")), "timestamps, as UTC"),
        (pa.array(MOMENTS, pa.timestamp("us", tz="America/New_York")), "timestamps"),
    ],
)
def test_times_become_exact_seconds_and_the_unit_is_said(
    space: Workspace, values: Any, unit: str
) -> None:
    found, said = converted(space, as_seconds, values)
    assert found == SECONDS
    assert said.startswith(unit)


def test_consecutive_seconds_stay_apart_and_old_times_are_floored(space: Workspace) -> None:
    seconds = list(range(1_700_000_000, 1_700_000_600))
    nanoseconds = [s * 10**9 + 999_999_999 for s in seconds]
    assert converted(space, as_seconds, pa.array(nanoseconds))[0] == seconds
    assert converted(space, as_seconds, pa.array([-1, -1001, 0, 10**12]))[0] == [-1, -2, 0, 10**9]


def test_numbers_in_text_that_no_time_can_be_are_refused(space: Workspace) -> None:
    with pytest.raises(DataError, match=r"below 2\^63; 1 are not, such as '9223372036854775808'"):
        converted(space, as_seconds, ["9223372036854775808", "1700000000"])


def test_dates_are_midnight_and_other_text_needs_its_format(space: Workspace) -> None:
    days = [date(1970, 1, 2), date(2024, 2, 29)]
    expected = [86_400, int(datetime(2024, 2, 29, tzinfo=UTC).timestamp())]
    assert converted(space, as_seconds, pa.array(days))[0] == expected
    assert converted(space, as_seconds, [d.isoformat() for d in days])[0] == expected
    american = ["1/2/1970 0:00", "02/29/2024 00:00"]
    assert converted(space, as_seconds, american, time_format="%m/%d/%Y %H:%M")[0] == expected
    with pytest.raises(DataError, match="time_format"):
        converted(space, as_seconds, american)


def test_dates_written_as_numbers_need_their_format_and_are_no_seconds(space: Workspace) -> None:
    days = ["20170131", "20240229", "19991231"]
    expected = [datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC).timestamp() for day in days]
    for kind in (pa.string(), pa.int64(), pa.float64(), pa.decimal128(10, 2)):
        values = pa.array([*days, None]).cast(kind)
        found, _ = converted(space, as_seconds, values, time_format="%Y%m%d")
        assert found == [*expected, None]
        with pytest.raises(DataError, match=r"data\.time_format=%Y%m%d"):
            converted(space, as_seconds, values)
    seconds = [20170131, 20170132]  # of which one is no day
    assert converted(space, as_seconds, pa.array(seconds))[0] == seconds


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (pa.array([1_700_000_000, 1_700_000_000_000]), "1 look like seconds, 1 look like milli"),
        (["1700000000", "2017-01-01"], "1 are numbers and 1 ISO text"),
        (["2017-01-01", "yesterday"], "'yesterday'"),
        (["1700000000", "1700000000.5", "yesterday"], "2 are numbers.*'yesterday'"),
        (["1700000000", "2017-01-01", "now"], "'now'"),
        (["2017-02-30"], "calendar"),
        (pa.array([[1]]), "times must be"),
    ],
)
def test_mixed_units_and_forms_are_refused(space: Workspace, values: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        converted(space, as_seconds, values)


@pytest.mark.parametrize("none", ["NaN", "nan", "", " "])
@pytest.mark.parametrize(
    ("text", "time_format"), [("86400", None), ("86400.5", None), ("1970-01-02", None),
                              ("2/1/1970", "%d/%m/%Y")],
)  # fmt: skip
def test_text_that_says_none_is_no_time(
    space: Workspace, none: str, text: str, time_format: str | None
) -> None:
    found, _ = converted(space, as_seconds, [text, none], time_format=time_format)
    assert found == [86_400, None]


def test_numbers_are_read_and_what_is_none_is_refused(space: Workspace) -> None:
    assert converted(space, as_number, ["1.5", "", "-2e3", ".5"])[0] == [1.5, None, -2000.0, 0.5]
    assert converted(space, as_number, pa.array([1.5, float("nan"), None]))[0] == [1.5, None, None]
    assert converted(space, as_number, pa.array([2, 3]))[0] == [2.0, 3.0]
    with pytest.raises(DataError, match="1 are not, such as 'many'"):
        converted(space, as_number, ["1", "many"])
    with pytest.raises(DataError, match="finite"):
        converted(space, as_number, pa.array([1.0, float("inf")]))
    with pytest.raises(DataError, match="finite number; 2 are not, such as '-1e400'"):
        converted(space, as_number, ["1", "1e999", "-1e400", "1e300"])


def test_instants() -> None:
    assert instant("2017-12-01") == datetime(2017, 12, 1, tzinfo=UTC).timestamp()
    assert instant("2017-12-01", end_of_day=True) == instant("2017-12-02") - 1
    assert instant("2017-12-01T01:00:00+01:00") == instant("2017-12-01")
    assert instant("1512086400") == instant(1512086400) == instant("2017-12-01")
    assert iso(instant("2017-12-01")) == "2017-12-01 00:00:00"
    assert iso(10**18) == f"{10**18} s"
    with pytest.raises(ConfigError, match="'December'"):
        instant("December")
    for given, meant in (
        ("20230301", "2023-03-01"),
        (20230301, "2023-03-01"),
        (1999, "1999-01-01"),
    ):
        with pytest.raises(ConfigError, match=f"is {meant} meant"):
            instant(given)
    assert [instant(number) for number in (20230231, -2023, 86_400)] == [20230231, -2023, 86_400]
