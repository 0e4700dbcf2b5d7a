"""Holdout rules: which events a model learns from, is chosen on, and is judged on.

Every rule also draws a validation part, so that nothing is ever chosen on the holdout. A draw is a
hash of the seed and of what is drawn (the user, the item and, where known, the time), never of its
place in a file: the same events and seed give the same split in any order of rows. Where there are
no times, events of one user on one item are counted where repeats are recommended, so that each is
drawn on its own, and stay together where they are not, as one that is known cannot be hit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np

from deeprec.data.column import Instant, instant, iso
from deeprec.data.contract import ONE_BASKET, TRAINED_TOO, Check, Level
from deeprec.data.draw import below, draw
from deeprec.data.filter import in_order, keep_events, latest_first
from deeprec.data.log import EventLog
from deeprec.data.store import PARTS
from deeprec.data.workspace import Workspace
from deeprec.errors import ConfigError, DataError
from deeprec.verb import TrainOn

TRAIN, VALIDATION, HOLDOUT = 0, 1, 2
ELSE_CUT = (
    "give split=time_cut split.validation_from=... split.holdout_from=..., or "
    "split=random_fraction, which needs no times"
)
MANY_TIES = 0.2  # share of judged users whose holdout is a draw, above which baskets are the data


@dataclass(frozen=True)
class Split:
    """Events and where each belongs.

    Args:
        events: the events with `part` (0 train, 1 validation, 2 holdout) and `role` (see store.py).
        name: of the rule.
        settings: what the rule was told or found out.
        instants: of a time cut, the first second of each judged part.
        checks: what is to be known about it.
        files: read for it.
    """

    events: ir.Table
    name: str
    settings: Mapping[str, Any]
    instants: Mapping[str, int | None] = field(
        default_factory=lambda: {"train": None, "validation": None, "holdout": None}
    )
    checks: tuple[Check, ...] = ()
    files: tuple[Path, ...] = ()


def with_more_training(split: Split, train_on: TrainOn) -> Split:
    """The same holdout, with events trained on that the rule set aside.

    Settings are chosen on validation; once they are, what it held is worth more in training, and
    for production so is the holdout.

    Args:
        train_on: the last part that is trained on; `everything`: nothing is left to judge on.
    """
    joined = TRAINED_TOO[train_on]
    if not joined:
        return split
    events = split.events
    moved = events.part.isin([PARTS.index(name) for name in joined])
    part = moved.ifelse(TRAIN, events.part).cast("int8")
    role = events.role.isin(joined).ifelse("train", events.role)
    return replace(
        split,
        events=events.mutate(part=part, role=role),
        settings={**split.settings, "train_on": train_on},
        instants={name: None if name in joined else at for name, at in split.instants.items()},
    )


class Auto:
    """A time cut where there is time, else a random fraction.

    The cut is at the instants that the data config names, if it names any. Events of one or two
    different times, such as those of one day by its date, cannot be cut into three parts.
    """

    def __call__(self, workspace: Workspace, log: EventLog, seed: int) -> Split:
        if not log.has_times:
            return RandomFraction()(workspace, log, seed)
        times = workspace.one(log.events, different=log.events.time.nunique())["different"]
        if times < len(PARTS):
            why = f"{times:,} different times cannot be cut into {len(PARTS)} parts"
            told = Check("split", "warn", why, "events are drawn at random, as without times")
            drawn = RandomFraction()(workspace, log, seed)
            return replace(drawn, checks=(*drawn.checks, told))
        usual = TimeCut(holdout_from=log.holdout_from, validation_from=log.validation_from)
        return usual(workspace, log, seed)


class TimeCut:
    """Everything from an instant on is the holdout; the newest part before it is validation.

    Args:
        holdout_from: ISO date, ISO time or second; default: so that `holdout_fraction` is held out.
        validation_from: likewise; default: so that `validation_fraction` of the rest is validation.
        holdout_fraction: share of all events, the newest; events of one second stay together.
        validation_fraction: share of the events before the holdout, the newest.
    """

    def __init__(
        self,
        *,
        holdout_from: Instant | None = None,
        validation_from: Instant | None = None,
        holdout_fraction: float = 0.1,
        validation_fraction: float = 0.1,
    ) -> None:
        _refuse_fractions(holdout_fraction=holdout_fraction)
        _refuse_fractions(validation_fraction=validation_fraction)
        self.holdout_from = None if holdout_from is None else instant(holdout_from)
        self.validation_from = None if validation_from is None else instant(validation_from)
        self.holdout_fraction, self.validation_fraction = holdout_fraction, validation_fraction

    def __call__(self, workspace: Workspace, log: EventLog, seed: int) -> Split:
        _need_times(log, "time_cut")
        events = log.events
        holdout = self.holdout_from
        if holdout is None:
            holdout = _newest(workspace, events, self.holdout_fraction)
        validation = self.validation_from
        if validation is None:
            earlier = events.filter(events.time < holdout)
            validation = _newest(workspace, earlier, self.validation_fraction)
        _refuse_order(workspace, events, validation, holdout)
        late = (events.time >= holdout).cast("int8") + (events.time >= validation).cast("int8")
        return Split(
            events.mutate(part=late.cast("int8"), role=ibis.literal("all")),
            "time_cut",
            {"validation_from": iso(validation), "holdout_from": iso(holdout)},
            instants={"train": None, "validation": validation, "holdout": holdout},
        )


class LeaveLastOut:
    """Each user's last events are the holdout, those before them validation.

    Of events of one moment those held out are drawn, and it is said how often. Those left stand in
    the prepared folder as in every: of one moment by item id, train before validation.

    It leaks: a model learns from what others did after the moment that it is judged at. How much is
    measured and said.

    Args:
        holdout_events: of each user.
        validation_events: of each user. A user needs one event more than both together; those with
            fewer are trained on and not judged.
    """

    def __init__(self, *, holdout_events: int = 1, validation_events: int = 1) -> None:
        for name, value in (("holdout", holdout_events), ("validation", validation_events)):
            if value < 1:
                raise ConfigError(f"split.{name}_events: must be 1 or more, got {value}")
        self.holdout_events, self.validation_events = holdout_events, validation_events

    def __call__(self, workspace: Workspace, log: EventLog, seed: int) -> Split:
        _need_times(log, "leave_last_out")
        events, judged = log.events, self.holdout_events + self.validation_events
        order = latest_first(events, seed)
        ranked = events.mutate(
            age=ibis.row_number().over(group_by=events.user, order_by=order),
            length=ibis._.count().over(group_by=events.user),
        )
        enough = ranked.length > judged
        part = ibis.cases(
            (enough & (ranked.age < self.holdout_events), HOLDOUT),
            (enough & (ranked.age < judged), VALIDATION),
            else_=TRAIN,
        )
        labelled = ranked.mutate(part=part.cast("int8"), role=ibis.literal("all"))
        kept = workspace.keep("last_out", labelled.drop("age", "length"))
        settings = {
            "holdout_events": self.holdout_events,
            "validation_events": self.validation_events,
        }
        checks = (_leak(workspace, kept), _ties(workspace, kept))
        return Split(kept, "leave_last_out", settings, checks=checks)


class RandomFraction:
    """Each event is drawn on its own; without times and repeats, each pair of user and item is.

    Args:
        holdout: share of all events.
        validation: share of all events.
    """

    def __init__(self, *, holdout: float = 0.2, validation: float = 0.1) -> None:
        _refuse_fractions(holdout=holdout, validation=validation)
        self.holdout, self.validation = holdout, validation

    def __call__(self, workspace: Workspace, log: EventLog, seed: int) -> Split:
        drawn = draw(seed, *_what_is_drawn(log))
        part = ibis.cases(
            (below(drawn, self.holdout), HOLDOUT),
            (below(drawn, self.holdout + self.validation), VALIDATION),
            else_=TRAIN,
        )
        events = log.events.mutate(part=part.cast("int8"), role=ibis.literal("all"))
        return Split(
            workspace.keep("random", events),
            "random_fraction",
            {"holdout": self.holdout, "validation": self.validation},
        )


class UserHoldout:
    """Some users are never trained on; part of their events is shown, the rest is judged.

    Args:
        holdout_users: share of users to judge on.
        validation_users: share of users to choose on.
        fold_in: share of such a user's distinct draws that is shown as history; the number judged
            on is rounded down, so a user of few events may have none.

    Reference:
        Liang et al., Variational Autoencoders for Collaborative Filtering (WWW 2018). Differs in
        that the users are a share, not a number, and that they are drawn by a hash.
    """

    def __init__(
        self,
        *,
        holdout_users: float = 0.1,
        validation_users: float = 0.1,
        fold_in: float = 0.8,
    ) -> None:
        _refuse_fractions(holdout_users=holdout_users, validation_users=validation_users)
        _refuse_fractions(fold_in=fold_in)
        self.holdout_users, self.validation_users = holdout_users, validation_users
        self.fold_in = fold_in

    def __call__(self, workspace: Workspace, log: EventLog, seed: int) -> Split:
        drawn = draw(seed, log.events.user)
        role = ibis.cases(
            (below(drawn, self.holdout_users), "holdout"),
            (below(drawn, self.holdout_users + self.validation_users), "validation"),
            else_="train",
        )
        events = log.events.mutate(role=role, drawn=draw(seed, *_what_is_drawn(log)))
        events = self._fold_in(workspace.keep("roles", events))
        settings = {
            "holdout_users": self.holdout_users,
            "validation_users": self.validation_users,
            "fold_in": self.fold_in,
        }
        return Split(workspace.keep("fold_in", events), "user_holdout", settings)

    def _fold_in(self, events: ir.Table) -> ir.Table:
        """Of an unseen user's n draws, those with the floor((1 - fold_in) * n) lowest hashes."""
        place = ibis.dense_rank().over(group_by=events.user, order_by=events.drawn)
        counted = events.mutate(place=place)
        draws = counted.place.max().over(group_by=counted.user) + 1
        judged = counted.place < (draws * (1 - self.fold_in) + 1e-9).floor()
        part = ibis.cases(
            (judged & (counted.role == "holdout"), HOLDOUT),
            (judged & (counted.role == "validation"), VALIDATION),
            else_=TRAIN,
        )
        return counted.mutate(part=part.cast("int8")).drop("place", "drawn")


