"""Aggregation against plain loops."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeprec.model.history import aggregate

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
