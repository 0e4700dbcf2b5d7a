"""Examples against a plain reading of what each target promises, user by user."""

import numpy as np
import pytest

from deeprec.data.store import SECONDS_PER_DAY, Events
from deeprec.data.target import AfterCut, Examples, Reconstruct
from deeprec.errors import DataError

DAY = SECONDS_PER_DAY
PERIOD = (0, 100 * DAY)


def events(*users: list[int]) -> Events:
    """Users by the days of their events; each event is an item of its own."""
    offsets = np.cumsum([0, *map(len, users)])
    times = np.array([day * DAY for user in users for day in user], np.int64)
    return Events(offsets, np.arange(offsets[-1], dtype=np.int32), times=times)


def rows(some: Events) -> list[list[int]]:
    return [some.items[a:b].tolist() for a, b in zip(some.offsets, some.offsets[1:], strict=False)]


def draws(number: int) -> np.ndarray:
    return np.random.default_rng(0).random(number)


def test_reconstruct_shows_what_it_asks_for() -> None:
    some = events([3, 5], [], [90])
    examples = Reconstruct()(some, draws(3), PERIOD)
    assert rows(examples.history) == rows(examples.taken) == [[0, 1], [], [2]]
    assert examples.moments is not None
    assert examples.moments.tolist() == [100 * DAY] * 3


def test_a_cut_divides_before_from_the_window_after_it() -> None:
    # a draw of 0.5 cuts at half of [0, 90] days: at day 45; the window ends before day 55
    some = events([10, 44, 45, 54, 55, 80], [50], [44])
    examples = AfterCut(window_days=10)(some, np.full(3, 0.5), PERIOD)
    assert examples.moments is not None
    assert examples.moments.tolist() == [45 * DAY] * 3
    assert rows(examples.history) == [[0, 1], [], [7]]
    assert rows(examples.taken) == [[2, 3], [], []]  # without history there is no target


def test_cuts_fill_the_days_asked_for_and_windows_end_in_time() -> None:
    some = events(*[list(range(100)) for _ in range(500)])
    examples = AfterCut(window_days=30, cut_days=20)(some, draws(500), PERIOD)
    assert examples.moments is not None
    days = examples.moments / DAY
    assert 50 <= days.min() < 51
    assert 69 < days.max() < 70
    assert set(examples.taken.lengths) == {30}


def test_a_period_without_room_for_a_window_is_refused() -> None:
    with pytest.raises(DataError, match=r"span 100\.0 days.*window_days=100"):
        AfterCut(window_days=100)(events([1, 2]), draws(1), PERIOD)


@pytest.mark.parametrize("timed", [True, False])
def test_a_cut_between_events_takes_the_next_ones(timed: bool) -> None:
    some = events(*[list(range(5)) for _ in range(300)], [7], [])
    some = some if timed else Events(some.offsets, some.items)
    target = AfterCut(window_events=2, min_history_events=2)
    examples = target(some, draws(302), PERIOD if timed else None)
    cuts = set()
    for user, (shown, taken) in enumerate(
        zip(rows(examples.history)[:300], rows(examples.taken)[:300], strict=True)
    ):
        own = list(range(5 * user, 5 * user + 5))
        cut = len(shown)
        cuts.add(cut)
        assert shown == own[:cut]
        assert taken == own[cut : cut + 2]
        if timed:
            assert examples.moments is not None
            assert examples.moments[user] == cut * DAY
    assert cuts == {2, 3, 4}
    assert rows(examples.taken)[300:] == [[], []]
    assert timed or examples.moments is None


def test_without_times_all_later_events_are_the_target() -> None:
    some = events(list(range(8)))
    some = Events(some.offsets, some.items)
    examples: Examples = AfterCut()(some, np.array([0.99]), None)
    assert rows(examples.history) == [list(range(7))]
    assert rows(examples.taken) == [[7]]


@pytest.mark.parametrize(
    "arguments",
    [{"window_days": 0}, {"cut_days": -1}, {"window_events": 0}, {"min_history_events": 0}],
)
def test_settings_at_or_below_zero_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be above 0"):
        AfterCut(**arguments)  # type: ignore[arg-type]
