"""What chance expects is the mean over all orders, by enumeration, and by exact fractions."""

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch

import reference
from deeprec.batch import Jagged
from deeprec.metric import ranking
from deeprec.metric.expectation import EXPECTED
from deeprec.metric.hits import Hits

MOST = 6  # candidates, of which all orders are tried


def enumerated(name: str, h: int, c: int, k: int) -> float:
    """The mean over all orders of c candidates of which the first h are relevant."""
    orders = list(itertools.permutations(range(c)))
    values = [reference.metrics(list(order), set(range(h)), k, c)[name] for order in orders]
    return sum(values) / len(orders)


def test_every_metric_has_an_expectation() -> None:
    assert list(EXPECTED) == list(ranking.METRICS)


@pytest.mark.parametrize("k", [1, 3, 5, 9])
@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_the_mean_over_all_orders(name: str, k: int) -> None:
    pairs = [(h, c) for c in range(1, MOST) for h in range(1, c + 1)] + [(2, MOST)]
    truth = [enumerated(name, h, c, k) for h, c in pairs]
    h, c = np.array(pairs).T
    np.testing.assert_allclose(EXPECTED[name](h, c, k), truth, rtol=1e-12)


@pytest.mark.parametrize("h", [1, 7, 400])
@pytest.mark.parametrize("k", [1, 20, 1000])
def test_chances_of_one_in_millions_keep_their_digits(h: int, k: int) -> None:
    c = 10_000_000
    alike = np.array([h]), np.array([c])
    none = [Fraction(1)]  # of no hit in so many places
    for place in range(k):
        none.append(none[-1] * Fraction(c - h - place, c - place))
    any_hit = 1 - none[-1]
    assert any_hit == 1 - Fraction(comb(c - h, k), comb(c, k))
    first = sum((none[i] - none[i + 1]) / (i + 1) for i in range(k))
    assert EXPECTED["hit"](*alike, k)[0] == pytest.approx(float(any_hit), rel=1e-12)
    assert EXPECTED["mrr"](*alike, k)[0] == pytest.approx(float(first), rel=1e-12)


@pytest.mark.parametrize("name", EXPECTED)
def test_random_lists_find_it(name: str) -> None:
    draw, users, c, k = np.random.default_rng(4), 4000, 60, 10
    num_relevant = draw.integers(1, 30, users)
    lists = np.stack([draw.permutation(c)[:k] for _ in range(users)])
    relevant = [np.sort(draw.choice(c, h, replace=False)) for h in num_relevant]
    offsets = np.concatenate([[0], np.cumsum(num_relevant)])
    target = Jagged(torch.from_numpy(np.concatenate(relevant)), torch.from_numpy(offsets))
    hits = Hits.of(torch.from_numpy(lists), target, np.full(users, c))
    off = ranking.METRICS[name](hits, k) - EXPECTED[name](num_relevant, np.full(users, c), k)
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(users)


@pytest.mark.parametrize("name", EXPECTED)
def test_nothing_relevant_is_no_number_and_too_much_an_error(name: str) -> None:
    found = EXPECTED[name](np.array([0, 1, 0]), np.array([5, 5, 0]), 3)
    assert np.isnan(found).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="got 7 relevant of 5 candidates"):
        EXPECTED[name](np.array([1, 7]), np.array([5, 5]), 3)
