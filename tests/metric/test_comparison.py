"""Tests of systems against each other agree with scipy, with hand-worked cases and with chance."""

import numpy as np
import pytest
from scipy import stats

from deeprec.metric import comparison
from deeprec.metric.comparison import compare, detectable, effect, holm, sign_flip_p


@pytest.mark.parametrize("num_users", [5, 12])
def test_few_users_are_tested_exactly(num_users: int) -> None:
    differences = np.random.default_rng(num_users).normal(0.4, 1, (num_users, 3))
    for column, p in zip(differences.T, sign_flip_p(differences), strict=True):
        truth = stats.permutation_test(
            (column,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert p == pytest.approx(truth.pvalue)


def test_many_users_are_tested_by_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(7).normal([0.05, 0.15], 1, (300, 2))
    differences[:, 1] *= differences[:, 1] > -0.5  # many zeros, and skewed
    found = sign_flip_p(differences)
    for column, p in zip(differences.T, found, strict=True):
        truth = stats.permutation_test(
            (column,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1
        )
        spread = np.sqrt(truth.pvalue * (1 - truth.pvalue) * (1 / 10_000 + 1 / 20_000))
        assert p == pytest.approx(truth.pvalue, abs=5 * spread + 2e-4)
    monkeypatch.setattr(comparison, "BLOCK_CELLS", 1000)  # the same signs in smaller pieces
    assert sign_flip_p(differences) == pytest.approx(found)


def test_a_difference_that_only_ties_can_reach_is_counted_with_its_ties() -> None:
    """Two of forty users differ: half of all signs give a sum as large."""
    differences = np.zeros((40, 1))
    differences[:2] = 0.1
    assert sign_flip_p(differences)[0] == pytest.approx(0.5, abs=0.02)
    assert sign_flip_p(np.zeros((40, 1)))[0] == 1


def test_systems_that_are_alike_are_told_apart_as_often_as_stated() -> None:
    draw = np.random.default_rng(3)
    differences = draw.exponential(1, (60, 400)) - draw.exponential(1, (60, 400))
    found = [sign_flip_p(few) for few in np.split(differences, 8, axis=1)]
    assert (np.concatenate(found) < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_holm_by_hand() -> None:
    assert holm(np.array([0.02, 0.5, 0.001, 0.04])).tolist() == pytest.approx(
        [3 * 0.02, 0.5, 4 * 0.001, 2 * 0.04]
    )
    # never smaller than what was corrected before it, never above 1
    assert holm(np.array([0.4, 0.3, 0.6])).tolist() == pytest.approx([0.9, 0.9, 0.9])


@pytest.mark.parametrize("family", [1, 15])
def test_a_difference_as_large_as_detectable_is_found_in_four_of_five_holdouts(family: int) -> None:
    draw = np.random.default_rng(9)
    spread = draw.normal(0, 0.3, 2000)
    size = detectable(spread[:200], family)
    assert size is not None
    held = draw.normal(size, 0.3, (1000, 200))
    found = stats.ttest_1samp(held, 0, axis=1).pvalue * family < 0.05  # Bonferroni's level
    assert np.mean(found) == pytest.approx(0.8, abs=0.06)


def test_a_large_family_can_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "SIGNS", 100)  # of which p is 1 / 101 at least, times ten here
    ones, others = {"ndcg@20": np.ones(40)}, [{"ndcg@20": np.zeros(40)}] * 10
    compared = compare(ones, others, samples=2)
    assert all(one.told_apart for (one,) in compared)


def test_where_nothing_could_be_told_apart_nothing_is_called_detectable() -> None:
    ours = {"ndcg@20": np.arange(5.0)}
    ((one,),) = compare(ours, [{"ndcg@20": np.zeros(5)}], samples=20)  # p is 1 / 16 at least
    assert one.detectable is None
    assert "so few users or so many comparisons could show none" in one.words("a", "b", 1)
    assert detectable(np.arange(20.0), family=20_000) is None


def test_the_family_is_all_systems_and_metrics() -> None:
    draw = np.random.default_rng(1)
    ours = {"ndcg@20": draw.random(200), "hit@20": draw.random(200)}
    others = [
        {name: values - draw.random(200) * size for name, values in ours.items()}
        for size in (0.02, 0.3)
    ]
    compared = compare(ours, others, samples=100)
    assert [[one.metric for one in of_other] for of_other in compared] == [list(ours)] * 2
    flat = [one for of_other in compared for one in of_other]
    assert [one.holm for one in flat] == pytest.approx(holm(np.array([one.p for one in flat])))
    first = flat[0]
    difference = ours["ndcg@20"] - others[0]["ndcg@20"]
    assert first.mean == pytest.approx(difference.mean())
    assert first.effect == pytest.approx(difference.mean() / difference.std(ddof=1))
    assert (first.better, first.worse) == (1.0, 0.0)
    assert "mine scores higher than theirs on ndcg@20, by" in first.words("mine", "theirs", 4)
    assert "after Holm's correction for 4 comparisons" in first.words("mine", "theirs", 4)


def test_what_cannot_be_told_apart_says_what_would_have_been_seen() -> None:
    ours = {"ndcg@20": np.random.default_rng(1).random(50)}
    theirs = {"ndcg@20": np.random.default_rng(2).permutation(ours["ndcg@20"])}
    ((one,),) = compare(ours, [theirs], samples=100)
    said = one.words("mine", "theirs", 1)
    assert said.startswith("mine and theirs cannot be told apart on ndcg@20")
    power = f"a true difference of {one.detectable:.4f} would be told apart in four of five"
    assert power in said
    assert effect(np.zeros(3)) == 0
    assert compare(ours, []) == []


def test_systems_that_differ_for_nobody_are_said_to() -> None:
    same = {"hit@20": np.ones(30)}
    ((one,),) = compare(same, [same], samples=20)
    assert one.words("a", "b", 1) == "a and b score the same for every user on hit@20"
