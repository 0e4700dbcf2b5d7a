"""Batches are a pure function of seed, epoch, rank and position."""

import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from deeprec.batch import Batch
from deeprec.data import store
from deeprec.data.dataset import Batches, JudgedBatches
from deeprec.data.grouping import Grouping
from deeprec.data.judge import distinct, judged_batch
from deeprec.data.store import SECONDS_PER_DAY, Events, Prepared
from deeprec.data.target import AfterCut, Reconstruct

NUM_USERS, NUM_ITEMS, DAYS = 23, 12, 100


def random_part(lengths: list[int], first_day: int, days: int, seed: int) -> Events:
    draw = np.random.default_rng(seed)
    times = [np.sort(draw.integers(first_day, first_day + days, n)) for n in lengths]
    return Events(
        np.cumsum([0, *lengths]),
        draw.integers(0, NUM_ITEMS, sum(lengths)).astype(np.int32),
        times=np.concatenate(times).astype(np.int64) * SECONDS_PER_DAY,
    )


def at_days(days_of: list[list[int]]) -> Events:
    times = np.array([day for days in days_of for day in days], np.int64) * SECONDS_PER_DAY
    return Events(np.cumsum([0, *map(len, days_of)]), np.zeros(len(times), np.int32), times=times)


def make(
    path: Path,
    *,
    repeats: bool,
    train: Events | None = None,
    validation: Events | None = None,
    at_once: bool = True,
) -> Prepared:
    if train is None:
        train = random_part([0, 1, *range(8, 8 + NUM_USERS - 2)], 0, DAYS, 0)
    if validation is None:
        validation = random_part([2] * NUM_USERS, DAYS, 10, 1)
    store.write(
        path,
        items=pa.table(
            {
                "item_id": [f"i{i:02}" for i in range(NUM_ITEMS)],
                "popularity": np.bincount(train.items, minlength=NUM_ITEMS),
            }
        ),
        users=pa.table(
            {
                "user_id": [f"u{i:02}" for i in range(NUM_USERS)],
                "role": ["all"] * (NUM_USERS - 1) + ["holdout"],
                "age": ["old" if i % 3 else None for i in range(NUM_USERS)],
            }
        ),
        vocabularies={"age": ["old"]},
        parts={
            "train": [train],
            "validation": [validation],
            "holdout": [random_part([2] * NUM_USERS, DAYS + 10, 10, 2)],
        },
        contract={},
        manifest={
            "repeats": repeats,
            "instants": {
                "train": None,
                "validation": DAYS * SECONDS_PER_DAY if at_once else None,
                "holdout": (DAYS + 10) * SECONDS_PER_DAY if at_once else None,
            },
        },
    )
    return Prepared(path)


@pytest.fixture(params=[True, False], ids=["repeats", "seen_excluded"])
def prepared(tmp_path: Path, request: pytest.FixtureRequest) -> Prepared:
    return make(tmp_path / "prepared", repeats=request.param)


def cut_batches(prepared: Prepared, **settings: int) -> Batches:
    grouping = Grouping(settings.pop("batch_users", 4))
    return Batches(prepared, AfterCut(window_days=20), grouping=grouping, **{"seed": 3} | settings)


def same(one: Batch, other: Batch) -> bool:
    assert one.target is not None
    assert other.target is not None
    assert one.ages is not None
    assert other.ages is not None
    return (
        torch.equal(one.user_rows, other.user_rows)
        and torch.equal(one.history.values, other.history.values)
        and torch.equal(one.ages, other.ages)
        and torch.equal(one.target.values, other.target.values)
    )


def test_an_epoch_shows_every_training_user_once_and_the_next_another_order(
    prepared: Prepared,
) -> None:
    batches = Batches(prepared, Reconstruct(), grouping=Grouping(4), seed=3)
    first, second = list(batches), list(batches)
    assert len(first) == len(second) == len(batches) == 6
    for epoch in (first, second):
        assert sorted(torch.cat([b.user_rows for b in epoch]).tolist()) == list(range(1, 22))
    assert not torch.equal(first[0].user_rows, second[0].user_rows)


