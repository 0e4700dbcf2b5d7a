"""Weights are judged by lists as the ranker makes them."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import reference
from deeprec.batch import Batch, Jagged
from deeprec.trainer import weighing
from deeprec.trainer.weighing import Candidates, Weights, climbed


def test_of_equal_scores_the_lower_item_comes_first() -> None:
    draw = np.random.default_rng(0)
    items = np.sort(np.stack([draw.permutation(900)[:300] for _ in range(4)]))
    items[:, 7::20] = -1  # put forward by another member already
    scores = draw.integers(-2, 2, (2, 4, 300))
    taken = [set(draw.permutation(row[row >= 0])[:9].tolist()) for row in items]
    target = Jagged(
        torch.tensor([item for row in taken for item in sorted(row)]), torch.arange(5) * 9
    )
    nothing = Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(5, dtype=torch.int64))
    asked = Candidates(
        Batch(torch.arange(4), nothing, target=target),
        torch.from_numpy(items),
        torch.from_numpy(scores).float() * (torch.from_numpy(items) >= 0),
    )
    found = asked.ndcg((0.5, 0.25), cutoff=40)
    for user, row in enumerate(items):
        worth = {i: 2 * a + b for i, a, b in zip(row.tolist(), *scores[:, user].tolist())}
        ranked = sorted(set(worth) - {-1}, key=lambda item: (-worth[item], item))
        truth = reference.metrics(ranked, taken[user], 40, len(ranked))
        assert found[user] == pytest.approx(truth["ndcg"])


@pytest.mark.parametrize("at", [(0.0, 0.0, 0.9, 0.1), (0.35, 0.3, 0.35, 0.0)])
def test_weights_are_looked_for_from_equal_ones_and_from_the_best_member(at: Weights) -> None:
    """Between both lies a valley, as there was among models of kinships."""

    def score(weights: Weights) -> float:
        return max(-_apart(weights, at), -0.01 - _apart(weights, (0.3, 0.3, 0.4, 0.0)))

    assert climbed(score, 4) == pytest.approx(at)


def test_a_choice_that_takes_long_is_told_before_and_on_its_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(weighing.time, "monotonic", lambda: clock.now)

    def score(weights: Weights) -> float:
        clock.now += 5.0  # seconds
        return -_apart(weights, (0.4, 0.3, 0.3))

    climbed(score, 3)
    first, *rest = capsys.readouterr().out.splitlines()
    # three lengths of step, six ways to move weight, five seconds each
    assert first == "choosing weights of 3 models: about 90 seconds"
    assert re.fullmatch(r"choosing weights: 1\d tried, -0\.\d+ so far", rest[0])
    assert len(rest) == pytest.approx(clock.now / 60, abs=2)


def _apart(one: Weights, other: Weights) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))
