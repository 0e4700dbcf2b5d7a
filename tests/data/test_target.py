"""Examples against a plain reading of what each target promises, user by user."""

import numpy as np
import pytest

from deeprec.data.store import SECONDS_PER_DAY, Events
from deeprec.data.target import AfterCut, ByKind, Examples, LeaveSomeOut, NextBasket, Reconstruct
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


def test_events_of_one_instant_are_next_in_any_order() -> None:
    """Which of them come first is drawn: each is asked for as often, and shown as often."""
    some = events(*[[2, 5, 5, 5]] * 3000)
    examples = AfterCut(window_events=1)(some, draws(3000), PERIOD)
    asked = np.bincount(examples.taken.items % 4, minlength=4)
    shown = np.bincount(examples.history.items % 4, minlength=4)
    assert shown[0] == 3000
    assert asked[0] == 0
    np.testing.assert_allclose(asked[1:], 1000, atol=110)
    np.testing.assert_allclose(shown[1:], 1000, atol=110)
    assert examples.moments is not None
    assert {*examples.moments.tolist()} == {5 * DAY}


def test_without_times_all_later_events_are_the_target() -> None:
    some = events(list(range(8)))
    some = Events(some.offsets, some.items)
    examples: Examples = AfterCut()(some, np.array([0.99]), None)
    assert rows(examples.history) == [list(range(7))]
    assert rows(examples.taken) == [[7]]


def test_the_next_basket_is_all_that_follows_at_once() -> None:
    users = [[1, 1, 4, 4, 4, 9], [2], [3, 3], []]
    some = events(*users * 100)
    examples = NextBasket()(some, draws(400), PERIOD)
    assert examples.moments is not None
    seen = set()
    for user, (shown, taken) in enumerate(
        zip(rows(examples.history), rows(examples.taken), strict=True)
    ):
        first, days = some.offsets[user], users[user % 4]
        if user % 4:  # one basket or none: nothing to predict
            assert taken == []
            continue
        basket = {days[item - first] for item in taken}
        assert len(basket) == 1
        [day] = basket
        assert [days[item - first] for item in shown] == [one for one in days if one < day]
        assert len(taken) == days.count(day)
        assert examples.moments[user] == day * DAY
        seen.add(day)
    assert seen == {4, 9}


def test_a_basket_may_be_all_of_a_day() -> None:
    some = events([1, 2, 3])
    hours = np.array([1, DAY - 1, DAY], np.int64)  # two on the first day, one on the second
    some = Events(some.offsets, some.items, times=hours)
    examples = NextBasket(same="day")(some, np.zeros(1), PERIOD)
    assert rows(examples.history) == [[0, 1]]
    assert rows(examples.taken) == [[2]]
    assert rows(NextBasket()(some, np.zeros(1), PERIOD).taken) == [[1]]


def test_baskets_need_as_many_before_them_as_asked_for_and_times() -> None:
    some = events([1, 2, 2, 3])
    for draw in (0.0, 0.99):
        examples = NextBasket(min_history_baskets=2)(some, np.array([draw]), PERIOD)
        assert rows(examples.history) == [[0, 1, 2]]
        assert rows(examples.taken) == [[3]]
    with pytest.raises(DataError, match="use target=next_item"):
        NextBasket()(Events(some.offsets, some.items), np.zeros(1), None)


def test_some_are_left_out_and_the_others_shown() -> None:
    some = events(*[list(range(10)) for _ in range(2000)])
    uniform = draws(2000)
    examples = LeaveSomeOut(share=0.3)(some, uniform, PERIOD)
    together = [a + b for a, b in zip(rows(examples.history), rows(examples.taken), strict=True)]
    assert [sorted(one) for one in together] == rows(some)
    assert set(examples.taken.lengths) == {3}
    assert all(one == sorted(one) for one in rows(examples.history))  # in the order they had
    # every event is left out as often as any other, and pairs are not tied to each other
    left = examples.taken.items % 10
    shares = np.bincount(left) / 2000
    np.testing.assert_allclose(shares, 0.3, atol=0.05)  # 0.01 is one standard deviation
    pairs = left.reshape(-1, 3)
    both = ((pairs == 0).any(1) & (pairs == 1).any(1)).mean()
    assert abs(both - 3 / 10 * 2 / 9) < 0.03
    again = LeaveSomeOut(share=0.3)(events(list(range(10))), uniform[7:8], PERIOD)
    assert rows(again.taken)[0] == (examples.taken.items.reshape(-1, 3)[7] % 10).tolist()


def test_a_user_keeps_an_event_and_leaves_one_out_where_there_are_two() -> None:
    some = events([1], [1, 2], [], [1, 2, 3])
    for share in (0.01, 0.99):
        examples = LeaveSomeOut(share=share)(some, draws(4), None)
        assert examples.history.lengths.tolist() == [1, 1, 0, 1 if share > 0.5 else 2]
        assert examples.taken.lengths.tolist() == [0, 1, 0, 2 if share > 0.5 else 1]


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_of_none_or_all_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"share must be between 0 and 1, got"):
        LeaveSomeOut(share=share)


def test_wrong_baskets_are_refused() -> None:
    with pytest.raises(ValueError, match="min_history_baskets must be 1 or more, got 0"):
        NextBasket(min_history_baskets=0)
    with pytest.raises(ValueError, match="same must be 'instant' or 'day', got 'week'"):
        NextBasket(same="week")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [{"window_days": 0}, {"cut_days": -1}, {"window_events": 0}, {"min_history_events": 0}],
)
def test_settings_at_or_below_zero_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be above 0"):
        AfterCut(**arguments)  # type: ignore[arg-type]


def test_one_kind_is_learned_from_another() -> None:
    kinds = np.array([0, 1, 1, 0, 2], np.int8)
    events = Events(np.array([0, 3, 5]), np.array([4, 9, 4, 7, 8], np.int32), kinds=kinds)
    made = ByKind(shown=0, asked=1)(events, np.zeros(2), None)
    assert (made.history.items.tolist(), made.history.offsets.tolist()) == ([4, 7], [0, 1, 2])
    assert (made.taken.items.tolist(), made.taken.offsets.tolist()) == ([9, 4], [0, 2, 2])
    with pytest.raises(DataError, match="target=by_kind tells events by their kind"):
        ByKind()(Events(events.offsets, events.items), np.zeros(2), None)
    with pytest.raises(ValueError, match="must be two places from 0 on, got 1 and 1"):
        ByKind(shown=1, asked=1)
