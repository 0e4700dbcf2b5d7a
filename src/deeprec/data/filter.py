"""Which events are kept: the same keys in every data config, and what each of them dropped.

Filters on single events come before the split. The core on users and items, and the cap on
histories, come after it and count only what is known before the holdout, so that nothing about the
holdout decides what a model is trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from deeprec.data.column import Instant, instant
from deeprec.data.contract import Check, Level, size
from deeprec.data.draw import draw
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError

SECONDS_PER_DAY = 86_400
MANY = 0.5  # share of the events or users a filter drops before it is worth a warning


@dataclass(frozen=True)
class Filters:
    """What to keep; None keeps everything.

    Args:
        minimum_value: events of at least this value (rating, quantity).
        kinds: events of these kinds.
        first_time: events at or after this ISO date, ISO time or second.
        last_time: events at or before it; a date includes its whole day.
        drop_duplicates: of events equal in every column, one.
        min_users_per_item: items of at least this many users with a known event.
        min_items_per_user: users of at least this many different items in known events. Both
            together are a core: applied in turn until nothing changes.
        max_idle_days: items that somebody had in the last so many days before the holdout (of known
            events, the latest is the end); older ones leave the catalog, before the core.
        min_users_per_value: values of user attributes that so many users to train on have; a rarer
            one counts as unknown.
        hashed_attributes: user attribute -> rows of its table, for attributes of which new values
            come all the time: each value, one that training never saw included, has the row that
            its hash says. Not counted by `min_users_per_value`, and numbers are not cut into
            buckets.
        user_weights: user attribute, of numbers from 0 on, that is no input of a model but what the
            loss of each user counts in training; of a user without one, 1.
        max_history: each user's latest events of training; of equal times, those drawn.
        cold_items: items of the item attributes that nobody had are in the catalog too; false: the
            catalog is what was had before the holdout.
    """

    minimum_value: float | None = None
    kinds: Sequence[str] | None = None
    first_time: Instant | None = None
    last_time: Instant | None = None
    drop_duplicates: bool = False
    min_users_per_item: int | None = None
    min_items_per_user: int | None = None
    max_idle_days: float | None = None
    min_users_per_value: int | None = None
    hashed_attributes: Mapping[str, int] | None = None
    user_weights: str | None = None
    max_history: int | None = None
    cold_items: bool = False

    def __post_init__(self) -> None:
        counts = ("min_users_per_item", "min_items_per_user", "min_users_per_value", "max_history")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.filters.{name}: must be 1 or more, got {value}")
        for name, rows in (self.hashed_attributes or {}).items():
            if rows < 1:
                raise ConfigError(
                    f"data.filters.hashed_attributes.{name}: must be 1 row or more, got {rows}"
                )
        if self.max_idle_days is not None and not self.max_idle_days >= 0:
            raise ConfigError(
                f"data.filters.max_idle_days: must be 0 or more, got {self.max_idle_days}"
            )
        for name in ("first_time", "last_time"):
            if getattr(self, name) is not None:
                instant(getattr(self, name))
        for name in ("min_users_per_item", "max_idle_days"):
            if self.cold_items and getattr(self, name) is not None:
                raise ConfigError(
                    f"data.filters.cold_items keeps items that nobody had, and {name}="
                    f"{getattr(self, name)} leaves out those that few had, or none lately; set one "
                    "of them"
                )


def keep_events(
    workspace: Workspace, events: ir.Table, filters: Filters
) -> tuple[ir.Table, list[Check]]:
    """The events that pass the filters on single events, and what each filter dropped.

    Raises:
        DataError: a filter needs a column that the events lack, or keeps nothing.
    """
    checks = []
    for name, condition in _conditions(events, filters).items():
        kept = events.filter(condition)
        checks.append(_dropped(workspace, name, events, kept))
        events = kept
    if filters.drop_duplicates:
        kept = workspace.keep("distinct", events.distinct())
        checks.append(_dropped(workspace, "filters.drop_duplicates", events, kept))
        events = kept
    return (workspace.keep("filtered", events) if checks else events), checks


def keep_core(
    workspace: Workspace, events: ir.Table, filters: Filters
) -> tuple[ir.Table, list[Check]]:
    """The core of users and items that are still had, after the split.

    Users outside the core lose all their events. Items outside it stay only where someone is judged
    on them, so that evaluation can count them.

    Args:
        events: with `part` and `role`.

    Returns:
        The events with a further column, whether `in_core` the item is; and what was dropped.

    Raises:
        DataError: the events have no times to tell idle items by, or nothing is left.
    """
    events, checks = _without_idle(workspace, events, filters.max_idle_days)
    if filters.min_users_per_item is None and filters.min_items_per_user is None:
        return events, checks
    known = events.filter((events.part < 2) & events.in_core)
    users, items, rounds = _fixed_point(workspace, known.drop("in_core"), filters)
    core = events.mutate(in_core=events.item.isin(items.item))
    if filters.min_items_per_user is not None:
        core = core.semi_join(users, "user")
    core = workspace.keep("core", core.filter(core.in_core | (core.part > 0)))
    name = (
        f"filters.min_users_per_item={filters.min_users_per_item}, "
        f"min_items_per_user={filters.min_items_per_user} ({rounds} rounds)"
    )
    left = core.filter((core.part < 2) & core.in_core)
    return core, [*checks, _dropped(workspace, name, known, left)]


def _without_idle(
    workspace: Workspace, events: ir.Table, max_idle_days: float | None
) -> tuple[ir.Table, list[Check]]:
    """The events, with whether `in_core` their item is so far: had lately by somebody."""
    if max_idle_days is None:
        return events.mutate(in_core=ibis.literal(True)), []
    known = events.filter(events.part < 2)
    end = workspace.one(known, end=_column(known, "time", "max_idle_days").max())["end"]
    latest = known.group_by("item").aggregate(latest=known.time.max())
    live = latest.filter(latest.latest >= (end or 0) - round(max_idle_days * SECONDS_PER_DAY))
    marked = events.mutate(in_core=events.item.isin(live.item))
    kept = workspace.keep("live", marked.filter(marked.in_core | (marked.part > 0)))
    left = kept.filter((kept.part < 2) & kept.in_core)
    return kept, [_dropped(workspace, f"filters.max_idle_days={max_idle_days:g}", known, left)]


def cap_histories(
    workspace: Workspace, events: ir.Table, max_history: int | None, seed: int
) -> tuple[ir.Table, list[Check]]:
    """Each user's latest `max_history` events of the training part.

    Raises:
        DataError: the events have no times, so none is the latest.
    """
    if max_history is None:
        return events, []
    if "time" not in events.columns:
        raise DataError(
            "data.filters.max_history keeps the latest events, and these have no time; leave it "
            "null, or name the time column"
        )
    age = ibis.row_number().over(
        group_by=[events.user, events.part], order_by=latest_first(events, seed)
    )
    kept = events.mutate(age=age).filter((ibis._.part != 0) | (ibis._.age < max_history))
    capped = workspace.keep("capped", kept.drop("age"))
    name = f"filters.max_history={max_history}"
    return capped, [
        _dropped(workspace, name, events.filter(events.part == 0), capped.filter(capped.part == 0))
    ]


def in_order(events: ir.Table) -> list[ir.Column]:
    """What the events of one user are ordered by; events equal in all of it are equal."""
    names = ("time", "item", "kind", "value", "price")
    return [events[name] for name in names if name in events.columns]


def latest_first(events: ir.Table, seed: int) -> list[ir.Column]:
    """What the events of one user are ordered by, to take the latest.

    Of one moment they come as drawn by user and item. By their ids, whoever is judged on the last
    event of a basket would be judged on the largest id, and ids tell how old or of what kind an
    item is.
    """
    time, *others = [column.desc(nulls_first=True) for column in in_order(events)]
    return [time, draw(seed, events.user, events.item), *others]


def _conditions(events: ir.Table, filters: Filters) -> dict[str, ir.BooleanValue]:
    conditions = {}
    if filters.minimum_value is not None:
        value = _column(events, "value", "minimum_value")
        conditions[f"filters.minimum_value={filters.minimum_value}"] = (
            value >= filters.minimum_value
        )
    if filters.kinds is not None:
        kind = _column(events, "kind", "kinds")
        conditions[f"filters.kinds={list(filters.kinds)}"] = kind.isin(list(filters.kinds))
    if filters.first_time is not None:
        time = _column(events, "time", "first_time")
        conditions[f"filters.first_time={filters.first_time}"] = time >= instant(filters.first_time)
    if filters.last_time is not None:
        time = _column(events, "time", "last_time")
        last = instant(filters.last_time, end_of_day=True)
        conditions[f"filters.last_time={filters.last_time}"] = time <= last
    return conditions


def _column(events: ir.Table, name: str, key: str) -> ir.Column:
    if name not in events.columns:
        raise DataError(
            f"data.filters.{key} needs the {name} of each event, and these have none; leave it "
            f"null, or name the column (data.{name}=...)"
        )
    return events[name]


def _fixed_point(
    workspace: Workspace, known: ir.Table, filters: Filters
) -> tuple[ir.Table, ir.Table, int]:
    """Users and items that are left when every item has enough users and every user enough items.

    Works on numbers in place of ids, because every round reads all (user, item) pairs again.
    """
    users = _numbered(workspace, known.select("user", "role").distinct())
    items = _numbered(workspace, known.select("item").distinct())
    pairs = known.select("user", "item").join(users, "user").join(items, "item")
    trained = pairs.role.isin(["all", "train"])
    pairs = pairs.select("user_number", "item_number", trained=trained).distinct()
    pairs = workspace.keep("pairs", pairs)
    rounds, before, after = 0, -1, workspace.count(pairs)
    while after != before:
        pairs = workspace.keep("pairs", _round(pairs, filters))
        rounds, before, after = rounds + 1, after, workspace.count(pairs)
    left_users = users.semi_join(pairs, "user_number")
    left_items = items.semi_join(pairs.filter(pairs.trained), "item_number")
    return workspace.keep("users", left_users), workspace.keep("items", left_items), rounds


def _numbered(workspace: Workspace, ids: ir.Table) -> ir.Table:
    return workspace.keep("ids", ids.mutate(**{f"{ids.columns[0]}_number": ibis.row_number()}))


def _round(pairs: ir.Table, filters: Filters) -> ir.Table:
    """Pairs whose item has enough users that are trained on, then those whose user has enough."""
    if filters.min_users_per_item is not None:
        held = pairs.filter(pairs.trained).group_by("item_number").aggregate(count=ibis._.count())
        pairs = pairs.semi_join(
            held.filter(held["count"] >= filters.min_users_per_item), "item_number"
        )
    if filters.min_items_per_user is not None:
        has = pairs.group_by("user_number").aggregate(count=ibis._.count())
        pairs = pairs.semi_join(
            has.filter(has["count"] >= filters.min_items_per_user), "user_number"
        )
    return pairs


def _dropped(workspace: Workspace, name: str, before: ir.Table, after: ir.Table) -> Check:
    """What a filter took away; an error where nothing is left."""
    was, left = size(workspace, before), size(workspace, after)
    shares = {key: 1 - left[key] / was[key] if was[key] else 0.0 for key in was}
    if was["events"] and not left["events"]:
        raise DataError(f"data.{name} left none of {was['events']:,} events; loosen it")
    said = ", ".join(f"{share:.1%} of {key}" for key, share in shares.items())
    facts = {f"{key}_dropped": was[key] - left[key] for key in was}
    level: Level = "warn" if max(shares["events"], shares["users"]) > MANY else "ok"
    return Check(name, level, f"drops {said}", "is that meant?" if level == "warn" else "", facts)
