"""The linear autoencoder against its definition written out densely, and on the whole road."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import small_shop
import standin
from deeprec import config
from deeprec.batch import Batch, Jagged
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.cosine import Cosine
from deeprec.model.attribute_field import field_of
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.model.sparse_input import SparseInput
from deeprec.train import train
from deeprec.trainer.optimizer import Adam, Sgd
from deeprec.trainer.run import open_run
from deeprec.verb import EvaluateConfig, ExportConfig, TrainConfig
from largest_tensor import LargestTensor
from recommender_contract import FIELDS, NUM_ITEMS, USERS, RecommenderContract, batch

POPULARITY = torch.arange(NUM_ITEMS)


class TestLinearAutoencoder(RecommenderContract):
    def new_model(self) -> LinearAutoencoder:
        model = LinearAutoencoder(NUM_ITEMS, fields=FIELDS, popularity=POPULARITY, width=6)
        for rows in [model.everybody_D, *cast(SparseInput, model.sparse_input).tables.values()]:
            torch.nn.init.normal_(rows)  # they start at nothing, of which much is right
        return model


class TestLinearAutoencoderOnDecayedHistories(RecommenderContract):
    def new_model(self) -> LinearAutoencoder:
        return LinearAutoencoder(NUM_ITEMS, width=4, history_weighting="decayed")


def test_users_count_in_the_loss_what_they_are_told_to() -> None:
    model = new_model()
    [task] = model.tasks(model.arrange(given(), torch.Generator()))
    loss = Cosine(NUM_ITEMS, row_length=model.row_length_V, exclude_self=True, block_items=7)

    def counting(counts: list[float]) -> Tensor:
        asked = replace(task.asked, user_weights=torch.tensor(counts))
        return loss(task.encoded, task.item_weight_VD, task.item_bias_V, asked).detach()

    number = len(USERS)
    alone = [counting([float(a == b) for a in range(number)]) for b in range(number)]
    counts = [0.5 + user for user in range(number)]
    wanted = sum(count * one for count, one in zip(counts, alone, strict=True))
    torch.testing.assert_close(counting(counts), torch.as_tensor(wanted))
    torch.testing.assert_close(counting([1.0] * number), loss_of(model).detach())


def power(exponent: float) -> Tensor:
    """Float64 [V]: what the definition says of popularity."""
    powers = torch.tensor([max(n, 1) ** exponent for n in POPULARITY.tolist()]).double()
    return powers / powers.mean()


def dense_history() -> Tensor:
    """Float64 [B, V]: 1 where a user of the contract has an item."""
    had = torch.zeros(len(USERS), NUM_ITEMS, dtype=torch.float64)
    for user, (items, _, _) in enumerate(USERS):
        had[user, items] = 1.0
    return had


def new_model() -> LinearAutoencoder:
    torch.manual_seed(0)
    return LinearAutoencoder(
        NUM_ITEMS,
        fields=FIELDS,
        popularity=POPULARITY,
        width=6,
        input_power=0.5,
        output_power=0.25,
        everybody=True,
    )


def given() -> Batch:
    items, offsets, ages, attributes = batch(USERS)
    of_user = {name: Jagged(*rows) for name, rows in attributes.items()}
    return Batch(torch.arange(len(USERS)), Jagged(items, offsets), ages, of_user)


def dense_attributes() -> list[Tensor]:
    """Float64 [B, values] of each attribute: how often a user of the contract has each value."""
    counts = [torch.zeros(len(USERS), size, dtype=torch.float64) for size in FIELDS.values()]
    for name, count in zip(FIELDS, counts, strict=True):
        for user, (_, _, attributes) in enumerate(USERS):
            for value in attributes[name]:
                count[user, value] += 1.0
    return counts


def of_table(optimizer: Adam, model: LinearAutoencoder) -> torch.optim.Optimizer:
    """The one of the built that trains the catalog table."""
    built = optimizer.build(model)
    [found] = [
        one
        for one in built
        if any(p is model.item_weight for group in one.param_groups for p in group["params"])
    ]
    return found


def loss_of(model: LinearAutoencoder) -> Tensor:
    [task] = model.tasks(model.arrange(given(), torch.Generator()))
    loss = Cosine(NUM_ITEMS, row_length=model.row_length_V, exclude_self=True, block_items=7)
    found: Tensor = loss(*task[1:])
    return found


def test_scores_are_what_the_definition_says() -> None:
    model = new_model()
    rows = functional.normalize(model.item_weight.detach().double())
    truth = dense_history() * power(-0.5) @ rows @ rows.T * power(0.25)
    encoded = model.encode(*batch(USERS))
    scores = encoded.hidden_BD @ model.item_weight.T + model.item_bias
    torch.testing.assert_close(scores.detach().double(), truth, atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_are_those_of_gradient_descent_on_the_sphere(steps: int) -> None:
    """Against autograd on unit rows, scores of the whole catalog and a step by hand."""
    model, lr = new_model(), 0.3
    optimizers = Sgd(lr=lr).build(model)
    rows = functional.normalize(model.item_weight.detach().double())
    history, attributes = dense_history() * power(-0.5), dense_attributes()
    of_user = [torch.zeros(size, 6).double() for size in (1, *FIELDS.values())]
    said = [0.05 * counts for counts in attributes]
    known = torch.cat([torch.ones(len(USERS), 1).double(), *said], 1)
    some = history.sum(1) > 0
    for _ in range(steps):
        unit = rows.clone().requires_grad_()
        added = torch.cat(of_user).requires_grad_()
        built = (history @ unit + known @ added) @ unit.T - history
        loss = 2.0 - 2.0 * functional.cosine_similarity(built[some], history[some])
        loss.mean().backward()
        assert unit.grad is not None
        assert added.grad is not None
        along = (unit.grad * rows).sum(1, keepdim=True)
        rows = functional.normalize(rows - lr * (unit.grad - along * rows))
        of_user = [added.detach() - lr * added.grad]
        ours = loss_of(model)
        torch.testing.assert_close(ours.double(), loss.mean(), atol=1e-5, rtol=0)
        ours.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    table = rows * power(0.25)[:, None]
    torch.testing.assert_close(model.item_weight.detach().double(), table, atol=1e-5, rtol=0)
    assert model.sparse_input is not None
    tables = [model.sparse_input.tables[field_of(name)] for name in FIELDS]
    found = torch.cat([model.everybody_D[None], *tables])
    torch.testing.assert_close(found.detach().double(), of_user[0], atol=1e-5, rtol=0)


def test_rows_keep_their_length_under_any_step() -> None:
    model = new_model()
    optimizer = of_table(Adam(lr=0.5), model)
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        model.item_weight.grad = torch.randn(NUM_ITEMS, 6, generator=draw)
        optimizer.step()
    lengths = torch.linalg.vector_norm(model.item_weight.detach().double(), dim=1)
    torch.testing.assert_close(lengths, power(0.25), atol=0, rtol=1e-5)


def test_long_rows_turn_as_fast_as_short_ones() -> None:
    """Each row, whatever its length, gets the same gradient of its direction."""
    model = new_model()
    optimizer = of_table(Adam(lr=0.1), model)
    unit = functional.normalize(torch.randn(6, generator=torch.Generator().manual_seed(1)), dim=0)
    model.item_weight.data = unit * model.row_length_V[:, None]
    push = torch.randn(6, generator=torch.Generator().manual_seed(2))
    model.item_weight.grad = push / model.row_length_V[:, None]
    optimizer.step()
    turned = functional.normalize(model.item_weight.detach())
    assert functional.cosine_similarity(turned[0], unit, dim=0) < 0.99
    torch.testing.assert_close(turned, turned[:1].expand_as(turned), atol=1e-5, rtol=0)


def test_a_step_makes_no_second_copy_of_the_table_and_no_scores() -> None:
    users, items, width = 500, 2000, 8
    model = LinearAutoencoder(items, width=width)
    optimizers = Adam(lr=0.1).build(model)
    history = Jagged(torch.arange(users), torch.arange(users + 1))
    loss = Cosine(items, row_length=model.row_length_V, exclude_self=True, block_items=100)
    arranged = model.arrange(Batch(torch.arange(users), history), torch.Generator())
    with LargestTensor() as largest:
        [task] = model.tasks(arranged)
        loss(*task[1:]).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert largest.elements == items * width  # the gradient of the table
    assert model.item_weight.grad is not None
    assert not model.item_weight.grad.is_sparse


@pytest.mark.parametrize(
    ("users_an_item", "told", "learns"),
    [(39, None, False), (41, None, True), (39, True, True), (41, False, False)],
)
def test_a_row_for_everybody_is_learned_where_items_have_many_users(
    users_an_item: int, told: bool | None, learns: bool
) -> None:
    popularity = torch.tensor([0, 2 * users_an_item])
    model = LinearAutoencoder(2, popularity=popularity, width=2, everybody=told)
    assert model.everybody_D.requires_grad == learns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"fade_days": 0.0}, "fade_days must be 1.2e-05 or more, a second, .* got 0"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearAutoencoder(3, **arguments)  # type: ignore[arg-type]


def test_rows_begin_at_the_singular_vectors_of_numpy() -> None:
    """Up to a turn, which no score sees, and at the lengths that they are kept at."""
    width = 3
    model = LinearAutoencoder(NUM_ITEMS, popularity=POPULARITY, width=width, output_power=0.25)
    before = model.item_weight.detach().clone()
    draw = torch.Generator().manual_seed(3)
    taken = torch.rand(40, NUM_ITEMS - 1, generator=draw).argsort(1)[:, :4]  # the last: by nobody
    rows = Jagged(taken.sort(1).values.flatten(), torch.arange(41) * 4)
    model.begin(Batch(torch.arange(40), rows), torch.Generator().manual_seed(0))
    had = torch.zeros(40, NUM_ITEMS, dtype=torch.float64)
    had.scatter_(1, taken, 1.0)
    popularity = had.sum(0).clamp(min=1.0)
    _, values, vectors = torch.linalg.svd(had / 2.0 / popularity.sqrt())  # 4 ** 0.5 = 2
    wanted = vectors[:width].T * values[:width].sqrt()
    alike = functional.normalize(wanted[:-1]) @ functional.normalize(wanted[:-1]).T
    found = functional.normalize(model.item_weight.detach().double())
    torch.testing.assert_close(found[:-1] @ found[:-1].T, alike, atol=2e-2, rtol=0)
    lengths = torch.linalg.vector_norm(model.item_weight.detach().double(), dim=1)
    torch.testing.assert_close(lengths, power(0.25), atol=0, rtol=1e-5)
    torch.testing.assert_close(model.item_weight[-1].detach(), before[-1])


def settings(prepared: Path, run: Path, *words: str) -> TrainConfig:
    small = (
        "model.width=8",
        "trainer.max_epochs=4",
        "trainer.batch_users=32",
        "logger.wandb=off",
        "optimizer.lr=0.05",
    )
    base = (f"prepared={prepared}", f"output_dir={run}", "experiment=linear", *small)
    found = config.compose("train", [*base, *words])
    assert isinstance(found, TrainConfig)
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.of_tastes(tmp_path_factory.mktemp("linear") / "prepared")


@pytest.mark.parametrize("loss", ["loss=cosine", "loss.gram_items=4"])
def test_it_trains_evaluates_and_exports_what_was_evaluated(
    prepared: Path, tmp_path: Path, loss: str
) -> None:
    run = train(settings(prepared, tmp_path / "run", loss))
    evaluated = evaluate(EvaluateConfig(run=str(run), cutoffs=[5]))
    by_name = {one["name"]: one["metrics"]["ndcg@5"]["mean"] for one in evaluated["systems"]}
    assert by_name["linear_autoencoder"] > by_name["popularity"] + 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bundle = export(
            ExportConfig(run=str(run), output_dir=str(tmp_path / "bundle"), program=False)
        )
    assert json.loads((bundle / "manifest.json").read_text())["kind"] == "bundle"
    judged = EvaluateConfig(
        bundle=str(bundle), prepared=str(prepared), output_dir=str(tmp_path / "r"), cutoffs=[5]
    )
    assert standin.of_lists(evaluate(judged)) == standin.of_lists(evaluated)


def test_a_warm_start_is_ahead_of_a_random_one_and_the_same_each_time(
    prepared: Path, tmp_path: Path
) -> None:
    def weights(name: str, *words: str) -> tuple[Tensor, float]:
        run = train(settings(prepared, tmp_path / name, "trainer.max_epochs=1", *words))
        opened = open_run(run)
        assert opened.checkpoint.score is not None
        return opened.model.item_weight.detach(), opened.checkpoint.score

    warm, score = weights("warm")
    again, _ = weights("again")
    assert torch.equal(warm, again)
    assert score > weights("cold", "model.warm_start=false")[1]