class Given:
    """The holdout is a file of its own; validation is drawn from the events of the data.

    Args:
        holdout: Parquet, CSV or TSV, a folder or a glob; columns as in the data config, which also
            filters it.
        validation: share of the data's events.
    """

    def __init__(self, *, holdout: str, validation: float = 0.1) -> None:
        _refuse_fractions(validation=validation)
        self.holdout, self.validation = holdout, validation

    def __call__(self, workspace: Workspace, log: EventLog, seed: int) -> Split:
        if log.more is None:
            raise DataError("split=given reads further events as the data does; use data=table")
        further = log.more(self.holdout)
        held_out, checks = keep_events(workspace, further.events, log.filters)
        drawn = below(draw(seed, *_what_is_drawn(log)), self.validation)
        own = log.events.mutate(part=drawn.cast("int8"))
        both = own.union(held_out.mutate(part=ibis.literal(HOLDOUT, "int8")))
        events = workspace.keep("given", both.mutate(role=ibis.literal("all")))
        settings = {"holdout": self.holdout, "validation": self.validation}
        all_checks = [_of_the_holdout(check) for check in (*further.checks, *checks)]
        all_checks.append(_overlap(workspace, log, held_out))
        return Split(events, "given", settings, checks=tuple(all_checks), files=further.files)


