"""One table for histories and catalog learns from both at once, as plain autograd would have it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import small_shop
from deeprec.batch import Batch, Jagged
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.model.autoencoder import Autoencoder, Pooling
from deeprec.train import train
from deeprec.trainer import memory
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.learner import Progress
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Adagrad, Adam, Optimizer, RmsProp, Sgd
from deeprec.verb import EvaluateConfig, ExportConfig
from largest_tensor import LargestTensor

ITEMS, AGES, WIDTH, STEPS = 20, 3, 6, 8
Torch = Callable[[list[Tensor]], torch.optim.Optimizer]
EVERY: list[tuple[Optimizer, Torch]] = [
    (Sgd(lr=0.1), partial(torch.optim.SGD, lr=0.1)),
    (Adagrad(lr=0.1, eps=1e-6), partial(torch.optim.Adagrad, lr=0.1, eps=1e-6)),
    (RmsProp(lr=0.01, eps=1e-6), partial(torch.optim.RMSprop, lr=0.01, eps=1e-6)),
    (Adam(lr=0.01, eps=1e-6), partial(torch.optim.Adam, lr=0.01, eps=1e-6)),
]


def new_model(num_items: int = ITEMS, *, fields: dict[str, int], pooling: Pooling) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(
        num_items,
        fields=fields,
        hidden_dims=[WIDTH, 5, WIDTH],
        history_weighting="binary",
        pooling=pooling,
        input_dropout=0.0,
        tied=True,
        init_std=0.5,
    )


def new_batch(step: int, *, fields: dict[str, int]) -> Batch:
    draw = torch.Generator().manual_seed(step)
    held = torch.rand(4, ITEMS, generator=draw) < 0.2
    held[0] = False  # a user without history
    items = held.nonzero()[:, 1]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), held.sum(1).cumsum(0)])
    rows = Jagged(items, offsets)
    ages = Jagged(
        torch.tensor([0, 1, 2, 1]), torch.arange(5)
    )  # all of them: no row of theirs waits
    return Batch(torch.arange(4), rows, None, {name: ages for name in fields}, rows)


def step_of(model: Autoencoder, loss: torch.nn.Module, optimizer: Optimizer) -> Training:
    training = Training(model, loss, optimizer, seed=0, total_steps=10**9, progress=Progress())
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    return training


def plain_loss(model: Autoencoder, weights: dict[str, Tensor], batch: Batch) -> Tensor:
    """The network and softmax over all items in float64, with the table on both sides."""
    table = weights["item_weight"]
    held = torch.zeros(4, ITEMS, dtype=torch.float64)
    users = torch.repeat_interleave(batch.history.offsets.diff())
    held[users, batch.history.values] = 1.0
    scale = held.sum(1, keepdim=True).clamp(min=1.0)
    shares = held / (scale if model.pooling == "mean" else scale.sqrt())
    hidden = shares @ table + weights["layers.bias"]
    for name, rows in batch.attributes.items():
        hidden = hidden + weights[f"sparse_input.tables.user:{name}"][rows.values]
    for layer in ("2", "5"):
        of_layer = (weights[f"layers.layers.{layer}.{kind}"] for kind in ("weight", "bias"))
        hidden = functional.linear(torch.tanh(hidden), *of_layer)
    scores = torch.tanh(hidden) @ table.T + weights["item_bias"]
    return -(held * functional.log_softmax(scores, 1)).sum() / held.any(1).sum()


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("fields", [{}, {"age": AGES}], ids=["alone", "beside attributes"])
@pytest.mark.parametrize(
    ("optimizer", "theirs"), EVERY, ids=[type(ours).__name__ for ours, _ in EVERY]
)
def test_both_sides_train_the_table_as_one_dense_parameter(
    optimizer: Optimizer, theirs: Torch, fields: dict[str, int], pooling: Pooling
) -> None:
    model = new_model(fields=fields, pooling=pooling)
    weights = {
        name: value.detach().double().requires_grad_() for name, value in model.named_parameters()
    }
    training = step_of(model, Softmax(block_items=7), optimizer)
    plain = theirs(list(weights.values()))
    for step in range(STEPS):
        batch = new_batch(step, fields=fields)
        plain.zero_grad()
        plain_loss(model, weights, batch).backward()
        plain.step()
        training.training_step(training.arrange(batch, torch.Generator()), step)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.detach(), weights[name].float(), atol=2e-6, rtol=0, msg=name
        )


def test_with_sampled_losses_a_step_makes_nothing_as_long_as_the_catalog() -> None:
    num_items = 100_000
    model = new_model(num_items, fields={}, pooling="sum")
    training = step_of(model, SampledSoftmax(num_items, negatives=64), Adagrad())
    batch = new_batch(0, fields={})
    before = model.item_weight.detach().clone()
    training.training_step(training.arrange(batch, torch.Generator()), 0)
    with LargestTensor() as largest:
        training.training_step(training.arrange(batch, torch.Generator()), 1)
    assert largest.elements < num_items
    changed = (model.item_weight != before).any(1)
    assert changed[batch.history.values].all()
    assert changed.sum() <= 2 * (len(batch.history.values) + 64)


def test_there_is_one_table_and_it_has_one_trainer() -> None:
    model = new_model(fields={"age": AGES}, pooling="sum")
    assert [n for n, p in model.state_dict().items() if p.shape == (ITEMS, WIDTH)] == [
        "item_weight"
    ]
    kinds = kinds_of(model)
    assert [list(inputs.tables) for inputs in kinds.inputs] == [["user:age"]]
    assert kinds.tied
    assert not kinds_of(new_model(fields={}, pooling="sum")).inputs


def test_the_plan_counts_it_once_and_its_gradient_where_all_rows_have_one() -> None:
    with torch.device("meta"):
        model = new_model(100_000, fields={}, pooling="sum")
    sizes = {"batch_users": 1, "batch_events": 1, "block_items": 1}
    lines = memory.plan(model, Adagrad(), dense_gradient=True, **sizes)
    of_table = [line.bytes for line in lines if line.name.startswith("item_weight")]
    assert of_table == [4 * 100_000 * WIDTH] * 3  # itself, its gradient, the optimizer's state


def test_a_tied_run_is_evaluated_and_exported_with_one_table(tmp_path: Path) -> None:
    prepared, run = small_shop.make(tmp_path / "prepared"), tmp_path / "run"
    train(small_shop.settings(prepared, run, "model.tied=true", "model.hidden_dims=[64,8,64]"))
    [*_, last] = sorted((run / "checkpoints").glob("step-*"))
    saved = load_file(last / "weights.safetensors")
    of_items = [
        name for name, tensor in saved.items() if tensor.shape == (small_shop.NUM_ITEMS, 64)
    ]
    assert of_items == ["item_weight"]
    evaluate(EvaluateConfig(run=str(run)))
    bundle = export(ExportConfig(run=str(run), output_dir=str(tmp_path / "bundle"), program=False))
    floats = sum(tensor.numel() for tensor in saved.values())
    table = saved["item_weight"].nbytes
    assert (bundle / "model.pt").stat().st_size < 4 * floats + table + 100_000


def test_widths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be equal, got \[8, 4\]"):
        Autoencoder(3, hidden_dims=[8, 4], tied=True)
