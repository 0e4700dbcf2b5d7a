"""Optimizers of a model against the plain torch optimizers they stand for."""

import pytest
import torch

from deeprec.batch import Jagged
from deeprec.model.autoencoder import Autoencoder
from deeprec.trainer.optimizer import Adam, RowwiseAdagrad, kinds_of, set_rates, state_tensors


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


def test_rates_must_be_positive() -> None:
    with pytest.raises(ValueError, match="table_lr must be above 0, got 0"):
        Adam(table_lr=0)
