"""A Gram matrix that is kept equals one computed anew; its gradient is right on average."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deeprec.batch import Batch, Jagged
from deeprec.errors import ConfigError
from deeprec.loss.cosine import Cosine
from deeprec.loss.gram import ExactGram
from deeprec.loss.kept_gram import KeptGram
from deeprec.loss.squared import Squared
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.trainer.optimizer import Adam, RowwiseAdagrad
from largest_tensor import LargestTensor

ITEMS, WIDTH = 40, 5


def tables(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(ITEMS, WIDTH, generator=draw, dtype=dtype).requires_grad_()
    bias = torch.randn(ITEMS, generator=draw, dtype=dtype).requires_grad_()
    return weight, bias, torch.rand(ITEMS, generator=draw, dtype=dtype) + 0.5


def gradients(gram: Callable[..., Tensor], changing: Tensor) -> list[Tensor]:
    weight, bias, scale = tables()
    hidden = torch.randn(3, WIDTH + 1, generator=torch.Generator().manual_seed(1)).double()
    (hidden @ gram(weight, bias, scale, changing) @ hidden.T).diagonal().sin().sum().backward()
    assert weight.grad is not None
    assert bias.grad is not None
    return [each.grad.to_dense() for each in (weight, bias)]


def test_the_gradient_is_that_of_every_row_on_average_and_exact_where_the_batch_is() -> None:
    changing = torch.tensor([3, 7, 7, 0])
    truth = gradients(ExactGram(7), changing)
    torch.manual_seed(0)
    drawn = [gradients(KeptGram(ITEMS, 6, popularity=None), changing) for _ in range(1500)]
    for which, exact in enumerate(truth):
        found = torch.stack([each[which] for each in drawn])
        assert torch.equal(found[0][changing], found[-1][changing])
        torch.testing.assert_close(found[0][changing], exact[changing])
        error = found.std(0) / len(drawn) ** 0.5
        assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all()
        assert (found[0] == 0).any()  # rows that were not drawn


def random_batch(draw: torch.Generator, items: int) -> Batch:
    rows = [torch.randperm(items, generator=draw)[:4].sort().values for _ in range(8)]
    history = Jagged(torch.cat(rows), torch.arange(9) * 4)
    return Batch(torch.arange(8), history, target=history)


LINEAR = LinearAutoencoder(ITEMS, popularity=torch.arange(ITEMS), width=WIDTH)
CASES = [
    (LINEAR, Cosine(ITEMS, row_length=LINEAR.row_length_V, exclude_self=True, gram_items=6)),
    (Autoencoder(ITEMS, hidden_dims=[WIDTH]), Cosine(ITEMS, gram_items=6)),
    (
        Autoencoder(ITEMS, hidden_dims=[WIDTH]),
        Squared(ITEMS, popularity=torch.arange(ITEMS), popularity_power=0.5, gram_items=6),
    ),
]


@pytest.mark.parametrize("optimizer", [Adam(lr=0.05), RowwiseAdagrad(table_lr=0.05)])
@pytest.mark.parametrize(("model", "loss"), CASES)
def test_what_is_kept_stays_the_gram_matrix(
    model: nn.Module, loss: nn.Module, optimizer: Adam | RowwiseAdagrad
) -> None:
    """Over 200 steps, in float32, though only some rows change in each."""
    built = optimizer.build(model)
    draw = torch.Generator().manual_seed(0)
    unchanged = 0
    for _ in range(200):
        before = model.item_weight.detach().clone()
        arranged = model.arrange(random_batch(draw, ITEMS), draw)  # type: ignore[operator]
        [task] = model.tasks(arranged)  # type: ignore[operator]
        bias = None if isinstance(model, LinearAutoencoder) else task.item_bias_V
        exact = ExactGram(9)(task.item_weight_VD, bias, loss.scale_V, task.asked.target.values)
        loss(*task[1:]).backward()
        [kept] = loss.gram._kept.values()
        assert (kept._gram_EE - exact).norm() <= 1e-5 * exact.norm()
        for each in built:
            each.step()
            each.zero_grad()
        unchanged += int((model.item_weight.detach() == before).all(1).sum())
    assert unchanged > 200


def test_rows_that_change_behind_its_back_are_found() -> None:
    weight, bias, scale = tables()
    gram = KeptGram(ITEMS, 3, popularity=None)
    with pytest.raises(ConfigError, match="rows of the catalog table changed that the loss"):
        for _ in range(5):
            gram(weight, bias, scale, torch.tensor([0]))
            weight.data += 1.0


def test_a_step_touches_some_rows_only() -> None:
    items, width = 100_000, 4
    model = LinearAutoencoder(items, width=width)
    loss = Cosine(items, row_length=model.row_length_V, exclude_self=True, gram_items=50)
    built = Adam(lr=0.1).build(model)
    draw = torch.Generator().manual_seed(0)
    for first in (True, False):
        arranged = model.arrange(random_batch(draw, items), draw)
        with LargestTensor() as largest:
            [task] = model.tasks(arranged)
            loss(*task[1:]).backward()
            for optimizer in built:
                optimizer.step()
        assert first or largest.elements < items


@pytest.mark.parametrize("make", [Cosine, Squared])
def test_its_exact_computation_is_made_of_the_blocks_that_are_asked_for(
    make: Callable[..., nn.Module],
) -> None:
    items = 20_000
    weight, bias = torch.ones(items, 4), torch.zeros(items)
    for block_items, most in ((100, 100 * 5), (20_000, 20_000 * 5)):
        loss = make(items, gram_items=10, block_items=block_items)
        with LargestTensor() as largest:
            loss.gram(weight, bias, None, torch.tensor([0]))
        assert largest.elements == most


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="gram_items must be 1 or more, got 0"):
        Cosine(9, gram_items=0)
