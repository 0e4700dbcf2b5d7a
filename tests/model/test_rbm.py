"""The restricted Boltzmann machine as a recommender; its loss is tested beside it."""

import math

import pytest
import torch

from deeprec.batch import Batch, Jagged
from deeprec.model.rbm import Rbm
from recommender_contract import NUM_ITEMS, USERS, RecommenderContract, batch


class TestRbm(RecommenderContract):
    def new_model(self) -> Rbm:
        return Rbm(NUM_ITEMS, hidden_units=6)


def test_hidden_are_the_chances_of_units_given_the_distinct_items() -> None:
    torch.manual_seed(0)
    model = Rbm(NUM_ITEMS, hidden_units=4, init_std=1.0).eval()
    with torch.no_grad():
        model.hidden_bias.normal_()
        hidden = model.encode(*batch(USERS)).hidden_BD
    for row, (items, _, _) in zip(hidden, USERS, strict=True):
        for unit in range(4):
            total = model.hidden_bias[unit].item()
            total += sum(model.item_weight[item, unit].item() for item in set(items))
            assert row[unit].item() == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-6)


def test_without_hidden_units_at_work_an_item_is_as_likely_as_it_is_popular() -> None:
    model = Rbm(3, popularity=torch.tensor([0, 50, 75]), num_users=100, init_std=0.0)
    chances = model.item_bias.sigmoid().tolist()
    assert chances == pytest.approx([0.005, 0.5, 0.75], abs=3e-3)  # half a user on each side


def test_it_learns_of_the_whole_history_as_evaluated() -> None:
    model = Rbm(NUM_ITEMS, hidden_units=4)
    items, offsets, ages, _ = batch(USERS)
    given = Batch(torch.arange(len(USERS)), Jagged(items, offsets), ages)
    [task] = model.tasks(model.arrange(given, torch.Generator()))
    assert torch.equal(task.encoded.hidden_BD, model.encode(items, offsets, ages, {}).hidden_BD)
    target = task.asked.target
    had = [target.values[a:b].tolist() for a, b in zip(target.offsets, target.offsets[1:])]
    assert had == [sorted({*items}) for items, _, _ in USERS]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_units must be 1 or more, got 0"):
        Rbm(3, hidden_units=0)
