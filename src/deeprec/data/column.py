"""Ids, times and numbers of a file's columns, in the one form that everything later knows.

Ids become strings, exactly; times int64 seconds since 1970-01-01 UTC, exactly; numbers float64.
What a column holds is looked at before it is converted, so that nothing is changed in silence.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import ibis
import ibis.expr.types as ir

from deeprec.annotation import Rule
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError

# A time's unit is read off its size: as seconds, 1e11 lies in the year 5138; as milliseconds, in
# 1973. Units are a factor 1,000 apart, so one column in one unit stays inside one band.
UNITS = (
    ("seconds", 1, 0.0, 1e11),
    ("milliseconds", 10**3, 1e11, 1e14),
    ("microseconds", 10**6, 1e14, 1e17),
    ("nanoseconds", 10**9, 1e17, 1e20),
)
WHOLE = r"^\s*[+-]?\d+\s*$"
NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
CLOCK = r"[ T]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?"
OFFSET = r"\s?(Z|[+-]\d{2}(:?\d{2})?)"
WHOLE_DECIMAL = "decimal(38, 0)"  # the longest there is
DATES = (19_000_101, 21_001_231)  # as numbers write them: yyyymmdd
YEARS = (1900, 2100)
ISO = rf"^\s*\d{{4}}-\d{{2}}-\d{{2}}({CLOCK}({OFFSET})?)?\s*$"


def as_id(workspace: Workspace, table: ir.Table, name: str, shown: str) -> tuple[ir.Column, str]:
    """The column as strings, null where there is none, and what was done that may surprise.

    Args:
        shown: what to call the column in a message.

    Raises:
        DataError: the column holds neither strings nor whole numbers.
    """
    column, dtype = table[name], table[name].type()
    if dtype.is_string():
        return column.nullif(""), ""
    if dtype.is_integer() or dtype.is_uuid():
        return column.cast("string"), ""
    if not (dtype.is_floating() or dtype.is_decimal()):
        raise DataError(f"{shown}: ids must be strings or whole numbers; the column is {dtype}")
    real = _finite(column) if dtype.is_floating() else column
    whole = real % 1 == 0
    if dtype.is_floating():
        whole &= real.abs() < 2.0**63
    odd = workspace.one(table, count=(~whole).sum())["count"]
    if odd:  # counted, not shown: it may be the id of a person
        below = " (below 2^63, as float)" if dtype.is_floating() else ""
        raise DataError(
            f"{shown}: ids must be strings or whole numbers{below}; {odd:,} rows hold neither"
        )
    if dtype.is_decimal():
        return real.cast(WHOLE_DECIMAL).cast("string"), ""
    text = real.cast("int64").cast("string")
    return text, f"{shown} holds whole numbers as {dtype}: 17850.0 is read as the id '17850'"


def as_seconds(
    workspace: Workspace, table: ir.Table, name: str, shown: str, time_format: str | None = None
) -> tuple[ir.Column, str]:
    """The column as int64 seconds since 1970-01-01 UTC, fractions cut off; and its unit, in words.

    Args:
        time_format: how a column of text or numbers writes times, in the letters of strptime;
            default: found out. Blank text and NaN, which is how float columns are written to text,
            are no time.

    Raises:
        DataError: the column mixes units or forms, or holds something else, such as numbers that
            write dates without a `time_format` that says so.
    """
    column, dtype = table[name], table[name].type()
    if time_format and (dtype.is_string() or dtype.is_numeric()):
        given = _given_text(column if dtype.is_string() else _digits(column))
        return _whole_seconds(given.as_timestamp(time_format)), f"text {time_format!r}, as UTC"
    if dtype.is_string():
        return _text_seconds(workspace, table, name, shown)
    if dtype.is_timestamp():
        return _whole_seconds(column), "timestamps" if dtype.timezone else "timestamps, as UTC"
    if dtype.is_date():
        return _whole_seconds(column.cast("timestamp")), "dates, as midnight UTC"
    if dtype.is_integer():
        return _scaled_seconds(workspace, table, column.cast("int64"), shown)
    if dtype.is_floating() or dtype.is_decimal():
        return _scaled_seconds(workspace, table, column.cast("float64"), shown)
    raise DataError(f"{shown}: times must be numbers, text or timestamps; the column is {dtype}")


def as_number(workspace: Workspace, table: ir.Table, name: str, shown: str) -> ir.Column:
    """The column as finite float64, null where there is none.

    Raises:
        DataError: a value is text that is no number, or is infinite, as text too large for one is.
    """
    column, dtype = table[name], table[name].type()
    if dtype.is_string():
        text = column.nullif("")
        number = text.try_cast("float64")
        wrong = ~text.re_search(NUMBER) | number.isinf()
        _refuse(workspace, table, text, wrong, f"{shown}: must be a finite number")
        return number
    if not (dtype.is_numeric() or dtype.is_boolean()):
        raise DataError(f"{shown}: values must be numbers; the column is {dtype}")
    if not dtype.is_floating():
        return column.cast("float64")
    _refuse(workspace, table, column, column.isinf(), f"{shown}: must be finite")
    return _finite(column).cast("float64")


def as_text(table: ir.Table, name: str) -> ir.Column:
    """The column as strings, null where empty."""
    return table[name].cast("string").nullif("")


def instant(given: str | int, *, end_of_day: bool = False) -> int:
    """Seconds since 1970-01-01 UTC of an ISO date, an ISO time (UTC unless it says) or seconds.

    Args:
        end_of_day: take a date without a clock time as its last second, not its first.

    Raises:
        ConfigError: it is none of these, or a number that writes a date or a year.

    Example:
        >>> instant("1970-01-02"), instant("1970-01-02", end_of_day=True), instant(12)
        (86400, 172799, 12)
    """
    if isinstance(given, int) or given.lstrip("-").isdigit():
        if meant := _date_meant(int(given)):
            raise ConfigError(
                f"{given} as seconds since 1970 is {iso(int(given))}; is {meant} meant? Write that"
            )
        return int(given)
    try:
        when = datetime.fromisoformat(given)
    except ValueError as error:
        raise ConfigError(
            f"a time must be an ISO date, an ISO time or whole seconds since 1970, got {given!r}"
        ) from error
    if end_of_day and len(given) <= len("2017-12-31"):
        when += timedelta(days=1, seconds=-1)
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() // 1)


def _date_meant(number: int) -> str | None:
    """The ISO date that a number such as 20230301 or 2023 looks like."""
    if YEARS[0] <= number <= YEARS[1]:
        return f"{number}-01-01"
    if not DATES[0] <= number <= DATES[1]:
        return None
    try:
        return datetime.strptime(str(number), "%Y%m%d").date().isoformat()
    except ValueError:
        return None


def _is_instant(given: str | int) -> bool:
    try:
        instant(given)
    except ConfigError:
        return False
    return True


Instant = Annotated[
    str | int,
    Rule(
        _is_instant,
        "an ISO date (2023-03-01, not 20230301 or 2023), an ISO time or whole seconds since 1970",
    ),
]
TimeFormat = Annotated[str, Rule(lambda text: "%" in text, "letters of strptime, such as %Y%m%d")]


def iso(seconds: int) -> str:
    """Seconds since 1970-01-01 UTC, readable; as they are where no calendar has them."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return f"{seconds} s"
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _text_seconds(
    workspace: Workspace, table: ir.Table, name: str, shown: str
) -> tuple[ir.Column, str]:
    """Times written as whole numbers, as decimal numbers or in ISO form: all in one form."""
    text = _given_text(table[name])
    forms = {"whole numbers": WHOLE, "decimal numbers": NUMBER, "ISO text": ISO}
    found = workspace.one(
        table,
        given=text.count(),
        **{form: text.re_search(pattern).sum() for form, pattern in forms.items()},
    )
    if found["whole numbers"] in (found["given"], None):
        number = text.try_cast("int64")
        _refuse(workspace, table, text, number.isnull(), f"{shown}: numbers must be below 2^63")
        return _scaled_seconds(workspace, table, number, shown)
    if found["decimal numbers"] == found["given"]:
        return _scaled_seconds(workspace, table, text.try_cast("float64"), shown)
    if found["ISO text"] == found["given"]:
        return _iso_seconds(workspace, table, text, shown)
    neither = ~(text.re_search(NUMBER) | text.re_search(ISO))
    odd = workspace.one(
        table, neither=text.min(where=neither), iso=text.min(where=text.re_search(ISO))
    )
    example = odd["iso"] if odd["neither"] is None else odd["neither"]
    raise DataError(
        f"{shown}: times must all be of one form; of {found['given']:,}, "
        f"{found['decimal numbers']:,} are numbers and {found['ISO text']:,} ISO text; one of the "
        f"others is {example!r}; set data.time_format (as in strptime) or mend it"
    )


