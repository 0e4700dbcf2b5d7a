"""Optimizers of a model against the plain torch optimizers they stand for."""

import math
from typing import Any

import pytest
import torch
from torch.optim import AdamW

from deeprec.batch import Batch, Jagged
from deeprec.errors import ConfigError
from deeprec.loss.softmax import Softmax
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.model.recvae import RecVae
from deeprec.trainer.built import begin_state, set_rates, state_tensors
from deeprec.trainer.constraints import NO_CONSTRAINTS
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.momentum import AdaDelta, Momentum
from deeprec.trainer.optimizer import Adagrad, Adam, Optimizer, RmsProp, RowwiseAdagrad, Sgd


def new_model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(20, fields={"age": 3}, hidden_dims=[8, 4], repeats=True)


def test_every_parameter_is_trained_once_and_by_its_kind() -> None:
    model = new_model()
    kinds = kinds_of(model)
    tables = [table for inputs in kinds.inputs for table in inputs.tables.values()]
    every = [*tables, *kinds.catalog, *kinds.per_item, *kinds.layers]
    assert sorted(map(id, every)) == sorted(map(id, model.parameters()))
    assert kinds.catalog == [model.item_weight]
    assert {tuple(parameter.shape) for parameter in kinds.per_item} == {(20,)}
    assert len(kinds.per_item) == 3  # output bias, reconstruction bias, repeat bias


def test_a_layer_of_as_many_units_as_there_are_items_is_a_layer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Layered(20, layers=[Hidden(name="hidden", units=20)])
    kinds = kinds_of(model)
    assert [id(one) for one in kinds.per_item] == [id(model.item_bias)]
    assert [tuple(one.shape) for one in kinds.layers] == [(20,)]
    assert len(Sgd(clip_norm=1.0).build(model)) == 3
    Sgd(weight_decay=1e-4).build(model)  # its only layer is a bias behind the input table
    assert "weight_decay has no effect: it is for weights of layers" in capsys.readouterr().out


def test_rowwise_adagrad_on_the_catalog_table_equals_its_definition() -> None:
    model = new_model()
    start = model.item_weight.detach().double()
    built = RowwiseAdagrad(table_lr=0.1).build(model)
    total = torch.zeros(20, dtype=torch.float64)
    for step in range(5):
        gradient = torch.randn(20, 4, generator=torch.Generator().manual_seed(step))
        model.item_weight.grad = gradient.clone()
        built[1].step()
        total += gradient.double().square().mean(1)
        start -= 0.1 * gradient.double() / (total.sqrt()[:, None] + 1e-8)
    torch.testing.assert_close(model.item_weight.detach(), start.float(), atol=1e-6, rtol=0)


