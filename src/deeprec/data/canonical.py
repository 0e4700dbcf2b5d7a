"""Columns of an event log, whatever they were called and written as, under one name and type."""

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from deeprec.data.column import as_id, as_number, as_seconds, as_text
from deeprec.data.contract import Check
from deeprec.data.filter import Filters
from deeprec.data.log import EventLog
from deeprec.data.source import Source
from deeprec.data.workspace import Workspace
from deeprec.errors import DataError

FILL = {"kind": "unknown", "value": 1.0, "price": 0.0}  # of an event that leaves the field empty


def canonical_log(
    workspace: Workspace,
    source: Source,
    mapping: Mapping[str, str | None],
    repeats: bool,
    filters: Filters,
    time_format: str | None = None,
) -> EventLog:
    """The mapped columns under their canonical names and types, and what was dropped on the way."""
    uses = ("user", "item", "time", "kind", "value", "price")
    named = {use: column for use in uses if (column := mapping.get(use)) is not None}
    columns = {use: source.column(column, use) for use, column in named.items()}
    raw = source.table.select(**columns)
    if not source.columnar:
        raw = workspace.keep("raw", raw)
    if not workspace.count(raw):
        raise DataError(f"{source.files[0]}: holds no events")
    converted, notes = {}, []
    for use, column in named.items():
        shown = f"{source.files[0]}: {column}"
        converted[use], note = _convert(workspace, raw, use, shown, time_format)
        notes.extend([note] if note else [])
    canonical = workspace.keep("canonical", raw.select(**converted))
    events, dropped = without(workspace, canonical, _missing(canonical), str(source.files[0]))
    filled, unknown = _filled(workspace, events)
    checks = (*notes, *dropped, *unknown)
    return EventLog(filled, repeats, filters, source.files, checks, time_format=time_format)


def without(
    workspace: Workspace, lines: ir.Table, reasons: Mapping[str, ir.BooleanValue], source: str
) -> tuple[ir.Table, list[Check]]:
    """The lines that no reason drops; each dropped line counts for the first reason that does.

    Raises:
        DataError: nothing is left.
    """
    marked = lines.mutate(_dropped=ibis.cases(*[(why, name) for name, why in reasons.items()]))
    by_reason = workspace.fetch(marked.group_by("_dropped").aggregate(count=ibis._.count()))
    counts = dict(zip(*by_reason.to_pydict().values(), strict=True))
    total = sum(counts.values())
    checks = [
        Check(
            f"dropped: {name}",
            "warn" if counts[name] > 0.5 * total else "ok",
            f"{counts[name]:,} of {total:,} lines ({counts[name] / total:.1%})",
            facts={"events": counts[name]},
        )
        for name in reasons
        if name in counts
    ]
    if None not in counts:
        said = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        raise DataError(f"{source}: no event is left of {total:,} lines ({said})")
    kept = marked.filter(marked["_dropped"].isnull()).drop("_dropped")
    return (kept if checks else lines), checks


def _convert(
    workspace: Workspace, raw: ir.Table, use: str, shown: str, time_format: str | None
) -> tuple[ir.Column, Check | None]:
    if use in ("user", "item"):
        ids, said = as_id(workspace, raw, use, shown)
        return ids, Check(f"{use} ids", "ok", said) if said else None
    if use == "time":
        seconds, unit = as_seconds(workspace, raw, use, shown, time_format)
        return seconds, Check(
            "time unit", "ok", f"{unit}, read as int64 seconds", facts={"unit": unit}
        )
    if use == "kind":
        return as_text(raw, use), None
    return as_number(workspace, raw, use, shown), None


def _missing(events: ir.Table) -> dict[str, ir.BooleanValue]:
    needed = [name for name in ("user", "item", "time") if name in events.columns]
    return {f"no {name}": events[name].isnull() for name in needed}


def _filled(workspace: Workspace, events: ir.Table) -> tuple[ir.Table, list[Check]]:
    """Empty kinds, values and prices get what FILL says, counted."""
    names = [name for name in FILL if name in events.columns]
    if not names:
        return events, []
    counts = workspace.one(events, **{name: events[name].isnull().sum() for name in names})
    filled = events.mutate(**{name: events[name].fill_null(FILL[name]) for name in names})
    checks = [
        Check(f"no {name}", "warn", f"{counts[name]:,} events; taken as {FILL[name]!r}",
              facts={"events": counts[name]})
        for name in names if counts[name]
    ]  # fmt: skip
    return filled, checks
