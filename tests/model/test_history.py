"""Aggregation against plain loops."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprec.batch import Batch, Jagged
from deeprec.data.judge import distinct
from deeprec.model.history import aggregate, aggregated, history_weights, normalized

NUM_ITEMS = 4
event = st.tuples(st.integers(0, NUM_ITEMS - 1), st.floats(0, 400, width=32))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(event, max_size=8), max_size=5), st.booleans())
def test_aggregation_equals_plain_loops(
    users: list[list[tuple[int, float]]], with_ages: bool
) -> None:
    offsets = torch.tensor([0, *map(len, users)]).cumsum(0)
    items = torch.tensor([item for user in users for item, _ in user], dtype=torch.int64)
    ages = torch.tensor([age for user in users for _, age in user], dtype=torch.float32)
    history = aggregate(items, offsets, ages if with_ages else torch.zeros(0), NUM_ITEMS)
    truth = []
    for position, user in enumerate(users):
        for item in sorted({item for item, _ in user}):
            own = [age if with_ages else 0.0 for other, age in user if other == item]
            recent = sum(math.exp(-age / 90) for age in own)
            truth.append((item, position, len(own), min(own), max(own), recent))
    columns = zip(*truth, strict=True) if truth else [()] * 6
    names = ("items_M", "users_M", "counts_M", "latest_M", "first_M", "recent_M")
    for name, column in zip(names, columns, strict=True):
        found = getattr(history, name).double()
        torch.testing.assert_close(found, torch.tensor(column).double(), atol=1e-5, rtol=1e-6)
    owned = [len({item for item, _ in user}) for user in users]
    assert history.offsets_B1.tolist() == torch.tensor([0, *owned]).cumsum(0).tolist()


@given(st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=5), st.booleans())
@settings(max_examples=60)
def test_histories_that_are_their_own_targets_are_aggregated_alike(
    rows: list[list[int]], once: bool
) -> None:
    rows = [list(dict.fromkeys(row)) if once else row for row in rows]
    offsets = torch.tensor([0, *itertools.accumulate(map(len, rows))])
    history = Jagged(torch.tensor([item for row in rows for item in row]).long(), offsets)
    batch = Batch(torch.arange(len(rows)), history, target=distinct(history), own_target=True)
    none = torch.zeros(0)
    expected = aggregate(history.values, offsets, none, 9, 30.0)
    for found, value in zip(aggregated(batch, none, 9, 30.0), expected, strict=True):
        assert torch.equal(found, value)
        assert found.dtype == value.dtype


def test_a_target_that_is_another_is_not_taken_for_the_history() -> None:
    history = Jagged(torch.tensor([3, 1]), torch.tensor([0, 2]))
    batch = Batch(torch.arange(1), history, target=Jagged(torch.tensor([5, 6]), history.offsets))
    none = torch.zeros(0)
    assert aggregated(batch, none, 9, 30.0).items_M.tolist() == [1, 3]
    batch.target, batch.own_target = distinct(history), True
    ages = torch.tensor([2.0, 4.0])
    assert aggregated(batch, ages, 9, 30.0).latest_M.tolist() == [4.0, 2.0]


def test_a_history_has_length_1_however_long_its_user_was_idle() -> None:
    """Fading by a day, after 20, 60 and 900 days: float32 holds no square of such weights."""
    ages = torch.tensor([20.0, 22.0, 60.0, 62.0, 900.0, 902.0])
    offsets = torch.tensor([0, 2, 4, 6])
    history = aggregate(torch.tensor([0, 1] * 3), offsets, ages, NUM_ITEMS, fade_days=1.0)
    weights = normalized(history_weights(history, "decayed"), history.users_M, 3)
    newer, older = 1 / math.hypot(1, math.exp(-2)), math.exp(-2) / math.hypot(1, math.exp(-2))
    even = math.sqrt(0.5)  # nothing is left that tells them apart
    expected = torch.tensor([newer, older, newer, older, even, even])
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=0)