def _digits(number: ir.Column) -> ir.Column:
    """20170131 as "20170131", as a float too: where a day is missing, pandas writes floats."""
    dtype = number.type()
    if dtype.is_integer():
        return number.cast("string")
    real = _finite(number) if dtype.is_floating() else number
    return ibis.ifelse(real % 1 == 0, real.cast("int64").cast("string"), real.cast("string"))


def _given_text(column: ir.Column) -> ir.Column:
    """The text, null where it says "none"."""
    none = column.strip().lower().isin(["", "nan"])
    return ibis.cases((none, ibis.null(column.type())), else_=column)


def _iso_seconds(
    workspace: Workspace, table: ir.Table, text: ir.Column, shown: str
) -> tuple[ir.Column, str]:
    """ISO text; an offset such as +02:00 is honoured here, because a cast would ignore it."""
    offset = text.re_extract(rf"{CLOCK}{OFFSET}\s*$", 3)
    local = text.re_replace(rf"({CLOCK}){OFFSET}\s*$", r"\1").strip().try_cast("timestamp")
    _refuse(workspace, table, text, local.isnull(), f"{shown}: must be a time of the calendar")
    digits = offset.re_replace("[^0-9]", "").rpad(4, "0")
    minutes = digits.left(2).try_cast("int64") * 60 + digits.right(2).try_cast("int64")
    shift = ibis.cases(
        (offset.startswith("+"), minutes * 60), (offset.startswith("-"), minutes * -60), else_=0
    )
    return _whole_seconds(local) - shift, "ISO text, UTC where it names no offset"