@pytest.mark.parametrize("at_once", [True, False])
def test_what_rebuilds_a_history_is_shown_the_ages_it_is_judged_with(
    tmp_path: Path, at_once: bool
) -> None:
    """Where each user is judged at its next event and has one every so many days: exactly these."""
    every = [1 + user % 7 for user in range(NUM_USERS)]
    train = at_days([[2, 2 + days, 2 + 2 * days] for days in every])
    after = at_days([[2 + 3 * days] for days in every])
    made = make(
        tmp_path / "p",
        repeats=True,
        train=train,
        validation=None if at_once else after,
        at_once=at_once,
    )
    grouping = Grouping(NUM_USERS)
    batch = Batches(made, Reconstruct(), grouping=grouping, seed=3).batch(0, 0)
    judged = judged_batch(made, batch.user_rows.numpy(), "validation")
    assert batch.ages is not None
    assert judged.ages is not None
    assert torch.equal(batch.ages, judged.ages)


def test_batches_equal_plain_loops_over_users(prepared: Prepared) -> None:
    batches = cut_batches(prepared, batch_users=100)
    batch = next(iter(batches))
    assert batch.target is not None
    assert batch.ages is not None
    assert batch.times is not None
    train = prepared.parts["train"]
    draw = np.random.default_rng([3, 0])
    draw.permutation(prepared.training_users())
    uniform = draw.random(NUM_USERS)
    start = min(int(train.take(np.array([u])).times.min()) for u in prepared.training_users())
    found = 0
    for user in range(NUM_USERS - 1):
        events = train.take(np.array([user]))
        assert events.times is not None
        last = (DAYS - 20) * SECONDS_PER_DAY
        cut = int(start + uniform[user] * (last - start))
        end = cut + 20 * SECONDS_PER_DAY
        shown = [(i, t) for i, t in zip(events.items.tolist(), events.times.tolist()) if t < cut]
        taken = {i for i, t in zip(events.items.tolist(), events.times.tolist()) if cut <= t < end}
        if not prepared.repeats:
            taken -= {i for i, _ in shown}
        if not shown or not taken:
            assert user not in batch.user_rows.tolist()
            continue
        assert int(batch.user_rows[found]) == user
        own = slice(int(batch.history.offsets[found]), int(batch.history.offsets[found + 1]))
        assert batch.history.values[own].tolist() == [i for i, _ in shown]
        ages = [(cut - t) / SECONDS_PER_DAY for _, t in shown]
        assert batch.ages[own].tolist() == pytest.approx(ages, abs=1e-4)
        assert batch.times[own].tolist() == [t for _, t in shown]
        wanted = slice(int(batch.target.offsets[found]), int(batch.target.offsets[found + 1]))
        assert batch.target.values[wanted].tolist() == sorted(taken)
        offsets = batch.attributes["age"].offsets
        assert int(offsets[found + 1] - offsets[found]) == (1 if user % 3 else 0)
        found += 1
    assert found == batch.num_users > 5


def test_order_cuts_and_batches_depend_on_seed_and_epoch_alone(prepared: Prepared) -> None:
    first, again = cut_batches(prepared), cut_batches(prepared)
    list(first)
    assert all(same(first.batch(0, i), again.batch(0, i)) for i in range(len(first)))
    assert not same(first.batch(0, 0), cut_batches(prepared, seed=4).batch(0, 0))
    wide = cut_batches(prepared, batch_users=100).batch(0, 0)
    rows = torch.cat([batch.user_rows for batch in again])
    assert sorted(rows.tolist()) == wide.user_rows.tolist()  # the cut of a user is its own


@pytest.mark.parametrize("done", range(8))
def test_resuming_anywhere_gives_the_batches_that_were_left(prepared: Prepared, done: int) -> None:
    uninterrupted = cut_batches(prepared)
    truth = [*uninterrupted, *uninterrupted]
    batches = cut_batches(prepared)
    given: list[Batch] = []
    while len(given) < done:
        for batch in batches:
            given.append(batch)
            if len(given) == done:
                break
    resumed = cut_batches(prepared)
    resumed.load_state_dict(batches.state_dict())
    while len(given) < len(truth):
        given += list(resumed)
    assert len(given) == len(truth)
    assert all(same(one, other) for one, other in zip(given, truth, strict=True))


