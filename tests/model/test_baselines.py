"""Popularity, item-to-item and own frequency against plain loops over the same histories."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import sparse

from deeprec.batch import Batch, Jagged
from deeprec.model import item_to_item
from deeprec.model.base import Solvable
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.own_frequency import OwnFrequency
from deeprec.model.popularity import Popularity
from deeprec.model.rank import rank

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


Lists = tuple[torch.Tensor, torch.Tensor]


def solved(model: Solvable, users: Batch) -> Solvable:
    with torch.no_grad():
        [_] = model.solve(users, 0, torch.Generator())
    return model


def lists(model: Solvable, shown: Batch, k: int, exclude_seen: bool, block_items: int = 7) -> Lists:
    return rank(model, shown, k, exclude_seen, block_items=block_items)


USERS_PER_ITEM = [sum(item in row for row in HISTORIES) for item in range(NUM_ITEMS)]
SMALL_BLOCKS = [1, 5, 17, 100]


@pytest.mark.parametrize("block_items", SMALL_BLOCKS)
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [3, 17, 20])
def test_popularity_counts_users_not_events(block_items: int, exclude_seen: bool, k: int) -> None:
    model = solved(Popularity(NUM_ITEMS), batch(HISTORIES))
    items, scores = lists(model, batch(HISTORIES), k, exclude_seen, block_items)
    key = [(-users, item) for item, users in enumerate(USERS_PER_ITEM)]
    for row, history in enumerate(HISTORIES):
        expected = sorted_by(key, set(history) if exclude_seen else set(), k)
        assert items[row].tolist() == expected
        shares = [USERS_PER_ITEM[item] / NUM_USERS if item >= 0 else -np.inf for item in expected]
        np.testing.assert_allclose(scores[row], shares, rtol=1e-6)


def test_recent_popularity_fades_with_the_latest_event_of_a_user() -> None:
    users = batch([[0, 0], [0], [1]], [[30.0, 10.0], [0.0], [5.0]])
    model = solved(Popularity(2, recent_days=10.0), users)
    expected = [(np.exp(-1.0) + 1.0) / 3, np.exp(-0.5) / 3]
    np.testing.assert_allclose(model.item_bias, expected, rtol=1e-6)


def test_popularity_by_an_attribute_is_drawn_towards_that_of_all() -> None:
    users = batch([[0], [0], [1], [1, 0]])
    town = Jagged(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2, 3, 3]))  # the last: unknown
    users.attributes = {"town": town}
    model = solved(Popularity(2, fields={"town": 3}, by="town", by_users=2.0), users)
    asked = Batch(
        torch.arange(3),
        jagged([[], [], []]),
        attributes={"town": Jagged(torch.tensor([1, 2]), torch.tensor([0, 1, 2, 2]))},
    )
    items, scores = lists(model, asked, 2, exclude_seen=False)
    # of all: 3/4 and 2/4; in town 1 of two users (1 + 2 * 3/4) / 4 and (1 + 2 * 2/4) / 4
    np.testing.assert_allclose(scores, [[0.625, 0.5], [0.75, 0.5], [0.75, 0.5]])
    assert items.tolist() == [[0, 1]] * 3
    with pytest.raises(ValueError, match="must be a user attribute of the data"):
        Popularity(2, fields={"town": 3}, by="twon")


def test_a_user_of_several_values_counts_among_the_users_of_each() -> None:
    users = batch([[0], [1], [1, 2], []])
    towns = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 2, 3, 4, 4])  # of both, 0, 1 and none
    users.attributes = {"town": Jagged(*towns)}
    model = solved(Popularity(3, fields={"town": 2}, by="town", by_users=1.0), users)
    of_all = np.array([1, 2, 1]) / 4
    of_town = np.array([[1, 1, 0], [1, 1, 1]]) / 3 + of_all / 3  # of two users and one more
    users.attributes["town"] = Jagged(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 3, 3, 3]))
    scores = lists(model, users, 3, exclude_seen=False)[1]
    expected = [of_town[0], of_town.mean(0), of_all]
    np.testing.assert_allclose(scores[:3], -np.sort(-np.array(expected)), rtol=1e-6)


def dense_similarity(neighbours: int, kind: str) -> np.ndarray:
    taken = np.zeros((NUM_USERS, NUM_ITEMS))
    for user, row in enumerate(HISTORIES):
        taken[user, row] = 1
    both, each = taken.T @ taken, taken.sum(0)
    norm = np.sqrt(np.outer(each, each)) if kind == "cosine" else each[:, None] + each - both
    similarity = both / np.maximum(norm, 1e-9)
    for item in range(NUM_ITEMS):
        others = [other for other in range(NUM_ITEMS) if other != item]
        others.sort(key=lambda other: (-round(similarity[item, other], 9), other))
        similarity[item, others[neighbours:]] = 0
    return similarity


@pytest.mark.parametrize("kind", ["cosine", "jaccard"])
@pytest.mark.parametrize("neighbours", [1, 4, 100])
def test_item_to_item_sums_dense_similarities(
    kind: str, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_to_item, "FIT_BLOCK_PAIRS", 3 * NUM_ITEMS)
    model = ItemToItem(NUM_ITEMS, similarity=kind, neighbours=neighbours)  # type: ignore[arg-type]
    solved(model, batch(HISTORIES))
    truth = dense_similarity(neighbours, kind)
    items, scores = lists(model, batch(HISTORIES), NUM_ITEMS, exclude_seen=False)
    for row, history in enumerate(HISTORIES):
        expected = truth[sorted(set(history))].sum(0)
        near = int((expected > 0).sum())
        np.testing.assert_allclose(scores[row, :near], np.sort(expected)[::-1][:near], atol=1e-6)
        np.testing.assert_allclose(expected[items[row, :near]], scores[row, :near], atol=1e-6)
        rest = items[row, near:].tolist()
        assert rest == sorted(rest, key=lambda item: (-USERS_PER_ITEM[item], item))
        assert all(score < 0 for score in scores[row, near:].tolist())


def test_a_block_of_pairs_is_bounded_whatever_they_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_to_item, "FIT_BLOCK_PAIRS", 60)
    lengths = [len(set(row)) for row in HISTORIES]
    taken = [[item in row for item in range(NUM_ITEMS)] for row in HISTORIES]
    pairs = [sum(np.compress(users, lengths)) for users in zip(*taken, strict=True)]
    for weight in (1.0, 0.001):
        matrix = sparse.csr_array(np.array(taken) * np.float32(weight))
        firsts = [first for first, _ in item_to_item.taken_together(matrix)]
        blocks = [range(*ends) for ends in itertools.pairwise([*firsts, NUM_ITEMS])]
        assert all(len(block) == 1 or sum(pairs[i] for i in block) <= 60 for block in blocks)
        assert any(len(block) > 1 for block in blocks)


def test_what_was_taken_lately_asks_louder_where_histories_fade() -> None:
    learned = batch([[0, 1], [0, 1], [2, 3], [2, 3]], [[1.0, 1.0]] * 4)
    asked = batch([[0, 2]], [[300.0, 1.0]])
    plain = lists(solved(ItemToItem(4), learned), asked, 2, exclude_seen=True)[0]
    model = ItemToItem(4, history_weighting="decayed", fade_days=30.0)
    faded = lists(solved(model, learned), asked, 2, exclude_seen=True)[0]
    assert plain.tolist() == [[1, 3]]  # a tie
    assert faded.tolist() == [[3, 1]]
    idle = lists(solved(model, learned), batch([[2]], [[9_000.0]]), 1, exclude_seen=True)[0]
    assert idle.tolist() == [[3]]  # though e^-300 is 0


def test_an_item_is_its_own_neighbour_at_similarity_one() -> None:
    # 0 and 1 always together, 2 alone: equal cosines of 1, so 0 comes before 1, and both before 2
    model = solved(ItemToItem(3, neighbours=1), batch([[0, 1], [1, 0, 0], [2]]))
    items, scores = lists(model, batch([[1], [2]]), 3, exclude_seen=False)
    assert items.tolist() == [[0, 1, 2], [2, 0, 1]]
    np.testing.assert_allclose(scores, [[1, 1, -2 / 3], [1, -1 / 3, -1 / 3]], rtol=1e-6)
    items, _ = lists(model, batch([[1]]), 3, exclude_seen=True)
    assert items.tolist() == [[0, 2, -1]]


def test_item_to_item_leaves_the_histories_as_they_were() -> None:
    users = batch([[4, 1, 4, 0]])
    solved(ItemToItem(5), users)
    assert users.history.values.tolist() == [4, 1, 4, 0]


def test_nobody_took_anything() -> None:
    model = solved(ItemToItem(5), batch([[], []]))
    assert lists(model, batch([[3]]), 2, exclude_seen=False)[0].tolist() == [[0, 1]]


@pytest.mark.parametrize("block_items", SMALL_BLOCKS)
@pytest.mark.parametrize("timed", [True, False])
def test_own_frequency_is_count_then_latest_then_popularity(block_items: int, timed: bool) -> None:
    # equal ages inside a history, as in a basket
    ages = [[float((len(row) - place) // 2) for place in range(len(row))] for row in HISTORIES]
    model = solved(OwnFrequency(NUM_ITEMS), batch(HISTORIES))
    shown = batch(HISTORIES, ages if timed else None)
    items, scores = lists(model, shown, 12, False, block_items)
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
    shown = batch(HISTORIES)
    own, popular = solved(OwnFrequency(NUM_ITEMS), shown), solved(Popularity(NUM_ITEMS), shown)
    assert torch.equal(lists(own, shown, 8, True)[0], lists(popular, shown, 8, True)[0])
