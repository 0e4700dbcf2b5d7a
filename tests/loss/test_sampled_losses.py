"""Sampled losses: exact where everything is drawn, unbiased where they say so, blind to V."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import reference
from deeprec.batch import Asked, Batch, Encoded, Jagged, Sample, with_transposition
from deeprec.loss.candidate_catalog import candidate_catalog
from deeprec.loss.negatives import Negatives
from deeprec.loss.sampled_binary import SampledBinary
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.model.autoencoder import Autoencoder
from deeprec.table import NO_UPDATES, Updates
from deeprec.trainer.learner import Progress
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Adam, RowwiseAdagrad
from largest_tensor import LargestTensor

USERS, ITEMS, WIDTH = 6, 60, 3


def jagged(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(1, 6, [USERS], generator=draw)
    values = [torch.randperm(ITEMS, generator=draw)[:n].sort().values for n in lengths]
    return torch.cat(values), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])


def problem(seed: int) -> tuple[list[Tensor], Callable[..., Encoded], Jagged]:
    draw = torch.Generator().manual_seed(seed)
    items, offsets = jagged(draw)
    shapes = [[USERS, WIDTH], [ITEMS, WIDTH], [ITEMS], list(items.shape)]
    leaves = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    return leaves, lambda h, r: Encoded(h, items, offsets, r), Jagged(*jagged(draw))


def popularity() -> Tensor:
    return torch.arange(ITEMS) ** 2


def asked(targets: list[int], repeats: Sequence[int] = ()) -> Asked:
    """One user a target, all repeats with the first."""
    ends = torch.tensor([0] + [len(repeats)] * len(targets))
    return Asked(
        with_transposition(Jagged(torch.tensor(targets), torch.arange(len(targets) + 1))),
        with_transposition(Jagged(torch.tensor(repeats, dtype=torch.int64), ends)),
    )


def ones(target: Jagged) -> Tensor:
    dense = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    for user, row in enumerate(reference.rows(target.values, target.offsets)):
        dense[user, [int(item) for item in row]] = 1
    return dense


def dense_softmax(scores: Tensor, target: Jagged) -> Tensor:
    return -(scores.log_softmax(1) * ones(target)).sum() / USERS


def dense_binary(scores: Tensor, target: Jagged) -> Tensor:
    wanted = ones(target)
    return nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum") / USERS


LOSSES = [
    (SampledSoftmax, dense_softmax),
    (SampledBinary, dense_binary),
    (partial(SampledSoftmax, shared_targets=False), dense_softmax),
    (partial(SampledBinary, shared_targets=False), dense_binary),
]
every = pytest.mark.parametrize(("make", "dense"), LOSSES)
shared = pytest.mark.parametrize("make", [SampledSoftmax, SampledBinary])


def run(loss: nn.Module, leaves: list[Tensor], encode: Callable, target: Jagged) -> list[Tensor]:
    """The value and the gradients of hidden, weight, bias and repeats."""
    hidden, weight, bias, repeats = ours = [leaf.clone().requires_grad_() for leaf in leaves]
    value = loss(encode(hidden, repeats), weight, bias, target)
    return [value.detach(), *torch.autograd.grad(value, ours)]


def run_dense(dense: Callable, leaves: list[Tensor], encode: Callable, target: Jagged) -> list:
    hidden, weight, bias, repeats = theirs = [leaf.clone().requires_grad_() for leaf in leaves]
    value = dense(reference.dense_scores(encode(hidden, repeats), weight, bias), target)
    return [value.detach(), *torch.autograd.grad(value, theirs)]


@every
def test_drawing_everything_is_exact(make: Callable, dense: Callable) -> None:
    leaves, encode, target = problem(0)
    ours = run(make(ITEMS, negatives=ITEMS, block_items=7), leaves, encode, target)
    for our, their in zip(ours, run_dense(dense, leaves, encode, target), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("popular", [None, popularity()])
def test_a_sum_over_the_catalog_is_estimated_without_bias(popular: Tensor | None) -> None:
    torch.manual_seed(1)
    numbers = torch.linspace(-1, 3, ITEMS, dtype=torch.float64).exp()
    negatives = Negatives(ITEMS, 12, popularity=popular, power=1.0)
    found = [negatives.sample(asked([3, 50, 3])) for _ in range(4000)]
    sums = torch.stack([(each.shares * numbers[each.items]).sum() for each in found])
    error = (sums.mean() - numbers.sum()).abs()
    assert error < 4 * sums.std() / math.sqrt(len(sums))
    assert sums.std() > 0


def test_targets_stand_for_themselves_and_are_never_drawn() -> None:
    torch.manual_seed(2)
    negatives = Negatives(ITEMS, 50, popularity=popularity())
    targets = [7, 59, 20, 7]
    sample = negatives.sample(asked(targets, [3, 20, 59]))
    assert torch.equal(sample.items, sample.items.unique())  # distinct, ascending
    of_targets = torch.isin(sample.items, torch.tensor(targets))
    assert of_targets.sum() == 3
    assert torch.equal(sample.shares[of_targets], torch.ones(3))
    assert sample.items[sample.target.values].tolist() == targets
    repeats = sample.items[sample.repeats.values].tolist()
    assert repeats == [item for item in [3, 20, 59] if item in sample.items]
    assert sample.of_repeats.tolist() == [[3, 20, 59].index(item) for item in repeats]
    assert sample.repeats.offsets.tolist() == [0, *[len(repeats)] * 4]


def test_draws_are_as_frequent_as_expected() -> None:
    torch.manual_seed(3)
    negatives = Negatives(ITEMS, 1000, popularity=popularity(), power=0.7, uniform_share=0.3)
    counts = sum(torch.bincount(negatives.draw(), minlength=ITEMS) for _ in range(300))
    chances = (torch.arange(ITEMS).double() ** 2 + 1) ** 0.7
    truth = 300 * (300 / ITEMS + 700 * chances / chances.sum())
    torch.testing.assert_close(
        300 * negatives.expected(torch.arange(ITEMS)).double(), truth, rtol=1e-5, atol=0
    )
    assert ((counts - truth).abs() < 5 * truth.sqrt()).all()


@every
def test_the_bias_vanishes_as_negatives_grow(make: Callable, dense: Callable) -> None:
    """Few negatives are wrong on average; with eight times as many, far less."""
    leaves, encode, target = problem(4)
    truth = run_dense(dense, leaves, encode, target)

    def bias(negatives: int) -> tuple[float, float]:
        """How far the mean value and the mean gradient of hidden are from the truth."""
        torch.manual_seed(5)
        loss = make(ITEMS, negatives=negatives)
        found = [run(loss, leaves, encode, target)[:2] for _ in range(400)]
        value = torch.stack([value for value, _ in found]).mean()
        gradient = torch.stack([gradient for _, gradient in found]).mean(0)
        return (value - truth[0]).abs().item(), (gradient - truth[1]).norm().item()

    few, many = bias(4), bias(32)
    if dense is dense_softmax:
        assert many[0] < few[0] / 4
        assert many[1] < few[1] / 2
        assert few[0] > 0.05 * truth[0]  # there was something to see
    else:  # unbiased with however few
        assert few[0] < 0.03 * truth[0]
        assert many[0] < 0.01 * truth[0]
        assert many[1] < 0.03 * truth[1].norm()


@shared
def test_numerical_gradient_of_hard_negatives(make: Callable) -> None:
    assert_numerical_gradient(make, {"pool": 20})


@every
@pytest.mark.parametrize("settings", [{}, {"popularity": popularity()}])
def test_numerical_gradient(make: Callable, dense: Callable, settings: dict) -> None:
    assert_numerical_gradient(make, settings)


def assert_numerical_gradient(make: Callable, settings: dict) -> None:
    leaves, encode, target = problem(6)
    loss = make(ITEMS, negatives=8, block_items=9, **settings)

    def value(hidden: Tensor, weight: Tensor, bias: Tensor, repeats: Tensor) -> Tensor:
        torch.manual_seed(7)  # the same draw whenever it is asked
        return loss(encode(hidden, repeats), weight, bias, target)

    assert torch.autograd.gradcheck(
        value, [leaf.requires_grad_() for leaf in leaves], fast_mode=True
    )


@every
def test_rows_may_change_at_once(make: Callable, dense: Callable) -> None:
    leaves, encode, target = problem(8)
    loss = make(ITEMS, negatives=8, popularity=popularity(), block_items=9)
    torch.manual_seed(9)
    _, *gradients = run(loss, leaves, encode, target)
    torch.manual_seed(9)
    hidden, weight, bias, repeats = ours = [leaf.clone().requires_grad_() for leaf in leaves]

    def descend(table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        assert len(rows) == len(rows.unique())
        table.data.index_add_(0, rows, -0.1 * gradient)

    updates = Updates(partial(descend, weight), partial(descend, bias), weight=0.5)
    (0.5 * loss(encode(hidden, repeats), weight, bias, target, updates)).backward()
    torch.testing.assert_close(hidden.grad, 0.5 * gradients[0])
    torch.testing.assert_close(repeats.grad, 0.5 * gradients[3])
    assert weight.grad is None
    assert bias.grad is None
    for table, leaf, gradient in zip(ours[1:3], leaves[1:3], gradients[1:3], strict=True):
        torch.testing.assert_close(table.data, leaf - 0.05 * gradient)


@every
def test_who_reads_a_table_that_another_task_changes_reads_it_as_it_was(
    make: Callable, dense: Callable
) -> None:
    leaves, encode, target = problem(12)
    loss = make(ITEMS, negatives=8, popularity=popularity(), block_items=9)
    torch.manual_seed(13)
    alone = run(loss, leaves, encode, target)[1]
    reading, training, weight, bias = (
        leaf.clone().requires_grad_() for leaf in (leaves[0], *leaves[:3])
    )

    def descend(table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        table.data.index_add_(0, rows, -5.0 * gradient)

    updates = Updates(partial(descend, weight), partial(descend, bias))
    torch.manual_seed(13)
    first = loss(encode(reading, leaves[3]), weight.detach(), bias.detach(), target)
    (first + loss(encode(training, leaves[3]), weight, bias, target, updates)).backward()
    torch.testing.assert_close(reading.grad, alone)


def test_hard_negatives_are_those_the_batch_scores_highest() -> None:
    torch.manual_seed(10)
    negatives = Negatives(ITEMS, 5, pool=55)
    sample = negatives.sample(asked([30], [40]))
    owned = [40] if 40 in sample.items else []  # drawn, and so scored, however low
    assert sample.items.tolist() == [30, *owned]
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    scored = Encoded(torch.zeros(1, 2), *none, torch.zeros(0))
    bias = -(torch.arange(ITEMS) - 30.0).abs()
    catalog = candidate_catalog(
        negatives,
        scored,
        torch.zeros(ITEMS, 2),
        bias,
        Asked(sample.target, sample.repeats, sample),
        NO_UPDATES,
    )
    nearest = sorted(abs(item - 30) for item in sample.pool.tolist())[: 5 - len(owned)]
    found = sorted((-catalog.item_bias_R[len(sample.items) :]).tolist())
    assert found == nearest
    assert torch.equal(catalog.share_R, torch.ones(6))


@pytest.mark.parametrize("block_items", [None, 1, 7, 100])
def test_hard_negatives_are_the_same_however_many_are_scored_at_once(
    block_items: int | None,
) -> None:
    """Hardest is what adds most to the sum of the exponentials of all scores."""
    (hidden, weight, bias, _), _, target = problem(14)
    torch.manual_seed(15)
    negatives = Negatives(ITEMS, 9, pool=50)
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64)
    alone = Encoded(hidden, *none, torch.zeros(0, dtype=torch.float64))
    catalog = candidate_catalog(
        negatives, alone, weight, bias, target, NO_UPDATES, block_items=block_items
    )
    torch.manual_seed(15)
    every = torch.randint(ITEMS, (50,))
    pool = [item for item in every.unique().tolist() if item not in target.values.tolist()]
    sums = (hidden @ weight.T + bias).exp().sum(0)
    hardest = sorted(pool, key=lambda item: -float(sums[item]))[:9]
    assert catalog.items_R[-9:].tolist() == hardest


def test_a_sample_depends_on_its_generator_alone() -> None:
    negatives = Negatives(ITEMS, 8, popularity=popularity())

    def draw(seed: int) -> Sample:
        return negatives.sample(asked([1, 2]), torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1).items, draw(1).items)
    assert not torch.equal(draw(1).items, draw(2).items)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_gbce_raises_the_probability_of_targets_to_a_power(t: float) -> None:
    """Petrov and Macdonald 2023, equations 8 to 10, by hand: one user, every other item drawn."""
    scores = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    flat = Encoded(torch.zeros(1, 2, dtype=torch.float64), *none, torch.zeros(0))
    target = Jagged(torch.tensor([2]), torch.tensor([0, 1]))
    loss = SampledBinary(8, negatives=1, calibration=t)
    torch.manual_seed(11)
    bias = torch.cat([scores, scores]).requires_grad_()
    value = loss(flat, torch.zeros(8, 2, dtype=torch.float64), bias, target)
    value.backward()
    (drawn,) = [i for i in bias.grad.nonzero().flatten().tolist() if i != 2]
    rate = 1 / 8  # of one draw
    power = rate * (t * (1 - 1 / rate) + 1 / rate)
    p = torch.sigmoid(bias.detach())
    torch.testing.assert_close(value.detach(), -power * p[2].log() - (1 - p[drawn]).log())


@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("shared", [False, True])
def test_fully_calibrated_scores_rest_at_the_log_odds_of_the_truth(
    power: float, shared: bool
) -> None:
    """Of three items: over all that a user may take, and all draws, no slope of its scores."""
    chances = torch.tensor([0.6, 0.3, 0.05], dtype=torch.float64)
    popular = torch.tensor([99, 24, 0])  # their roots, of one more, are as 10, 5 and 1
    of_popular = [10 / 16, 5 / 16, 1 / 16] if power else [1 / 3] * 3
    settings = {"negatives": 2, "uniform_share": 0.5, "shared_targets": shared}
    loss = SampledBinary(3, popularity=popular, popularity_power=power, calibration=1.0, **settings)
    rows = torch.stack([chances.logit(), torch.zeros(3, dtype=torch.float64)], 1).requires_grad_()
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    encoded = Encoded(torch.eye(2, dtype=torch.float64), *none, torch.zeros(0))
    slope = torch.zeros(3, dtype=torch.float64)
    for taken in itertools.product([True, False], repeat=3):
        chosen = torch.tensor([taken, (True, False, True)])  # of another user beside it, any
        chance = torch.where(chosen[0], chances, 1 - chances).prod()
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), chosen.sum(1).cumsum(0)])
        target = Jagged(chosen.nonzero()[:, 1], ends)
        for drawn in itertools.product(range(3), repeat=2):
            loss.negatives.draw = lambda _, drawn=drawn: torch.tensor(drawn)
            value = loss(encoded, rows, torch.zeros(3, dtype=torch.float64), target)
            slope += chance * of_popular[drawn[1]] / 3 * torch.autograd.grad(value, [rows])[0][:, 0]
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-7)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("optimizer", [Adam(), RowwiseAdagrad()])
@pytest.mark.parametrize(
    "make",
    [
        SampledSoftmax,
        SampledBinary,
        partial(SampledSoftmax, shared_targets=False),
        partial(SampledSoftmax, pool=15_000, block_items=512),  # which together have 16 * 15,000
        partial(SampledBinary, pool=15_000, block_items=512),
    ],
)
def test_a_step_makes_nothing_as_long_as_the_catalog(
    make: Callable, optimizer: Adam, repeats: bool
) -> None:
    num_items, num_users, events = 200_000, 16, 5
    model = Autoencoder(
        num_items,
        popularity=torch.ones(num_items, dtype=torch.int64),
        num_users=100,
        repeats=repeats,
        hidden_dims=[8],
        table_backend="torch",  # TorchRec's tables are one flat tensor of all floats
    )
    loss = make(num_items, popularity=torch.ones(num_items, dtype=torch.int64), negatives=64)
    training = Training(model, loss, optimizer, seed=0, total_steps=10, progress=Progress())
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    offsets = torch.arange(num_users + 1) * events
    items = torch.randint(num_items, (num_users * events,)).view(num_users, -1).sort().values
    rows = Jagged(items.flatten(), offsets)
    batch = Batch(torch.arange(num_users), rows, target=rows)
    before = model.item_weight.detach().clone()
    arranged = training.arrange(batch, torch.Generator())
    training.training_step(arranged, 0)
    with LargestTensor() as largest:
        training.training_step(arranged, 0)
    assert largest.elements < num_items / 10
    changed = (model.item_weight != before).any(1).sum()
    assert 0 < changed <= 2 * (num_users * events + 64)


@shared
def test_mistakes_are_told(make: Callable) -> None:
    with pytest.raises(ValueError, match="negatives must be 1 or more, got 0"):
        make(ITEMS, negatives=0)
    with pytest.raises(ValueError, match="uniform_share must be above 0 and at most 1, got 0"):
        make(ITEMS, uniform_share=0.0)
    with pytest.raises(ValueError, match="pool must be above negatives=8, got 8"):
        make(ITEMS, negatives=8, pool=8)
    assert "the loss is exact" in make(ITEMS, negatives=ITEMS).note
    assert "biased by design" in make(ITEMS, negatives=4, pool=8).note
    with pytest.raises(ValueError, match=r"calibration must be null with a pool .* got 0\.5"):
        SampledBinary(ITEMS, negatives=4, pool=8, calibration=0.5)
    assert "from the batch's targets" in SampledSoftmax(ITEMS, negatives=4).note
    alone = make(ITEMS, negatives=4, shared_targets=False, block_items=9)
    assert "a user's own targets and 4 drawn items, all at once (loss.block_items" in alone.note
    with pytest.raises(ValueError, match="a pool of hard negatives needs shared_targets=true"):
        make(ITEMS, negatives=4, pool=8, shared_targets=False)
