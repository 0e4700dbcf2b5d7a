"""What a model learns to predict: the history itself, or what comes after a cut in it.

A target turns the training events of some users into what the model is shown and what it should
have scored high. Where it draws, it draws from `uniform`, one number per user and epoch, so that
an example depends on the seed, the epoch and the user and on nothing else.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deeprec.data.store import SECONDS_PER_DAY, Events
from deeprec.errors import DataError


@dataclass
class Examples:
    """What U users are shown and what they took next, user by user."""

    history: Events
    taken: Events  # events whose items are the target
    moments: npt.NDArray[np.int64] | None  # [U] seconds, moments of prediction; None: no times


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

    Ages count from the end of the training period, as they do when the model is judged.
    """

    shows_target = True

    def __call__(
        self, events: Events, uniform: npt.NDArray[np.float64], period: tuple[int, int] | None
    ) -> Examples:
        moments = None if period is None else np.full(events.num_users, period[1])
        return Examples(events, events, moments)


class AfterCut:
    """What comes after a moment drawn anew for each user and epoch, from what came before it.

    Args:
        window_days: days after the cut whose items are the target.
        cut_days: cuts are drawn from this many days, the last ones that leave room for a whole
            window; None: from the whole training period.
        window_events: cut between two events of the user instead, drawn evenly, with this many
            events after it as the target. Where times are unknown that is the only way, and None
            means all later events.
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
        places = (events.lengths - self.min_history_events).clip(0)  # a cut leaves an event behind
        cuts = self.min_history_events + (uniform * places).astype(np.int64)
        positions = np.arange(events.offsets[-1]) - np.repeat(events.offsets[:-1], events.lengths)
        after = positions - np.repeat(cuts, events.lengths)
        within = after >= 0
        if self.window_events is not None:
            within &= after < self.window_events
        moments = None
        if events.times is not None:
            places_of_cuts = (events.offsets[:-1] + cuts).clip(max=max(len(events.items) - 1, 0))
            moments = events.times[places_of_cuts] if len(events.items) else cuts
        return self._examples(events, after < 0, within, moments)

    def _examples(
        self,
        events: Events,
        before: npt.NDArray[np.bool_],
        within: npt.NDArray[np.bool_],
        moments: npt.NDArray[np.int64] | None,
    ) -> Examples:
        history = where(events, before)
        enough = np.repeat(history.lengths >= self.min_history_events, events.lengths)
        return Examples(history, where(events, within & enough), moments)


def where(events: Events, chosen: npt.NDArray[np.bool_]) -> Events:
    """The chosen events of the same users."""
    counts = np.concatenate([[0], np.cumsum(chosen)])
    columns = {name: column[chosen] for name, column in events.columns.items()}
    return Events(counts[events.offsets], **columns)
