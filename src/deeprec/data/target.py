"""What a model learns to predict: the history, a part left out of it, or what follows a cut.

A target turns the training events of some users into what the model is shown and what it should
have scored high. Where it draws, it draws from `uniform`, one number per user and epoch, so that
an example depends on the seed, the epoch and the user and on nothing else.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from deeprec.data.store import SECONDS_PER_DAY, Events
from deeprec.errors import DataError


@dataclass
class Examples:
    """What U users are shown and what they took next, user by user."""

    history: Events
    taken: Events  # events whose items are the target
    # int64 [U] seconds, moments of prediction; None: those of `after`
    moments: npt.NDArray[np.int64] | None = None
    weighs: bool = False  # whether a target weighs as the values of its events, added up


class Target(Protocol):
    """One way of making examples."""

    shows_target: bool  # whether the target is part of what is shown

    def __call__(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int] | None
    ) -> Examples:
        """Makes one example per user; a user without history is given no target.

        A user without target is not trained on in this epoch.

        Args:
            events: training events of U users, oldest first.
            uniform: float64 [U] in [0, 1), this epoch's draw of each user.
            period: first and end second of the training part; None where times are unknown.
        """
        ...


class Reconstruct:
    """The history is its own target: a (denoising) autoencoder.

    Ages count as they do when the model is judged, see `after`.

    Args:
        weigh: whether a target counts as the values of its events, such as quantities, added up.
    """

    shows_target = True

    def __init__(self, *, weigh: bool = False) -> None:
        self.weigh = weigh

    def __call__(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int] | None
    ) -> Examples:
        if self.weigh:
            check_values(events)
        return Examples(events, events, weighs=self.weigh)


class AfterCut:
    """What comes after a moment drawn anew for each user and epoch, from what came before it.

    Args:
        window_days: days after the cut whose items are the target.
        cut_days: cuts are drawn from this many days, the last ones that leave room for a whole
            window; None: from the whole training period.
        window_events: cut between two events of the user instead, drawn evenly, with this many
            events after it as the target; which of one instant come first is drawn too. Where times
            are unknown that is the only way, and None means all later events.
        min_history_events: events before the cut that an example needs.
    """

    shows_target = False

    def __init__(
        self,
        *,
        window_days: float = 30.0,
        cut_days: float | None = None,
        window_events: int | None = None,
        min_history_events: int = 1,
    ) -> None:
        for name, value in (
            ("window_days", window_days),
            ("cut_days", cut_days),
            ("window_events", window_events),
            ("min_history_events", min_history_events),
        ):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.window_days, self.cut_days = window_days, cut_days
        self.window_events, self.min_history_events = window_events, min_history_events

    def __call__(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int] | None
    ) -> Examples:
        if period is None or self.window_events is not None:
            return self._between_events(events, uniform)
        return self._at_instants(events, uniform, period)

    def _at_instants(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int]
    ) -> Examples:
        assert events.times is not None
        first, last = self._cut_range(period)
        cuts = (first + uniform * (last - first)).astype(np.int64)
        ends = cuts + round(self.window_days * SECONDS_PER_DAY)
        before = events.times < np.repeat(cuts, events.lengths)
        within = ~before & (events.times < np.repeat(ends, events.lengths))
        return self._examples(events, before, within, cuts)

    def _cut_range(self, period: tuple[int, int]) -> tuple[float, float]:
        start, end = period
        last = end - self.window_days * SECONDS_PER_DAY
        if last <= start:
            days = (end - start) / SECONDS_PER_DAY
            raise DataError(
                f"the training events span {days:.1f} days, so no window of "
                f"target.window_days={self.window_days:g} fits behind a cut; make it shorter, or "
                "use target=reconstruct"
            )
        if self.cut_days is None:
            return float(start), last
        return max(start, last - self.cut_days * SECONDS_PER_DAY), last

    def _between_events(self, events: Events, uniform: npt.NDArray[np.float64]) -> Examples:
        numbers = places(events)
        if events.times is not None and not np.diff(events.times).all():  # an instant has no order
            numbers = _drawn_order(events, uniform, events.times)
        return _cut(
            events,
            numbers,
            events.lengths,
            uniform,
            shown=self.min_history_events,
            taken=self.window_events,
        )

    def _examples(
        self,
        events: Events,
        before: npt.NDArray[np.bool_],
        within: npt.NDArray[np.bool_],
        moments: npt.NDArray[np.int64],
    ) -> Examples:
        history = where(events, before)
        enough = np.repeat(history.lengths >= self.min_history_events, events.lengths)
        return Examples(history, where(events, within & enough), moments)


class NextBasket:
    """All that a user takes at once, from what it took before, cut anew for each user and epoch.

    Args:
        same: what makes a basket of events: the same `instant`, or the same `day`, counted in UTC.
        min_history_baskets: baskets before the cut that an example needs.
    """

    shows_target = False

    def __init__(
        self, *, same: Literal["instant", "day"] = "instant", min_history_baskets: int = 1
    ) -> None:
        if same not in ("instant", "day"):
            raise ValueError(f"same must be 'instant' or 'day', got {same!r}")
        if min_history_baskets < 1:
            raise ValueError(f"min_history_baskets must be 1 or more, got {min_history_baskets}")
        self.same, self.min_history_baskets = same, min_history_baskets

    def __call__(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int] | None
    ) -> Examples:
        if events.times is None:
            raise DataError(
                "target=next_basket tells baskets by the times of events, and these data have none;"
                " use target=next_item"
            )
        times = events.times // (SECONDS_PER_DAY if self.same == "day" else 1)
        begins = (np.diff(times, prepend=-1) != 0) & (places(events) > 0)
        counts = np.concatenate([[0], np.cumsum(begins)])
        numbers = counts[1:] - np.repeat(counts[events.offsets[:-1]], events.lengths)
        owned = np.where(events.lengths > 0, 1 + np.diff(counts[events.offsets]), 0)
        return _cut(events, numbers, owned, uniform, shown=self.min_history_baskets, taken=1)


class LeaveSomeOut:
    """Some events of a history, drawn anew for each user and epoch, from the others.

    Of a user with two events or more at least one is shown and one is left out. Ages count as they
    do when the model is judged, see `after`.

    Args:
        share: of the events that are left out.
    """

    shows_target = False

    def __init__(self, *, share: float = 0.2) -> None:
        if not 0.0 < share < 1.0:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        self.share = share

    def __call__(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int] | None
    ) -> Examples:
        lengths = events.lengths
        wanted = np.clip(np.round(self.share * lengths), 1, (lengths - 1).clip(0)).astype(np.int64)
        left_out = _drawn_order(events, uniform) < np.repeat(wanted, lengths)
        return Examples(where(events, ~left_out), where(events, left_out))


class ByKind:
    """Events of one kind from those of another, such as what was bought from what was seen.

    Ages count as they do when the model is judged, see `after`.

    Args:
        shown: kind of the history, by its place among `kinds` in the manifest of the prepared
            folder.
        asked: kind of the target, likewise.
        weigh: whether a target counts as the values of its events, such as quantities, added up.

    Raises:
        ValueError: both are the same, or below 0.
    """

    shows_target = True  # what was seen may be bought

    def __init__(self, *, shown: int = 0, asked: int = 1, weigh: bool = False) -> None:
        if min(shown, asked) < 0 or shown == asked:
            raise ValueError(
                f"shown and asked must be two places from 0 on, got {shown} and {asked}"
            )
        self.shown, self.asked, self.weigh = shown, asked, weigh

    def __call__(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int] | None
    ) -> Examples:
        if events.kinds is None:
            raise DataError(
                "target=by_kind tells events by their kind, and these have none; name the column "
                "(data.kind=...)"
            )
        if self.weigh:
            check_values(events)
        shown, asked = (where(events, events.kinds == kind) for kind in (self.shown, self.asked))
        return Examples(shown, asked, weighs=self.weigh)


def after(
    events: Events, uniform: npt.NDArray[np.float64], end: int | None
) -> npt.NDArray[np.int64] | None:
    """int64 [U] seconds: moments at which users may be judged after these events.

    Where each is judged at its next event, that is not known, and stands as long after its newest
    one as another event of its own, drawn, came after the one before.

    Args:
        events: training events of U users, oldest first.
        uniform: float64 [U] in [0, 1).
        end: the second at which all are judged; None: each at its next event.

    Returns:
        None where times are unknown; any moment for a user without events.

    Example:
        >>> some = Events(np.array([0, 3, 4]), np.zeros(4, np.int32), times=np.array([1, 5, 6, 8]))
        >>> [after(some, np.full(2, draw), None).tolist() for draw in (0.0, 0.9)]
        [[7, 8], [10, 8]]
    """
    times, lengths = events.times, events.lengths
    if times is None:
        return None
    if end is not None:
        return np.full(events.num_users, end)
    newest = events.offsets[1:] - 1
    drawn = newest - (uniform * (lengths - 1).clip(0)).astype(np.int64)
    gaps = np.where(lengths > 1, _times_at(drawn, times) - _times_at(drawn - 1, times), 0)
    return _times_at(newest, times) + gaps


def check_values(events: Events) -> None:
    """Raises DataError if events have no values to weigh targets by."""
    if events.values is None:
        raise DataError(
            "target.weigh=true weighs targets by the values of events, and these have none; "
            "name the column (data.value=...)"
        )


def places(events: Events) -> npt.NDArray[np.int64]:
    """int64 [N]: the place of each event among those of its user, from 0."""
    return np.arange(events.offsets[-1]) - np.repeat(events.offsets[:-1], events.lengths)


def where(events: Events, chosen: npt.NDArray[np.bool_]) -> Events:
    """The chosen events of the same users."""
    counts = np.concatenate([[0], np.cumsum(chosen)])
    columns = {name: column[chosen] for name, column in events.columns.items()}
    return Events(counts[events.offsets], **columns)


def _cut(
    events: Events,
    numbers: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    uniform: npt.NDArray[np.float64],
    *,
    shown: int,
    taken: int | None,
) -> Examples:
    """Cuts each user's groups of events, drawn evenly, before one of them.

    Args:
        numbers: int64 [N], group of each event, counted from 0 inside its user.
        counts: int64 [U], groups of each user.
        uniform: float64 [U] in [0, 1).
        shown: least groups before a cut; a user with no more than these is given no target.
        taken: groups after the cut that are the target; None: all.
    """
    cuts = shown + (uniform * (counts - shown).clip(0)).astype(np.int64)  # one is left behind it
    after = numbers - np.repeat(cuts, events.lengths)
    within = after >= 0
    if taken is not None:
        within &= after < taken
    history = where(events, after < 0)
    moments = (
        None
        if events.times is None
        else _times_at(events.offsets[:-1] + history.lengths, events.times)
    )
    return Examples(history, where(events, within), moments)


def _times_at(at: npt.NDArray[np.int64], times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The times of these events; any where there is none."""
    if len(times) == 0:
        return np.zeros(len(at), np.int64)
    found: npt.NDArray[np.int64] = times[at.clip(0, len(times) - 1)]
    return found


def _drawn_order(
    events: Events,
    uniform: npt.NDArray[np.float64],
    times: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """int64 [N]: the place of each event in an order of its user's that the draw decides.

    Args:
        events: of U users.
        uniform: float64 [U] in [0, 1).
        times: int64 [N], first ones first; the draw decides among equal ones. None: among all.
    """
    users = np.repeat(np.arange(events.num_users), events.lengths)
    keys = _mixed(uniform.view(np.uint64)[users] + places(events).astype(np.uint64))
    order = np.lexsort([keys, users] if times is None else [keys, times, users])
    found = np.empty_like(order)
    found[order] = places(events)
    return found


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers that look drawn, the same for the same: the mixer of SplitMix64."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
