"""Targets weigh one over their propensity, in every loss that takes weights, and in a whole run."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reference
import small_shop
from deeprec.batch import Encoded, Jagged
from deeprec.errors import ConfigError
from deeprec.loss.asymmetric import Asymmetric
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.loss.hinge import Hinge
from deeprec.loss.inverse_propensity import InversePropensity
from deeprec.loss.marginal import Marginal
from deeprec.loss.sampled_binary import SampledBinary
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.loss.squared import Squared
from deeprec.train import train
from deeprec.trainer.run import RunFolder

POPULARITY = [400, 1, 0, 90, 25, 100, 7, 3, 60]
ITEMS = len(POPULARITY)
USERS = 4


def softmax(scores: Tensor, ones: Tensor, weights: Tensor) -> Tensor:
    return -(scores.log_softmax(1) * ones * weights).sum() / USERS


def normalised(scores: Tensor, ones: Tensor, weights: Tensor) -> Tensor:
    weighed = ones * weights
    return softmax(scores, ones, weighed / weighed.sum(1, keepdim=True))


def binary(scores: Tensor, ones: Tensor, weights: Tensor) -> Tensor:
    costs = ones * weights * F.softplus(-scores) + (1 - ones) * F.softplus(scores)
    return costs.sum() / USERS


def hinge(scores: Tensor, ones: Tensor, weights: Tensor) -> Tensor:
    costs = ones * weights * (1 - scores).relu() + (1 - ones) * (1 + scores).relu()
    return costs.sum() / USERS


def squared(scores: Tensor, ones: Tensor, weights: Tensor) -> Tensor:
    costs = ones * weights * (1 - scores) ** 2 + (1 - ones) * 0.5 * scores**2
    return costs.sum() / USERS


def contrastive(scores: Tensor, ones: Tensor, weights: Tensor) -> Tensor:
    weighed = ones * weights
    near = weighed / weighed.sum(1, keepdim=True) * (1 - scores)
    return (near + (1 - ones) * (scores - 0.4).relu() * 10.0 / ITEMS).sum() / USERS


LOSSES = [
    (Softmax(block_items=4), softmax),
    (Softmax(normalise_targets=True, block_items=4), normalised),
    (SampledSoftmax(ITEMS, negatives=ITEMS), softmax),
    (SampledSoftmax(ITEMS, negatives=ITEMS, shared_targets=False), softmax),
    (SampledSoftmax(ITEMS, negatives=ITEMS, normalise_targets=True), normalised),
    (
        SampledSoftmax(ITEMS, negatives=ITEMS, normalise_targets=True, shared_targets=False),
        normalised,
    ),
    (Marginal(block_items=4), binary),
    (Asymmetric(zero_focus=0.0, block_items=4), binary),
    (SampledBinary(ITEMS, negatives=ITEMS), binary),
    (SampledBinary(ITEMS, negatives=ITEMS, shared_targets=False), binary),
    (Hinge(block_items=4), hinge),
    (Squared(ITEMS, block_items=4), squared),
    (CosineContrastive(ITEMS, block_items=4), contrastive),
]


@pytest.mark.parametrize(("loss", "dense"), LOSSES)
def test_the_cost_of_a_target_is_over_its_propensity(loss: nn.Module, dense: Callable) -> None:
    draw = torch.Generator().manual_seed(3)
    shapes = [[USERS, 3], [ITEMS, 3], [ITEMS]]
    leaves = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    hidden, weight, bias = leaves = [leaf.requires_grad_() for leaf in leaves]
    values, offsets = torch.tensor([0, 1, 3, 0, 4, 8, 7]), torch.tensor([0, 3, 4, 6, 7])
    none = values[:0], torch.zeros_like(offsets)
    encoded = Encoded(hidden, *none, torch.zeros(0, dtype=torch.float64))
    weighting = InversePropensity(
        popularity=torch.tensor(POPULARITY), power=0.7, smallest_propensity=0.05
    )
    value = loss(encoded, weight, bias, weighting(Jagged(values, offsets)))
    ones = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    ones[torch.repeat_interleave(offsets.diff()), values] = 1
    weights = torch.tensor(reference.propensity_weights(POPULARITY, 0.7, 0.05)).double()
    truth = dense(hidden @ weight.T + bias, ones, weights)
    torch.testing.assert_close(value, truth, rtol=1e-6, atol=0)
    ours, theirs = torch.autograd.grad(value, leaves), torch.autograd.grad(truth, leaves)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-7)


def test_power_0_is_no_weighting() -> None:
    weighting = InversePropensity(popularity=torch.tensor(POPULARITY), power=0.0)
    target = Jagged(torch.tensor([0, 2]), torch.tensor([0, 2]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(weighting(target).weights, target.weights)


def test_the_bias_of_weighted_targets_begins_where_they_are() -> None:
    """Where everybody takes items by popularity alone, there is nothing to learn from there."""
    popularity = torch.tensor([40, 20, 10, 5])
    weighting = InversePropensity(popularity=popularity, power=0.5)
    values = torch.repeat_interleave(torch.arange(4), popularity)
    users = len(values)
    bias = weighting.begun((popularity / users).double().log()).requires_grad_()
    none = values[:0], torch.zeros(users + 1, dtype=torch.int64)
    encoded = Encoded(torch.zeros(users, 1), *none, torch.zeros(0))
    target = weighting(Jagged(values, torch.arange(users + 1)))
    value = Softmax()(encoded, torch.zeros(4, 1, dtype=torch.float64), bias, target)
    (gradient,) = torch.autograd.grad(value, [bias])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


def losses(run: Path) -> list[str]:
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [row["loss"] for row in rows if row["loss"]]


def test_a_run_is_trained_on_weighted_targets(tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared")
    runs = {"none": [], "even": ["weighting.power=0"], "rare": ["weighting.power=1"]}
    for name, words in runs.items():
        given = [*words, *["weighting=inverse_propensity"][: len(words)], "trainer.max_epochs=1"]
        train(small_shop.settings(prepared, tmp_path / name, *given))
    found = [losses(tmp_path / name) for name in runs]
    assert found[0] == found[1] != found[2]
    assert RunFolder(tmp_path / "rare").config.weighting["power"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=linear_autoencoder", "loss=cosine"], "the target of a linear model is its hist"),
        (["loss=cosine"], "Cosine does not multiply costs of targets; use loss=softmax"),
        (["model=rbm", "loss=contrastive_divergence"], "ContrastiveDivergence does not multiply"),
        (["model=ease"], "a model that is solved has no targets to weigh; leave weighting out"),
        (["weighting.power=-1"], r"weighting\.power: must be 0 or more, got -1"),
        (["weighting.smallest_propensity=0"], r"smallest_propensity: must be in \(0, 1\], got 0"),
    ],
)
def test_who_cannot_weigh_targets_says_so(words: list[str], said: str, tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    words = [*words, "weighting=inverse_propensity", "trainer.max_epochs=1", "logger.wandb=off"]
    with pytest.raises(ConfigError, match=said):
        train(small_shop.composed(prepared, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()
