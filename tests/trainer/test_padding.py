"""What fills batches up to the same shapes changes nothing that a step does."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeprec import table
from deeprec.batch import Arranged, Jagged, with_transposition
from deeprec.data.packed import Packed, packed
from deeprec.data.padding import Padding, Sizes, obstacle_to_filling, padding_of
from deeprec.loss.marginal import Marginal
from deeprec.loss.sampled_binary import SampledBinary
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.trainer.brake import Brake
from deeprec.trainer.built import state_tensors
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.graph import WARM, obstacle_to_graph, rates_as_tensors, record
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
    uneven_batch,
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
DRAWN = {"negatives": 40, "popularity": POPULARITY}


def training_and_batches(
    build: Callable[[], nn.Module], loss: nn.Module, optimizer: Optimizer, weighted: bool = False
) -> tuple[Training, list[Arranged]]:
    torch.manual_seed(0)
    training = training_of(build(), loss, optimizer)
    batches = [
        training.arrange(uneven_batch(step, weighted=weighted), torch.Generator().manual_seed(step))
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
    assert isinstance(padding, Padding)
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


# rounding alone decides where Adam moves a bias that batch norm takes away again; row-wise Adagrad
# has Adam for layers
ENDS = [("plain", one) for one in LIMITLESS]
ENDS += [("layered", one) for one in LIMITLESS if not isinstance(one, Adam | RowwiseAdagrad)]
ENDS += [("variational", one) for one in (LIMITLESS[0], RowwiseAdagrad())]


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
    assert isinstance(padding, Padding)
    small = replace(padding, asked=(padding.asked[0]._replace(targets=3),))
    narrow = replace(padding, shown={**padding.shown, "user:age": Sizes(3, 3)})
    fewer = replace(padding, num_users=padding.num_users - 1, exactly=False)
    more = replace(padding, num_users=padding.num_users + 1)
    for one in (small, narrow, fewer, more):
        assert one(batches[0]) is batches[0]
    assert replace(more, exactly=False)(batches[0]).padded
    none = with_asked(batches[0], repeats=batches[0].asked[0].target)
    assert padding(none) is none  # own items where others have none
    weighed = replace(batches[0], asked=[replace(batches[0].asked[0], user_weights=torch.ones(12))])
    assert padding(weighed) is weighed


def with_asked(batch: Arranged, **changes: object) -> Arranged:
    return replace(batch, asked=[replace(batch.asked[0], **changes)])  # type: ignore[arg-type]


def test_why_a_batch_cannot_be_filled_up() -> None:
    _, (batch, *_) = training_and_batches(MODELS["plain"], Softmax(), Adam())
    _, (repeats, *_) = training_and_batches(MODELS["repeats"], Softmax(), Adam())
    hard = SampledSoftmax(ITEMS, pool=80, **DRAWN)
    own = SampledSoftmax(ITEMS, shared_targets=False, **DRAWN)
    drawn = SampledSoftmax(ITEMS, **DRAWN)
    none = with_transposition(Jagged(torch.zeros(0, dtype=torch.int64), torch.zeros(13).long()))
    sampled = (
        training_and_batches(MODELS[model], loss, Adam())[1][0]
        for model, loss in (("plain", hard), ("plain", own), ("repeats", drawn))
    )
    for one, why in zip(
        [
            with_asked(batch, user_weights=torch.ones(12)),
            with_asked(batch, own_BD=torch.ones(12, 8)),
            with_asked(batch, target=none),
            replace(batch, fields={**batch.fields, "age": none}),
            replace(batch, told=np.zeros(3, np.int64)),
            *sampled,
            new_window(),
        ],
        [
            "users weigh",
            "a target is counted of hidden",
            "no target",
            "nothing of age",
            "share the catalog",
            "chosen by their scores",
            "scored for their own users",
            "beside own items",
            "more of a batch",
        ],
        strict=True,
    ):
        assert why in str(obstacle_to_filling(one))
        assert why in str(padding_of([one], exactly=True))
    assert obstacle_to_filling(batch) is obstacle_to_filling(repeats) is None


def new_window() -> Arranged:
    return training_and_batches(MODELS["sequence"], Softmax(), Adam())[1][0]


def test_most_batches_decide() -> None:
    training, batches = training_and_batches(MODELS["plain"], Softmax(), Adam())
    fewer = training.arrange(new_batch(0).some(0, 5), torch.Generator())
    padding = padding_of([fewer, *batches], exactly=True)
    assert isinstance(padding, Padding)
    assert padding.num_users == 12
    assert "different numbers of users" in str(padding_of([fewer, batches[0]], exactly=True))
    loose = padding_of([fewer, *batches], exactly=False)
    assert isinstance(loose, Padding)
    assert loose(fewer).padded


@pytest.mark.parametrize(
    ("model", "loss", "optimizer", "why"),
    [
        ("plain", Softmax(), LIMITLESS[0], None),
        ("layered", SampledSoftmax(ITEMS, **DRAWN), RowwiseAdagrad(), None),
        ("repeats", Softmax(), LIMITLESS[0], None),
        ("tied", Softmax(), LIMITLESS[0], "several fields share a table"),
        ("sequence", Softmax(), LIMITLESS[0], "reads more of a batch"),
        ("variational", Softmax(), LIMITLESS[0], None),
        ("recvae", Softmax(), LIMITLESS[0], "reads more of a batch"),
        ("plain", Softmax(normalise_targets=True), LIMITLESS[0], "sizes that differ"),
        ("plain", SampledSoftmax(ITEMS, pool=80, **DRAWN), LIMITLESS[0], "sizes that differ"),
        (
            "plain",
            SampledBinary(ITEMS, calibration=0.5, **DRAWN),
            LIMITLESS[0],
            "sizes that differ",
        ),
        ("plain", Softmax(), OPTIMIZERS[4], "by SGD, which is not recorded"),
        ("slopes", Softmax(), Adam(), "slopes are held"),
        ("unit rows", Softmax(), Adam(), "held to a length"),
        ("torchrec", Softmax(), RowwiseAdagrad(), "run by torchrec"),
        ("layered", Softmax(), HELD, "constraints"),
    ],
)
def test_what_cannot_be_recorded_says_why(
    model: str, loss: nn.Module, optimizer: Optimizer, why: str | None
) -> None:
    if model == "torchrec":
        pytest.importorskip("torchrec")
    found = obstacle_to_graph(training_of((MODELS | FURTHER)[model](), loss, optimizer))
    assert found == why if why is None else why in str(found)


FURTHER: dict[str, Callable[[], nn.Module]] = {
    "slopes": partial(Layered, ITEMS, layers=[Hidden(name="a", units=6, slope_norm=0.1)]),
    "unit rows": partial(MODELS["plain"], unit_vectors=True),
    "torchrec": partial(MODELS["plain"], hidden_dims=[8], table_backend="torchrec"),
    "apart": partial(Layered, ITEMS, layers=[Hidden(name="a", units=6)]),
}


def test_who_has_a_say_in_each_step_says_so() -> None:
    training, _ = training_and_batches(MODELS["plain"], Softmax(), Adam())
    training.brake = Brake()
    assert "a brake" in str(obstacle_to_graph(training))
    training.brake, training.group = None, Group(2)
    assert "other processes" in str(obstacle_to_graph(training))


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
    assert found is None
    assert training.padding is not None
    assert training.padding.exactly
    assert not training.padding(fewer).padded


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
                uneven_batch(at).some(0, 12 - 3 * (at % 2)), torch.Generator().manual_seed(at)
            )
            for at in range(4)
        ]
        padding = padding_of(batches, exactly=False)
        assert isinstance(padding, Padding)
        if filled:
            batches = [padding(batch) for batch in batches]
            assert all(batch.padded for batch in batches)
            assert len({shapes(batch) for batch in batches}) == 1
        ends_of.append(ends(training, batches))
    for name, value in ends_of[0].items():
        torch.testing.assert_close(ends_of[1][name], value, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("model", "loss", "exactly"),
    [
        ("apart", Softmax(), False),
        ("layered", Softmax(), True),  # a batch norm looks at all users
        ("apart", Marginal(), True),
        ("plain", SampledSoftmax(ITEMS, **DRAWN), False),
    ],
)
def test_users_may_lack_where_nobody_counts_them(
    model: str, loss: nn.Module, exactly: bool
) -> None:
    build = (MODELS | FURTHER)[model]
    training, batches = training_and_batches(build, loss, Adam())
    assert record(training, Made(batches), CPU) is None  # type: ignore[arg-type]
    assert training.padding is not None
    assert training.padding.exactly == exactly
    arranged = training.arrange(uneven_batch(1), torch.Generator())
    assert arranged.padded


class AtOnce:
    """What a graph does, kernel by kernel."""

    def __init__(self, training: Training) -> None:
        self.training, self.steps = training, 0

    def __call__(self, batch: Packed) -> Tensor:
        self.steps += 1
        return self.training.take(batch.over(batch.memory))


@pytest.mark.parametrize("model", ["plain", "repeats"])
def test_a_step_at_once_is_the_step(model: str) -> None:
    """Its learning rate, draws, loss and place in the run too."""
    optimizer = Adam(lr=0.05, warmup_steps=3, decay=0.5)
    alone, batches = training_and_batches(MODELS[model], Softmax(), optimizer)
    training, _ = training_and_batches(MODELS[model], Softmax(), optimizer)
    assert record(training, Made(batches), CPU) is None  # type: ignore[arg-type]
    assert training.padding is not None
    training.graph = graph = AtOnce(training)  # type: ignore[assignment]
    for batch in batches:
        alone.training_step(batch, 0)
        training.training_step(packed(training.padding(batch), plain_memory), 0)
        assert training.step_users == alone.step_users == 12
    training.training_step(packed(batches[0], plain_memory), 0)  # not filled up
    alone.training_step(batches[0], 0)
    assert graph.steps == STEPS - 1  # the first is looked at
    assert vars(training.progress) == pytest.approx(vars(alone.progress))
    assert training.mean_loss() == pytest.approx(alone.mean_loss())
    found = {**training.model.state_dict(), **state_tensors(training.built)}
    for name, value in {**alone.model.state_dict(), **state_tensors(alone.built)}.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5, msg=name)


def plain_memory(num_bytes: int) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8)


def test_a_step_that_cannot_be_recorded_is_taken_kernel_by_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here because there is no device at all."""
    training, batches = training_and_batches(MODELS["plain"], Softmax(), Adam())
    assert record(training, Made(batches), CPU) is None  # type: ignore[arg-type]
    assert training.padding is not None
    for number in range(WARM + 3):
        batch = training.padding(batches[number % STEPS])
        training.training_step(packed(batch, plain_memory), 0)
    assert training.graph is None
    assert training.progress.step == WARM + 3
    assert "steps go on kernel by kernel" in capsys.readouterr().out
