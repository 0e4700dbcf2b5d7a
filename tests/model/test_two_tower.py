"""The two towers against their definition written out user by user, and on the whole road."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import small_shop
from deeprec.batch import Batch, Jagged
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.model.attribute_field import field_of
from deeprec.model.two_tower import TwoTower
from deeprec.train import train
from deeprec.trainer.optimizer import Sgd
from deeprec.trainer.run import open_run
from deeprec.verb import EvaluateConfig, ExportConfig
from recommender_contract import FIELDS, NUM_ITEMS, USERS, RecommenderContract, batch


class TestTwoTower(RecommenderContract):
    def new_model(self) -> TwoTower:
        return TwoTower(NUM_ITEMS, fields=FIELDS, width=6, quotient_remainder=["age"])


class TestTwoTowerByAttention(RecommenderContract):
    def new_model(self) -> TwoTower:
        return TwoTower(
            NUM_ITEMS,
            fields=FIELDS,
            width=6,
            pooling="attention",
            history_weighting="decayed",
            tied=True,
        )


class TestTwoTowerWithoutAttributes(RecommenderContract):
    def new_model(self) -> TwoTower:
        return TwoTower(NUM_ITEMS, width=4, history_weighting="log_count")


def plain_hidden(model: TwoTower, items: list[int], attributes: dict[str, list[int]]) -> Tensor:
    """hidden of one user, with log_count weighting."""
    table = model.item_weight if model.tied else model.history_input.tables["history"]
    pooled = torch.zeros(table.shape[1])
    weights = {}
    for item in set(items):
        weights[item] = math.log(1 + items.count(item))
        if model.attention is not None:
            key = torch.tanh(model.attention.key.weight @ table[item] + model.attention.key.bias)
            weights[item] *= math.exp(model.attention.query.weight[0] @ key)
    for item, weight in weights.items():
        pooled += weight / sum(weights.values()) * table[item]
    tower = model.user_tower
    of_history = tower.project.weight @ pooled + tower.project.bias
    assert model.attribute_input is not None
    rows = [
        model.attribute_input.tables[field_of(name)][value]
        for name, values in attributes.items()
        for value in values
    ]
    share = 1 / (1 + math.exp(-tower.gate))
    of_attributes = sum(rows, torch.zeros(table.shape[1]))
    return functional.normalize((1 - share) * of_history + share * of_attributes, dim=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_hidden_is_what_the_definition_says(pooling: str, tied: bool) -> None:
    torch.manual_seed(0)
    model = TwoTower(
        NUM_ITEMS,
        fields=FIELDS,
        width=6,
        pooling=pooling,  # type: ignore[arg-type]  # one of its choices
        tied=tied,
        history_weighting="log_count",
        init_std=1.0,
    ).eval()
    with torch.no_grad():
        model.user_tower.gate.fill_(-0.7)
        hidden = model.encode(*batch(USERS)).hidden_BD
        truth = torch.stack([plain_hidden(model, items, known) for items, _, known in USERS])
    torch.testing.assert_close(hidden, truth, atol=1e-6, rtol=0)


def test_attention_to_very_different_rows_stays_finite() -> None:
    model = TwoTower(3, width=2, pooling="attention").eval()
    assert model.attention is not None
    model.attention.query.weight.data.fill_(1e4)
    model.history_input.tables["history"].data.copy_(torch.tensor([[9.0, 9], [-9, -9], [0, 1]]))
    encoded = model.encode(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.zeros(0), {})
    assert encoded.hidden_BD.isfinite().all()


def test_the_gate_starts_where_it_is_told_and_learns() -> None:
    model = TwoTower(NUM_ITEMS, fields=FIELDS, width=4, gate=0.2)
    assert model.user_tower.gate.sigmoid().item() == pytest.approx(0.2)
    assert model.user_tower.gate.requires_grad
    assert not TwoTower(NUM_ITEMS, width=4).user_tower.gate.requires_grad  # nothing to share


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_step_is_that_of_gradient_descent(pooling: str, tied: bool) -> None:
    """Tables that change in loss and backward, against autograd over dense ones."""
    lr, models = 0.1, []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(
            TwoTower(
                NUM_ITEMS,
                fields=FIELDS,
                width=4,
                pooling=pooling,  # type: ignore[arg-type]  # one of its choices
                tied=tied,
                input_dropout=0.0,
                table_backend="torch",
            )
        )
    ours, plain = models
    optimizers = Sgd(lr=lr).build(ours)
    items, offsets, ages, attributes = batch(USERS)
    known = {name: Jagged(*rows) for name, rows in attributes.items()}
    target = Jagged(torch.tensor([1, 2, 8]), torch.tensor([0, 2, 2, 3, 3, 3]))
    given = Batch(torch.arange(len(USERS)), Jagged(items, offsets), ages, known, target)
    loss = CosineContrastive(NUM_ITEMS, margin=0.1, block_items=7)
    [task] = ours.tasks(ours.arrange(given, torch.Generator()))
    loss(*task[1:]).backward()
    for optimizer in optimizers:
        optimizer.step()
    plain.train()
    loss(
        plain.encode(items, offsets, ages, attributes), plain.item_weight, plain.item_bias, target
    ).backward()
    rows = plain.item_weight.detach()
    slope = plain.item_weight.grad
    assert slope is not None
    slope = slope.to_dense() if slope.is_sparse else slope
    turning = slope - (slope * rows).sum(1, keepdim=True) * rows
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name == "item_weight":
                parameter.copy_(functional.normalize(rows - lr * turning))
            elif parameter.grad is not None:
                parameter -= lr * parameter.grad
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name), parameter, atol=1e-6, rtol=1e-5, msg=lambda m, n=name: n + m
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"gate": 1.0}, r"gate must be in \(0, 1\), got 1"),
        ({"fade_days": 0.0}, "fade_days must be 1.2e-05 or more, a second, .* got 0"),
        ({"input_dropout": 1.0}, r"input_dropout must be in \[0, 1\), got 1"),
        ({"pooling": "max"}, "pooling must be one of mean, attention; got 'max'"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwoTower(3, **arguments)  # type: ignore[arg-type]


def test_a_run_is_evaluated_and_exported(tmp_path: Path) -> None:
    prepared = small_shop.of_tastes(tmp_path / "prepared")
    words = (
        "experiment=simplex",
        "model.width=8",
        "model.pooling=attention",
        "optimizer.lr=0.1",
        "trainer.batch_users=32",
        "trainer.max_epochs=15",
        "trainer.validate_every_epochs=5",
        "logger.wandb=off",
    )
    path = train(small_shop.composed(prepared, tmp_path / "run", *words))
    trained = open_run(path).model
    lengths = trained.item_weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-5, rtol=0)
    assert not trained.item_bias.any()
    evaluated = evaluate(EvaluateConfig(run=str(path), cutoffs=[5]))
    by_name = {one["name"]: one["metrics"]["ndcg@5"]["mean"] for one in evaluated["systems"]}
    assert by_name["two_tower"] > by_name["popularity"] + 0.05
    export(
        ExportConfig(run=str(path), output_dir=str(tmp_path / "bundle"), program=False)
    )  # compares
