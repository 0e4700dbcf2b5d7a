"""Each metric equals its definition written in loops, and perfect lists are worth one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from deeprec.batch import Jagged
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import METRICS

Case = tuple[list[list[int]], list[set[int]], int, int]  # lists, taken, catalog, cutoff


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Lists of a small catalog: any length, with unknown items and empty places, users who took
    one item, some, or all of them."""
    num_items = draw(st.integers(1, 12))
    num_users = draw(st.integers(1, 5))
    length = draw(st.integers(1, 14))
    lists, taken = [], []
    for _ in range(num_users):
        items = draw(st.permutations(range(num_items)))
        shown = list(items[: draw(st.integers(0, min(length, num_items)))])
        for place in draw(st.sets(st.integers(0, max(0, len(shown) - 1)), max_size=2)):
            if shown:
                shown[place] = -1  # an item the catalog does not know
        lists.append(shown + [-1] * (length - len(shown)))
        taken.append(draw(st.sets(st.integers(0, num_items - 1), min_size=1)))
    return lists, taken, num_items, draw(st.integers(1, length + 3))


def hits_of(lists: list[list[int]], taken: list[set[int]], num_items: int) -> Hits:
    values = [item for items in taken for item in sorted(items)]
    offsets = np.cumsum([0, *map(len, taken)])
    target = Jagged(torch.tensor(values), torch.from_numpy(offsets))
    return Hits.of(torch.tensor(lists), target, np.full(len(lists), num_items))


@given(cases())
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_equals_its_definition(name: str, case: Case) -> None:
    lists, taken, num_items, k = case
    values = METRICS[name](hits_of(lists, taken, num_items), k)
    truth = [
        reference.metrics(ranked, relevant, k, num_items)[name]
        for ranked, relevant in zip(lists, taken, strict=True)
    ]
    assert values.tolist() == pytest.approx(truth, abs=1e-12)
    assert ((values >= 0) & (values <= 1 + 1e-12)).all()


@pytest.mark.parametrize("name", ["recall_capped", "hit", "ndcg", "map", "mrr", "auc"])
def test_a_perfect_list_is_worth_one(name: str) -> None:
    lists = [list(range(10))] * 3
    taken = [set(range(1)), set(range(5)), set(range(50))]
    assert METRICS[name](hits_of(lists, taken, 60), 10)[:2].tolist() == pytest.approx([1, 1])
    worth = METRICS[name](hits_of(lists, taken, 60), 10)[2]
    # of 50 relevant ones 10 are listed, above all others; the other 40 tie with the other 10
    assert worth == pytest.approx(1 if name != "auc" else (10 + 40 / 2) / 50)


@pytest.mark.parametrize("name", METRICS)
def test_a_list_without_hits_is_worth_nothing(name: str) -> None:
    worth = METRICS[name](hits_of([[0, 1, 2]], [{3}], 4), 3)[0]
    assert worth == 0  # of auc too: three stand above the one that was taken, none ties with it


@pytest.mark.parametrize("name", METRICS)
def test_who_took_nothing_has_no_figure(name: str) -> None:
    assert math.isnan(METRICS[name](hits_of([[0, 1]], [set()], 4), 2)[0])


def test_the_whole_list_gives_the_plain_auc() -> None:
    """As scikit-learn defines it: the share of pairs in the right order."""
    draw = np.random.default_rng(0)
    scores, relevant = draw.permutation(50), set(draw.choice(50, 8, replace=False).tolist())
    ranked = np.argsort(-scores).tolist()
    pairs = [(a, b) for a in relevant for b in set(range(50)) - relevant]
    truth = np.mean([scores[a] > scores[b] for a, b in pairs])
    assert METRICS["auc"](hits_of([ranked], [relevant], 50), 50)[0] == pytest.approx(truth)


def test_many_users_and_items_are_told_apart() -> None:
    """The filter in front of the search must lose no hit: a long catalog, many users."""
    draw = np.random.default_rng(1)
    lists = np.stack([draw.choice(10_000_000, 40, replace=False) for _ in range(300)])
    taken = [set(row[draw.random(40) < 0.3].tolist()) | {17} for row in lists]
    hits = hits_of(lists.tolist(), taken, 10_000_000)
    truth = [
        (user, place)
        for user, row in enumerate(lists.tolist())
        for place, item in enumerate(row)
        if item in taken[user]
    ]
    assert list(zip(hits.users_H.tolist(), hits.places_H.tolist(), strict=True)) == truth
