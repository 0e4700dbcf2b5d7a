"""Losses of weighted users, on targets with values, and with margins, against plain formulas."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import reference
from deeprec.activated import OUTPUTS, READ_BY
from deeprec.batch import Asked, Encoded, Jagged, with_transposition
from deeprec.errors import DataError
from deeprec.loss import shelf
from deeprec.loss.asymmetric import Asymmetric
from deeprec.loss.cosine import Cosine
from deeprec.loss.fit import Trained, unfit_left_out
from deeprec.loss.hinge import Hinge
from deeprec.loss.marginal import Marginal
from deeprec.loss.regression import Error, Regression
from deeprec.loss.softmax import Softmax
from deeprec.loss.squared import Squared

USERS, ITEMS, WIDTH = 5, 13, 3
VALUES = torch.tensor([0.5, 1.0, 0.25, 0.9, 0.1, 0.75, 1.0, 0.3, 0.6], dtype=torch.float64)
TARGET = Jagged(torch.tensor([0, 3, 12, 3, 4, 5, 1, 2, 11]), torch.tensor([0, 3, 3, 6, 7, 9]))
WEIGHTS = torch.tensor([2.0, 0.5, 0.0, 1.0, 3.0], dtype=torch.float64)
LOGISTIC = "cross_entropy"
PARAMETERS = {"slope": 0.2, "alpha": 1.5, "scale": 1.2}


@pytest.fixture(params=[2**26, 0], ids=["kept", "scored again"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shelf.ROOM, "cpu", request.param)


def leaves(scale: float = 1.0) -> list[Tensor]:
    """Hidden, catalog table, bias and the scores of own items."""
    draw = torch.Generator().manual_seed(5)
    shapes = [USERS, WIDTH], [ITEMS, WIDTH], [ITEMS], [3]
    made = [torch.randn(shape, generator=draw, dtype=torch.float64) * scale for shape in shapes]
    return [one.requires_grad_() for one in made]


def encoded(hidden: Tensor, repeats: Tensor) -> Encoded:
    own = torch.tensor([3, 4, 1]), torch.tensor([0, 1, 1, 1, 3, 3])
    return Encoded(hidden, *own, repeats)


def agree(
    loss: nn.Module,
    dense: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    weights: Tensor | None,
    values: Tensor | None = None,
    num: int = USERS,
    scale: float = 1.0,
) -> None:
    """The loss is the weighted sum over users of `dense`, over their number, as its gradient is.

    Args:
        dense: scores, what each cell should be and which are stored -> costs [B] or [B, V].
    """
    held = leaves(scale)
    hidden, weight, bias, repeats = held
    said = encoded(hidden, repeats)
    target = Jagged(TARGET.values, TARGET.offsets, values)
    own = Jagged(said.repeat_items_M, said.repeat_offsets_B1)
    asked = Asked(with_transposition(target), with_transposition(own), user_weights=weights)
    value = loss(said, weight, bias, asked)
    wanted = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    users = torch.repeat_interleave(TARGET.offsets.diff())
    stored = torch.zeros(USERS, ITEMS, dtype=torch.bool)
    stored[users, TARGET.values] = True
    wanted[users, TARGET.values] = torch.ones(9, dtype=torch.float64) if values is None else values
    found = dense(reference.dense_scores(said, weight, bias), wanted, stored)
    of_users = found if found.dim() == 1 else found.sum(1)
    truth = sum(w * c for w, c in zip([1.0] * USERS if weights is None else weights, of_users))
    torch.testing.assert_close(value, truth / num)
    ours, theirs = torch.autograd.grad(value, held), torch.autograd.grad(truth / num, held)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


def formula(error: str, **settings: object) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda s, t, stored: reference.costs(error, s, t, stored, **settings)  # type: ignore[arg-type]


WEIGHED = [
    (Regression(error="absolute", block_items=4), formula("l1")),
    (
        Regression(error="squared", output="tanh", one_scale=3.0, zero_scale=0.5, block_items=4),
        formula("l2", output="tanh", boosts=(3.0, 0.5)),
    ),
    (
        Regression(error="squared_hinge", output="identity", block_items=4),
        formula("l2hinge", output="identity"),
    ),
    (
        Regression(error="hinge", output="identity", block_items=4),
        formula("hinge", output="identity"),
    ),
    (Marginal(block_items=4), formula("cross entropy")),
    (
        Marginal(one_target=0.8, zero_target=0.3, one_scale=30.0, zero_scale=0.5, block_items=4),
        formula("scaled marginal", one_target=0.8, zero_target=0.3, boosts=(30.0, 0.5)),
    ),
    (Asymmetric(one_focus=0.0, zero_focus=0.0, block_items=4), formula("cross entropy")),
    (Hinge(zero_scale=0.0, block_items=4), formula("hinge", output="identity")),
]


@pytest.mark.parametrize(("loss", "dense"), WEIGHED)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_weight_of_a_user_multiplies_its_cost(
    loss: nn.Module, dense: Callable, weights: Tensor | None
) -> None:
    agree(loss, dense, weights=weights)


@pytest.mark.parametrize("output", OUTPUTS)
def test_scores_are_compared_after_any_activation(output: str) -> None:
    read = {name: value for name, value in PARAMETERS.items() if output in READ_BY[name]}
    loss = Regression(output=output, block_items=4, **read)  # type: ignore[arg-type]
    agree(loss, formula("l2", output=output), weights=WEIGHTS)


@pytest.mark.parametrize(
    ("error", "name", "output"),
    [
        ("absolute", "l1", "sigmoid"),
        ("squared", "l2", "identity"),
        ("squared_hinge", "l2hinge", "identity"),
        ("hinge", "hinge", "tanh"),
        ("cross_entropy", "cross entropy", "sigmoid"),
    ],
)
def test_a_target_may_be_any_value(error: str, name: str, output: str) -> None:
    loss = Regression(error=error, output=output, values=True, block_items=4)  # type: ignore[arg-type]
    values = VALUES if error == "cross_entropy" else VALUES * 4 - 1.5  # below 0 too
    agree(loss, formula(name, output=output), weights=WEIGHTS, values=values)


EVERY = [
    *(Regression(error=e, output=o) for e in get_args(Error) for o in OUTPUTS if e != LOGISTIC),
    *(Regression(error=LOGISTIC), Softmax(), Marginal(), Asymmetric(), Hinge()),
    *(Squared(2), Cosine(2)),
]


@pytest.mark.parametrize("loss", EVERY)
def test_a_loss_to_which_no_score_leaves_an_item_out_is_not_asked_to(loss: nn.Module) -> None:
    """An item that is no target costs nothing at the score of never, or the task is refused."""
    none, target = (
        torch.zeros(0, dtype=torch.int64),
        Jagged(torch.tensor([0]), torch.tensor([0, 1])),
    )
    said = Encoded(torch.ones(1, 2), none, torch.tensor([0, 0]), torch.zeros(0))

    def cost(*scores: float) -> float:
        return float(loss(said, torch.zeros(len(scores), 2), torch.tensor(scores), target))

    of_never = cost(1.5, -1e4) - cost(1.5)
    trained = Trained(2, False, False, False, 2, False)
    assert (unfit_left_out(loss, trained) == []) is (of_never == 0.0)


def test_probabilities_alone_are_compared_by_a_cross_entropy() -> None:
    loss = Regression(error="cross_entropy", values=True)
    loss.check_values(replace(TARGET, weights=VALUES))
    for wrong in (3.0, -0.5, float("nan")):
        values = torch.cat([VALUES[:-1], torch.tensor([wrong])])
        with pytest.raises(DataError, match=rf"must lie in \[0, 1\], got {wrong:g}; scale the"):
            loss.check_values(replace(TARGET, weights=values))
        Regression(values=True).check_values(replace(TARGET, weights=values))


def test_zeros_are_ignored_where_they_count_nothing() -> None:
    loss = Regression(values=True, zero_scale=0.0, block_items=4)
    agree(loss, formula("l2", boosts=(1.0, 0.0)), weights=None, values=VALUES)


def test_values_of_the_data_scaled_marginal_multiply_its_cost() -> None:
    loss = Marginal(one_target=0.7, zero_target=0.2, one_scale=30.0, block_items=4)
    dense = formula("data scaled marginal", one_target=0.7, zero_target=0.2, boosts=(30.0, 1.0))
    agree(loss, dense, weights=WEIGHTS, values=VALUES)


MARGINS = [
    {},
    {"one_target": 0.2},
    {"zero_target": 0.05},
    {"zero_scale": 0.3},
    {"one_target": 0.3, "zero_target": 0.04, "one_scale": 30.0, "zero_scale": 2.0},
]


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("margins", MARGINS, ids=str)
@pytest.mark.parametrize("values", [None, VALUES], ids=["ones", "values"])
def test_a_softmax_has_margins_and_scales(margins: dict[str, float], values: Tensor | None) -> None:
    def dense(scores: Tensor, wanted: Tensor, stored: Tensor) -> Tensor:
        return reference.multinomial_costs(scores, wanted, **margins)

    for weights in (None, WEIGHTS):
        loss = Softmax(block_items=4, **margins)
        agree(loss, dense, weights=weights, values=values, num=4)


@pytest.mark.usefixtures("room")
def test_an_item_below_the_margin_is_not_pushed() -> None:
    hidden, weight, bias, repeats = leaves()
    said = encoded(hidden, repeats)
    chances = reference.dense_scores(said, weight, bias).softmax(1).detach()
    loss = Softmax(zero_target=0.05, block_items=4)
    first = Jagged(torch.tensor([0]), torch.tensor([0, 1, 1, 1, 1, 1]))
    (found,) = torch.autograd.grad(loss(said, weight, bias, first), [bias])
    pushed = chances[0] > 0.05
    pushed[[0, 3]] = False  # the target; and one with a score of its own
    assert 0 < pushed.sum() < ITEMS - 2
    assert torch.equal(found > 0, pushed)


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_margins_bear_scores_far_apart(scale: float) -> None:
    hidden, weight, bias, repeats = (one.detach().float() * scale for one in leaves())
    said = encoded(hidden.requires_grad_(), repeats)
    value = Softmax(zero_target=0.5, zero_scale=0.1)(said, weight, bias, TARGET)
    value.backward()
    assert torch.isfinite(value.detach())
    assert torch.isfinite(hidden.grad).all()
