"""Network definitions: what each key becomes, what is refused, and that the result trains."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from deeprec import config
from deeprec.dsstne import command
from deeprec.dsstne.definition import read_definition
from deeprec.dsstne.import_network import import_network
from deeprec.dsstne.mapping import mapped
from deeprec.dsstne.network import Activation, Error, LayerKind
from deeprec.errors import ConfigError, DataError
from deeprec.loss.regression import Regression
from deeprec.train import train
from deeprec.verb import TrainConfig
from small_shop import make

NETWORKS = sorted((Path(__file__).parent / "networks").glob("*.json"))


def brought(definition: Path, to: Path, *words: str) -> TrainConfig:
    """The config that the experiment of a definition composes to."""
    import_network(definition, to / "experiment" / "it.yaml")
    found = config.compose("train", ["experiment=it", *words], config_dir=to)
    assert isinstance(found, TrainConfig)
    return found


@pytest.mark.parametrize("definition", NETWORKS, ids=lambda path: path.stem)
def test_every_sample_network_becomes_a_run_that_trains(
    definition: Path, tmp_path: Path, prepared: Path
) -> None:
    words = [f"prepared={prepared}", f"output_dir={tmp_path / 'run'}", "trainer.max_epochs=1"]
    config = brought(definition, tmp_path, *words)
    for layer in config.model["layers"]:
        layer["units"] = min(layer["units"], 8)
    train(config)
    assert (tmp_path / "run" / "manifest.json").is_file()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("shop") / "prepared", repeats=False)


def sample(name: str) -> Path:
    return Path(__file__).parent / "networks" / f"{name}.json"


WORDS = ["prepared=p", "output_dir=o"]


def test_the_movielens_sample_is_mapped_key_by_key(tmp_path: Path) -> None:
    config = brought(sample("movielens"), tmp_path, *WORDS)
    assert config.loss == {
        "_target_": "deeprec.loss.marginal.Marginal",
        "one_target": 1.0,
        "zero_target": 0.0,
        "one_scale": 1.0,
        "zero_scale": 1.0,
        "block_items": None,
    }
    [hidden] = config.model["layers"]
    assert (hidden["units"], hidden["activation"], hidden["sources"]) == (128, "sigmoid", ["input"])
    assert (hidden["sparseness"], hidden["sparseness_weight"]) == (0.5, 2.0)
    assert (hidden["init"], hidden["init_scale"]) == ("xavier", 0.5)  # half of the range
    assert config.model["input_dropout"] == 0.2
    assert config.model["output_bias"] is None


def test_keys_count_in_any_case_and_layers_by_their_place() -> None:
    network, remarks = read_definition(sample("quality"))
    assert not [one for one in remarks if one.outcome == "refused"]
    kinds = [layer.kind for layer in network.layers]
    assert kinds == [LayerKind.INPUT, *[LayerKind.HIDDEN] * 3, LayerKind.OUTPUT]
    assert [layer.name for layer in network.layers] == [
        "Input", "Hidden1", "Hidden2", "Hidden3", "Output"
    ]  # fmt: skip
    assert network.layers[3].sources == ["Hidden2"]
    assert (network.layers[1].dropout, network.layers[4].bias_init) == (0.37, -10.2)
    assert read_definition(sample("benchmark"))[0].layers[4].bias_init == -10.2
    assert mapped(network).model["output_bias"] == -10.2


def test_defaults_are_those_of_dsstne(tmp_path: Path) -> None:
    text = {"Layers": [{"Sparse": True}, {"N": 3}, {"N": "auto"}]}
    (tmp_path / "n.json").write_text(json.dumps(text))
    network, remarks = read_definition(tmp_path / "n.json")
    assert remarks == []
    assert (network.error, network.one_target, network.zero_target) == (
        Error.CROSS_ENTROPY, 0.9, 0.1
    )  # fmt: skip
    assert [layer.activation for layer in network.layers[1:]] == [Activation.SIGMOID] * 2


def test_sources_skips_and_parameters_of_activations(tmp_path: Path) -> None:
    config = brought(sample("wide"), tmp_path, *WORDS)
    first, second = config.model["layers"]
    assert (first["alpha"], first["scale"]) == (1.67326, 1.050701)
    assert (second["sources"], second["skips"]) == (["First", "input"], ["First"])
    assert config.model["output_sources"] == ["First", "Second"]
    assert (second["slope_norm"], first.get("slope_norm")) == (1.0, None)
    assert config.optimizer is not None
    assert config.optimizer["constraints"]["item_norm"] == 2.0
    assert config.optimizer["constraints"]["score_slope_norm"] is None
    assert config.loss is not None
    assert config.loss["_target_"].endswith("Softmax")
    assert config.loss["normalise_targets"] is True
    [layer] = brought(sample("marginal"), tmp_path, *WORDS).model["layers"]
    assert (layer["slope"], layer["batch_norm"]) == (0.5, True)


def test_a_leaky_output_has_the_slope_of_dsstne_and_ours_leaks() -> None:
    network, _ = read_definition(sample("direct"))
    network.layers[-1].slope = 1.0  # what DSSTNE takes where none is told
    found = mapped(network)
    assert found.loss["slope"] == 1.0
    assert any(one.where == "Output.Activation" and "slope 1" in one.says for one in found.remarks)
    leaky = Regression(output="leaky_relu").activated
    assert float(leaky(torch.tensor(-2.0))) == pytest.approx(-0.02)


def test_one_table_and_boosted_errors(tmp_path: Path) -> None:
    config = brought(sample("tied"), tmp_path, *WORDS)
    assert config.model["tied"] is True
    assert config.loss is not None
    told = {name: config.loss[name] for name in ("error", "output", "one_scale", "zero_scale")}
    # of linear outputs DSSTNE boosts nothing
    expected = {"error": "squared", "output": "identity", "one_scale": 1.0, "zero_scale": 1.0}
    assert told == expected
    network, _ = read_definition(sample("tied"))
    for error, activation in ((Error.L1, Activation.TANH), (Error.L2, Activation.SIGMOID)):
        network.error, network.layers[2].activation = error, activation
        loss = mapped(network).loss
        assert (loss["one_scale"], loss["zero_scale"]) == (5.0, 0.5)


def test_decay_and_norms_of_layers_are_carried(tmp_path: Path) -> None:
    hidden = [{"N": 4, "WeightNorm": 0.5}, {"N": 4, "DeltaNorm": 2.0, "WeightNorm": 1.5}]
    output = {"N": "auto", "DeltaNorm": 3.0}
    told = {"Decay": 0.01, "Layers": [{"Sparse": True, "N": "auto"}, *hidden, output]}
    (tmp_path / "n.json").write_text(json.dumps(told))
    config = brought(tmp_path / "n.json", tmp_path, *WORDS)
    norms = [(layer.get("unit_norm"), layer.get("slope_norm")) for layer in config.model["layers"]]
    assert norms == [(0.5, None), (1.5, 2.0)]
    assert config.optimizer is not None
    assert config.optimizer["constraints"]["score_slope_norm"] == 3.0
    assert config.rate == {"_target_": "deeprec.trainer.rate.Inverse", "decay": 0.01}


def refused(tmp_path: Path, told: Any) -> str:
    return refused_text(tmp_path, json.dumps(told))


def refused_text(tmp_path: Path, text: str) -> str:
    (tmp_path / "n.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        import_network(tmp_path / "n.json", tmp_path / "out.yaml")
    assert not (tmp_path / "out.yaml").exists()
    return str(caught.value)


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    said = refused(
        tmp_path,
        {
            "WeightData": "x.nc",
            "ErrorFunction": "SMCE",
            "Denoisng": {"p": 0.2},
            "Layers": [
                {"Sparse": True},
                {"N": 3, "Kind": "Convolution", "SparsenessPenalty": True, "Activation": "PRelu"},
                {"N": 0},
            ],
        },
    )
    for words in (
        "WeightData: DSSTNE documents this key and refuses it",
        "ErrorFunction: DSSTNE documents this name and refuses it",
        "Denoisng: DSSTNE knows no such key; did you mean 'denoising'?",
        "Layers[1].Kind: a layer is Input, Hidden or Output, got 'Convolution'",
        "SparsenessPenalty: has no meaning as True",
        "Activation: DSSTNE knows no 'PRelu'",
        "Output.N: has no meaning as 0",
    ):
        assert words in said


INPUT = {"Name": "Input", "Sparse": True}


@pytest.mark.parametrize(
    ("layers", "error", "said"),
    [
        ([INPUT, {"N": 2, "Type": "Convolutional"}, {}], "L2", "no part of recommending"),
        ([INPUT, {"N": 2}, {"Source": ["Input"]}], "L2", "a table of all items by all items"),
        ([INPUT, {"N": 2}, {"Activation": "Relu"}], "CrossEntropy", "has no gradient in DSSTNE"),
        ([INPUT, {"N": 2}, {"Kind": "Output"}, {}], "L2", "exactly one output layer"),
        ([INPUT, {"N": 2, "Activation": "ReluMax"}, {}], "L2", "RELU_MAX"),
        ([INPUT, {"N": 2}, {"Activation": "SoftMax"}], "L1", "has no gradient in DSSTNE"),
    ],
)
def test_networks_that_recommend_nothing_are_refused(
    tmp_path: Path, layers: list[dict[str, Any]], error: str, said: str
) -> None:
    assert said in refused(tmp_path, {"ErrorFunction": error, "Layers": layers})


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("N", "1e400", "Hidden1.N: has no meaning as inf"),
        ("N", "1" + "0" * 30, "Hidden1.N: has no meaning as 1" + "0" * 30),
        ("N", "[65536, 65536]", "Hidden1.N: has no meaning as [65536, 65536]"),
        ("SharedWeights", "[{}]", "Hidden1.SharedWeights: has no meaning as [{}]"),
        ("SharedWeights", "[5]", "Hidden1.SharedWeights: has no meaning as [5]"),
        ("SharedWeights", "5", "Hidden1.SharedWeights: has no meaning as 5"),
        ("WeightInit", "[[1, 2]]", "Hidden1.WeightInit: has no meaning as [[1, 2]]"),
        ("WeightInit", '{"Scale": Infinity}', "Hidden1.WeightInit.Scale: has no meaning as inf"),
        ("WeightInit", '{"Scale": 1e400}', "Hidden1.WeightInit.Scale: has no meaning as inf"),
        ("WeightInit", '{"Bias": NaN}', "Hidden1.WeightInit.Bias: has no meaning as nan"),
        ("Slope", "NaN", "Hidden1.Slope: has no meaning as nan"),
        ("SELULambda", "1e400", "Hidden1.SELULambda: has no meaning as inf"),
        ("pDropout", "1" + "0" * 400, "Hidden1.pDropout: has no meaning as 1"),
        ("SparsenessPenalty", '{"p": NaN}', "Hidden1.SparsenessPenalty.p: has no meaning as nan"),
        ("SparsenessPenalty", "[[1, 2]]", "Hidden1.SparsenessPenalty: has no meaning as [[1, 2]]"),
    ],
)
def test_a_value_that_no_layer_can_have_is_named_by_its_key(
    tmp_path: Path, key: str, text: str, says: str
) -> None:
    layer = "{" + ", ".join({"N": '"N": 2', key: f'"{key}": {text}'}.values()) + "}"
    layers = '[{"Name": "Input", "Sparse": true}, LAYER, {}]'.replace("LAYER", layer)
    assert says in refused_text(tmp_path, f'{{"Layers": {layers}}}')


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("DeltaBoost", '{"one": Infinity}', "DeltaBoost.one: has no meaning as inf"),
        ("DeltaBoost", "[[1, 2]]", "DeltaBoost: has no meaning as [[1, 2]]"),
        ("Denoising", '{"p": NaN}', "Denoising.p: has no meaning as nan"),
        ("Decay", "1e400", "Decay: has no meaning as inf"),
    ],
)
def test_a_value_that_no_network_can_have_is_named_by_its_key(
    tmp_path: Path, key: str, text: str, says: str
) -> None:
    layers = '[{"Name": "Input", "Sparse": true}, {"N": 2}, {}]'
    assert says in refused_text(tmp_path, f'{{"{key}": {text}, "Layers": {layers}}}')


def test_the_command_says_every_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "movielens.json"
    copy.write_text(sample("movielens").read_text())
    assert command.run(["import-network", str(copy)]) == 0
    said = capsys.readouterr().out
    assert "mapped            Denoising.p: model.input_dropout=0.2" in said
    assert "ignored by DSSTNE Kind: it has no effect" in said
    assert "not carried       ShuffleIndices" in said
    assert f"deeprec train --config-dir {tmp_path}/imported experiment=movielens" in said
    text = (tmp_path / "imported" / "experiment" / "movielens.yaml").read_text()
    assert "#   Denoising.p: mapped" in text


def test_what_is_refused_stands_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "n.json").write_text(json.dumps({"Layers": [{}, {"N": 2}, {"Kind": "Target"}]}))
    with pytest.raises(ConfigError, match="cannot be brought over"):
        command.run(["import-network", str(tmp_path / "n.json")])
    assert "refused" not in capsys.readouterr().out


def test_what_is_no_definition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_definition(tmp_path / "n.json")
    (tmp_path / "n.json").write_text('{"Layers": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_definition(tmp_path / "n.json")
    with pytest.raises(ConfigError, match="deeprec dsstne has no 'generat'; did you mean"):
        command.run(["generat"])
    with pytest.raises(ConfigError, match="the following arguments are required: definition"):
        command.run(["import-network"])
