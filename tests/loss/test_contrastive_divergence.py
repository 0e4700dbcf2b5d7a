"""Contrastive divergence against every state of a machine so small that all can be written down."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import small_shop
from deeprec.batch import Encoded, Jagged
from deeprec.errors import ConfigError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.contrastive_divergence import ContrastiveDivergence
from deeprec.table import Updates
from deeprec.train import train
from deeprec.verb import EvaluateConfig, ExportConfig
from largest_tensor import LargestTensor

ITEMS, UNITS = 6, 3
EVERY = torch.tensor(list(itertools.product([0.0, 1.0], repeat=ITEMS)))  # visible states, [64, 6]
HAD = EVERY[[5, 20, 33, 62, 0, 7]]  # what six kinds of users had


def new_machine() -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    draw = torch.Generator().manual_seed(3)
    shapes = (ITEMS, UNITS), (ITEMS,), (UNITS,)
    weight, bias, hidden_bias = (
        nn.Parameter(torch.randn(shape, generator=draw) * 0.8) for shape in shapes
    )
    return weight, bias, hidden_bias


def jagged(visible: Tensor) -> Jagged:
    return Jagged(visible.nonzero()[:, 1], functional.pad(visible.sum(1).long().cumsum(0), (1, 0)))


def encoded(num_users: int) -> Encoded:
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(num_users + 1, dtype=torch.int64)
    return Encoded(torch.zeros(num_users, UNITS), *none, torch.zeros(0))


def log_likelihood(
    weight: Tensor, bias: Tensor, hidden_bias: Tensor, visible: Tensor = HAD
) -> Tensor:
    """The mean over users, by the energy of every state of visible and hidden units."""
    hidden = torch.tensor(list(itertools.product([0.0, 1.0], repeat=UNITS)))

    def of_states(some: Tensor) -> Tensor:  # float [states of visible, states of hidden]
        return (some @ bias)[:, None] + hidden @ hidden_bias + some @ weight @ hidden.T

    all_states = torch.logsumexp(of_states(EVERY).flatten(), 0)
    return (torch.logsumexp(of_states(visible), 1) - all_states).mean()


def gradients(steps: int, copies: int) -> list[Tensor]:
    """What the loss gives table, bias and hidden bias, of so many copies of each user."""
    weight, bias, hidden_bias = machine = new_machine()
    visible = HAD.repeat(copies, 1)
    loss = ContrastiveDivergence(hidden_bias=hidden_bias, steps=steps, block_items=4)
    torch.manual_seed(0)
    loss(encoded(len(visible)), weight, bias, jagged(visible)).backward()
    found = [each.grad for each in machine]
    assert all(each is not None for each in found)
    return found  # type: ignore[return-value]  # just asserted


def of_likelihood() -> list[Tensor]:
    machine = new_machine()
    return list(torch.autograd.grad(-log_likelihood(*machine), machine))


def furthest(some: list[Tensor], others: list[Tensor]) -> float:
    return max((one - other).abs().max().item() for one, other in zip(some, others, strict=True))


def test_after_many_steps_it_is_the_gradient_of_the_likelihood() -> None:
    """Of 60,000 users a mean of zeros and ones is known to 0.002, and one step is far off."""
    assert furthest(gradients(20, 10_000), of_likelihood()) < 0.008
    assert furthest(gradients(1, 10_000), of_likelihood()) > 0.05


def test_one_step_is_what_its_definition_expects() -> None:
    """Every hidden state that a user may have, and every reconstruction of it, by its chance."""
    weight, bias, hidden_bias = machine = new_machine()
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=UNITS)))

    def chances(logits: Tensor, of: Tensor) -> Tensor:
        return torch.stack(
            [torch.where(one > 0, logits.sigmoid(), 1 - logits.sigmoid()).prod(1) for one in of], 1
        )

    of_hidden = chances(HAD @ weight + hidden_bias, states)
    of_visible = of_hidden @ chances(states @ weight.T + bias, EVERY)  # [users, 64]

    def free_energy(visible: Tensor) -> Tensor:
        on = functional.softplus(visible @ weight + hidden_bias).sum(1)
        return -(visible @ bias) - on

    truth = free_energy(HAD).mean() - (of_visible.detach() @ free_energy(EVERY)).mean()
    expected = list(torch.autograd.grad(truth, machine))
    assert furthest(gradients(1, 10_000), expected) < 0.008


def test_its_value_is_the_difference_of_free_energies() -> None:
    """Where biases leave no choice, the dream is known: items 0 and 2, whatever was had."""
    weight = torch.tensor([[0.3, -0.2], [0.1, 0.5], [-0.4, 0.7]])
    bias, hidden_bias = torch.tensor([90.0, -90.0, 80.0]), torch.tensor([0.2, -0.1])
    target = Jagged(torch.tensor([1, 2]), torch.tensor([0, 2, 2]))
    loss = ContrastiveDivergence(hidden_bias=hidden_bias, block_items=2)
    had, dreamt = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([1.0, 0.0, 1.0])

    def free_energy(visible: Tensor) -> Tensor:
        return -(visible @ bias) - functional.softplus(visible @ weight + hidden_bias).sum(-1)

    truth = free_energy(had).mean() - free_energy(dreamt)
    torch.testing.assert_close(loss(encoded(2), weight, bias, target), truth)


def test_updates_get_what_autograd_would() -> None:
    [of_weight, of_bias, _] = gradients(2, 3)
    weight, bias, hidden_bias = new_machine()
    found = torch.zeros_like(weight), torch.zeros_like(bias)

    def into(table: Tensor):  # type: ignore[no-untyped-def]
        return lambda rows, gradient: table[rows].add_(gradient)

    loss = ContrastiveDivergence(hidden_bias=hidden_bias, steps=2, block_items=4)
    torch.manual_seed(0)
    updates = Updates(into(found[0]), into(found[1]))
    loss(encoded(18), weight, bias, jagged(HAD.repeat(3, 1)), updates).backward()
    torch.testing.assert_close(found[0], of_weight)
    torch.testing.assert_close(found[1], of_bias)


def test_training_raises_the_exact_likelihood() -> None:
    weight, bias, hidden_bias = machine = new_machine()
    loss = ContrastiveDivergence(hidden_bias=hidden_bias)
    optimizer = torch.optim.Adam(machine, lr=0.1)
    before, visible = log_likelihood(*machine).item(), HAD.repeat(20, 1)
    torch.manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        loss(encoded(len(visible)), weight, bias, jagged(visible)).backward()
        optimizer.step()
    after = log_likelihood(*machine).item()
    shares = HAD.mean(0)
    alone = (shares * shares.log() + (1 - shares) * (1 - shares).log()).sum()  # each item by itself
    assert before < -5.0
    assert alone + 0.7 < after < -math.log(len(HAD))  # at best it knows the six kinds of users


def test_no_tensor_of_users_and_catalog_is_made() -> None:
    users, items, units = 40, 3000, 4
    weight, bias = torch.randn(items, units), torch.zeros(items)
    target = Jagged(torch.arange(users), torch.arange(users + 1))
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(users + 1, dtype=torch.int64)
    shown = Encoded(torch.zeros(users, units), *none, torch.zeros(0))
    loss = ContrastiveDivergence(hidden_bias=torch.zeros(units), steps=2, block_items=100)
    with LargestTensor() as largest:
        loss(shown, weight.requires_grad_(), bias, target).backward()
    assert largest.elements == items * units


def test_it_refuses_models_and_settings_that_it_cannot_train(tmp_path: Path) -> None:
    prepared = small_shop.make(tmp_path / "prepared")
    with pytest.raises(ConfigError, match="use model=rbm"):
        train(small_shop.settings(prepared, tmp_path / "run", "loss=contrastive_divergence"))
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        ContrastiveDivergence(steps=0)
    with pytest.raises(ValueError, match="block_items must be 1 or more"):
        ContrastiveDivergence(block_items=0)


def test_a_run_is_evaluated_and_exported(tmp_path: Path) -> None:
    prepared = small_shop.of_tastes(tmp_path / "prepared")
    words = (
        "experiment=rbm",
        "model.hidden_units=8",
        "optimizer.lr=0.1",
        "trainer.batch_users=32",
        "trainer.max_epochs=25",
        "trainer.validate_every_epochs=5",
        "logger.wandb=off",
    )
    run = train(small_shop.composed(prepared, tmp_path / "run", *words))
    evaluated = evaluate(EvaluateConfig(run=str(run), cutoffs=[5]))
    by_name = {one["name"]: one["metrics"]["ndcg@5"]["mean"] for one in evaluated["systems"]}
    assert by_name["rbm"] > by_name["popularity"] + 0.05
    export(
        ExportConfig(run=str(run), output_dir=str(tmp_path / "bundle"), program=False)
    )  # compares
