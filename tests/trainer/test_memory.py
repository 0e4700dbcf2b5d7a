"""What a step makes, as torch's profiler counts it, is what the plan says of it."""

from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from deeprec.batch import Encoded, Jagged
from deeprec.loss.auto import Auto
from deeprec.loss.cosine import Cosine
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.squared import Squared
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.part import instantiate
from deeprec.trainer import memory
from deeprec.trainer.optimizer import Adam, RowwiseAdagrad

ITEMS, USERS, EVENTS = 20_000, 400, 2_000


def planned(loss: nn.Module, width: int, users: int = USERS) -> dict[str, int]:
    """Bytes of each line."""
    with torch.device("meta"):
        model = Autoencoder(ITEMS, hidden_dims=[width])
    lines = memory.plan(
        model,
        RowwiseAdagrad(),
        batch_users=users,
        batch_events=EVENTS,
        block_items=loss.block_items,  # type: ignore[arg-type]  # an int of all losses
        gram=loss.gram,  # type: ignore[arg-type]  # of those here
        dense_gradient=loss.dense_gradient,  # type: ignore[arg-type]  # likewise
    )
    return {line.name: line.bytes for line in lines}


def most_held(loss: nn.Module, width: int) -> int:
    """Bytes that a second step of the loss and of its gradient holds at once."""
    draw = torch.Generator().manual_seed(0)
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64)
    each = EVENTS // USERS
    items = torch.randint(ITEMS // each, (USERS, each), generator=draw)
    items += torch.arange(each) * (ITEMS // each)  # ascending, each once
    target = Jagged(items.flatten(), torch.arange(USERS + 1) * each)
    hidden = torch.randn(USERS, width, generator=draw).requires_grad_()
    weight = torch.randn(ITEMS, width, generator=draw).requires_grad_()
    bias = torch.zeros(ITEMS).requires_grad_()
    encoded = Encoded(hidden, *none, torch.zeros(0))
    loss(encoded, weight, bias, target).backward()
    hidden.grad = weight.grad = bias.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        loss(encoded, weight, bias, target).backward()
    assert watched.profiler is not None
    assert watched.profiler.kineto_results is not None
    events = watched.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(change for _, change in changes))


@pytest.mark.parametrize("width", [16, 128])
@pytest.mark.parametrize("block_items", [1_000, 20_000])
@pytest.mark.parametrize("gram_items", [None, 3_000])
@pytest.mark.parametrize("make", [Squared, Cosine])
def test_a_loss_by_a_gram_matrix_holds_what_is_planned_and_no_scores(
    make: Callable[..., nn.Module], gram_items: int | None, block_items: int, width: int
) -> None:
    loss = make(ITEMS, gram_items=gram_items, block_items=block_items)
    lines = planned(loss, width)
    assert not [name for name in lines if "scores" in name]
    ours = [
        size
        for name, size in lines.items()
        if "Gram" in name or "activations" in name or name.endswith(" gradient")
    ]
    held = most_held(loss, width)
    assert held < sum(ours) < 8 * held  # three times; what others free meanwhile is not held
    # [4,000, 20,000] scores would be 320 MB each
    more = planned(loss, width, users=4_000)
    assert sum(more.values()) - sum(lines.values()) == 3_600 * 8 * width * 4


def test_auto_weighs_a_gram_matrix_by_what_it_makes() -> None:
    """16,000 users: their scores of 8,192 items would be 524 MB, and three times that."""
    with torch.device("meta"):
        model = LinearAutoencoder(ITEMS, width=32)

    def bytes_of(part: Mapping[str, Any]) -> int:
        loss = instantiate(part, num_items=ITEMS)
        return memory.total(
            memory.plan(
                model,
                Adam(),
                batch_users=16_000,
                batch_events=EVENTS,
                block_items=loss.block_items,
                gram=loss.gram,
                dense_gradient=loss.dense_gradient,
            )
        )

    auto = Auto(ITEMS, width=32, linear=True, batch_users=16_000, negatives=100)
    enough = bytes_of(auto.choose(bytes_of, 10**12).loss)
    assert enough < 100e6
    assert "gram_items" not in auto.choose(bytes_of, enough).loss
    assert auto.choose(bytes_of, enough - 1).loss["gram_items"] == 100  # no second table


def test_a_pool_is_planned_by_its_draws() -> None:
    with torch.device("meta"):
        model = Autoencoder(ITEMS, hidden_dims=[16])
    sizes = {"batch_users": USERS, "batch_events": EVENTS, "block_items": None}
    kept = memory.plan(model, RowwiseAdagrad(), drawn_items=100, **sizes)
    pooled = memory.plan(model, RowwiseAdagrad(), drawn_items=100, pool=10_000, **sizes)
    [more] = [line for line in pooled if line not in kept]
    loss = SampledSoftmax(ITEMS, negatives=100, pool=10_000)
    sample = loss.negatives.draw()
    assert 5 * sample.nbytes <= more.bytes <= 10 * sample.nbytes  # measured: 41 bytes a draw
    assert more.settings == ("a smaller loss.pool",)