def _what_is_drawn(log: EventLog) -> list[ir.Column]:
    """Where there are times, each event by itself; else all events of a user on an item.

    Unless those are repeats, which are then numbered: the first of them is drawn as one alone is,
    and which is which makes no difference, as those equal in every column are the same.
    """
    user, item = log.events.user, log.events.item
    if log.has_times:
        return [user, item, log.events.time.cast("string")]
    if not log.repeats:
        return [user, item]
    number = ibis.row_number().over(group_by=[user, item], order_by=in_order(log.events))
    again = ibis.literal("\x1f") + number.cast("string")
    return [user, item + ibis.ifelse(number == 0, "", again)]


def _newest(workspace: Workspace, events: ir.Table, share: float) -> int:
    """The instant from which on the newest `share` of the events lies."""
    found = workspace.one(events, instant=events.time.quantile(1 - share))["instant"]
    if found is None:
        raise DataError(f"split=time_cut: no event lies before the holdout; {ELSE_CUT}")
    return math.ceil(float(found))


def _refuse_order(workspace: Workspace, events: ir.Table, validation: int, holdout: int) -> None:
    if validation >= holdout:
        raise ConfigError(
            f"split.validation_from must be before split.holdout_from, got {iso(validation)} and "
            f"{iso(holdout)}"
        )
    found = workspace.one(events, first=events.time.min(), last=events.time.max())
    if not found["first"] < validation or not found["last"] >= holdout:
        raise DataError(
            f"split=time_cut: the events lie between {iso(found['first'])} and "
            f"{iso(found['last'])}, so cutting at {iso(validation)} and {iso(holdout)} leaves a "
            f"part empty; {ELSE_CUT}"
        )