def test_learning_rates_rise_and_fall_with_the_step_alone() -> None:
    optimizer = Adam(lr=0.1, table_lr=0.2, item_lr=0.3, warmup_steps=4, decay=1.0)
    rates = [optimizer.rate(step, 10) for step in range(11)]
    assert rates == pytest.approx([0.2, 0.36, 0.48, 0.56, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    model = new_model()
    built = optimizer.build(model)
    set_rates(built, 0.5)
    set_rates(built, 0.5)  # of what it was built with, not of what it is
    groups = [group["lr"] for one in built for group in one.param_groups]
    assert groups == pytest.approx([0.05, 0.1, 0.15, 0.15, 0.15, 0.1])


def test_the_learning_rate_reaches_the_tables() -> None:
    for optimizer in (Adam(lr=0.1), RowwiseAdagrad(table_lr=0.1)):
        model = new_model()
        built = optimizer.build(model)
        set_rates(built, 0.0)
        before = model.sparse_input.tables["history"].detach().clone()
        one = Jagged(torch.tensor([1]), torch.tensor([0, 1]))
        model.sparse_input({"history": one, "user:age": one}).sum().backward()
        assert torch.equal(model.sparse_input.tables["history"], before)
        assert any(name.endswith("/sum") or "/exp_avg" in name for name in state_tensors(built))


@pytest.mark.parametrize(("users", "rate"), [(64, 0.0015), (256, 0.003), (1024, 0.006)])
def test_a_rate_that_nobody_gave_goes_with_the_root_of_the_users_in_a_step(
    users: int, rate: float
) -> None:
    def rates(optimizer: Optimizer) -> set[float]:
        built = optimizer.build(new_model())
        return {round(group["lr"], 6) for one in built for group in one.param_groups}

    assert rates(Adam(batch_users=users)) == {rate}
    assert rates(Adam(batch_users=users, lr=0.1)) == {0.1}
    assert rates(Adam(batch_users=users, table_lr=0.2)) == {rate, 0.2}
    assert rates(RowwiseAdagrad(batch_users=users)) == {rate, 0.05}


def test_rates_must_be_positive() -> None:
    with pytest.raises(ValueError, match="table_lr must be above 0, got 0"):
        Adam(table_lr=0)


EVERY = [
    Adam(),
    RowwiseAdagrad(),
    Adagrad(),
    RmsProp(),
    Sgd(),
    Momentum(lr=0.1),
    Momentum(nesterov=True, lr=0.1),
    AdaDelta(eps=1e-3),
]


@pytest.mark.parametrize("optimizer", EVERY, ids=lambda each: type(each).__name__)
def test_every_optimizer_lowers_the_loss(optimizer: Optimizer) -> None:
    model = new_model()
    built = optimizer.build(model)
    items = Jagged(torch.tensor([1, 4, 2]), torch.tensor([0, 2, 3]))
    attributes = {"age": Jagged(torch.tensor([0, 2]), torch.tensor([0, 1, 2]))}
    batch = Batch(torch.arange(2), items, torch.ones(3), attributes, items)
    losses = []
    for _ in range(15):
        arranged = model.arrange(batch, torch.Generator().manual_seed(0))
        loss = sum(Softmax()(*task[1:]) for task in model.tasks(arranged))
        for each in built:
            each.zero_grad()
        loss.backward()
        for each in built:
            each.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("optimizer", EVERY, ids=lambda each: type(each).__name__)
def test_the_state_is_there_before_the_first_step(optimizer: Optimizer) -> None:
    """A checkpoint taken before a step and one taken after it hold the same tensors."""
    model = new_model()
    built = optimizer.build(model)
    begin_state(built)
    before = {name: tensor.shape for name, tensor in state_tensors(built).items()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for each in built:
        each.step()
    assert {name: tensor.shape for name, tensor in state_tensors(built).items()} == before


def test_layers_are_clipped_together() -> None:
    model = new_model()
    built = Sgd(lr=0.1, clip_norm=1.0).build(model)
    layers = kinds_of(model).layers
    before = [layer.detach().clone() for layer in layers]
    for layer in layers:
        layer.grad = torch.full_like(layer, 100.0)
    built[0].step()
    steps = [old - new.detach() for old, new in zip(before, layers, strict=True)]
    length = torch.cat([step.flatten() for step in steps]).norm()
    torch.testing.assert_close(length, torch.tensor(0.1), rtol=1e-3, atol=0)


def test_layers_decay_as_by_adamw_but_for_biases_and_what_a_step_does_not_train() -> None:
    ways = []
    for ours in (True, False):
        model = RecVae(20, width=4, num_layers=3, code_dim=2)
        layers = kinds_of(model).layers
        draw = torch.Generator().manual_seed(0)
        for layer in layers:
            layer.data = torch.rand(layer.shape, generator=draw)
            layer.grad = torch.rand(layer.shape, generator=draw)
        model.posterior.mean.weight.grad = model.posterior.mean.bias.grad = None
        decaying = [{"params": [one], "weight_decay": 0.5 * (one.dim() > 1)} for one in layers]
        step = Adam(lr=0.1, weight_decay=0.5).build(model)[0] if ours else AdamW(decaying, 0.1)
        step.step()
        ways.append(layers)
    assert sum(one.dim() == 1 for one in ways[0]) > 3
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other)


def test_of_what_an_item_has_its_row_alone_decays() -> None:
    model = new_model()
    model.item_bias.data.fill_(1.0)
    built = Sgd(lr=0.1, table_weight_decay=0.5).build(model)
    for parameter in (model.item_weight, model.item_bias):
        parameter.grad = torch.zeros_like(parameter)
    before = model.item_weight.detach().clone()
    built[1].step()
    torch.testing.assert_close(model.item_weight.detach(), before * 0.95)
    assert (model.item_bias == 1.0).all()


@pytest.mark.parametrize("name", ["clip_norm", "table_clip_norm"])
def test_limits_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
        Adam(**{name: 0.0})
    with pytest.raises(ValueError, match="table_weight_decay must be 0 or more, got -1"):
        Sgd(table_weight_decay=-1.0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, got -1"),
        ({"decay": -0.5}, "decay must be 0 or more, got -0.5"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \[0.9, 1.0\]"),
        ({"lr": math.inf}, "lr must be finite, got inf"),
    ],
)
def test_rates_without_sense_are_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Adam(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"clip_norm": 1.0}, {"weight_decay": 0.1}, {"table_weight_decay": 0.1}],
)
def test_limits_that_would_be_without_effect_are_refused(arguments: dict[str, float]) -> None:
    [name] = arguments
    with pytest.raises(ConfigError, match=rf"optimizer\.{name} .* leave it at"):
        Adam(**arguments).build(LinearAutoencoder(10, width=4))


def test_a_rate_that_another_model_beside_may_have_a_use_for_is_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Adam(item_lr=0.1).build(LinearAutoencoder(10, width=4))
    assert (
        "optimizer.item_lr has no effect: it is for single numbers of an item"
        in capsys.readouterr().out
    )
    assert Adam(constraints=None).constraints == NO_CONSTRAINTS
