"""Networks whose layers are said one by one, held against numpy and hand-worked cases."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from deeprec.batch import Batch, Jagged, Penalty, Task
from deeprec.model.hidden import Hidden, divergence
from deeprec.model.initial import INITS, fill
from deeprec.model.layered import Layered
from deeprec.part import mistakes
from recommender_contract import FIELDS, NUM_ITEMS, USERS, RecommenderContract, batch

LAYERS = (
    Hidden(name="one", units=6, activation="selu", dropout=0.1),
    Hidden(name="side", units=6, sources=["input"], activation="leaky_relu", slope=0.3),
    Hidden(name="two", units=6, sources=["one", "side", "input"], skips=["one"], batch_norm=True),
)


@pytest.mark.parametrize(("alpha", "scale"), [(1.0, 1.0), (2.5, 0.4), (None, 1.0507009873554805)])
def test_dropout_of_a_selu_keeps_mean_and_variance(alpha: float | None, scale: float) -> None:
    hidden = Hidden(name="a", units=1, activation="selu", alpha=alpha, scale=scale, dropout=0.3)
    draw = torch.Generator().manual_seed(0)
    a = hidden.new_activation()(torch.randn(300_000, generator=draw))
    torch.manual_seed(1)
    dropout = hidden.new_dropout()
    found = dropout(a)
    assert (found.mean() - a.mean()).abs() < 0.01 * a.std()
    assert (found.std() / a.std() - 1.0).abs() < 0.01
    assert torch.equal(dropout.eval()(a), a)
    if alpha is None:  # SELU's own
        torch.manual_seed(1)
        torch.testing.assert_close(found, torch.nn.AlphaDropout(0.3)(a), atol=1e-4, rtol=0)


class TestLayered(RecommenderContract):
    def new_model(self) -> Layered:
        return Layered(NUM_ITEMS, fields=FIELDS, layers=LAYERS, output_sources=["two", "side"])


class TestInputsByName(RecommenderContract):
    """Layers that read some of the inputs, or all of them."""

    def new_model(self) -> Layered:
        layers = [
            Hidden(name="one", units=4, sources=["history"]),
            Hidden(name="two", units=3, sources=["one", "user:age", "user:a.b%2E"]),
            Hidden(name="three", units=5, sources=["user:a.b%2E"], activation="tanh"),
            Hidden(name="all", units=4, sources=["input", "two"]),
        ]
        return Layered(NUM_ITEMS, fields=FIELDS, layers=layers, output_sources=["all", "three"])


class TestTiedHistory(RecommenderContract):
    """One table of history and catalog, beside a layer that reads an attribute alone."""

    def new_model(self) -> Layered:
        layers = [
            Hidden(name="a", units=5, sources=["history", "user:age"]),
            Hidden(name="b", units=5, sources=["a", "user:a.b%2E"]),
        ]
        return Layered(NUM_ITEMS, fields=FIELDS, layers=layers, tied=True)


class TestTied(RecommenderContract):
    def new_model(self) -> Layered:
        layers = [Hidden(name="a", units=5), Hidden(name="b", units=5, activation="softsign")]
        return Layered(NUM_ITEMS, fields=FIELDS, layers=layers, tied=True)


class TestPooled(RecommenderContract):
    def new_model(self) -> Layered:
        both = [Hidden(name="a", units=5), Hidden(name="b", units=5, sources=["input"])]
        pools = [
            Hidden(name=kind, units=1 if kind != "maxout" else 5, sources=["a", "b"], pooling=kind)  # type: ignore[arg-type]
            for kind in ("maxout", "dot", "cosine")
        ]
        names = [pool.name for pool in pools]
        return Layered(NUM_ITEMS, fields=FIELDS, layers=[*both, *pools], output_sources=names)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            {"scale": 2.0, "activation": "elu"},
            "scale is read by selu alone, got scale=2 with 'elu'",
        ),
        ({"pooling": "max"}, "pooling must be one of none, maxout, dot, cosine; got 'max'"),
        ({"pooling": "dot"}, "sources must be two layers or more with pooling=dot"),
        (
            {"pooling": "dot", "sources": ["a", "b"]},
            "'p' has 1 units by pooling=dot of its sour",
        ),
        ({"pooling": "dot", "sources": ["a", "input"]}, "'p' pools layers alone, and reads the in"),
        ({"pooling": "maxout", "sources": ["a", "c"]}, "needs sources of as many units, got .5, 4"),
    ],
)
def test_what_cannot_be_pooled_or_is_not_read_is_refused(
    made: dict[str, object], said: str
) -> None:
    before = [Hidden(name=name, units=4 if name == "c" else 5) for name in "abc"]
    with pytest.raises(ValueError, match=said):
        Layered(NUM_ITEMS, layers=[*before, Hidden(name="p", units=7, **made)])  # type: ignore[arg-type]


def test_layers_read_what_they_say_they_read() -> None:
    torch.manual_seed(0)
    model = Layered(NUM_ITEMS, layers=LAYERS, output_sources=["two", "side"], normalize=False)
    model.train()
    for _ in range(3):  # so that batch norm has statistics
        model.encode(*batch(USERS))
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        hidden = model.encode(*batch(USERS)).hidden_BD.numpy()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    for row, (items, _, _) in zip(hidden, USERS):
        had = sorted({*items})
        sums = [state[f"inputs.{i}.tables.history"][had].sum(0) for i in range(3)]
        z = sums[0] + state["layers.0.bias"]
        one = 1.0507 * np.where(z > 0, z, 1.6732632 * np.expm1(z))
        z = sums[1] + state["layers.1.bias"]
        side = np.where(z > 0, z, 0.3 * z)
        z = sums[2] + state["layers.2.bias"] + one
        z = z + state["layers.2.from_layers.weight"] @ np.concatenate([one, side])
        mean, variance = (state[f"layers.2.norm.running_{name}"] for name in ("mean", "var"))
        z = (z - mean) / np.sqrt(variance + 1e-5)
        z = z * state["layers.2.norm.weight"] + state["layers.2.norm.bias"]
        np.testing.assert_allclose(row, np.concatenate([expit(z), side]), atol=1e-5)


def test_a_layer_reads_the_inputs_that_it_names_and_no_other() -> None:
    torch.manual_seed(0)
    layers = [
        Hidden(name="one", units=3, sources=["user:age", "history"], activation="identity"),
        Hidden(name="two", units=2, sources=["user:a.b%2E"], activation="identity"),
    ]
    outputs = ["one", "two"]
    model = Layered(NUM_ITEMS, fields=FIELDS, layers=layers, output_sources=outputs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        hidden = model.encode(*batch(USERS)).hidden_BD.numpy()
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    tables = {name for name in state if ".tables." in name}
    named = ["0.tables.user:age", "0.tables.history", "1.tables.user:a%2Eb%252E"]
    assert tables == {f"inputs.{name}" for name in named}
    for row, (items, _, known) in zip(hidden, USERS):
        one = state["inputs.0.tables.history"][sorted({*items})].sum(0) + state["layers.0.bias"]
        one = one + state["inputs.0.tables.user:age"][known["age"]].sum(0)
        two = state["inputs.1.tables.user:a%2Eb%252E"][known["a.b%2E"]].sum(0)
        expected = np.concatenate([one, two + state["layers.1.bias"]])
        np.testing.assert_allclose(row, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("sources", "told", "said"),
    [
        (["user:agee"], {}, "reads 'user:agee', which is no layer before it; those are inpu"),
        (["input", "history"], {}, "reads 'history' twice; name it once"),
        (["user:age"], {"tied": True}, "one layer must read the history and have 5 units.*got"),
        (["history"], {"dropped_inputs": ["age"]}, "dropped_inputs: 'age' is no input of this"),
        (["history"], {"dropped_inputs": ["user:age"]}, "no layer reads 'user:age'"),
        (["user:age", "history"], {"compatibility": "dsstne", "input_dropout": 0.2},
         "'a' reads several inputs, of which DSSTNE's denoising"),
    ],
)  # fmt: skip
def test_inputs_that_are_not_there_or_named_twice_are_refused(
    sources: list[str], told: dict[str, object], said: str
) -> None:
    layers = [Hidden(name="a", units=5, sources=sources)]
    with pytest.raises(ValueError, match=said):
        Layered(NUM_ITEMS, fields=FIELDS, layers=layers, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["input", "history", "user:age"])
def test_a_layer_has_no_name_of_an_input(name: str) -> None:
    with pytest.raises(ValueError, match=f"the name '{name}' is taken by an input"):
        Layered(NUM_ITEMS, layers=[Hidden(name=name, units=2)])


def test_a_config_that_names_an_attribute_is_checked_before_there_are_data() -> None:
    hidden = {"_target_": "deeprec.model.hidden.Hidden", "name": "a", "units": 4}
    part = {"_target_": "deeprec.model.layered.Layered", "_partial_": True}
    layers = [{**hidden, "sources": ["history", "user:town"]}]
    assert mistakes("model", {**part, "layers": layers}) == []
    of_all = [{**hidden, "sources": ["input"]}]  # attributes that are not named among them
    assert mistakes("model", {**part, "layers": of_all, "dropped_inputs": ["user:zip"]}) == []
    [said] = mistakes("model", {**part, "layers": layers, "dropped_inputs": ["user:zip"]})
    assert "no layer reads 'user:zip'" in said
    [said] = mistakes("model", {**part, "layers": [{**hidden, "sources": ["histroy"]}]})
    assert "reads 'histroy', which is no layer before it" in said


def test_a_sparse_layer_is_penalised_by_its_gradient_as_documented() -> None:
    activations = torch.rand(7, 3, dtype=torch.float64).requires_grad_()
    p, beta = 0.2, 3.0
    (beta * divergence(activations, p)).backward()
    mean = activations.detach().mean(0)
    expected = beta * (-p / mean + (1 - p) / (1 - mean)) / 7  # of a loss that is a mean over users
    assert activations.grad is not None
    torch.testing.assert_close(activations.grad, expected.expand(7, 3))


def test_the_penalty_stands_beside_the_task() -> None:
    layers = [Hidden(name="a", units=4, sparseness=0.1, sparseness_weight=2.0)]
    model = Layered(NUM_ITEMS, layers=layers)
    items, offsets, ages, _ = batch(USERS)
    target = Jagged(torch.tensor([3, 0]), torch.tensor([0, 1, 1, 2, 2, 2]))
    given = Batch(torch.arange(len(USERS)), Jagged(items, offsets), ages, {}, target)
    task, penalty = model.tasks(model.arrange(given, torch.Generator()))
    assert isinstance(task, Task)
    assert isinstance(penalty, Penalty)
    assert penalty.weight == 2.0
    expected = divergence(task.encoded.hidden_BD, 0.1)
    assert penalty.value.item() == pytest.approx(expected.item())


def test_values_are_dropped_of_the_inputs_that_are_named() -> None:
    model = Layered(NUM_ITEMS, fields={"age": 4}, input_dropout=0.75, dropped_inputs=["user:age"])
    items, ages = torch.arange(NUM_ITEMS).repeat(400), torch.arange(4).repeat(400)
    history = Jagged(items, torch.arange(401) * NUM_ITEMS)
    known = {"age": Jagged(ages, torch.arange(401) * 4)}
    given = Batch(torch.arange(400), history, None, known, history)
    fields = model.arrange(given, torch.Generator().manual_seed(1)).fields
    assert fields["history"].values.tolist() == items.tolist()
    shown = fields["user:age"]
    assert shown.weights is not None
    assert {*shown.weights.tolist()} == {4.0}
    assert abs(len(shown.values) / 1600 - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 1600)
    rows = np.split(shown.values.numpy(), shown.offsets[1:-1].numpy())
    assert all(sorted({*row}) == row.tolist() for row in rows)


def test_dropped_items_are_made_up_for() -> None:
    model = Layered(NUM_ITEMS, layers=[Hidden(name="a", units=2)], input_dropout=0.75)
    items = torch.arange(NUM_ITEMS).repeat(400)
    history = Jagged(items, torch.arange(401) * NUM_ITEMS)
    given = Batch(torch.arange(400), history, None, {}, history)
    shown = model.arrange(given, torch.Generator().manual_seed(1)).fields["history"]
    assert shown.weights is not None
    assert {*shown.weights.tolist()} == {4.0}
    kept = len(shown.values) / len(items)
    assert abs(kept - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(items))


BOUNDS = {  # lowest, highest, standard deviation, of a matrix from 300 to 200 units at scale 2
    "xavier": (-2 * math.sqrt(6 / 500), 2 * math.sqrt(6 / 500), 2 * math.sqrt(2 / 500)),
    "caffe_xavier": (-2 * math.sqrt(3 / 200), 2 * math.sqrt(3 / 200), 2 * math.sqrt(1 / 200)),
    "gaussian": (-math.inf, math.inf, 2.0),
    "uniform": (-2.0, 2.0, 2 / math.sqrt(3)),
    "unit_ball": (0.0, 2.0, 2 / math.sqrt(12)),
    "selu": (-math.inf, math.inf, 2 / math.sqrt(300)),
    "selu_narrow": (-math.inf, math.inf, 2 / 300),
    "constant": (2.0, 2.0, 0.0),
}


@pytest.mark.parametrize("init", INITS)
def test_weights_start_in_their_range_with_their_spread(init: str) -> None:
    torch.manual_seed(2)
    weight = torch.empty(200, 300, dtype=torch.float64)
    fill(weight, init, 2.0, num_in=300, num_out=200)  # type: ignore[arg-type]
    lowest, highest, deviation = BOUNDS[init]
    assert lowest <= weight.min() <= weight.max() <= highest
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)
    middle = (lowest + highest) / 2 if math.isfinite(lowest) else 0.0
    assert weight.mean().item() == pytest.approx(middle, abs=0.02 * max(deviation, 1e-9))


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([], "one or more, got none"),
        ([Hidden(name="a", units=2), Hidden(name="a", units=2)], "the name 'a' is taken"),
        ([Hidden(name="a", units=2, sources=["b"])], "'a' reads 'b', which is no layer before it"),
        (
            [Hidden(name="a", units=2), Hidden(name="b", units=3, skips=["a"])],
            "both need as many units, got 3 and 2",
        ),
    ],
)
def test_networks_that_cannot_be_are_refused(layers: list[Hidden], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Layered(3, layers=layers)


def test_wrong_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="units must be 1 or more, got 0"):
        Hidden(name="a", units=0)
    with pytest.raises(ValueError, match="sparseness_weight needs sparseness above 0"):
        Hidden(name="a", units=1, sparseness_weight=1.0)
    with pytest.raises(ValueError, match="tied makes one table"):
        Layered(3, layers=[Hidden(name="a", units=2), Hidden(name="b", units=3)], tied=True)


def test_biases_start_where_they_are_told_as_whole_numbers_too() -> None:
    model = Layered(3, layers=[Hidden(name="a", units=2, init_bias=1)], output_bias=-2)
    assert model.item_bias.tolist() == [-2.0] * 3
    assert model.layers[0].bias.tolist() == [1.0] * 2  # type: ignore[union-attr]
