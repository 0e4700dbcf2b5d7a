"""What fills batches up to the same shapes changes nothing that a step does."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from deeprec import table
from deeprec.batch import Arranged, Batch, Jagged
from deeprec.data.padding import Padding, padding_of
from deeprec.loss.marginal import Marginal
from deeprec.loss.sampled_binary import SampledBinary
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.trainer.built import state_tensors
from deeprec.trainer.graph import obstacle_to_graph, rates_as_tensors, record
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Adam, Optimizer, RowwiseAdagrad
from steps import (
    HELD,
    ITEMS,
    LIMITLESS,
    LOSSES,
    MODELS,
    OPTIMIZERS,
    POPULARITY,
    new_batch,
    training_of,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are filled up for these alone."""
    monkeypatch.setattr(table, "NONE_AGAIN", set())


FILLED: dict[str, Callable[[nn.Module], nn.Module]] = {
    name: LOSSES[name] for name in ("softmax", "marginal", "hinge", "regression", "asymmetric")
} | {
    "sampled_softmax": lambda _: SampledSoftmax(ITEMS, negatives=40, popularity=POPULARITY),
    "sampled_binary": lambda _: SampledBinary(ITEMS, negatives=40, popularity=POPULARITY),
    "everything": lambda _: SampledSoftmax(ITEMS, negatives=ITEMS),
}
STEPS = 3


def batch_of(step: int, *, weighted: bool = False) -> Batch:
    """Histories and targets of different lengths; everybody has some of each."""
    batch = new_batch(step)
    assert batch.target is not None
    kept = torch.ones(len(batch.target.values), dtype=torch.bool)
    kept[[3 + step, 17, 40 - step]] = False
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])[batch.target.offsets]
    values = batch.target.values[kept]
    weights = torch.rand(len(values), generator=torch.Generator().manual_seed(step))
    return replace(batch, target=Jagged(values, offsets, weights if weighted else None))


def training_and_batches(
    build: Callable[[], nn.Module], loss: nn.Module, optimizer: Optimizer, weighted: bool = False
) -> tuple[Training, list[Arranged]]:
    torch.manual_seed(0)
    training = training_of(build(), loss, optimizer)
    batches = [
        training.arrange(batch_of(step, weighted=weighted), torch.Generator().manual_seed(step))
        for step in range(STEPS)
    ]
    return training, batches


def ends(training: Training, batches: list[Arranged]) -> dict[str, Tensor]:
    for batch in batches:
        training.training_step(batch, 0)
    found = {**training.model.state_dict(), **state_tensors(training.built)}
    return found | {"loss": training.loss_sum}


def assert_filled_ends_alike(
    build: Callable[[], nn.Module], loss: nn.Module, optimizer: Optimizer, weighted: bool = False
) -> None:
    """With learning rates that are tensors, as a graph has them."""
    expected = ends(*training_and_batches(build, loss, optimizer, weighted))
    training, batches = training_and_batches(build, loss, optimizer, weighted)
    padding = padding_of(batches, exactly=True)
    assert padding is not None
    filled = [padding(batch) for batch in batches]
    assert all(batch.padded for batch in filled)
    assert len({shapes(batch) for batch in filled}) == 1 < len({shapes(one) for one in batches})
    rates_as_tensors(training.built, CPU)
    found = ends(training, filled)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)


def shapes(batch: Arranged) -> tuple[torch.Size, ...]:
    """Of all tensors that a step may read."""
    rows = [*batch.fields.values(), *(asked.target for asked in batch.asked)]
    found: list[Tensor | None] = []
    for one in rows:
        by = one.by_item
        assert by is not None
        found += [one.values, one.offsets, one.weights, by.values, by.users, by.order]
        found += [by.distinct, by.offsets, by.places, by.counted]
    return tuple(each.shape for each in found if each is not None)


# rounding alone decides where Adam moves a bias that batch norm takes away again
ENDS = [("plain", one) for one in LIMITLESS]
ENDS += [("layered", one) for one in LIMITLESS if not isinstance(one, Adam)]


@pytest.mark.parametrize(("model", "optimizer"), ENDS)
def test_every_optimizer_ends_where_it_does_on_batches_as_they_are(
    model: str, optimizer: Optimizer
) -> None:
    assert_filled_ends_alike(MODELS[model], Softmax(), optimizer)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", FILLED)
def test_every_loss_ends_where_it_does_on_batches_as_they_are(loss: str, weighted: bool) -> None:
    build = MODELS["plain"]
    assert_filled_ends_alike(build, FILLED[loss](build()), RowwiseAdagrad(), weighted)


def test_limits_and_means_hold_too() -> None:
    build = partial(MODELS["plain"], pooling="mean")
    assert_filled_ends_alike(build, Softmax(), OPTIMIZERS[0])


def test_what_does_not_fit_stays_as_it_is() -> None:
    _, batches = training_and_batches(MODELS["plain"], Softmax(), Adam())
    padding = padding_of(batches, exactly=True)
    assert padding is not None
    small = replace(padding, asked=(padding.asked[0]._replace(targets=3),))
    fewer = replace(padding, num_users=padding.num_users - 1)
    for one in (small, fewer):
        assert one(batches[0]) is batches[0]


