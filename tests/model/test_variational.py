"""The variational autoencoder against its definition written out user by user, and on the road."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import small_shop
import standin
from deeprec.batch import Batch, Jagged, Penalty, Task
from deeprec.config import compose
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.softmax import Softmax
from deeprec.model.attribute_field import field_of
from deeprec.model.variational import Variational, divergence
from deeprec.train import train
from deeprec.trainer.learner import Progress
from deeprec.trainer.module import Training, _step_seed
from deeprec.trainer.optimizer import Sgd
from deeprec.verb import EvaluateConfig, ExportConfig, TrainConfig
from recommender_contract import FIELDS, NUM_ITEMS, USERS, RecommenderContract, batch

STANDARD = Normal(0.0, 1.0)


class TestVariational(RecommenderContract):
    def new_model(self) -> Variational:
        return Variational(
            NUM_ITEMS, fields=FIELDS, hidden_dims=[8, 6], code_dim=5, decoder_dims=None
        )


class TestVariationalWithoutDecoder(RecommenderContract):
    def new_model(self) -> Variational:
        return Variational(
            NUM_ITEMS,
            fields=FIELDS,
            hidden_dims=[8],
            code_dim=5,
            decoder_dims=[],
            history_weighting="decayed",
            quotient_remainder=list(FIELDS),
        )


def given() -> Batch:
    """The users of the contract; what each had is its target."""
    items, offsets, ages, attributes = batch(USERS)
    rows = [sorted(set(row)) for row, _, _ in USERS]
    target = Jagged(
        torch.tensor([item for row in rows for item in row]),
        torch.tensor([0, *map(len, rows)]).cumsum(0),
    )
    known = {name: Jagged(*pair) for name, pair in attributes.items()}
    return Batch(torch.arange(len(USERS)), Jagged(items, offsets), ages, known, target)


def plain_code(model: Variational) -> Normal:
    """What the users of the contract are encoded as: binary histories of length 1, two layers."""
    tables = model.user_input.sparse_input.tables
    sums = []
    for items, _, attributes in USERS:
        total = model.layers.bias
        for item in sorted(set(items)):
            total = total + tables["history"][item] / len(set(items)) ** 0.5
        for name, values in attributes.items():
            for value in values:
                total = total + tables[field_of(name)][value]
        sums.append(total)
    linear = model.layers.layers[2]
    inner = torch.tanh(torch.tanh(torch.stack(sums)) @ linear.weight.T + linear.bias)
    mean = inner @ model.mean.weight.T + model.mean.bias
    log_variance = inner @ model.log_variance.weight.T + model.log_variance.bias
    return Normal(mean, (0.5 * log_variance).exp())


def plain_hidden(model: Variational, code: Tensor) -> Tensor:
    first, second = model.decoder[0], model.decoder[2]
    inner = torch.tanh(code @ first.weight.T + first.bias)
    return torch.tanh(inner @ second.weight.T + second.bias)


def noisy(**arguments: object) -> Variational:
    torch.manual_seed(0)
    told = {"decoder_dims": None, "input_dropout": 0.0, **arguments}
    model = Variational(NUM_ITEMS, fields=FIELDS, hidden_dims=[8, 6], code_dim=5, **told)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def test_hidden_is_that_of_the_mean_code() -> None:
    model = noisy()
    truth = plain_hidden(model, plain_code(model).mean)
    torch.testing.assert_close(model.encode(*batch(USERS)).hidden_BD, truth, atol=1e-6, rtol=0)


def test_the_decoder_has_the_layers_it_is_told_and_can_mirror_the_encoder() -> None:
    def widths(**arguments: object) -> list[tuple[int, ...]]:
        model = Variational(9, hidden_dims=[8, 6], code_dim=5, **arguments)  # type: ignore[arg-type]
        layers = [layer for layer in model.decoder if isinstance(layer, torch.nn.Linear)]
        return [*(tuple(layer.weight.shape) for layer in layers), tuple(model.item_weight.shape)]

    assert widths() == [(9, 5)]
    assert widths(decoder_dims=None) == [(6, 5), (8, 6), (9, 8)]
    assert widths(decoder_dims=[7]) == [(7, 5), (9, 7)]


def test_the_divergence_is_that_of_torch_in_value_and_gradient() -> None:
    torch.manual_seed(1)
    mean = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    log_variance = (torch.randn(7, 5, dtype=torch.float64) * 2.0).requires_grad_()
    ours = divergence(mean, log_variance)
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), STANDARD).sum(1).mean()
    torch.testing.assert_close(ours, theirs)
    both = mean, log_variance
    slopes = torch.autograd.grad(ours, both), torch.autograd.grad(theirs, both)
    torch.testing.assert_close(*slopes)


def test_codes_are_drawn_from_the_distribution_of_their_user() -> None:
    """20,000 twins of one user, whose codes are scored as they are."""
    torch.manual_seed(2)
    users = 20_000
    model = Variational(4, hidden_dims=[3], code_dim=2, decoder_dims=[], input_dropout=0.0)
    with torch.no_grad():
        model.log_variance.bias.copy_(torch.tensor([-2.0, 1.0]))
    history = Jagged(torch.ones(users, dtype=torch.int64), torch.arange(users + 1))
    twins = Batch(torch.arange(users), history, target=history)
    task, _ = model.tasks(model.arrange(twins, torch.Generator()))
    assert isinstance(task, Task)
    codes = task.encoded.hidden_BD.detach()
    [mean, *_] = model.encode(history.values, history.offsets, torch.zeros(0), {}).hidden_BD
    inner = model.layers(model.user_input.sparse_input.tables["history"][1])
    deviation = (0.5 * model.log_variance(inner)).exp()
    # within 4 standard errors
    assert ((codes.mean(0) - mean).abs() < 4 * deviation / users**0.5).all()
    assert ((codes.std(0) / deviation - 1.0).abs() < 4 / (2 * users) ** 0.5).all()


def test_dropped_items_are_made_up_for_by_those_kept() -> None:
    """Each of 4 items weighs 1/2 in a history of length 1, so 2/3 if a quarter is dropped."""
    model = Variational(4, hidden_dims=[4], input_dropout=0.25)
    history = Jagged(torch.arange(4).repeat(4000), torch.arange(0, 16001, 4))
    users = Batch(torch.arange(4000), history, target=history)
    shown = model.arrange(users, torch.Generator().manual_seed(0)).fields["history"]
    assert shown.weights is not None
    assert shown.weights.unique().tolist() == [pytest.approx(2 / 3)]
    # of 16,000 items three quarters are kept, within 4 standard errors
    assert len(shown.values) == pytest.approx(12_000, abs=4 * (16_000 * 0.75 * 0.25) ** 0.5)


@pytest.mark.parametrize(
    ("anneal_steps", "step", "weight"),
    [(10, 0, 0.0), (10, 5, 0.1), (10, 10, 0.2), (10, 999, 0.2), (0, 0, 0.2)],
)
def test_the_weight_of_the_divergence_rises_with_the_step(
    anneal_steps: int, step: int, weight: float
) -> None:
    model = noisy(beta=0.2, anneal_steps=anneal_steps)
    arranged = model.arrange(given(), torch.Generator())
    arranged.step = step
    _, penalty = model.tasks(arranged)
    assert isinstance(penalty, Penalty)
    assert penalty.weight == pytest.approx(weight)
    code = plain_code(model)
    truth = kl_divergence(code, STANDARD).sum(1).mean()
    torch.testing.assert_close(penalty.value, truth, rtol=1e-5, atol=0)


def test_the_divergence_weighs_less_where_histories_are_short() -> None:
    model = noisy(popularity=torch.full((NUM_ITEMS,), 12), num_users=10 * NUM_ITEMS)
    assert model.beta == pytest.approx(0.0025 * 1.2)
    assert noisy(popularity=torch.full((NUM_ITEMS,), 9), num_users=1).beta == pytest.approx(0.3)
    assert noisy().beta == pytest.approx(0.3)  # nothing is known
    assert noisy(popularity=torch.ones(NUM_ITEMS), num_users=9, beta=0.2).beta == 0.2


def test_codes_and_their_divergence_are_float32_whatever_the_products_are() -> None:
    model = noisy(decoder_dims=[])
    with torch.autocast("cpu", torch.bfloat16):
        task, penalty = model.tasks(model.arrange(given(), torch.Generator()))
    assert isinstance(task, Task)
    assert isinstance(penalty, Penalty)
    assert task.encoded.hidden_BD.dtype == penalty.value.dtype == torch.float32


def test_a_step_is_one_of_gradient_descent_on_the_evidence_bound() -> None:
    """Against autograd on scores of the whole catalog, in the middle of annealing."""
    model, lr, step = noisy(beta=0.4, anneal_steps=8), 0.1, 6
    before = noisy()
    code = plain_code(before)
    torch.manual_seed(_step_seed(3, step, 0))
    drawn = code.mean + code.stddev * torch.randn_like(code.mean)
    scores = plain_hidden(before, drawn) @ before.item_weight.T + before.item_bias
    target = given().target
    assert target is not None
    chosen = torch.repeat_interleave(target.offsets.diff()), target.values
    costs = -torch.log_softmax(scores, 1)[chosen].sum() / 3  # users with a target
    bound = costs + 0.4 * 6 / 8 * kl_divergence(code, STANDARD).sum(1).mean()
    bound.backward()
    truth = {
        name: parameter - lr * (0.0 if parameter.grad is None else parameter.grad)
        for name, parameter in before.named_parameters()
    }
    progress = Progress(step=step)
    training = Training(model, Softmax(), Sgd(lr=lr), seed=3, total_steps=9, progress=progress)
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    training.training_step(training.arrange(given(), torch.Generator()), 0)
    assert training.last_loss() == pytest.approx(bound.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, truth[name], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("variational")
    prepared = small_shop.make(place / "prepared", repeats=False)
    words = "model.hidden_dims=[8]", "model.code_dim=4", "optimizer.lr=0.02"
    few = "trainer.batch_users=16", "trainer.max_epochs=12", "logger.wandb=off"
    told = f"prepared={prepared}", f"output_dir={place / 'run'}", "model=variational"
    found = compose("train", [*told, *words, *few])
    assert isinstance(found, TrainConfig)
    return train(found)


def test_it_trains_evaluates_and_exports_what_was_evaluated(run: Path, tmp_path: Path) -> None:
    evaluated = evaluate(EvaluateConfig(run=str(run), cutoffs=[5], exclude_seen=False))
    by_name = {one["name"]: one["metrics"]["ndcg@5"]["mean"] for one in evaluated["systems"]}
    assert by_name["variational"] > by_name["popularity"] + 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bundle = export(
            ExportConfig(run=str(run), output_dir=str(tmp_path / "bundle"), program=False)
        )
    assert json.loads((bundle / "manifest.json").read_text())["kind"] == "bundle"
    judged = EvaluateConfig(
        bundle=str(bundle),
        prepared=str(run.parent / "prepared"),
        output_dir=str(tmp_path / "report"),
        cutoffs=[5],
        exclude_seen=False,
    )
    assert standin.of_lists(evaluate(judged)) == standin.of_lists(evaluated)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_dims": []}, "hidden_dims must be one or more positive numbers"),
        ({"code_dim": 0}, "code_dim must be 1 or more, got 0"),
        ({"decoder_dims": [4, 0]}, r"decoder_dims must be positive numbers, got \[4, 0\]"),
        ({"activation": "swish"}, "activation must be one of sigmoid, .* got 'swish'"),
        ({"history_weighting": "tfidf"}, "history_weighting must be one of binary, .* got 'tfidf'"),
        ({"input_dropout": 1.0}, r"input_dropout must be in \[0, 1\), got 1.0"),
        ({"beta": -0.1}, "beta must be 0 or more, got -0.1"),
        ({"anneal_steps": -1}, "anneal_steps must be 0 or more, got -1"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Variational(3, **arguments)  # type: ignore[arg-type]
