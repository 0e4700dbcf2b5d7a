"""What could be known of a part before anybody is judged on it, counted on a prepared folder.

A figure says nothing of the future where the holdout stands in training, or where training holds
what happened after it. The parts are gone through some users at a time, so memory is bounded by
users, items and a chunk of events, however many events there are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from deeprec.data.protocol import may_be_judged, moment, unknown_events
from deeprec.data.store import PARTS, Events, PartName, Prepared

CHUNK_EVENTS = 2**20  # events and users held at once, if no history is longer: 0.1 GB
MANY_KNOWN = 0.01  # share of judged events that stand in training, above which figures are void
MANY_NEW = 0.3  # share of judged events on new items, or of judged users without a history

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One way in which what is judged could have been known, and how much of it there is.

    Args:
        level: ok; warn: figures are to be read with this in mind; fail: do not believe them.
        says: what was counted, for a person.
        facts: the same as numbers.
    """

    name: str
    level: Level
    says: str
    facts: Mapping[str, float]


@dataclass
class _Judged:
    """Counts over the users with events to be judged on.

    Args:
        known: events that stand in the user's own history too: same item and, if known, time.
        again: events on items of the user's own history.
        late: events of these histories after the user's first judged event.
        late_users: users who have any of them.
        without_history: users.
        first: int64 [users], the time of each one's first judged event.
        of_item: int64 [V], events on each item.
    """

    events: int
    users: int
    of_item: IntArray
    first: IntArray
    known: int = 0
    again: int = 0
    history: int = 0
    late: int = 0
    late_users: int = 0
    without_history: int = 0


@dataclass
class _Before:
    """Counts over what was known before the part of the users that may be trained on.

    Args:
        events: in the training part.
        pairs: of a training event and a judged user whose first judged event is before it.
        past_cut: events at or after the instant of the cut.
        trained: bool [V], items of the training part.
        known: bool [V], and of the parts between training and this one.
    """

    trained: BoolArray
    known: BoolArray
    events: int = 0
    pairs: int = 0
    past_cut: int = 0


def leakage(prepared: Prepared, part: PartName, *, exclude_seen: bool) -> list[Finding]:
    """Looks for what a model or a baseline could have known of `part` before it is judged on it.

    Args:
        prepared: the prepared folder.
        part: what is judged; before the holdout lie train and validation, else train alone.
        exclude_seen: whether items of the user's own history are neither listed nor relevant, so
            that nobody can score by an event of its own that stands on both sides.

    Returns:
        known_events: judged events that stand in the user's own history as well.
        repeats: judged events on items that the user had before; expected where they are allowed.
        cut: known events at or after the instant of a time cut; only where there is one.
        later_events: training events after the first judged event of a user, its own and others'.
        new_items: judged events on items of which no training event tells.
        new_users: judged users of whom nothing else is known.
    """
    judged = _of_judged(prepared, part)
    before = _of_before(prepared, part, np.sort(judged.first))
    found = [
        _known_events(prepared, part, judged, exclude_seen),
        _repeats(prepared, part, judged),
    ]
    if prepared.has_times and prepared.instant(part) is not None:
        found.append(_cut(prepared, part, before))
    found.append(_later_events(prepared, part, judged, before))
    return [*found, _new_items(prepared, part, judged, before), _new_users(part, judged)]


# --- counting ---


def _of_judged(prepared: Prepared, part: PartName) -> _Judged:
    rows = prepared.judged_users(part)
    lengths = sum((prepared.parts[name].lengths[rows] for name in _known_parts(part)), start=0)
    own = prepared.parts[part].lengths[rows]
    found = _Judged(
        int(own.sum()), len(rows), np.zeros(prepared.num_items, np.int64), np.zeros(0, np.int64)
    )
    first = []
    for some in _chunks(rows, lengths + own):
        history, judged = prepared.history(some, part), prepared.parts[part].take(some)
        found.of_item += np.bincount(judged.items, minlength=prepared.num_items)
        found.history += len(history.items)
        found.without_history += int((history.lengths == 0).sum())
        again, known = _seen(history, judged, prepared.num_items)
        found.again += int(again.sum())
        found.known += int(known.sum())
        if judged.times is not None and history.times is not None:
            first.append(np.minimum.reduceat(judged.times, judged.offsets[:-1]))
            late = history.times > np.repeat(first[-1], history.lengths)
            found.late += int(late.sum())
            users = np.repeat(np.arange(len(some)), history.lengths)
            found.late_users += int((np.bincount(users[late]) > 0).sum())
    found.first = np.concatenate([found.first, *first])
    return found