def _scaled_seconds(
    workspace: Workspace, table: ir.Table, number: ir.Column, shown: str
) -> tuple[ir.Column, str]:
    """Numbers of one unit; zeros, negative numbers and nulls say nothing about the unit."""
    if number.type().is_floating():
        number = _finite(number)
    size = number.cast("float64")
    inside = {name: (size > low) & (size <= top) for name, _, low, top in UNITS}
    bands = {name: band.sum() for name, band in inside.items()}
    counts = workspace.one(table, **bands, dates=_writes_a_date(size).sum())
    dates = counts.pop("dates")
    found = {name: count for name, count in counts.items() if count}
    if dates and found == {"seconds": dates}:
        raise DataError(
            f"{shown}: all times are dates such as 20170131, which as seconds lie in 1970; set "
            "data.time_format=%Y%m%d, or write them as 2017-01-31"
        )
    if len(found) > 1:
        parts = ", ".join(f"{count:,} look like {name}" for name, count in found.items())
        raise DataError(f"{shown}: times must be in one unit, but {parts}; mend or split the file")
    unit = next(iter(found), "seconds")
    scale = next(scale for name, scale, _, _ in UNITS if name == unit)
    return _floor_divide(number, scale), unit


def _writes_a_date(number: ir.Column) -> ir.BooleanValue:
    """Whether a number looks like yyyymmdd."""
    day, month = number % 100, (number / 100).floor() % 100
    return number.between(*DATES) & month.between(1, 12) & day.isin(range(1, 32))


def _floor_divide(number: ir.Column, scale: int) -> ir.Column:
    """Exact for every int64: an engine's own floor division goes through float64."""
    if number.type().is_floating():
        return (number / scale).floor().cast("int64")
    rest = ((number % scale) + scale) % scale
    return ((number - rest) / scale).round().cast("int64")


def _whole_seconds(timestamp: ir.Column) -> ir.Column:
    return timestamp.truncate("s").epoch_seconds().cast("int64")


def _finite(number: ir.Column) -> ir.Column:
    """NaN is how float columns write "none"."""
    return ibis.cases((number.isnan(), ibis.null(number.type())), else_=number)


def _refuse(
    workspace: Workspace, table: ir.Table, column: ir.Column, wrong: ir.Column, rule: str
) -> None:
    bad = column.notnull() & wrong
    found = workspace.one(table.filter(bad), count=column.count(), example=column.min())
    if found["count"]:
        raise DataError(f"{rule}; {found['count']:,} are not, such as {found['example']!r}")