def _leak(workspace: Workspace, events: ir.Table) -> Check:
    """Mean over judged events: the share of training events that happened after it."""
    per_second = events.group_by("time").aggregate(
        train=(events.part == TRAIN).sum(), holdout=(events.part == HOLDOUT).sum()
    )
    counts = workspace.fetch(per_second.order_by("time"))
    train, holdout = counts["train"].to_numpy(), counts["holdout"].to_numpy()
    later = train.sum() - np.cumsum(train)  # strictly after each second
    pairs = float(train.sum()) * float(holdout.sum())
    share = float((later.astype(np.float64) * holdout).sum()) / pairs if pairs else 0.0
    says = f"on average {share:.1%} of the training events happened after the event judged on"
    advice = "split=time_cut has no such leak; use it for figures you decide on"
    return Check("leak", "warn" if share > 0 else "ok", says, advice, {"share": share})


def _ties(workspace: Workspace, events: ir.Table) -> Check:
    """Users whose holdout begins within a moment, so that a draw says which events are in it."""
    known, held_out = events.part < HOLDOUT, events.part == HOLDOUT
    per_user = events.group_by("user").aggregate(
        last=events.time.max(where=known),
        first=events.time.min(where=held_out),
        once=events.time.min() == events.time.max(),
    )
    found = workspace.one(
        per_user,
        judged=per_user["first"].count(),
        tied=(per_user["first"] == per_user["last"]).sum(),
        baskets=per_user.once.mean() > ONE_BASKET,
    )
    users = found["tied"] or 0
    share = users / found["judged"] if found["judged"] else 0.0
    says = f"of {share:.1%} of the judged users what is held out is drawn from events of one moment"
    advice = ""
    if share > MANY_TIES:
        advice = "split=time_cut judges whole baskets"
        if found["baskets"]:  # before one there is nothing
            advice = (
                "split=random_fraction, or split=user_holdout, judges part of a basket by the rest"
            )
    level: Level = "warn" if advice else "ok"
    return Check("ties", level, says, advice, {"users": users, "share": share})


def _overlap(workspace: Workspace, log: EventLog, held_out: ir.Table) -> Check:
    """Holdout events that a model has already learned from."""
    names = [name for name in ("user", "item", "time") if name in log.events.columns]
    count = workspace.count(held_out.semi_join(log.events, names))
    says = f"{count:,} holdout events also stand in the data ({', '.join(names)} equal)"
    if not count:
        return Check("overlap", "ok", says, facts={"events": 0})
    if log.repeats and not log.has_times:
        return Check("overlap", "ok", f"{says}: without times, repeats", facts={"events": count})
    return Check("overlap", "warn", says, "take them out of one of the two", {"events": count})


def _of_the_holdout(check: Check) -> Check:
    return Check(f"holdout: {check.name}", check.level, check.says, check.advice, check.facts)


def _need_times(log: EventLog, name: str) -> None:
    if not log.has_times:
        raise DataError(
            f"split={name} needs the time of each event, and these have none; name the time column "
            "(data.time=...), or use split=random_fraction"
        )


def _refuse_fractions(**fractions: float) -> None:
    total = sum(fractions.values())
    if any(not 0 < share < 1 for share in fractions.values()) or total >= 1:
        names = " and ".join(f"split.{name}={share}" for name, share in fractions.items())
        raise ConfigError(f"{names}: each must lie between 0 and 1, and together below 1")
