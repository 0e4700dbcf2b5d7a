"""When events happened, and what of it cannot be meant: a wrong unit, a clock, a stray decade."""

import time
from collections.abc import Mapping

import ibis.expr.types as ir

from deeprec.data.column import iso
from deeprec.data.contract import Check
from deeprec.data.store import SECONDS_PER_DAY
from deeprec.data.workspace import Workspace

EARLY = 20 * 365 * 86_400  # seconds; times before 1990 are rarely meant
YEARS = (1800, 2100)
YEARS_MEANT = "are these years, read as seconds? data.time_format=%Y reads them as what they are"
MOSTLY_YEARS = 0.9  # share of the times, from which on they are not what seconds happen to be
FEW_FAR = 0.001  # share of the events, up to which a stretch of time without others is not theirs


def look_at_times(
    workspace: Workspace, events: ir.Table, now: float | None = None, *, told: bool = False
) -> list[Check]:
    """Range of the times, and times that cannot be.

    Args:
        now: seconds since 1970; default: the clock.
        told: whether it was said how times are written; then old ones are meant.
    """
    if "time" not in events.columns:
        return [Check("times", "ok", "none: no time cut, no recency, no order of history")]
    now = time.time() if now is None else now
    when = events.time
    facts = workspace.one(
        events,
        first=when.min(),
        last=when.max(),
        future=(when > int(now)).sum(),
        zero=(when == 0).sum(),
        negative=(when < 0).sum(),
        early=((when > 0) & (when < EARLY)).sum(),
        years=when.between(*YEARS).sum(),
        count=when.count(),
        distinct=when.nunique(),
    )
    years = facts.pop("years") >= MOSTLY_YEARS * facts.pop("count")
    said = f"{iso(facts['first'])} to {iso(facts['last'])} UTC"
    return [Check("times", "ok", said, facts=facts), *_odd_times(facts, told=told, years=years)]


def look_at_span(workspace: Workspace, events: ir.Table) -> list[Check]:
    """A few events of another time than all others, which the whole span is mostly made of.

    Others are those no farther from the bulk of the events than half of its span.
    """
    if "time" not in events.columns:
        return []
    when = events.time
    bulk = workspace.one(events, low=when.quantile(FEW_FAR), high=when.quantile(1 - FEW_FAR))
    room = (bulk["high"] - bulk["low"]) / 2
    early, late = when < bulk["low"] - room, when > bulk["high"] + room
    found = workspace.one(
        events,
        events=when.count(),
        early=early.sum(),
        late=late.sum(),
        first=when.min(),
        last=when.max(),
        others_first=when.min(where=~(early | late)),
        others_last=when.max(where=~(early | late)),
        far_first=when.min(where=early | late),
        far_last=when.max(where=early | late),
    )
    far, span = found["early"] + found["late"], found["last"] - found["first"]
    others = found["others_last"] - found["others_first"]
    if not 0 < far <= FEW_FAR * found["events"] or span <= 2 * others:
        return []
    return [_far(found, far, span, others)]


def _far(found: Mapping[str, int], far: int, span: int, others: int) -> Check:
    between = " to ".join(dict.fromkeys((iso(found["far_first"]), iso(found["far_last"]))))
    says = (
        f"{far:,} of {found['events']:,} events ({between} UTC) lie far from all others "
        f"({iso(found['others_first'])} to {iso(found['others_last'])}): the times span "
        f"{_days(span)} with them, {_days(others)} without"
    )
    keeping = []
    if found["early"]:
        keeping.append(f"data.filters.first_time={iso(found['others_first'])[:10]}")
    if found["late"]:
        keeping.append(f"data.filters.last_time={iso(found['others_last'])[:10]}")
    advice = f"are these times wrong? {' '.join(keeping)} leaves them out"
    facts = {"events": far, "span_seconds": span, "others_span_seconds": others}
    return Check("times far from others", "warn", says, advice, facts)


def _days(seconds: int) -> str:
    return f"{seconds / SECONDS_PER_DAY:,.0f} days"


def _odd_times(facts: Mapping[str, int], *, told: bool, years: bool) -> list[Check]:
    seconds = "are these seconds, or dates such as 20170131?"
    odd = {
        "future": ("times in the future", "a clock, a unit or a time zone is wrong"),
        "zero": ("times of zero", "is 0 how the source writes an unknown time?"),
        "negative": ("times before 1970", "is that how the source writes an unknown time?"),
        "early": ("times from 1970 to 1989", YEARS_MEANT if years else seconds),
    }
    found = [
        Check(name, "warn", f"{facts[key]:,} events", advice, {"events": facts[key]})
        for key, (name, advice) in odd.items()
        if facts[key] and (key == "future" or not told)
    ]
    if facts["first"] == facts["last"]:
        advice = "use split=random_fraction, or leave out data.time"
        found.append(Check("one time", "warn", "every event has the same time", advice))
    return found
