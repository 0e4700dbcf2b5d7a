"""A tally says of lists what loops over them say, in any batches and by any number of processes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from deeprec.batch import Jagged
from deeprec.metric.tally import DEFINITIONS, ItemFacts, Tally

ITEMS, LENGTH = 9, 7
CUTOFFS = [1, 3, 7, 11]


def jagged(rows: list[set[int]]) -> Jagged:
    values = [value for row in rows for value in sorted(row)]
    offsets = np.cumsum([0, *map(len, rows)])
    return Jagged(torch.tensor(values, dtype=torch.int64), torch.from_numpy(offsets))


def facts(draw: np.random.Generator) -> ItemFacts:
    return ItemFacts(
        draw.integers(0, 9, ITEMS),
        num_users=10,
        codes={"kind": draw.integers(-1, 3, ITEMS)},
        prices_V=draw.random(ITEMS),
        embedding_VD=draw.normal(size=(ITEMS, 3)).astype(np.float32),
    )


def lists(draw: np.random.Generator, num_users: int) -> list[list[int]]:
    made = []
    for _ in range(num_users):
        items = draw.permutation(ITEMS)[: draw.integers(0, LENGTH + 1)].tolist()
        made.append(items + [-1] * (LENGTH - len(items)))
    return made


def sets(draw: np.random.Generator, num_users: int, least: int) -> list[set[int]]:
    sizes = draw.integers(least, ITEMS + 1, num_users)
    return [set(draw.choice(ITEMS, size, replace=False).tolist()) for size in sizes]


@given(seed=st.integers(0, 10_000), num_users=st.integers(1, 6))
def test_a_tally_says_what_loops_say(seed: int, num_users: int) -> None:
    draw = np.random.default_rng(seed)
    known = facts(draw)
    shown, taken, had = lists(draw, num_users), sets(draw, num_users, 1), sets(draw, num_users, 0)
    tally = Tally(CUTOFFS, known)
    tally.add(torch.tensor(shown), jagged(taken), jagged(had), np.full(num_users, ITEMS))
    values, shares = tally.values(), tally.shares()
    assert known.embedding_VD is not None
    assert known.prices_V is not None
    for k in CUTOFFS:
        truth = reference.exposure(
            shown,
            had,
            known.popularity_V.tolist(),
            known.num_users,
            known.codes["kind"].tolist(),
            known.embedding_VD.astype(float).tolist(),
            k,
        )
        for name, expected in truth.items():
            where = shares if f"{name}@{k}" in shares else values
            assert np.array(where[f"{name}@{k}"]) == pytest.approx(expected, abs=1e-6), name
        revenue = [
            sum(known.prices_V[i] for i in items[:k] if i in bought)
            for items, bought in zip(shown, taken, strict=True)
        ]
        assert values[f"revenue@{k}"] == pytest.approx(revenue)
        recall = [
            reference.metrics(items, bought, k, ITEMS)["recall"]
            for items, bought in zip(shown, taken, strict=True)
        ]
        assert values[f"recall@{k}"] == pytest.approx(recall)


def test_batches_and_processes_leave_no_trace() -> None:
    draw = np.random.default_rng(5)
    known = facts(draw)
    shown, taken, had = lists(draw, 20), sets(draw, 20, 1), sets(draw, 20, 0)

    def tallied(*pieces: slice) -> Tally:
        tally = Tally(CUTOFFS, known)
        for piece in pieces:
            size = len(shown[piece])
            tally.add(
                torch.tensor(shown[piece]),
                jagged(taken[piece]),
                jagged(had[piece]),
                np.full(size, ITEMS),
            )
        return tally

    whole, parts = tallied(slice(20)), tallied(slice(7))
    parts.join(tallied(slice(7, 11), slice(11, 20)))
    assert whole.shares() == parts.shares()
    ours, theirs = whole.values(), parts.values()
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_every_metric_is_defined() -> None:
    draw = np.random.default_rng(0)
    tally = Tally([1], facts(draw))
    tally.add(torch.tensor([[0]]), jagged([{0}]), jagged([set()]), np.array([ITEMS]))
    names = {f"{name.partition('@')[0]}@k" for name in (*tally.values(), *tally.shares())}
    assert names - {"diversity.kind@k"} <= set(DEFINITIONS)


def test_the_most_popular_are_a_share_of_the_items_that_anybody_had() -> None:
    tally = Tally([2], ItemFacts(np.array([0] * 20 + [3, 4] + [1] * 8), num_users=9))
    tally.add(torch.tensor([[21, 20]]), jagged([{0}]), jagged([set()]), np.array([30]))
    assert tally.shares()["head_10@2"] == 1 / 2  # one of ten, where the catalog holds thirty