def _of_before(prepared: Prepared, part: PartName, first: IntArray) -> _Before:
    """Counts what is known before; `first` are the times of users' first judged events, sorted."""
    rows = np.flatnonzero(np.isin(prepared.roles, ["all", "train"]))
    instant = prepared.instant(part)
    nothing = np.zeros(prepared.num_items, np.bool_)
    found = _Before(nothing.copy(), nothing.copy())
    for name in _known_parts(part):
        for some in _chunks(rows, prepared.parts[name].lengths[rows]):
            events = prepared.parts[name].take(some)
            found.known[events.items] = True
            if instant is not None and events.times is not None:
                found.past_cut += int((events.times >= instant).sum())
            if name != "train":
                continue
            found.trained[events.items] = True
            found.events += len(events.items)
            if events.times is not None:
                # sorted first: the search then goes through memory once, not back and forth
                found.pairs += int(np.searchsorted(first, np.sort(events.times)).sum())
    return found


def _known_parts(part: PartName) -> tuple[str, ...]:
    """The parts before this one."""
    return PARTS[: PARTS.index(part)]


def _chunks(rows: IntArray, lengths: IntArray) -> Iterator[IntArray]:
    """Some rows at a time, of CHUNK_EVENTS events and users together, or of one long history."""
    ends = np.cumsum(lengths + 1)
    start = 0
    while start < len(rows):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + CHUNK_EVENTS, side="right")))
        yield rows[start:stop]
        start = stop


def _seen(history: Events, judged: Events, num_items: int) -> tuple[BoolArray, BoolArray]:
    """Which judged events are on an item of the history, and which are events of it: bool [N]."""
    pairs, before = _pairs(judged, num_items), _pairs(history, num_items)
    again = _among(pairs, before)
    if judged.times is None or history.times is None:
        return again, again
    known = np.zeros_like(again)
    kept = _among(before, pairs[again])
    known[again] = _same(pairs[again], judged.times[again], before[kept], history.times[kept])
    return again, known


def _pairs(events: Events, num_items: int) -> IntArray:
    """int64 [N]: one number for each user and item."""
    return np.repeat(np.arange(events.num_users), events.lengths) * num_items + events.items


def _among(asked: IntArray, known: IntArray) -> BoolArray:
    """Which of `asked` are in `known`; by sorting, because np.isin sorts both with their order."""
    if not len(known):
        return np.zeros(len(asked), np.bool_)
    known = np.sort(known)
    found: BoolArray = known[np.searchsorted(known, asked).clip(max=len(known) - 1)] == asked
    return found


def _same(pairs: IntArray, times: IntArray, before: IntArray, moments: IntArray) -> BoolArray:
    """Which (pair, time) stand among those before; dense numbers of both fit into one int64."""
    _, pair = np.unique(np.concatenate([pairs, before]), return_inverse=True)
    instants, instant = np.unique(np.concatenate([times, moments]), return_inverse=True)
    both = pair * len(instants) + instant
    return _among(both[: len(pairs)], both[len(pairs) :])


# --- what is said ---


def _known_events(
    prepared: Prepared, part: PartName, judged: _Judged, exclude_seen: bool
) -> Finding:
    facts = {"events": judged.known, "share": _share(judged.known, judged.events)}
    if not prepared.has_times and prepared.repeats:
        says = (
            f"no times are known, so none of the {judged.again:,} {part} events on items of the "
            "user's own history can be told from a repeat"
        )
        return Finding("known_events", "ok", says, {"events": 0, "share": 0.0})
    equal = "same user, item and time" if prepared.has_times else "same user and item"
    says = f"{_of(judged.known, judged.events, f'{part} events')} stand before it as well ({equal})"
    if judged.known and exclude_seen:
        says += "; as seen items are excluded, nobody is judged on them"
    void = facts["share"] > MANY_KNOWN and not exclude_seen
    level: Level = "fail" if void else "warn" if judged.known else "ok"
    return Finding("known_events", level, says, facts)


