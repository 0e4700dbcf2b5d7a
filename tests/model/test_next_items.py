"""What comes next, against a plain reading of histories event by event."""

import numpy as np
import pytest
import torch

from deeprec.batch import Jagged
from deeprec.model.next_items import what_comes_next
from deeprec.model.window import gap_limits, gaps_to_next, newest

Asked = list[tuple[list[int], list[int]]]  # the events that are read, by place, and the items asked


def expected(
    items: list[int], ages: list[float] | None, *, max_events: int, repeats: bool
) -> Asked:
    """Of one user, for each of its instants: the events before it and what is new in it."""
    instants: list[list[int]] = []
    for place in range(len(items)):
        if ages is not None and place and ages[place] == ages[place - 1]:
            instants[-1].append(place)
        else:
            instants.append([place])
    num_inputs = instants[-1][0] if instants else 0
    window = list(range(num_inputs))[-max_events:]
    begin = window[0] if window else 0
    found: Asked = []
    for places in instants:
        before = [place for place in window if place < places[0]]
        wanted = {items[place] for place in places}
        wanted -= set() if repeats else set(items[: places[0]])
        if wanted and (before or (places[0] == 0 and begin == 0)):
            found.append((before, sorted(wanted)))
    return found


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("max_events", [1, 3, 50])
def test_it_asks_the_last_event_of_an_instant_for_the_items_of_the_next(
    repeats: bool, timed: bool, max_events: int
) -> None:
    draw = np.random.default_rng(max_events)
    users = [draw.integers(0, 9, draw.integers(0, 12)).tolist() for _ in range(60)]
    ages = [np.sort(draw.integers(0, 8, len(items)))[::-1].tolist() for items in users]
    offsets = torch.tensor([0, *np.cumsum([len(items) for items in users])])
    found = what_comes_next(
        Jagged(torch.tensor([item for items in users for item in items]), offsets),
        torch.tensor([float(age) for own in ages for age in own] if timed else []),
        max_events=max_events,
        repeats=repeats,
        num_items=9,
    )
    truth = [
        (user, before, wanted)
        for user, items in enumerate(users)
        for before, wanted in expected(
            items, ages[user] if timed else None, max_events=max_events, repeats=repeats
        )
    ]
    windows, target = found.windows, found.target
    assert len(found.asked_P) == len(truth)
    for position, (user, before, wanted) in enumerate(truth):
        first, last = target.offsets[position : position + 2].tolist()
        assert target.values[first:last].tolist() == wanted
        asked = int(found.asked_P[position]) - 1
        if not before:
            assert asked == -1
            continue
        start = int(windows.offsets_B1[user])
        own = windows.events_W[start : asked + 1] - offsets[user]
        assert own.tolist() == before


def test_gaps_reach_the_next_event_and_of_the_last_one_the_moment_of_prediction() -> None:
    minute = 1 / 1440
    ages = [400.0, 40.0, 39.0, 39.0, 2.5, 800.0, 0.5 * minute]  # two users
    starts, ends = torch.tensor([0, 5, 5]), torch.tensor([5, 5, 7])
    windows = newest(starts, ends, 5)
    gaps = [360.0, 1.0, 0.0, 36.5, 2.5, 800.0 - 0.5 * minute, 0.5 * minute]
    limits = gap_limits(torch.device("cpu")).tolist()
    classes = [1 + sum(limit <= gap for limit in limits) for gap in gaps]
    assert gaps_to_next(windows, torch.tensor(ages), ends).tolist() == classes
    assert classes[2] == classes[6] == 1  # at once
    assert classes[5] == 1 + len(limits)
    assert gaps_to_next(windows, torch.zeros(0), ends).tolist() == [0] * 7
