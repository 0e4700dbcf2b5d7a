"""A judged batch shows each user as it stood before the part, checked against plain lists."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from deeprec.batch import Batch, Jagged
from deeprec.data import store
from deeprec.data.judge import judged_batch, known_users, without_seen
from deeprec.data.store import Events, Prepared

DAY = 86_400
NUM_USERS, NUM_ITEMS = 12, 9
DRAW = np.random.default_rng(3)

# per part and user: (item, time, value), oldest first
LOG = {
    part: [
        [
            (int(DRAW.integers(NUM_ITEMS)), start + step * DAY // 2, float(DRAW.integers(1, 5)))
            for step in range(DRAW.integers(0, 5))
        ]
        for _ in range(NUM_USERS)
    ]
    for part, start in (("train", 0), ("validation", 10 * DAY), ("holdout", 20 * DAY))
}
LOG["train"][4], LOG["validation"][4], LOG["holdout"][4] = [], [], []
LOG["train"][5], LOG["validation"][5], LOG["holdout"][5] = [(3, 0, 1.0), (3, DAY, 2.0)], [], []

ROLES = ["all", "train", "validation", "holdout"] * (NUM_USERS // 4)


def events(lists: list[list[tuple[int, int, float]]], *, timed: bool) -> Events:
    flat = [event for row in lists for event in row]
    return Events(
        np.cumsum([0, *map(len, lists)]),
        np.array([item for item, _, _ in flat], np.int32),
        times=np.array([time for _, time, _ in flat], np.int64) if timed else None,
        values=np.array([value for _, _, value in flat], np.float32) if timed else None,
    )


def prepared(path: Path, *, instant: int | None, timed: bool = True) -> Prepared:
    age = [["young", "old", None][user % 3] for user in range(NUM_USERS)]
    store.write(
        path / "prepared",
        items=pa.table(
            {"item_id": [f"i{i}" for i in range(NUM_ITEMS)], "popularity": [0] * NUM_ITEMS}
        ),
        users=pa.table(
            {
                "user_id": [f"u{u}" for u in range(NUM_USERS)],
                "role": ROLES,
                "age": age,
            }
        ),
        vocabularies={"age": ["old", "young"]},
        parts={part: [events(lists, timed=timed)] for part, lists in LOG.items()},
        contract={},
        manifest={
            "repeats": True,
            "instants": {"train": None, "validation": instant, "holdout": instant},
        },
    )
    return Prepared(path / "prepared")


def rows(jagged: Jagged) -> list[list[int]]:
    values, offsets = jagged.values.tolist(), jagged.offsets.tolist()
    return [values[a:b] for a, b in itertools.pairwise(offsets)]


USERS = np.array([7, 0, 4, 5, 2, 11])


@pytest.mark.parametrize("part", ["validation", "holdout"])
def test_a_batch_is_the_users_events_in_the_order_asked_for(
    tmp_path: Path, part: store.PartName
) -> None:
    batch = judged_batch(prepared(tmp_path, instant=15 * DAY), USERS, part)
    before = ["train"] if part == "validation" else ["train", "validation"]
    history = [[event for name in before for event in LOG[name][user]] for user in USERS]
    assert batch.user_rows.tolist() == USERS.tolist()
    assert rows(batch.history) == [[item for item, _, _ in row] for row in history]
    assert batch.history.weights is not None
    assert batch.history.weights.tolist() == [value for row in history for _, _, value in row]
    assert batch.target is not None
    assert rows(batch.target) == [sorted({item for item, _, _ in LOG[part][u]}) for u in USERS]
    young_or_old = {0: [1], 1: [0], 2: []}
    assert rows(batch.attributes["age"]) == [young_or_old[user % 3] for user in USERS]


def test_ages_count_from_the_instant_of_a_time_cut_and_are_never_negative(tmp_path: Path) -> None:
    batch = judged_batch(prepared(tmp_path, instant=10 * DAY), USERS, "holdout")
    times = [t for u in USERS for part in ("train", "validation") for _, t, _ in LOG[part][u]]
    assert batch.ages is not None
    assert max(times) > 10 * DAY  # an age below zero would show
    assert batch.ages.tolist() == [max(10 - time / DAY, 0) for time in times]


def test_without_an_instant_each_user_is_asked_just_before_its_own_part(tmp_path: Path) -> None:
    batch = judged_batch(prepared(tmp_path, instant=None), USERS, "holdout")
    expected = []
    for user in USERS:
        times = [time for part in ("train", "validation") for _, time, _ in LOG[part][user]]
        moment = min((time for _, time, _ in LOG["holdout"][user]), default=max(times, default=0))
        expected += [(moment - time) / DAY for time in times]
    assert 5 in USERS  # who has no holdout
    assert batch.ages is not None
    assert batch.ages.tolist() == expected


def test_without_times_there_are_no_ages_and_without_values_no_weights(tmp_path: Path) -> None:
    batch = judged_batch(prepared(tmp_path, instant=None, timed=False), USERS, "holdout")
    assert batch.ages is None
    assert batch.history.weights is None


def test_users_without_events_are_kept(tmp_path: Path) -> None:
    opened = prepared(tmp_path, instant=None)
    batch = judged_batch(opened, np.array([4, 4]), "holdout", with_target=False)
    assert rows(batch.history) == [[], []]
    assert batch.target is None
    none = judged_batch(opened, np.array([], np.int64), "holdout")
    assert none.num_users == 0
    assert none.target is not None
    assert none.target.offsets.tolist() == [0]


def test_without_seen_leaves_what_the_history_does_not_hold(tmp_path: Path) -> None:
    batch = judged_batch(prepared(tmp_path, instant=None), np.arange(NUM_USERS), "holdout")
    unseen: Batch = without_seen(batch)
    assert batch.target is not None
    assert unseen.target is not None
    expected = [
        [item for item in target if item not in history]
        for target, history in zip(rows(batch.target), rows(batch.history), strict=True)
    ]
    assert rows(unseen.target) == expected
    assert sum(map(len, expected)) < len(batch.target.values)  # something was seen


def test_baselines_know_the_users_that_may_be_trained_on_and_nothing_later(tmp_path: Path) -> None:
    opened = prepared(tmp_path, instant=None)
    for part, before in (("validation", ["train"]), ("holdout", ["train", "validation"])):
        expected = [
            [item for name in before for item, _, _ in LOG[name][user]]
            for user in range(NUM_USERS)
            if user % 4 in (0, 1)
        ]
        assert rows(known_users(opened, part).history) == expected  # type: ignore[arg-type]