def _repeats(prepared: Prepared, part: PartName, judged: _Judged) -> Finding:
    says = f"{_of(judged.again, judged.events, f'{part} events')} are on items the user had before"
    if judged.again:
        says += (
            ", as repeats are allowed here"
            if prepared.repeats
            else ", which count for nothing, as repeats are not allowed"
        )
    level: Level = "ok" if prepared.repeats or not judged.again else "warn"
    facts = {"events": judged.again, "share": _share(judged.again, judged.events)}
    return Finding("repeats", level, says, facts)


def _cut(prepared: Prepared, part: PartName, before: _Before) -> Finding:
    says = (
        f"{before.past_cut:,} events before the {part} part are at or after the instant of its cut,"
        f" {moment(prepared.instant(part))}"
    )
    return Finding("cut", "fail" if before.past_cut else "ok", says, {"events": before.past_cut})


def _later_events(prepared: Prepared, part: PartName, judged: _Judged, before: _Before) -> Finding:
    if not prepared.has_times:
        says = f"no times are known: training may hold what happened after the {part} events"
        return Finding("later_events", "warn", says, {})
    share = _share(before.pairs, judged.users * before.events)
    says = f"no training event is later than any user's first {part} event"
    if before.pairs:
        says = (
            f"on average {100 * share:.2g} % of the training events are later than a user's first "
            f"{part} event"
        )
    if judged.late:
        says += (
            f"; {judged.late:,} events of the own histories of "
            f"{_of(judged.late_users, judged.users, 'judged users')} are later than theirs"
        )
    facts = {
        "share_of_training": share,
        "own_events": judged.late,
        "own_share": _share(judged.late, judged.history),
        "users": judged.late_users,
    }
    return Finding("later_events", "warn" if before.pairs or judged.late else "ok", says, facts)


def _new_items(prepared: Prepared, part: PartName, judged: _Judged, before: _Before) -> Finding:
    outside = int((unknown_events(prepared, part) * may_be_judged(prepared, part)).sum())
    cold, first = ~before.trained & (judged.of_item > 0), ~before.known & (judged.of_item > 0)
    cold_events, first_events = (int(judged.of_item[items].sum()) for items in (cold, first))
    total = judged.events + outside
    says = (
        f"{_of(cold_events + outside, total, f'{part} events')} are on items without a training "
        f"event: {cold_events:,} on {int(cold.sum()):,} items of the catalog (of these "
        f"{first_events:,} on items first met in the {part}), {outside:,} on items outside it"
    )
    share = _share(cold_events + outside, total)
    if part == "holdout" and share > MANY_NEW and cold_events > first_events:
        says += (
            f"; {cold_events - first_events:,} of these events are on items that validation knows, "
            "which `deeprec refit` learns on a folder prepared with train_on=validation"
        )
    facts = {
        "share": share,
        "cold_items": int(cold.sum()),
        "cold_events": cold_events,
        "first_items": int(first.sum()),
        "first_events": first_events,
        "outside_events": outside,
    }
    return Finding("new_items", "warn" if share > MANY_NEW else "ok", says, facts)


def _new_users(part: PartName, judged: _Judged) -> Finding:
    share = _share(judged.without_history, judged.users)
    says = f"{_of(judged.without_history, judged.users, 'judged users')} have no event before it"
    facts = {"users": judged.without_history, "share": share}
    return Finding("new_users", "warn" if share > MANY_NEW else "ok", says, facts)


def _of(count: int, total: int, what: str) -> str:
    return f"{count:,} of {total:,} {what} ({100 * _share(count, total):.1f} %)"


def _share(count: int, total: int) -> float:
    return count / total if total else 0.0
