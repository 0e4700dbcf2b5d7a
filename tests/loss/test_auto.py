"""loss=auto takes the exact loss where it can be afforded, and says why."""

import pytest
import torch

from deeprec.batch import Encoded, Jagged
from deeprec.loss.auto import Auto
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax


@pytest.mark.parametrize(
    ("num_items", "width", "batch_users", "device", "chosen"),
    [
        (27_278, 600, 512, "cpu", Softmax),
        (1_000_000, 64, 256, "cpu", Softmax),
        (10_000_000, 64, 256, "cpu", SampledSoftmax),
        (10_000_000, 64, 256, "cuda", Softmax),
        (100_000_000, 128, 4096, "cuda", SampledSoftmax),
    ],
)
def test_the_catalog_is_sampled_where_all_of_it_costs_too_much(
    num_items: int, width: int, batch_users: int, device: str, chosen: type
) -> None:
    loss = Auto(num_items, width=width, batch_users=batch_users, device=device)
    assert type(loss.chosen) is chosen
    assert f"{num_items:,}" in loss.note
    assert device in loss.note


def test_it_is_the_loss_that_it_chose() -> None:
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    encoded = Encoded(torch.randn(2, 4), *none, torch.zeros(0))
    scored = encoded, torch.randn(9, 4), torch.randn(9)
    target = Jagged(torch.tensor([1, 5, 0]), torch.tensor([0, 2, 3]))
    assert torch.equal(Auto(9)(*scored, target), Softmax()(*scored, target))