def test_batches_of_different_numbers_of_users_have_no_padding() -> None:
    training, batches = training_and_batches(MODELS["plain"], Softmax(), Adam())
    fewer = training.arrange(new_batch(0).some(0, 5), torch.Generator())
    assert padding_of([*batches, fewer], exactly=True) is None
    assert isinstance(padding_of(batches, exactly=True), Padding)


DRAWN = {"negatives": 40, "popularity": POPULARITY}


@pytest.mark.parametrize(
    ("model", "loss", "optimizer", "why"),
    [
        ("plain", Softmax(), LIMITLESS[0], None),
        ("layered", SampledSoftmax(ITEMS, **DRAWN), RowwiseAdagrad(), None),
        ("repeats", Softmax(), LIMITLESS[0], None),
        ("tied", Softmax(), LIMITLESS[0], "several fields share a table"),
        ("sequence", Softmax(), LIMITLESS[0], "reads more of a batch"),
        ("variational", Softmax(), LIMITLESS[0], "reads more of a batch"),
        ("plain", Softmax(normalise_targets=True), LIMITLESS[0], "sizes that differ"),
        ("plain", SampledSoftmax(ITEMS, pool=80, **DRAWN), LIMITLESS[0], "sizes that differ"),
        (
            "plain",
            SampledBinary(ITEMS, calibration=0.5, **DRAWN),
            LIMITLESS[0],
            "sizes that differ",
        ),
        ("plain", Softmax(), OPTIMIZERS[4], "torch records no SGD"),
        ("layered", Softmax(), HELD, "constraints"),
    ],
)
def test_what_cannot_be_recorded_says_why(
    model: str, loss: nn.Module, optimizer: Optimizer, why: str | None
) -> None:
    found = obstacle_to_graph(training_of(MODELS[model](), loss, optimizer))
    assert found == why if why is None else why in str(found)


class Made:
    """Batches as a run asks for them."""

    def __init__(self, made: list[Arranged]) -> None:
        self.made = made

    def __len__(self) -> int:
        return len(self.made)

    def finished(self, epoch: int, position: int) -> Arranged:
        return self.made[position]


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (Softmax(block_items=ITEMS - 1), "300 items are scored in blocks of 299"),
        (SampledSoftmax(ITEMS, block_items=64, **DRAWN), "items are scored in blocks of 64"),
        (SampledSoftmax(ITEMS, block_items=ITEMS - 1, **DRAWN), None),
        (Softmax(), None),
    ],
)
def test_all_that_is_scored_must_be_one_block(loss: nn.Module, why: str | None) -> None:
    training, batches = training_and_batches(MODELS["plain"], loss, Adam())
    found = record(training, Made(batches), CPU)  # type: ignore[arg-type]
    assert found is None if why is None else why in str(found)
    assert (training.graph is None) == (training.padding is None) == (why is not None)


def test_a_loss_that_counts_all_users_wants_the_same_number_in_each_batch() -> None:
    training, batches = training_and_batches(MODELS["plain"], Marginal(), Adam())
    fewer = training.arrange(new_batch(0).some(0, 5), torch.Generator())
    found = record(training, Made([fewer, *batches]), CPU)  # type: ignore[arg-type]
    assert found == "batches differ in more than size"


@pytest.mark.parametrize("reconstruction", [0.0, 0.3])
@pytest.mark.parametrize("optimizer", [Adam(), RowwiseAdagrad()], ids=["adam", "adagrad"])
def test_own_items_with_scores_are_filled_too(optimizer: Optimizer, reconstruction: float) -> None:
    build = partial(MODELS["repeats"], reconstruction=reconstruction)
    assert_filled_ends_alike(build, Softmax(), optimizer)


@pytest.mark.parametrize(("model", "sampled"), [("plain", 0), ("plain", 1), ("repeats", 0)])
def test_batches_of_some_users_less_are_filled_with_users_who_have_nothing(
    model: str, sampled: int
) -> None:
    """Where the loss passes over these."""
    ends_of = []
    for filled in (False, True):
        torch.manual_seed(0)
        loss = SampledSoftmax(ITEMS, **DRAWN) if sampled else Softmax()
        training = training_of(partial(MODELS[model], dropout=0.0)(), loss, Adam())
        batches = [
            training.arrange(
                batch_of(at).some(0, 12 - 3 * (at % 2)), torch.Generator().manual_seed(at)
            )
            for at in range(4)
        ]
        padding = padding_of(batches, exactly=False)
        assert padding is not None
        if filled:
            batches = [padding(batch) for batch in batches]
            assert all(batch.padded for batch in batches)
            assert len({shapes(batch) for batch in batches}) == 1
        ends_of.append(ends(training, batches))
    for name, value in ends_of[0].items():
        torch.testing.assert_close(ends_of[1][name], value, atol=1e-6, rtol=1e-5, msg=name)
