"""Popularity, item-to-item and own frequency against plain loops over the same histories."""

from collections import Counter

import numpy as np
import pytest
import torch

from deeprec.batch import Batch, Jagged
from deeprec.model import item_to_item
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.own_frequency import OwnFrequency
from deeprec.model.popularity import Popularity

NUM_USERS, NUM_ITEMS = 30, 17
DRAW = np.random.default_rng(5)
# item 16 is in nobody's history; users 0 and 9 have none
HISTORIES = [
    [] if user in (0, 9) else DRAW.zipf(1.5, DRAW.integers(1, 12)).clip(1, 16).tolist()
    for user in range(NUM_USERS)
]
HISTORIES = [[item - 1 for item in row] for row in HISTORIES]


def jagged(rows: list[list[int]]) -> Jagged:
    values = [value for row in rows for value in row]
    offsets = np.cumsum([0, *map(len, rows)])
    return Jagged(torch.tensor(values, dtype=torch.int64), torch.from_numpy(offsets))


def batch(rows: list[list[int]], ages: list[list[float]] | None = None) -> Batch:
    flat = None if ages is None else torch.tensor([age for row in ages for age in row])
    return Batch(torch.arange(len(rows)), jagged(rows), flat)


def sorted_by(key: list[tuple[float, ...]], seen: set[int], k: int) -> list[int]:
    """The k items of smallest key, none of `seen`, -1 where there are no more."""
    items = sorted((item for item in range(NUM_ITEMS) if item not in seen), key=lambda i: key[i])
    return (items + [-1] * k)[:k]


USERS_PER_ITEM = [sum(item in row for row in HISTORIES) for item in range(NUM_ITEMS)]
SMALL_BLOCKS = [1, 5, 17, 100]


@pytest.mark.parametrize("block_items", SMALL_BLOCKS)
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [3, 17, 20])
def test_popularity_counts_users_not_events(block_items: int, exclude_seen: bool, k: int) -> None:
    model = Popularity.fit(jagged(HISTORIES), NUM_ITEMS)
    model.block_items = block_items
    items, scores = model.recommend(batch(HISTORIES), k, exclude_seen)
    key = [(-users, item) for item, users in enumerate(USERS_PER_ITEM)]
    for row, history in enumerate(HISTORIES):
        expected = sorted_by(key, set(history) if exclude_seen else set(), k)
        assert items[row].tolist() == expected
        assert scores[row].tolist() == [
            USERS_PER_ITEM[item] if item >= 0 else -np.inf for item in expected
        ]


def dense_cosine(neighbours: int) -> np.ndarray:
    taken = np.zeros((NUM_USERS, NUM_ITEMS))
    for user, row in enumerate(HISTORIES):
        taken[user, row] = 1
    norms = np.linalg.norm(taken, axis=0)
    similarity = taken.T @ taken / np.maximum(np.outer(norms, norms), 1e-9)
    for item in range(NUM_ITEMS):
        others = [other for other in range(NUM_ITEMS) if other != item]
        others.sort(key=lambda other: (-round(similarity[item, other], 9), other))
        similarity[item, others[neighbours:]] = 0
    return similarity


@pytest.mark.parametrize("block_items", SMALL_BLOCKS)
@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_item_to_item_sums_dense_cosines(
    block_items: int, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_to_item, "FIT_BLOCK_PAIRS", 3 * NUM_ITEMS)
    fitted = ItemToItem.fit(jagged(HISTORIES), NUM_ITEMS, neighbours=neighbours)
    similarity = fitted.similarity.toarray()
    truth = dense_cosine(neighbours)
    np.testing.assert_allclose(similarity, truth, atol=1e-6)

    model = ItemToItem(item_to_item.sparse.csr_array(similarity), block_items=block_items)
    items, scores = model.recommend(batch(HISTORIES), 6, exclude_seen=False)
    for row, history in enumerate(HISTORIES):
        expected = truth[sorted(set(history))].sum(0)
        np.testing.assert_allclose(scores[row], np.sort(expected)[::-1][:6], atol=1e-6)
        np.testing.assert_allclose(expected[items[row]], scores[row], atol=1e-6)


def test_an_item_is_its_own_neighbour_at_similarity_one() -> None:
    # 0 and 1 always together, 2 alone: equal cosines of 1, so 0 comes before 1, and both before 2
    model = ItemToItem.fit(jagged([[0, 1], [1, 0, 0], [2]]), 3, neighbours=1)
    items, scores = model.recommend(batch([[1], [2]]), 3, exclude_seen=False)
    assert items.tolist() == [[0, 1, 2], [2, 0, 1]]
    assert scores.tolist() == [[1, 1, 0], [1, 0, 0]]
    items, _ = model.recommend(batch([[1]]), 3, exclude_seen=True)
    assert items.tolist() == [[0, 2, -1]]


def test_items_that_nobody_took_have_no_neighbours() -> None:
    few = ItemToItem.fit(jagged([[0, 1], [0, 2, 1]]), 3)
    many = ItemToItem.fit(jagged([[5, 70], [5, 800, 70]]), 1000)
    kept = np.ix_([5, 70, 800], [5, 70, 800])
    np.testing.assert_array_equal(many.similarity.toarray()[kept], few.similarity.toarray())
    assert many.similarity.nnz == few.similarity.nnz == 9


def test_item_to_item_leaves_the_histories_as_they_were() -> None:
    histories = jagged([[4, 1, 4, 0]])
    ItemToItem.fit(histories, 5).recommend(Batch(torch.tensor([0]), histories), 2, False)
    assert histories.values.tolist() == [4, 1, 4, 0]


@pytest.mark.parametrize("block_items", SMALL_BLOCKS)
@pytest.mark.parametrize("timed", [True, False])
def test_own_frequency_is_count_then_latest_then_popularity(block_items: int, timed: bool) -> None:
    # equal ages inside a history, as in a basket
    ages = [[float((len(row) - place) // 2) for place in range(len(row))] for row in HISTORIES]
    model = OwnFrequency.fit(jagged(HISTORIES), NUM_ITEMS)
    model.block_items = block_items
    items, scores = model.recommend(batch(HISTORIES, ages if timed else None), 12, False)
    for row, history in enumerate(HISTORIES):
        count = Counter(history)
        latest = {
            item: min(
                ages[row][place] if timed else -place
                for place, other in enumerate(history)
                if other == item
            )
            for item in count
        }
        key = [
            (-count[item], latest.get(item, 0), -USERS_PER_ITEM[item], item)
            for item in range(NUM_ITEMS)
        ]
        assert items[row].tolist() == sorted_by(key, set(), 12)
        own = len(count)
        assert all(score > 0 for score in scores[row, :own].tolist())
        assert all(score <= 0 for score in scores[row, own:].tolist())


def test_own_frequency_without_repeats_is_popularity() -> None:
    own = OwnFrequency.fit(jagged(HISTORIES), NUM_ITEMS)
    popular = Popularity.fit(jagged(HISTORIES), NUM_ITEMS)
    shown = batch(HISTORIES)
    assert torch.equal(own.recommend(shown, 8, True)[0], popular.recommend(shown, 8, True)[0])