@pytest.mark.parametrize("world", [2, 3, 30])
def test_ranks_share_the_batches_of_one(prepared: Prepared, world: int) -> None:
    ranks = [
        Batches(prepared, Reconstruct(), grouping=Grouping(2), seed=3, rank=r, world=world)
        for r in range(world)
    ]
    single = Batches(prepared, Reconstruct(), grouping=Grouping(2 * world), seed=3)
    assert {len(rank) for rank in ranks} == {len(single)}
    for position in range(len(single)):
        parts = torch.cat([rank.batch(0, position).user_rows for rank in ranks])
        assert sorted(parts.tolist()) == single.batch(0, position).user_rows.tolist()


def test_validation_users_are_capped_by_a_fixed_choice(prepared: Prepared) -> None:
    def judged(max_users: int | None) -> JudgedBatches:
        return JudgedBatches(
            prepared, "validation", batch_users=4, max_users=max_users, exclude_seen=False
        )

    everybody = judged(None)
    assert len(everybody) == 6
    assert sum(b.num_users for b in everybody) == NUM_USERS - 1
    few = judged(5)
    assert few.users.tolist() == judged(5).users.tolist() == sorted(few.users.tolist())
    assert sum(batch.num_users for batch in few) == 5


@pytest.mark.parametrize("grouping", [Grouping(3), Grouping(None, 25), Grouping(3, None, True)])
def test_batches_made_ahead_are_the_same_and_begin_anywhere(
    prepared: Prepared, grouping: Grouping
) -> None:
    made = [Batches(prepared, Reconstruct(), grouping=grouping, seed=3, prefetch=n) for n in (0, 4)]
    runs = [[batch.user_rows.tolist() for _ in range(2) for batch in each] for each in made]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 2 * len(made[0])
    made[1].load_state_dict({"epoch": 1, "position": 1})
    rest = [batch.user_rows.tolist() for batch in made[1]]
    assert rest == runs[0][len(made[0]) + 1 :]
    assert made[1].state_dict() == {"epoch": 2, "position": 0}


def test_the_place_told_is_that_of_what_was_taken_not_of_what_was_made(prepared: Prepared) -> None:
    batches = Batches(prepared, Reconstruct(), grouping=Grouping(2), seed=3, prefetch=4)
    taken = iter(batches)
    next(taken)
    assert batches.state_dict() == {"epoch": 0, "position": 1}


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_made_by_processes_are_the_same_and_begin_anywhere(
    prepared: Prepared, processes: int
) -> None:
    alone = Batches(prepared, Reconstruct(), grouping=Grouping(3), seed=3)
    truth = [batch.user_rows.tolist() for _ in range(3) for batch in alone]
    made = Batches(
        prepared,
        Reconstruct(),
        grouping=Grouping(3),
        seed=3,
        prefetch=2,
        processes=processes,
        receive=lambda packed: packed.unpacked().user_rows.tolist(),
    )
    assert [*made, *made] == truth[: 2 * len(alone)]
    begun = multiprocessing.active_children()
    assert len(begun) == processes  # they outlived the first epoch
    assert next(iter(made)) == truth[2 * len(alone)]  # and a pass that nobody goes on with
    assert list(made) == truth[2 * len(alone) + 1 :]
    made.load_state_dict({"epoch": 1, "position": 1})
    assert list(made) == truth[len(alone) + 1 : 2 * len(alone)]
    made.close()
    assert not multiprocessing.active_children()


def test_only_a_history_that_is_reconstructed_is_its_own_target(prepared: Prepared) -> None:
    for target, own in ((Reconstruct(), True), (AfterCut(window_days=30), False)):
        batches = Batches(prepared, target, grouping=Grouping(3), seed=3)
        assert all(batch.own_target == own for batch in batches)
        for batch in batches:
            assert not own or torch.equal(batch.target.values, distinct(batch.history).values)
