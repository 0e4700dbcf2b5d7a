"""L1 decay, longest weights and longest slopes, against the same computed by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import small_shop
from deeprec.batch import Batch, Encoded, Jagged
from deeprec.errors import ConfigError
from deeprec.loss.marginal import Marginal
from deeprec.loss.regression import Regression
from deeprec.loss.softmax import Softmax
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.model.sparse_input import HISTORY
from deeprec.model.variational import Variational
from deeprec.table import Updates
from deeprec.train import train
from deeprec.trainer.constraints import NO_CONSTRAINTS, Constraints
from deeprec.trainer.optimizer import Adam, RmsProp, Sgd
from deeprec.trainer.run import open_run

ITEMS, USERS = 20, 3


def new_model(*, tied: bool = False) -> Layered:
    torch.manual_seed(0)
    layers = [Hidden(name="one", units=4), Hidden(name="two", units=4, activation="relu")]
    return Layered(ITEMS, layers=layers, tied=tied)


def step(model: Layered, built: list[torch.optim.Optimizer]) -> None:
    items = Jagged(torch.tensor([1, 4, 2, 7]), torch.tensor([0, 2, 3, 4]))
    batch = Batch(torch.arange(USERS), items, None, {}, items)
    [task] = model.tasks(model.arrange(batch, torch.Generator()))
    for one in built:
        one.zero_grad()
    Softmax(block_items=6)(*task[1:]).backward()  # type: ignore[misc]
    for one in built:
        one.step()


def tables(model: Layered) -> tuple[Tensor, Tensor, Tensor]:
    """The input table, the weights between the layers, and the catalog table."""
    inputs = model.inputs[0].tables  # type: ignore[union-attr]
    table = model.item_weight if model.tied else inputs[HISTORY]  # type: ignore[index]
    return table.detach(), model.layers[1].from_layers.weight.detach(), model.item_weight.detach()  # type: ignore[union-attr]


@pytest.mark.parametrize("optimizer", [Sgd, Adam, RmsProp])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_into_a_unit_and_into_an_item_stay_short(optimizer: Any, tied: bool) -> None:
    model = new_model(tied=tied)
    held = Constraints(unit_norm=0.5, item_norm=0.3)
    built = optimizer(lr=0.5, table_lr=0.5, constraints=held).build(model)
    for _ in range(3):
        step(model, built)
    inputs, between, items = tables(model)
    columns = inputs.norm(dim=0)
    assert (columns <= 0.5 + 1e-6).all()
    assert (between.norm(dim=1) <= 0.5 + 1e-6).all()
    assert (items.norm(dim=1) <= 0.3 + 1e-6).all()
    assert tied or (columns > 0.499).any()  # it had something to do
    assert tied or (items.norm(dim=1) > 0.25).any()


def test_a_unit_that_is_short_enough_is_left_alone() -> None:
    ways = []
    for held in (
        NO_CONSTRAINTS,
        Constraints(unit_norm=100.0, item_norm=100.0, unit_slope_norm=100.0),
    ):
        model = new_model()
        built = Sgd(lr=0.5, constraints=held).build(model)
        step(model, built)
        ways.append(tables(model))
    assert all(torch.equal(one, other) for one, other in zip(*ways, strict=True))


def test_shortening_keeps_directions() -> None:
    model, free = new_model(), new_model()
    step(free, Sgd(lr=0.5, table_lr=0.5).build(free))
    step(model, Sgd(lr=0.5, table_lr=0.5, constraints=Constraints(unit_norm=0.2)).build(model))
    for dim, ours, theirs in zip((0, 1), tables(model), tables(free)):
        wanted = theirs * (0.2 / theirs.norm(dim=dim, keepdim=True)).clamp(max=1.0)
        torch.testing.assert_close(ours, wanted)


def test_l1_decay_moves_weights_towards_0_and_no_further() -> None:
    model, free = new_model(), new_model()
    held = Constraints(l1_decay=0.4, table_l1_decay=0.2)
    step(free, Sgd(lr=0.5, table_lr=0.5).build(free))
    before = tables(new_model())
    step(model, Sgd(lr=0.5, table_lr=0.5, constraints=held).build(model))
    touched = torch.zeros(ITEMS, 1, dtype=torch.bool)
    touched[[1, 2, 4, 7]] = True
    for i, (share, rows) in enumerate(((0.2, touched), (0.4, True), (0.2, True))):
        old, moved = before[i], tables(free)[i] - before[i]
        nearer = old - old.clamp(-0.5 * share, 0.5 * share)
        wanted = torch.where(torch.as_tensor(rows), nearer + moved, old + moved)
        torch.testing.assert_close(tables(model)[i], wanted)
    assert torch.equal(model.item_bias.detach(), free.item_bias.detach())


def catalog(draw: torch.Generator) -> tuple[Encoded, Tensor, Tensor, Jagged]:
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64)
    hidden = torch.randn(USERS, 4, generator=draw, dtype=torch.float64) * 2
    weight = torch.randn(ITEMS, 4, generator=draw, dtype=torch.float64)
    bias = torch.randn(ITEMS, generator=draw, dtype=torch.float64)
    target = Jagged(torch.tensor([3, 5, 9]), torch.tensor([0, 2, 2, 3]))
    return Encoded(hidden, *none, torch.zeros(0).double()), weight, bias, target


@pytest.mark.parametrize(
    "loss",
    [
        Softmax(block_items=7),
        Softmax(zero_target=0.02, block_items=7),
        Marginal(block_items=7),
        Regression(error="squared", output="identity", values=True, block_items=7),
    ],
    ids=["softmax", "margins", "marginal", "values"],
)
def test_the_slope_of_a_user_is_no_longer_than_it_may_be(loss: torch.nn.Module) -> None:
    encoded, weight, bias, target = catalog(torch.Generator().manual_seed(2))
    target.weights = torch.tensor([0.5, 2.0, 1.5])
    scores = (encoded.hidden_BD @ weight.T + bias).requires_grad_()
    # a catalog of unit rows scores as the hidden vector says, so that its slope is that of scores
    alone = encoded._replace(hidden_BD=scores)
    eye, nothing = torch.eye(ITEMS, dtype=torch.float64), torch.zeros(ITEMS, dtype=torch.float64)
    loss(alone, eye, nothing, target).backward()
    users = 2 if isinstance(loss, Softmax) else USERS
    slopes = scores.grad * users
    limit = float(slopes.norm(dim=1).sort().values[-2:].mean())
    shares = (limit / slopes.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)
    assert (shares < 1.0).any()
    assert (shares == 1.0).any()
    clipped = slopes * shares[:, None] / users
    leaves = [encoded.hidden_BD.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    value = loss(encoded, weight, bias, target, Updates(slope_norm=limit))
    torch.testing.assert_close(value, loss(encoded, weight, bias, target))
    found = torch.autograd.grad(value, leaves)
    wanted = clipped @ weight, clipped.T @ encoded.hidden_BD, clipped.sum(0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other.detach())


def test_the_slope_of_hidden_units_is_clipped_for_each_user() -> None:
    model = new_model()
    seen: list[Tensor] = []
    hidden = model.layers[1]
    Sgd(constraints=Constraints(unit_slope_norm=1e-3)).build(model)
    hidden.norm.register_full_backward_hook(lambda _, __, given: seen.append(given[0]))  # type: ignore[union-attr]
    step(model, [])
    [slopes] = seen
    torch.testing.assert_close(slopes.norm(dim=1) * USERS, torch.full([USERS], 1e-3))


def test_layers_on_both_sides_of_a_code_are_hidden_layers() -> None:
    sides = {"hidden_dims": [7, 5], "code_dim": 3, "decoder_dims": [4, 6], "activation": "relu"}
    model = Variational(ITEMS, **sides)  # type: ignore[arg-type]
    model.mean.weight.data.fill_(1.0)
    Sgd(constraints=Constraints(unit_slope_norm=1e-3)).build(model)
    slopes: list[Tensor] = []
    for linear in [*model.layers.layers, *model.decoder]:
        if isinstance(linear, nn.Linear):  # what it says is what an activation reads
            linear.weight.data = torch.full_like(linear.weight, 10.0)  # steep, and never off
            linear.register_full_backward_hook(lambda _, __, given: slopes.append(given[0]))
    hidden = model.decoder(model.mean(model.layers(torch.ones(USERS, 7))))
    (100.0 * hidden).sum().backward()
    assert [slope.shape[1] for slope in slopes] == [6, 4, 5]
    for slope in slopes:
        torch.testing.assert_close(slope.norm(dim=1) * USERS, torch.full([USERS], 1e-3))


def test_a_layer_may_have_lengths_of_its_own() -> None:
    torch.manual_seed(0)
    layers = [Hidden(name="a", units=4, unit_norm=0.1), Hidden(name="b", units=4, slope_norm=1e-3)]
    model = Layered(ITEMS, layers=layers)
    built = Sgd(lr=0.5, constraints=Constraints(unit_norm=0.3)).build(model)
    step(model, built)
    inputs, between, _ = tables(model)
    torch.testing.assert_close(inputs.norm(dim=0).max(), torch.tensor(0.1))
    torch.testing.assert_close(between.norm(dim=1).max(), torch.tensor(0.3))
    with pytest.raises(ValueError, match="slope_norm must be above 0, got -1"):
        Hidden(name="a", units=4, slope_norm=-1.0)


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        (LinearAutoencoder(ITEMS, width=4), "item_norm", "changes the length of rows, and this"),
        (LinearAutoencoder(ITEMS, width=4), "unit_slope_norm", "is of hidden layers, and this m"),
        (LinearAutoencoder(ITEMS, width=4), "l1_decay", "is of weights of layers, and this mode"),
    ],
)
def test_what_would_be_without_effect_is_refused(model: Any, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"optimizer\.constraints\.{name} {said}"):
        Adam(constraints=Constraints(**{name: 1.0})).build(model)


def test_lengths_must_be_above_0() -> None:
    with pytest.raises(ValueError, match="item_norm must be above 0, got 0"):
        Constraints(item_norm=0.0)
    with pytest.raises(ValueError, match="l1_decay must be 0 or more, got -1"):
        Constraints(l1_decay=-1.0)


def test_torchrec_does_not_hold_them() -> None:
    torch.manual_seed(0)
    model = Autoencoder(ITEMS, hidden_dims=[4], table_backend="torchrec")
    with pytest.raises(ConfigError, match="TorchRec"):
        Sgd(constraints=Constraints(unit_norm=1.0)).build(model)


def test_a_run_is_held_to_them(tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    words = ["optimizer.constraints.item_norm=.2", "optimizer.constraints.score_slope_norm=.5"]
    words += ["optimizer.constraints.table_l1_decay=1e-4", "trainer.max_epochs=1"]
    run = train(small_shop.settings(prepared, tmp_path / "run", *words))
    assert open_run(run).model.item_weight.norm(dim=1).max() <= 0.2 + 1e-6
    with pytest.raises(ConfigError, match="score_slope_norm: must be null with Cosine"):
        train(small_shop.settings(prepared, tmp_path / "other", *words, "loss=cosine"))
