"""Weights come over and go back, held against the forward pass written out in numpy."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import deeprec
from deeprec import config
from deeprec.dsstne.export_network import export_network, network_of
from deeprec.dsstne.from_autoencoder import layered, obstacles
from deeprec.dsstne.import_weights import import_weights
from deeprec.dsstne.learned import Learned, learned_by
from deeprec.dsstne.network import (
    Activation,
    Error,
    Layer,
    LayerFlag,
    LayerKind,
    LayerType,
    Network,
    Pooling,
)
from deeprec.dsstne.network_file import read_network, write_network
from deeprec.dsstne.text import read_index, write_index
from deeprec.dsstne.weights import Rows, all_columns, model_part, new_model, rows_by_label
from deeprec.errors import ConfigError, DataError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.train import train
from deeprec.trainer.run import open_run
from deeprec.verb import TrainConfig
from numpy_network import drawn, forward
from small_shop import composed, make

HAVING = [[3, 0, 5], [], [127], [9, 9, 2]]


def scores(model: torch.nn.Module, having: list[list[int]]) -> np.ndarray:
    items = torch.tensor([item for row in having for item in row], dtype=torch.int64)
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in having])])
    assert isinstance(model, Layered)
    with torch.no_grad():
        hidden = model.encode(items, offsets, torch.zeros(0), {}).hidden_BD
        return (hidden @ model.item_weight.T + model.item_bias).numpy()


def test_an_imported_network_answers_as_its_formulas_say() -> None:
    network = drawn((128, 256))
    model = new_model(network, all_columns(network), "drawn")
    expected = forward(network, HAVING)
    found = 1 / (1 + np.exp(-scores(model, HAVING)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_output_on_its_input_answers_as_its_formulas_say(tmp_path: Path) -> None:
    network = drawn((128, 128))
    network.layers = [network.layers[0], network.layers[4]]
    network.layer("Output").sources = ["Items"]
    weight = network.weights[-1]
    draw = np.random.default_rng(1)
    weight.source, weight.values = "Items", draw.normal(size=(128, 128)).astype(np.float32)
    network.weights = [weight]
    expected = forward(network, HAVING)
    write_network(tmp_path / "n.nc", network)
    read = read_network(tmp_path / "n.nc")
    model = new_model(read, all_columns(read), "direct")
    found = 1 / (1 + np.exp(-scores(model, HAVING)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(forward(read, HAVING), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", [Pooling.MAXOUT, Pooling.DOT_PRODUCT, Pooling.COSINE])
def test_pooled_layers_answer_as_their_formulas_say(pooling: Pooling, tmp_path: Path) -> None:
    """A, B and what they are together are read by C; the file keeps it, and the way back too."""
    network = drawn((128, 256))
    units = 6 if pooling == Pooling.MAXOUT else 2
    sources = ["A", "B", "A"]
    layer = Layer("P", LayerKind.HIDDEN, type=LayerType.POOLING, pooling=pooling,
                  extents=(units,), sources=sources)  # fmt: skip
    network.layers.insert(3, layer)
    network.layer("C").sources = ["P", "A"]
    draw = np.random.default_rng(1)
    [old] = [weight for weight in network.weights if (weight.source, weight.target) == ("B", "C")]
    old.source, old.values = "P", draw.normal(size=(units, 4)).astype(np.float32)
    write_network(tmp_path / "n.nc", network)
    read = read_network(tmp_path / "n.nc")
    model = new_model(read, all_columns(read), "pooled")
    found = 1 / (1 + np.exp(-scores(model, HAVING)))
    np.testing.assert_allclose(found, forward(network, HAVING), atol=1e-5)
    back = network_of(model, Learned(), "gl")
    assert (back.layers[3].type, back.layers[3].pooling) == (LayerType.POOLING, pooling)
    np.testing.assert_allclose(forward(back, HAVING)[:, :256], found, atol=1e-5)


def test_items_find_their_columns_by_label() -> None:
    network = drawn((128, 128))
    inputs, outputs = {"a": 3, "b": 0, "c": 127}, {"b": 5, "a": 64, "d": 1}
    labels = ["a", "b", "c", "d", "e"]
    model = new_model(network, rows_by_label(labels, inputs, outputs), "drawn")
    expected = forward(network, [[3, 127], [0]])  # d and e are no columns of the input
    found = 1 / (1 + np.exp(-scores(model, [[0, 2, 3, 4], [1]])))
    np.testing.assert_allclose(found[:, [0, 1, 3]], expected[:, [64, 5, 1]], atol=1e-5)
    assert (found[:, 4] == found[:, 2]).all()
    with pytest.raises(DataError, match="none of 1 items is in the input index"):
        rows_by_label(["x"], inputs, outputs)


def test_a_shared_table_is_read_where_it_is_shared() -> None:
    network = drawn((128, 128))
    network.layers = [network.layers[0], network.layers[1], network.layers[4]]
    network.layer("Output").sources = ["A"]
    network.weights = [network.weights[0], replace(network.weights[0])]
    tied = network.weights[1]
    tied.source, tied.target, tied.bias = "A", "Output", np.zeros(128, np.float32)
    tied.values, tied.shared_with, tied.transposed = None, ("Items", "A"), True
    model = new_model(network, all_columns(network), "tied")
    assert model.tied
    found = 1 / (1 + np.exp(-scores(model, HAVING)))
    np.testing.assert_allclose(found, forward(network, HAVING), atol=1e-5)


def test_weights_shared_anywhere_are_copied_where_they_are_read(tmp_path: Path) -> None:
    network = drawn((128, 128))
    for ends, of, transposed in (
        (("Items", "B"), ("Items", "A"), False),
        (("A", "C"), ("B", "C"), False),
        (("B", "Output"), ("Items", "B"), True),  # which are shared too
    ):
        weight = network.weight(*ends)
        weight.values, weight.shared_with, weight.transposed = None, of, transposed
    write_network(tmp_path / "n.nc", network)
    read = read_network(tmp_path / "n.nc")
    model = new_model(read, all_columns(read), "shared")
    found = 1 / (1 + np.exp(-scores(model, HAVING)))
    np.testing.assert_allclose(found, forward(network, HAVING), atol=1e-5)
    said = [str(one) for one in model_part(read, "shared")[1] if "SharedWeights" in one.where]
    assert len(said) == 3
    assert "Output.SharedWeights: mapped: from B it holds a copy of the weights from" in said[2]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("shop") / "prepared", repeats=False, attributes=False)


def brought(
    tmp_path: Path,
    prepared: Path,
    network: Network,
    more: Mapping[str, dict[str, int]] | None = None,
) -> Path:
    write_network(tmp_path / "network.nc", network)
    more = more or {}
    write_index(tmp_path / "in", {f"i{i:02}": i for i in range(24)} | more.get("in", {}))
    write_index(tmp_path / "out", {f"i{i:02}": 2 * i for i in range(24)} | more.get("out", {}))
    return import_weights(
        network_file=tmp_path / "network.nc",
        input_index=tmp_path / "in",
        output_index=tmp_path / "out",
        prepared_folder=prepared,
        output_dir=tmp_path / "run",
    )


@pytest.mark.parametrize("name", ["in", "out"])
def test_an_index_of_more_columns_than_the_network_makes_no_run(
    name: str, tmp_path: Path, prepared: Path
) -> None:
    more = {name: {"i24": 128}}
    with pytest.raises(DataError, match=f"/{name} names column 128, and the network has 128"):
        brought(tmp_path, prepared, drawn((128, 128)), more)
    assert not (tmp_path / "run").exists()


def test_an_import_that_was_stopped_before_it_was_sealed_is_sealed_and_not_trained(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("deeprec.trainer.run.RunFolder.finish", stopped)
        brought(tmp_path, prepared, drawn((128, 128)))
    [weights] = tmp_path.glob("run/checkpoints/*/weights.safetensors")
    brought_over = weights.read_bytes()
    train(TrainConfig(resume=str(tmp_path / "run")))
    assert open_run(tmp_path / "run").finished
    [weights] = tmp_path.glob("run/checkpoints/*/weights.safetensors")
    assert weights.read_bytes() == brought_over


def test_a_network_becomes_a_run_that_evaluates_exports_and_serves(
    tmp_path: Path, prepared: Path
) -> None:
    network = drawn((128, 128))
    network.error = Error.SCALED_MARGINAL
    run = brought(tmp_path, prepared, network)
    told = config.compose("evaluate", [f"run={run}", "baselines=[popularity]", "examples=0"])
    evaluate(told)  # type: ignore[arg-type]
    assert '"ndcg@10"' in (run / "report.json").read_text()
    told = config.compose("export", [f"run={run}", f"output_dir={tmp_path / 'bundle'}"])
    export(told)  # type: ignore[arg-type]
    bundle = deeprec.load(str(tmp_path / "bundle"))
    [answer] = bundle.recommend([["i03", "i07"]], k=5)
    expected = forward(network, [[3, 7]])[0][np.arange(24) * 2]
    expected[[3, 7]] = -1
    assert answer.item_ids == [f"i{i:02}" for i in np.argsort(-expected, kind="stable")[:5]]


def test_a_run_of_ours_becomes_a_network_with_the_same_answers(
    tmp_path: Path, prepared: Path
) -> None:
    hidden = "{_target_: deeprec.model.hidden.Hidden"
    layers = (
        f"[{hidden},name: a,units: 6,activation: selu}},"
        f"{hidden},name: b,units: 6,sources: [a,input],skips: [a],batch_norm: true}}]"
    )
    words = ("model=layered", f"model.layers={layers}", "model.output_sources=[a,b]")
    schedule = ("loss=marginal", "trainer.max_epochs=2", "logger.wandb=off")
    train(composed(prepared, tmp_path / "run", *words, *schedule))
    export_network(tmp_path / "run", tmp_path / "n.nc", tmp_path / "index")
    network = read_network(tmp_path / "n.nc")
    index = read_index(tmp_path / "index")
    assert (network.layers[0].units, list(index)[:2]) == (128, ["i00", "i01"])
    expected = forward(network, [[1, 5], [20]])
    assert (expected[:, 24:] < 1e-20).all()  # padding is never recommended
    model = open_run(tmp_path / "run").model
    assert isinstance(model, torch.nn.Module)
    found = 1 / (1 + np.exp(-scores(model, [[1, 5], [20]])))
    np.testing.assert_allclose(found, expected[:, :24], atol=1e-5)
    back = new_model(network, Rows(np.arange(24), np.arange(24)), "back")
    np.testing.assert_allclose(scores(back, [[1, 5]]), scores(model, [[1, 5]]), atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_an_autoencoder_that_fits_is_the_network_that_it_is(tied: bool) -> None:
    torch.manual_seed(0)
    dims, plain = [5, 3, 5], {"history_weighting": "binary", "normalize": False}
    model = Autoencoder(
        24, fields={"age": 3}, hidden_dims=dims, activation="selu", tied=tied, **plain
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    assert list(obstacles(model)) == []
    items, offsets = torch.tensor([3, 3, 8, 20]), torch.tensor([0, 3, 4])
    known = {"age": (torch.tensor([2, 0]), torch.tensor([0, 2, 2]))}
    hidden = model.encode(items, offsets, torch.zeros(0), known).hidden_BD
    expected = torch.sigmoid(hidden @ model.item_weight.T + model.item_bias).detach().numpy()
    network = network_of(layered(model), Learned(), "gl")
    found = forward(network, [[3, 8], [20]], [[2, 0], []])
    np.testing.assert_allclose(found[:, :24], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("dropout", "dropped", "marked"),
    [
        (0.2, ["history"], ["gl_input"]),
        (0.2, ["user:town.part"], ["town.part"]),
        (0.2, ["input"], ["gl_input", "town.part"]),
        (0.2, [], []),
        (0.0, ["history"], ["gl_input", "town.part"]),
    ],
)
def test_inputs_that_are_dropped_come_back_as_such(
    dropout: float, dropped: list[str], marked: list[str], tmp_path: Path
) -> None:
    layers = [Hidden(name="a", units=4)]
    fields, how = {"town.part": 3}, {"input_dropout": dropout, "dropped_inputs": dropped}
    model = Layered(24, fields=fields, layers=layers, output_bias=0.0, **how)
    write_network(tmp_path / "n.nc", network_of(model, Learned(), "gl"))
    network = read_network(tmp_path / "n.nc")
    inputs = network.of_kind(LayerKind.INPUT)
    assert [one.data_set for one in inputs if LayerFlag.SPARSE in one.flags] == marked
    back = new_model(network, all_columns(network), "back")
    if dropout and dropped:
        assert (back.input_dropout, back.dropped) == (pytest.approx(dropout), model.dropped)
    else:
        assert back.input_dropout == 0.0


@pytest.mark.parametrize(
    ("words", "error", "activation"),
    [
        (["loss=regression", "loss.output=tanh", "loss.one_scale=3"], Error.L2, Activation.TANH),
        (["loss=regression", "loss.error=absolute", "loss.output=elu", "loss.alpha=.5"],
         Error.L1, Activation.ELU),
        (["loss=softmax"], Error.CROSS_ENTROPY, Activation.SOFT_MAX),
        (["loss=softmax", "loss.zero_target=.01"], Error.SCALED_MARGINAL, Activation.SOFT_MAX),
        (["loss=squared"], Error.L2, Activation.LINEAR),
    ],
)  # fmt: skip
def test_a_run_of_any_loss_keeps_its_error_and_answers(
    words: list[str], error: Error, activation: Activation, tmp_path: Path, prepared: Path
) -> None:
    """Its outputs are its scores, activated as the loss compared them."""
    plain = ["model=layered", "trainer.max_epochs=1", "logger.wandb=off"]
    if words != ["loss=squared"]:
        plain.append("optimizer.constraints.score_slope_norm=9")
    train(composed(prepared, tmp_path / "run", *words, *plain))
    export_network(tmp_path / "run", tmp_path / "n.nc", tmp_path / "index")
    network = read_network(tmp_path / "n.nc")
    output = network.layer("Output")
    assert (network.error, output.activation) == (error, activation)
    assert output.delta_norm == (0.0 if words == ["loss=squared"] else 9.0)
    assert network.boost == ((3.0, 1.0) if "loss.one_scale=3" in words else (1.0, 1.0))
    if "loss.zero_target=.01" in words:
        assert network.zero_target == pytest.approx(0.01)
    model = open_run(tmp_path / "run").model
    assert isinstance(model, Layered)
    told = scores(model, [[1, 5], [20]])
    activated = {
        Activation.TANH: np.tanh(told),
        Activation.ELU: np.where(told > 0, told, 0.5 * np.expm1(told)),
        Activation.SOFT_MAX: np.exp(told) / np.exp(told).sum(1, keepdims=True),
        Activation.LINEAR: told,
    }[activation]
    found = forward(network, [[1, 5], [20]])[:, :24]
    np.testing.assert_allclose(found, activated, atol=1e-5)


def test_an_activation_that_dsstne_does_not_compute_is_not_exported() -> None:
    part = {"_target_": "deeprec.loss.regression.Regression", "output": "softplus"}
    with pytest.raises(ConfigError, match="compares softplus of scores"):
        learned_by(part, {}, "run")


def test_what_does_not_fit_is_refused(tmp_path: Path, prepared: Path) -> None:
    words = ("model.hidden_dims=[4]", "trainer.max_epochs=1", "logger.wandb=off")
    train(composed(prepared, tmp_path / "run", *words))
    with pytest.raises(ConfigError, match="histories are weighted"):
        export_network(tmp_path / "run", tmp_path / "n.nc", tmp_path / "index")
    network = drawn((128, 128))
    network.layer("Output").activation = Activation.ELU
    with pytest.raises(ConfigError, match="CROSS_ENTROPY on ELU has no gradient"):
        new_model(network, all_columns(network), "elu")
    assert network.of_kind(LayerKind.OUTPUT)
