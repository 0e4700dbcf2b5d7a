"""RecVAE against its definition written out user by user, and on the whole road."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence
from torch.nn import functional

import small_shop
import standin
from deeprec.batch import Batch, Jagged, Penalty, Task
from deeprec.config import compose
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.softmax import Softmax
from deeprec.model.recvae import RecVae
from deeprec.train import train
from deeprec.trainer import memory
from deeprec.trainer.learner import Progress
from deeprec.trainer.module import Training, _step_seed
from deeprec.trainer.optimizer import Adam, Sgd
from deeprec.verb import EvaluateConfig, ExportConfig, TrainConfig
from recommender_contract import FIELDS, NUM_ITEMS, USERS, RecommenderContract, batch

ENCODER, TURNS = 3, 5  # steps of a turn of the encoder, and of both turns


class TestRecVae(RecommenderContract):
    def new_model(self) -> RecVae:
        return RecVae(NUM_ITEMS, fields=FIELDS, width=8, code_dim=5)


def given() -> Batch:
    """The users of the contract, without attributes; what each had is its target."""
    items, offsets, ages, _ = batch(USERS)
    rows = [sorted(set(row)) for row, _, _ in USERS]
    target = Jagged(
        torch.tensor([item for row in rows for item in row]),
        torch.tensor([0, *map(len, rows)]).cumsum(0),
    )
    return Batch(torch.arange(len(USERS)), Jagged(items, offsets), ages, {}, target)


def noisy() -> RecVae:
    torch.manual_seed(0)
    model = RecVae(
        NUM_ITEMS,
        width=8,
        num_layers=3,
        code_dim=5,
        gamma=0.1,
        prior_weights=[0.2, 0.5, 0.3],
        input_dropout=0.0,
        encoder_steps=ENCODER,
        decoder_steps=TURNS - ENCODER,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


def plain_code(table: Tensor, posterior: nn.Module) -> Normal:
    """What the users of the contract are encoded as: binary histories of length 1, three layers."""
    layers, (second, third) = posterior.layers, posterior.layers.linears
    found = []
    for items, _, _ in USERS:
        total = layers.bias
        for item in sorted(set(items)):
            total = total + table[item] / len(set(items)) ** 0.5
        found.append(total)

    def normed(rows: Tensor, norm: nn.Module) -> Tensor:
        centered = rows - rows.mean(1, keepdim=True)
        scale = (centered.square().mean(1, keepdim=True) + 0.1).sqrt()
        return centered / scale * norm.weight + norm.bias

    def swish(rows: Tensor) -> Tensor:
        return rows * torch.sigmoid(rows)

    one = normed(swish(torch.stack(found)), layers.first)
    two = normed(swish(one @ second.weight.T + second.bias + one), layers.norms[0])
    three = normed(swish(two @ third.weight.T + third.bias + one + two), layers.norms[1])
    log_variance = three @ posterior.log_variance.weight.T + posterior.log_variance.bias
    mean = three @ posterior.mean.weight.T + posterior.mean.bias
    return Normal(mean, (0.5 * log_variance).exp())


def now(model: RecVae) -> Normal:
    return plain_code(model.user_input.sparse_input.tables["history"], model.posterior)


def test_hidden_is_the_mean_of_the_code() -> None:
    model = noisy()
    hidden = model.encode(*batch(USERS)).hidden_BD
    torch.testing.assert_close(hidden, now(model).mean, atol=1e-5, rtol=0)


def test_the_penalty_is_what_the_definition_says() -> None:
    model = noisy()
    torch.manual_seed(7)
    task, penalty = model.tasks(model.arrange(given(), torch.Generator()))
    assert isinstance(task, Task)
    assert isinstance(penalty, Penalty)
    code, before = now(model), plain_code(model.before.tables["history"], model.before.posterior)
    drawn = task.encoded.hidden_BD
    torch.manual_seed(7)
    truth = code.mean + code.stddev * torch.randn_like(code.mean)
    torch.testing.assert_close(drawn, truth, atol=1e-5, rtol=0)
    zero = torch.zeros_like(code.mean)
    means = torch.stack([zero, before.mean, zero], -1)
    deviations = torch.stack([zero + 1.0, before.stddev, zero + torch.tensor(5.0).exp()], -1)
    weights = Categorical(torch.tensor([0.2, 0.5, 0.3]).expand(means.shape))
    prior = MixtureSameFamily(weights, Normal(means, deviations))
    items = torch.tensor([len(set(row)) for row, _, _ in USERS])
    excess = (code.log_prob(truth) - prior.log_prob(truth)).sum(1)
    expected = (0.1 * items * excess).mean()
    torch.testing.assert_close(penalty.weight * penalty.value, expected, rtol=1e-4, atol=0)
    linear = model.posterior.mean.weight
    slopes = [torch.autograd.grad(each, linear)[0] for each in (penalty.value, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-5)


def test_with_the_standard_normal_alone_the_penalty_is_the_divergence_on_average() -> None:
    """10,000 twins of one user of two items; the other parts of the prior weigh next to nothing."""
    users = 10_000
    weights = [1.0 - 2e-12, 1e-12, 1e-12]
    model = RecVae(4, width=3, code_dim=2, gamma=1.0, input_dropout=0.0, prior_weights=weights)
    history = Jagged(torch.tensor([0, 3]).repeat(users), torch.arange(0, 2 * users + 1, 2))
    twins = Batch(torch.arange(users), history, target=history)
    arranged = model.arrange(twins, torch.Generator())
    torch.manual_seed(1)
    _, penalty = model.tasks(arranged)
    assert isinstance(penalty, Penalty)
    mean, log_variance = model.posterior(model.user_input(arranged.fields))
    code = Normal(mean, (0.5 * log_variance).exp())
    truth = 2.0 * kl_divergence(code, Normal(0.0, 1.0)).sum(1).mean()
    draws = code.sample((20,))
    spread = (code.log_prob(draws) - Normal(0.0, 1.0).log_prob(draws)).sum(2).std() * 2.0
    assert abs(penalty.value - truth) < 4.0 * spread / users**0.5


def training_of(model: RecVae, step: int) -> Training:
    progress = Progress(step=step)
    training = Training(model, Softmax(), Sgd(lr=0.1), seed=3, total_steps=99, progress=progress)
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    return training


def changed(model: RecVae, step: int) -> set[str]:
    """The parameters that a step changes."""
    training = training_of(model, step)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    training.training_step(training.arrange(given(), torch.Generator()), 0)
    return {n for n, parameter in model.named_parameters() if not torch.equal(parameter, before[n])}


@pytest.mark.parametrize("step", range(2 * TURNS))
def test_encoder_and_catalog_table_are_trained_by_turns(step: int) -> None:
    model = noisy()
    names = {name for name, _ in model.named_parameters()}
    before, catalog = {n for n in names if n.startswith("before.")}, {"item_weight", "item_bias"}
    turn = step % TURNS
    if turn < ENCODER:
        assert changed(model, step) == names - before - catalog
    elif turn == ENCODER:
        assert changed(model, step) == before | catalog
    else:
        assert changed(model, step) == catalog


def test_what_the_encoder_said_before_is_what_it_said_at_the_end_of_its_last_turn() -> None:
    model = noisy()
    changed(model, ENCODER)
    before = plain_code(model.before.tables["history"], model.before.posterior)
    assert torch.equal(before.mean, now(model).mean)
    assert torch.equal(before.stddev, now(model).stddev)


def test_a_step_of_the_catalog_table_is_one_of_gradient_descent() -> None:
    model, lr = noisy(), 0.1
    weight, bias = model.item_weight.detach().clone(), model.item_bias.detach().clone()
    code = now(model)
    torch.manual_seed(_step_seed(3, ENCODER, 0))
    drawn = (code.mean + code.stddev * torch.randn_like(code.mean)).detach()
    target = given().target
    assert target is not None
    chosen = torch.repeat_interleave(target.offsets.diff()), target.values
    weight.requires_grad_()
    bias.requires_grad_()
    scores = functional.log_softmax(drawn @ weight.T + bias, 1)
    (-scores[chosen].sum() / 3).backward()  # users with a target
    assert weight.grad is not None
    assert bias.grad is not None
    changed(model, ENCODER)
    torch.testing.assert_close(model.item_weight, weight - lr * weight.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.item_bias, bias - lr * bias.grad, atol=1e-5, rtol=0)


def test_an_encoder_step_drops_items_and_a_step_of_the_catalog_table_does_not() -> None:
    model = RecVae(NUM_ITEMS, width=8, code_dim=5, input_dropout=0.5)
    arranged = model.arrange(given(), torch.Generator().manual_seed(0))
    shown, whole = arranged.fields["history"], arranged.whole["history"]
    assert 0 < len(shown.values) < len(whole.values) == 7
    with torch.no_grad():
        model.posterior.log_variance.bias.fill_(-60.0)  # no noise
        model.posterior.log_variance.weight.zero_()
    for step, rows in ((0, arranged.fields), (3, arranged.whole)):
        arranged.step = step
        task = model.tasks(arranged)[0]
        assert isinstance(task, Task)
        mean, _ = model.posterior(model.user_input(rows))
        torch.testing.assert_close(task.encoded.hidden_BD, mean, atol=1e-6, rtol=0)


def test_the_copy_of_the_input_table_is_planned_for_and_has_no_optimizer() -> None:
    with torch.device("meta"):
        model = RecVae(1_000_000, width=64, code_dim=32)
    lines = memory.plan(model, Adam(), batch_users=1, batch_events=1, block_items=1)
    [copy] = [line for line in lines if line.name.startswith("before.tables")]
    assert copy.bytes == 1_000_000 * 64 * 4


def test_it_trains_evaluates_and_exports_what_was_evaluated(tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    told = f"prepared={prepared}", f"output_dir={tmp_path / 'run'}", "model=recvae"
    words = "model.width=8", "model.code_dim=4", "model.encoder_steps=2", "model.decoder_steps=1"
    few = "trainer.batch_users=16", "trainer.max_epochs=8", "logger.wandb=off"
    config = compose("train", [*told, *words, *few, "optimizer.lr=0.03"])
    assert isinstance(config, TrainConfig)
    run = train(config)
    evaluated = evaluate(EvaluateConfig(run=str(run), cutoffs=[5], exclude_seen=False))
    by_name = {one["name"]: one["metrics"]["ndcg@5"]["mean"] for one in evaluated["systems"]}
    assert by_name["recvae"] > by_name["popularity"] + 0.05
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        bundle = export(
            ExportConfig(run=str(run), output_dir=str(tmp_path / "bundle"), program=False)
        )
    assert json.loads((bundle / "manifest.json").read_text())["kind"] == "bundle"
    judged = EvaluateConfig(
        bundle=str(bundle),
        prepared=str(prepared),
        output_dir=str(tmp_path / "report"),
        cutoffs=[5],
        exclude_seen=False,
    )
    assert standin.of_lists(evaluate(judged)) == standin.of_lists(evaluated)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"num_layers": 0}, "num_layers must be 1 or more, got 0"),
        ({"code_dim": 0}, "code_dim must be 1 or more, got 0"),
        ({"encoder_steps": 0}, "encoder_steps must be 1 or more, got 0"),
        ({"decoder_steps": 0}, "decoder_steps must be 1 or more, got 0"),
        ({"gamma": -1.0}, "gamma must be 0 or more, got -1.0"),
        ({"prior_weights": [0.5, 0.5]}, "prior_weights must be three numbers above 0 that sum to"),
        ({"prior_weights": [0.5, 0.6, 0.1]}, "prior_weights must be three numbers"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecVae(3, **arguments)  # type: ignore[arg-type]
