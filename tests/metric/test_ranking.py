"""Each metric equals its definition written in loops, and perfect lists are worth one."""

import random

import pytest
import torch

import reference
from deeprec.metric import ranking

NAMES = ["precision", "recall", "recall_capped", "hit", "ndcg", "map", "mrr"]
USERS, ITEMS = 60, 30


def users() -> list[tuple[list[int], set[int]]]:
    draw = random.Random(1)
    made = []
    for _ in range(USERS):
        relevant = set(draw.sample(range(ITEMS), draw.randrange(1, 20)))
        made.append((draw.sample(range(ITEMS), 15), relevant))
    return made


@pytest.mark.parametrize("k", [1, 2, 10, 15])
@pytest.mark.parametrize("name", NAMES)
def test_a_metric_equals_its_definition(name: str, k: int) -> None:
    truth = [reference.metrics(ranked, relevant, k)[name] for ranked, relevant in users()]
    hits = torch.tensor([[i in relevant for i in ranked[:k]] for ranked, relevant in users()])
    num_relevant = torch.tensor([len(relevant) for _, relevant in users()])
    values = getattr(ranking, name)(hits, num_relevant)
    torch.testing.assert_close(values, torch.tensor(truth, dtype=torch.float64))


@pytest.mark.parametrize("name", ["recall_capped", "hit", "ndcg", "map", "mrr"])
def test_a_perfect_list_is_worth_one_and_a_useless_one_nothing(name: str) -> None:
    num_relevant = torch.tensor([1, 5, 50])
    perfect = torch.arange(10)[None, :] < num_relevant[:, None]
    metric = getattr(ranking, name)
    assert metric(perfect, num_relevant).tolist() == pytest.approx([1.0] * 3)
    assert metric(torch.zeros(3, 10, dtype=torch.bool), num_relevant).tolist() == [0.0] * 3
