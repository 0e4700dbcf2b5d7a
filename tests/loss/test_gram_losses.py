"""Losses by the Gram matrix equal the same losses written densely with autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import reference
from deeprec.batch import Encoded, Jagged
from deeprec.loss.cosine import Cosine
from deeprec.loss.squared import Squared
from largest_tensor import LargestTensor

USERS, ITEMS, WIDTH = 6, 17, 3
POPULARITY = torch.arange(ITEMS) * 3


def jagged(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(0, 6, [USERS], generator=draw)
    lengths[1] = 0
    values = [torch.randperm(ITEMS, generator=draw)[:n].sort().values for n in lengths]
    return torch.cat(values), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def problem(
    seed: int, *, with_repeats: bool = True
) -> tuple[list[Tensor], Callable[..., Encoded], Jagged]:
    draw = torch.Generator().manual_seed(seed)
    items, offsets = jagged(draw)
    if not with_repeats:
        items, offsets = items[:0], torch.zeros_like(offsets)
    shapes = [[USERS, WIDTH], [ITEMS, WIDTH], [ITEMS], list(items.shape)]
    leaves = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    values, ends = jagged(draw)
    weights = torch.rand(len(values), generator=draw, dtype=torch.float64) + 0.5
    return leaves, lambda h, r: Encoded(h, items, offsets, r), Jagged(values, ends, weights)


def dense(target: Jagged) -> Tensor:
    """Float64 [B, V]: the weight of each target, 0 of all others."""
    found = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    rows = reference.rows(target.values, target.offsets)
    weights = reference.rows(target.weights, target.offsets)
    for user, (items, of_items) in enumerate(zip(rows, weights, strict=True)):
        for item, weight in zip(items, of_items, strict=True):
            found[user, int(item)] = float(weight)
    return found


def dense_squared(scores: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
    others = 0.3 * scale * scores**2 * (weights == 0)
    return (weights * (scores - 1) ** 2 + others).sum() / USERS


def dense_popular(scores: Tensor, weights: Tensor) -> Tensor:
    scale = (POPULARITY.double() + 1) ** 0.5
    return dense_squared(scores, weights, scale / scale.mean())


def dense_per_user(scores: Tensor, weights: Tensor) -> Tensor:
    errors = (weights > 0) * weights * (scores - 1) ** 2 + 0.3 * scores**2 * (weights == 0)
    return (errors.sum(1) / (weights > 0).sum(1).clamp(min=1)).sum() / USERS


def dense_cosine(scores: Tensor, weights: Tensor) -> Tensor:
    chosen = weights.sum(1) > 0
    return (2 - 2 * torch.cosine_similarity(scores[chosen], weights[chosen])).mean()


LOSSES = [
    (lambda n: Squared(ITEMS, zero_scale=0.3, block_items=n), lambda s, w: dense_squared(s, w, 1)),
    (
        lambda n: Squared(
            ITEMS, popularity=POPULARITY, popularity_power=0.5, zero_scale=0.3, block_items=n
        ),
        dense_popular,
    ),
    (lambda n: Squared(ITEMS, zero_scale=0.3, normalise_users=True, block_items=n), dense_per_user),
    (lambda n: Cosine(ITEMS, block_items=n), dense_cosine),
]


@pytest.mark.parametrize("with_repeats", [True, False])
@pytest.mark.parametrize("block_items", [1, 5, 100])
@pytest.mark.parametrize(("make", "truth"), LOSSES)
def test_value_and_gradients_equal_the_dense_form(
    make: Callable[[int], nn.Module], truth: Callable, block_items: int, with_repeats: bool
) -> None:
    leaves, encode, target = problem(0, with_repeats=with_repeats)
    runs = []
    for ours in (True, False):
        hidden, weight, bias, repeats = own = [leaf.clone().requires_grad_() for leaf in leaves]
        encoded = encode(hidden, repeats)
        if ours:
            value = make(block_items)(encoded, weight, bias, target)
        else:
            value = truth(reference.dense_scores(encoded, weight, bias), dense(target))
        value.backward()
        gradients = [torch.zeros_like(e) if e.grad is None else e.grad for e in own]
        runs.append([value.detach(), *gradients])
    for our, their in zip(*runs, strict=True):
        rtol = 1e-6 if make is LOSSES[1][0] else 1e-10  # popularity is kept in float32
        torch.testing.assert_close(our, their, rtol=rtol, atol=1e-10 if rtol < 1e-9 else 1e-6)


@pytest.mark.parametrize(("make", "truth"), LOSSES)
def test_numerical_gradient(make: Callable[[int], nn.Module], truth: Callable) -> None:
    leaves, encode, target = problem(3)
    loss = make(5)

    def value(hidden: Tensor, weight: Tensor, bias: Tensor, repeats: Tensor) -> Tensor:
        return loss(encode(hidden, repeats), weight, bias, target)

    assert torch.autograd.gradcheck(
        value, [leaf.requires_grad_() for leaf in leaves], fast_mode=True
    )


def test_without_its_own_contribution_an_item_must_be_told_by_the_others() -> None:
    """A tied linear model with unit rows: scores are x A A^T - x, written out densely."""
    draw = torch.Generator().manual_seed(4)
    rows = torch.randn(ITEMS, WIDTH, generator=draw, dtype=torch.float64)
    runs = []
    _, _, target = problem(5)
    x = dense(target)
    for ours in (True, False):
        table = rows.clone().requires_grad_()
        unit = nn.functional.normalize(table)
        hidden = x @ unit
        if ours:
            none = torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64)
            encoded = Encoded(hidden, *none, torch.zeros(0))
            bias = torch.zeros(ITEMS, dtype=torch.float64)
            value = Cosine(ITEMS, exclude_self=True)(encoded, unit, bias, target)
        else:
            value = dense_cosine(hidden @ unit.T - x, x)
        value.backward()
        runs.append((value.detach(), table.grad))
    for our, their in zip(*runs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("exclude_self", [True, False])
def test_a_faded_history_teaches_as_it_did(exclude_self: bool) -> None:
    """A direction has no length, and so neither value nor gradient knows of it."""
    draw = torch.Generator().manual_seed(6)
    unit = nn.functional.normalize(torch.randn(ITEMS, WIDTH, generator=draw))
    _, _, target = problem(5)
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64)
    runs = []
    for faded in (1.0, 1e-15):
        rows = Jagged(target.values, target.offsets, target.weights.float() * faded)
        table = unit.clone().requires_grad_()
        # of users of a linear model; of any other, fading is that of the target alone
        hidden = dense(target).float() @ table * (faded if exclude_self else 1.0)
        encoded = Encoded(hidden, *none, torch.zeros(0))
        value = Cosine(ITEMS, exclude_self=exclude_self)(encoded, table, torch.zeros(ITEMS), rows)
        value.backward()
        runs.append((value.detach(), table.grad))
    for ours, faded_ones in zip(*runs, strict=True):
        torch.testing.assert_close(faded_ones, ours)


@pytest.mark.parametrize("loss", [Squared(2000, block_items=50), Cosine(2000, block_items=50)])
def test_users_by_catalog_never_exists(loss: nn.Module) -> None:
    users, items, width = 64, 2000, 4
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(users + 1, dtype=torch.int64)
    weight = torch.randn(items, width, requires_grad=True)
    hidden = torch.randn(users, width, requires_grad=True)
    target = Jagged(torch.arange(users), torch.arange(users + 1))
    with LargestTensor() as largest:
        loss(Encoded(hidden, *none, torch.zeros(0)), weight, torch.zeros(items), target).backward()
    assert largest.elements == items * width  # the table's own gradient


@pytest.mark.parametrize(
    "make", [lambda n: Squared(9, block_items=n), lambda n: Cosine(9, block_items=n)]
)
def test_mistakes_are_told(make: Callable[[int], nn.Module]) -> None:
    with pytest.raises(ValueError, match="block_items must be 1 or more, got 0"):
        make(0)
    with pytest.raises(ValueError, match="zero_scale must be above 0, got 0"):
        Squared(9, zero_scale=0.0)
