"""What is wrong with these events, said before any training: ok, warn or fail, and what to do."""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc
from rich.table import Table

from deeprec.data.workspace import Workspace
from deeprec.errors import DataError
from deeprec.verb import TrainOn

Level = Literal["ok", "warn", "fail"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "fail")
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}

LONG_HISTORY = 100_000  # events of one user, above which a batch of few users fills the memory
MANY_REPEATS = 0.2  # share of events, above which forbidding repeats hides what people do
MANY_COLD = 0.3  # share of holdout events on items outside the catalog
ONE_BASKET = 0.9  # share of users of one moment, above which a user is a basket
MOST_RATINGS = 11  # steps of a scale of ratings, and the highest of it
MANY_FILES = 5  # more are not all named
EXAMPLE_WIDTH = 128  # units of the catalog table in the memory estimate
TRAINED_TOO: dict[TrainOn, tuple[str, ...]] = {
    "train": (),
    "validation": ("validation",),
    "everything": ("validation", "holdout"),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        says: what was found, for a person.
        advice: what to do about it; empty if there is nothing to do.
        facts: the same as numbers, for a program.
    """

    name: str
    level: Level
    says: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """The contract as it is saved."""
    return {"level": worst(checks), "checks": [asdict(check) for check in checks]}


def worst(checks: Iterable[Check]) -> Level:
    return max((check.level for check in checks), key=LEVELS.index, default="ok")


def shown(checks: Sequence[Check]) -> Table:
    """The contract as it is printed."""
    table = Table(title="Data contract", title_justify="left", show_lines=False)
    for name in ("check", "", "found"):
        table.add_column(name, overflow="fold")
    for check in checks:
        advice = f"\n[dim]{_plain(check.advice)}[/dim]" if check.advice else ""
        colour = COLOURS[check.level]
        says = _plain(check.says) + advice
        table.add_row(_plain(check.name), f"[{colour}]{check.level}[/{colour}]", says)
    return table


def refuse(checks: Sequence[Check]) -> None:
    """Raises what no training should start with.

    Raises:
        DataError: every check that failed.
    """
    failed = [f"  - {c.name}: {c.says}; {c.advice}" for c in checks if c.level == "fail"]
    if failed:
        raise DataError("\n".join(["these events cannot be trained on:", *failed]))


def size(workspace: Workspace, events: ir.Table) -> dict[str, int]:
    """How many events, users and items there are."""
    return workspace.one(
        events, events=events.count(), users=events.user.nunique(), items=events.item.nunique()
    )


def look_at_events(workspace: Workspace, events: ir.Table, *, repeats: bool) -> list[Check]:
    """Counts, duplicates, repeats and the longest history."""
    counts = size(workspace, events)
    said = f"{counts['events']:,} events, {counts['users']:,} users, {counts['items']:,} items"
    return [
        Check("events", "ok", said, facts=counts),
        _duplicates(workspace, events, counts["events"]),
        _repeats(workspace, events, counts["events"], allowed=repeats),
        _longest_history(workspace, events),
    ]


def look_at_files(names: Sequence[str]) -> Check:
    """Which files were read: a folder may hold a test set beside its training set."""
    few = ", ".join(names[:MANY_FILES]) + (", ..." if len(names) > MANY_FILES else "")
    says = f"{len(names):,} read: {few}" if names else "none: the events are generated"
    return Check("files", "ok", says, facts={"files": len(names)})


def look_at_values(
    workspace: Workspace, events: ir.Table, minimum_value: float | None
) -> list[Check]:
    """Values of what was not taken, and would be learned from as if it were.

    Those below zero mostly are returns, and low ones of a short scale are ratings.

    Args:
        minimum_value: of the filter.
    """
    if "value" not in events.columns or (minimum_value is not None and minimum_value >= 0):
        return []
    count = workspace.one(events, count=(events.value < 0).sum())["count"]
    if not count:
        return [] if minimum_value is not None else _ratings(workspace, events)
    says = f"{count:,} events have a value below 0, and count like any other"
    advice = "are these returns? data.filters.minimum_value=0 leaves them out"
    return [Check("negative values", "warn", says, advice, {"events": count})]


def _ratings(workspace: Workspace, events: ir.Table) -> list[Check]:
    """Few values up to ten, of which the lowest is rare: numbers of pieces mostly are one."""
    value = events.value
    facts = workspace.one(
        events, low=value.min(), high=value.max(), distinct=value.nunique(), count=value.count()
    )
    low, high = facts["low"], facts["high"]
    if not 3 <= facts["distinct"] <= MOST_RATINGS or high > MOST_RATINGS:
        return []
    liked = value >= low + 0.7 * (high - low)
    found = workspace.one(
        events, lowest=(value == low).sum(), liked=liked.sum(), least=value.min(where=liked)
    )
    if found["lowest"] > 0.3 * facts["count"]:
        return []
    says = (
        f"from {low:g} to {high:g} in {facts['distinct']} steps: ratings? One of {low:g} counts as "
        f"taken, like one of {high:g}"
    )
    advice = (
        f"data.filters.minimum_value={found['least']:g} keeps the "
        f"{_share(found['liked'], facts['count'])} from there on"
    )
    return [Check("values", "warn", says, advice, facts)]


def look_at_ids(workspace: Workspace, events: ir.Table, column: str) -> list[Check]:
    """Ids that a person may take for one another, and ids that were damaged on their way.

    Args:
        column: user or item.
    """
    ids = workspace.keep("ids", events.select(id=events[column]).distinct())
    return [_look_alikes(workspace, ids, column), _damaged(workspace, ids, column)]


def look_at_catalog(popularity: pa.ChunkedArray) -> Check:
    """How much of the catalog a model can learn nothing of from training events.

    Args:
        popularity: training users that had each item.
    """
    count, cold = len(popularity), int(pc.sum(pc.equal(popularity, 0)).as_py() or 0)
    says = f"{count:,} items, {_share(cold, count)} of them without a training event"
    return Check("catalog", "ok", says, facts={"items": count, "cold": cold})


def look_at_split(counts: Mapping[str, Any], train_on: TrainOn, *, repeats: bool) -> list[Check]:
    """What the split left for training and for judging.

    Args:
        counts: of the prepared folder; see `prepare`.
        train_on: what it was told to train on.
    """
    few = {
        "train": "loosen data.filters",
        "validation": "give the split a larger validation part; nothing may be chosen on the "
        "holdout",
        "holdout": "give the split a larger holdout",
    }
    names = {"train": "training"}
    checks = [
        _enough(names.get(name, name), counts[name], counts[f"{name}_users"], advice)
        for name, advice in few.items()
        if name == "train" or name not in TRAINED_TOO[train_on]
    ]
    checks += [_trained_too(name) for name in TRAINED_TOO[train_on]]
    if "holdout" in TRAINED_TOO[train_on]:
        return checks
    return [
        *checks,
        _cold_items(counts),
        _cold_users(counts),
        *_seen_again(counts, repeats=repeats),
    ]


def look_at_memory(num_items: int) -> Check:
    """What the tables of a model on these data will take."""
    table = 4 * num_items * EXAMPLE_WIDTH  # float32
    training = 2 * 4 * table  # input and catalog table; each: weight, gradient, two moments of Adam
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    says = (
        f"{_bytes(table)} for a catalog table of {num_items:,} items x {EXAMPLE_WIDTH} float32; "
        f"{_bytes(training)} to train it and an input table with Adam"
    )
    facts = {"catalog_table_bytes": table, "training_bytes": training, "width": EXAMPLE_WIDTH}
    if training < 0.8 * has:
        return Check("memory", "ok", says, facts=facts)
    advice = f"this machine has {_bytes(has)}; use fewer units or data.filters.min_users_per_item"
    return Check("memory", "warn", says, advice, facts)


def _duplicates(workspace: Workspace, events: ir.Table, count: int) -> Check:
    distinct = events.distinct()
    extra = count - workspace.count(distinct)
    says = f"{extra:,} events ({_share(extra, count)}) equal another in {_names(events)}"
    facts = {"duplicates": extra}
    if not extra:
        return Check("exact duplicates", "ok", "none", facts=facts)
    if "time" not in events.columns:  # two purchases cannot be told from one that stands twice
        return Check("exact duplicates", "ok", f"{says}: without times, repeats", facts=facts)
    advice = "they are kept; data.filters.drop_duplicates=true keeps one of each"
    return Check("exact duplicates", "warn", says, advice, facts)


def _names(events: ir.Table) -> str:
    *names, last = events.columns
    return f"{', '.join(names)} and {last}"


def _repeats(workspace: Workspace, events: ir.Table, count: int, *, allowed: bool) -> Check:
    pairs = events.select("user", "item").distinct()
    again = count - workspace.count(pairs)
    share = again / count if count else 0.0
    says = f"{_share(again, count)} of events are on an item that the user already had"
    facts = {"repeats": again, "share": share, "allowed": allowed}
    if share > MANY_REPEATS and not allowed:
        advice = "set data.repeats=true if an item may be recommended to someone who had it"
        return Check("repeats", "warn", says, advice, facts)
    if allowed and not again:
        advice = "set data.repeats=false: nobody has an item twice"
        return Check("repeats", "warn", says, advice, facts)
    rule = "may be" if allowed else "are not"
    return Check("repeats", "ok", f"{says}; they {rule} recommended again", facts=facts)


def _longest_history(workspace: Workspace, events: ir.Table) -> Check:
    per_user = events.group_by("user").aggregate(events=ibis._.count())
    facts = workspace.one(per_user, longest=per_user.events.max(), median=per_user.events.median())
    says = f"longest {facts['longest'] or 0:,} events, median {facts['median'] or 0:,.0f}"
    if (facts["longest"] or 0) <= LONG_HISTORY:
        return Check("histories", "ok", says, facts=facts)
    advice = "is this one person? data.filters.max_history keeps each user's latest events"
    return Check("histories", "warn", says, advice, facts)


def _look_alikes(workspace: Workspace, ids: ir.Table, column: str) -> Check:
    """Ids that are one id after folding: case, spaces, Unicode forms, leading zeros, a ".0"."""
    keys = _folded(workspace, ids)
    groups = keys.group_by("key").aggregate(
        count=ibis._.count(), one=keys.id.min(), other=keys.id.max()
    )
    twins = groups.filter(groups["count"] > 1)
    found = workspace.one(twins, groups=twins.count(), ids=twins["count"].sum())
    facts = {"groups": found["groups"], "ids": found["ids"] or 0}
    name = f"look-alike {column} ids"
    if not found["groups"]:
        return Check(name, "ok", "none", facts=facts)
    says = f"{facts['ids']:,} ids are one of {facts['groups']:,} after folding"
    if column == "item":  # the contract is kept and passed on, so it names no user
        rows = workspace.fetch(twins.order_by("one").limit(3)).to_pylist()
        says += ", such as " + ", ".join(f"{row['one']!r} and {row['other']!r}" for row in rows)
    return Check(name, "warn", says, "they stay different; mend the source if they are one", facts)


def _folded(workspace: Workspace, ids: ir.Table) -> ir.Table:
    """Each id beside what it is folded to; ids beyond ASCII are folded by Unicode's own rules."""
    plain = ids.filter(~ids.id.re_search(r"[^\x00-\x7F]"))
    other = workspace.fetch(ids.filter(ids.id.re_search(r"[^\x00-\x7F]")))["id"].to_pylist()
    folded = [unicodedata.normalize("NFKC", name).casefold() for name in other]
    beyond = pa.table({"id": pa.array(other, pa.string()), "text": pa.array(folded, pa.string())})
    both = plain.mutate(text=plain.id.lower()).union(ibis.memtable(beyond))
    bare = both.text.strip().re_replace(r"^([0-9]+)\.0+$", r"\1").re_replace(r"^0+([0-9]+)$", r"\1")
    return workspace.keep("folded", both.select("id", key=bare))


def _damaged(workspace: Workspace, ids: ir.Table, column: str) -> Check:
    """Reading refuses what is not UTF-8, so here are only the traces of an earlier accident."""
    lost = ids.id.contains("\ufffd")
    control = ids.id.re_search(r"[\x00-\x1F\x7F]")
    facts = workspace.one(ids, replacement=lost.sum(), control=control.sum(), count=ids.count())
    facts = {key: value or 0 for key, value in facts.items()}
    name = f"{column} ids in UTF-8"
    if not facts["replacement"] and not facts["control"]:
        return Check(name, "ok", f"all {facts['count']:,}, without control characters", facts=facts)
    says = (
        f"{facts['replacement']:,} hold the replacement sign U+FFFD, "
        f"{facts['control']:,} control characters such as tab or newline"
    )
    return Check(name, "warn", says, "was the file converted from another encoding?", facts)


def _enough(name: str, events: int, users: int, advice: str) -> Check:
    says = f"{events:,} events of {users:,} users"
    facts = {"events": events, "users": users}
    if users:
        return Check(name, "ok", says, facts=facts)
    return Check(name, "fail", says, advice, facts)


def _trained_too(name: str) -> Check:
    left = {"validation": "chosen", "holdout": "judged"}[name]
    return Check(name, "ok", f"trained on as well: nothing can be {left} on it")


def _cold_items(counts: Mapping[str, Any]) -> Check:
    unknown, known = counts["holdout_unknown"], counts["holdout"]
    share = unknown / max(unknown + known, 1)
    says = f"{unknown:,} holdout events ({share:.1%}) are on items outside the catalog"
    facts = {"events": unknown, "share": share}
    advice = "no system here can recommend them; evaluation counts them"
    level: Level = "warn" if share > MANY_COLD else "ok"
    return Check("cold items", level, says, advice if unknown else "", facts)


def _cold_users(counts: Mapping[str, Any]) -> Check:
    empty, judged = counts["empty_users"], counts["judged_users"]
    says = f"{empty:,} of {judged:,} users have no event before they are judged"
    advice = "evaluate counts them separately" if empty else ""
    if few_known := empty > 0.5 * judged:
        advice = (
            "all of them get the same list, and no model can be told from another by it; judge "
            f"{_of_known_users(counts)}"
        )
    level: Level = "warn" if few_known else "ok"
    return Check("empty users", level, says, advice, {"users": empty})


def _of_known_users(counts: Mapping[str, Any]) -> str:
    if counts["one_moment_users"] > ONE_BASKET * counts["users"]:
        return "part of a basket by the rest (split=random_fraction, or split=user_holdout)"
    return "what follows in the same history (split=leave_last_out, or split=user_holdout)"


def _seen_again(counts: Mapping[str, Any], *, repeats: bool) -> list[Check]:
    """Without repeats, a holdout event on an item of the user's own history can never be hit."""
    seen = counts["holdout_seen"]
    if repeats or not seen:
        return []
    says = f"{seen:,} holdout events are on items of the user's own history, which is excluded"
    advice = "set data.repeats=true, or take them out of the holdout"
    return [Check("holdout in history", "warn", says, advice, {"events": seen})]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "none"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
