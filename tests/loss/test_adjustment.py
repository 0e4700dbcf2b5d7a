"""A softmax that is trained on adjusted scores equals, in value and gradient, its dense form."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import reference
import small_shop
from deeprec.batch import Encoded, Jagged
from deeprec.data.store import Prepared
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.table import NO_UPDATES, Updates
from deeprec.work import Work

POPULARITY = [40, 1, 0, 9, 25, 10, 7, 3, 6, 2, 2]
USERS, ITEMS, WIDTH = 4, len(POPULARITY), 3
TARGET = Jagged(torch.tensor([0, 1, 3, 0, 4, 8, 7]), torch.tensor([0, 3, 4, 6, 7]))
OWN = torch.tensor([1, 2, 9, 4]), torch.tensor([0, 2, 3, 3, 4])  # two of them targets
MAKERS = [
    partial(Softmax, block_items=4),
    partial(SampledSoftmax, ITEMS, negatives=ITEMS, block_items=4),
    partial(SampledSoftmax, ITEMS, negatives=ITEMS, shared_targets=False),
]


def new_leaves() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    shapes = [[USERS, WIDTH], [ITEMS, WIDTH], [ITEMS], [len(OWN[0])]]
    drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    return [leaf.requires_grad_() for leaf in drawn]


def value_of(loss: nn.Module, leaves: list[Tensor], updates: Updates = NO_UPDATES) -> Tensor:
    hidden, weight, bias, repeats = leaves
    return loss(Encoded(hidden, *OWN, repeats), weight, bias, TARGET, updates)


def truth_of(leaves: list[Tensor], temperature: float, adjustment: float) -> Tensor:
    hidden, weight, bias, repeats = leaves
    scores = reference.dense_scores(Encoded(hidden, *OWN, repeats), weight, bias)
    scores = reference.adjusted_scores(scores, POPULARITY, temperature, adjustment)
    users = torch.repeat_interleave(TARGET.offsets.diff())
    return -scores.log_softmax(1)[users, TARGET.values].sum() / USERS


@pytest.mark.parametrize(("temperature", "adjustment"), [(0.3, 0.0), (1.0, 0.8), (2.0, 1.0)])
@pytest.mark.parametrize("make", MAKERS)
def test_value_and_gradients_equal_the_dense_form(
    make: Callable[..., nn.Module], temperature: float, adjustment: float
) -> None:
    ours, theirs = new_leaves(), new_leaves()
    popularity = torch.tensor(POPULARITY)
    loss = make(temperature=temperature, popularity_adjustment=adjustment, popularity=popularity)
    value, truth = value_of(loss, ours), truth_of(theirs, temperature, adjustment)
    torch.testing.assert_close(value, truth, rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(value, ours), torch.autograd.grad(truth, theirs)
    for our, their in zip(*gradients, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", MAKERS)
def test_rows_may_change_at_once(make: Callable[..., nn.Module]) -> None:
    """A step of plain gradient descent inside the loss is the step that autograd would give."""
    ours, theirs = new_leaves(), new_leaves()
    loss = make(temperature=0.5, popularity_adjustment=1.0, popularity=torch.tensor(POPULARITY))

    def descend(table: Tensor) -> Callable[..., None]:
        return lambda rows, gradient: table.data.__setitem__(
            rows, table.data[rows] - 0.1 * gradient
        )

    value_of(loss, ours, Updates(descend(ours[1]), descend(ours[2]))).backward()
    truth_of(theirs, 0.5, 1.0).backward()
    for place in (0, 3):
        torch.testing.assert_close(ours[place].grad, theirs[place].grad, rtol=1e-5, atol=1e-7)
    for place in (1, 2):
        assert ours[place].grad is None
        moved = (theirs[place] - 0.1 * theirs[place].grad).data
        torch.testing.assert_close(ours[place].data, moved, rtol=1e-5, atol=1e-7)


def test_whole_popularity_taken_off_leaves_what_users_like_beyond_it() -> None:
    """Everybody takes items by popularity alone: trained with the adjustment, scores are equal."""
    popularity = torch.tensor([40, 20, 10, 5])
    loss = Softmax(popularity_adjustment=1.0, popularity=popularity)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    values = torch.repeat_interleave(torch.arange(4), popularity)
    users = len(values)
    none = values[:0], torch.zeros(users + 1, dtype=torch.int64)
    encoded = Encoded(torch.zeros(users, 1), *none, torch.zeros(0))
    target = Jagged(values, torch.arange(users + 1))
    value = loss(encoded, torch.zeros(4, 1, dtype=torch.float64), bias, target)
    (gradient,) = torch.autograd.grad(value, [bias])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


def test_a_run_begins_with_the_probabilities_of_one_that_is_not_adjusted(tmp_path: Path) -> None:
    prepared = Prepared(small_shop.make(tmp_path / "prepared"))
    shares = torch.tensor(prepared.popularity / prepared.popularity.sum())
    found = []
    for words in ([], ["loss.popularity_adjustment=0.8", "loss.temperature=0.5"]):
        config = small_shop.settings(prepared.path, tmp_path / "run", *words)
        model = Work(config, prepared).learner.model
        found.append([model.item_bias.detach(), model.reconstruction_bias.detach()])
    for plain, adjusted in zip(*found, strict=True):
        assert plain.std() > 0
        again = adjusted / 0.5 + 0.8 * shares.log()
        torch.testing.assert_close(again.softmax(0), plain.softmax(0).to(again))


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("make", MAKERS)
def test_a_temperature_that_is_none_is_refused(
    make: Callable[..., nn.Module], temperature: float
) -> None:
    with pytest.raises(
        ValueError, match=f"temperature must be finite and above 0, got {temperature}"
    ):
        make(temperature=temperature)
