"""Networks of several input layers: trained, asked, brought over and back."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import deeprec
from deeprec import config
from deeprec.dsstne import command
from deeprec.dsstne.data_set import sparse, write_data_sets
from deeprec.dsstne.network import Activation, Layer, LayerFlag, LayerKind, Network, Weight
from deeprec.dsstne.network_file import read_network, write_network
from deeprec.dsstne.text import read_index, read_samples, write_index
from deeprec.dsstne.weights import all_columns, new_model
from deeprec.errors import ConfigError, DataError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.prepare import prepare
from deeprec.serve import Bundle
from deeprec.train import train as train_run
from deeprec.trainer.run import open_run
from numpy_network import forward
from small_shop import composed

LAYERS = [
    {"Name": "Items", "Kind": "Input", "N": "auto", "DataSet": "gl_input", "Sparse": True},
    {"Name": "Towns", "Kind": "Input", "N": "auto", "DataSet": "gl_towns", "Sparse": True},
    {"Name": "Town", "N": 6, "Activation": "Tanh", "Source": "Towns"},
    {"Name": "Both", "N": 8, "Activation": "Tanh", "Source": ["Town", "Items"]},
    {"Name": "Output", "Kind": "Output", "N": "auto", "DataSet": "gl_output", "Sparse": True,
     "Source": ["Both", "Town"]},
]  # fmt: skip
MARGINAL = {
    "ErrorFunction": "ScaledMarginalCrossEntropy",
    "ScaledMarginalCrossEntropy": {"oneTarget": 1.0, "zeroTarget": 0.0},
}
STEPS = ["-e", "15", "-b", "16", "--optimizer", "adam", "-mu", ".9", "-mu1", ".99", "-alpha"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users whose next items follow from their town alone, and a network trained on both."""
    path = tmp_path_factory.mktemp("inputs")
    draw = np.random.default_rng(0)
    samples: dict[str, list[str]] = {"input": [], "towns": [], "output": []}
    for user in range(120):
        low = 20 * (user % 2)
        having = {
            "input": [f"i{item}" for item in draw.permutation(40)[:6]],
            "towns": [f"town{user % 2}", f"street{draw.integers(5)}"],
            "output": [f"i{item + low}" for item in draw.permutation(20)[:6]],
        }
        for name, features in having.items():
            samples[name].append(f"u{user}\t" + ":".join(features))
    for name, lines in samples.items():
        (path / name).write_text("\n".join(lines) + "\n")
        files = f"-i {path / name} -o {path / name}.nc -f {path / name}.features"
        command.run(["generate", "-d", f"gl_{name}", "-c", "-s", f"{path}/index", *files.split()])
    (path / "both.json").write_text(json.dumps({**MARGINAL, "Layers": LAYERS}))
    alone = {"Name": "Both", "N": 8, "Activation": "Tanh", "Source": ["Items"]}
    output = {**LAYERS[-1], "Source": ["Both"]}
    layers = [LAYERS[0], alone, output]
    (path / "alone.json").write_text(json.dumps({**MARGINAL, "Layers": layers}))
    train(path, "both", "-i", f"{path}/input.nc", f"{path}/towns.nc")
    train(path, "alone", "-i", f"{path}/input.nc")
    return path


def train(path: Path, name: str, *flags: str) -> None:
    files = f"-c {path}/{name}.json -o {path}/output.nc -n {path}/{name}.nc"
    command.run(["train", *files.split(), *flags, *STEPS, ".03"])


def lists(path: Path, name: str, *flags: str) -> dict[str, tuple[list[str], np.ndarray]]:
    files = f"-i {path}/input.features -o {path}/output.features -r {path}/input -s {path}/recs"
    how = f"-d gl -n {path}/{name}.nc -k 10 -p 10.8f"
    command.run(["predict", *files.split(), *how.split(), *flags])
    rows = read_samples(path / "recs").rows
    return {user: (items, np.array(scores, float)) for user, (items, scores) in rows.items()}


def towns(path: Path) -> list[str]:
    return ["--input", "gl_towns", f"{path}/towns.features", f"{path}/towns"]


def columns(path: Path, name: str, users: Sequence[str]) -> list[list[int]]:
    index, rows = read_index(path / f"{name}.features"), read_samples(path / name).rows
    return [[index[feature] for feature in rows[user][0]] for user in users]


def right(found: dict[str, tuple[list[str], np.ndarray]]) -> float:
    """The share of items that are those of the user's town."""
    return float(
        np.mean(
            [
                int(item[1:]) // 20 == int(user[1:]) % 2
                for user, (items, _) in found.items()
                for item in items
            ]
        )
    )


def test_what_the_second_input_decides_is_learned_from_it_alone(shop: Path) -> None:
    assert right(lists(shop, "both", *towns(shop))) > 0.97
    assert right(lists(shop, "alone")) < 0.75


def test_a_trained_network_answers_as_its_formulas_say(shop: Path) -> None:
    found, network = lists(shop, "both", *towns(shop)), read_network(shop / "both.nc")
    assert [layer.data_set for layer in network.layers[:2]] == ["gl_input", "gl_towns"]
    pairs = [(weight.source, weight.target) for weight in network.weights]
    assert pairs == [("Towns", "Town"), ("Town", "Both"), ("Items", "Both"),
                     ("Both", "Output"), ("Town", "Output")]  # fmt: skip
    users = list(found)
    given = [columns(shop, name, users) for name in ("input", "towns")]
    outputs = read_index(shop / "output.features")
    for scores, (items, said) in zip(forward(network, *given), found.values()):
        expected = scores[[outputs[item] for item in items]]
        np.testing.assert_allclose(said, expected, atol=1e-5)
        assert said[-1] >= np.sort(scores[: len(outputs)])[-10] - 1e-5


def test_a_sample_without_a_second_line_has_none_of_it(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "towns").write_text("u1\ttown0:nowhere:town0\n")
    flags = ["--input", "gl_towns", str(shop / "towns.features"), str(tmp_path / "towns")]
    found = lists(shop, "both", *flags)
    assert "gl_towns: 119 of 120 samples have no line there" in capsys.readouterr().out
    network, [town] = read_network(shop / "both.nc"), columns(shop, "towns", ["u0"])
    expected = forward(network, columns(shop, "input", ["u0", "u1"]), [[], town[:1]])
    for scores, user in zip(expected, ("u0", "u1")):
        np.testing.assert_allclose(found[user][1], np.sort(scores)[::-1][:10], atol=1e-5)


def test_its_gradient_is_right(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = f"-c {shop}/both.json -i {shop}/towns.nc {shop}/input.nc -o {shop}/output.nc"
    command.run(["validate", *files.split()])
    said = capsys.readouterr().out
    assert "inputs.0.tables.user:gl_towns" in said
    assert "inputs.1.tables.history" in said


def test_encoder_judges_it_by_all_of_its_data_sets(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(shop / f"{name}.nc") for name in ("input", "towns", "output")]
    told = {"Command": "Predict", "Network": str(shop / "both.nc"), "Data": files}
    (tmp_path / "p.cdl").write_text(json.dumps(told))
    command.run(["encoder", str(tmp_path / "p.cdl")])
    line = capsys.readouterr().out.splitlines()[5]
    users = [f"u{user}" for user in range(120)]
    given = [columns(shop, name, users) for name in ("input", "towns")]
    best = np.argsort(-forward(read_network(shop / "both.nc"), *given), axis=1)[:, :5]
    wanted = columns(shop, "output", users)
    hits = [item in having for row, having in zip(best, wanted) for item in row]
    assert float(line.split(",")[1]) == pytest.approx(np.mean(hits), abs=5e-5)


@pytest.fixture(scope="module")
def bundle(shop: Path) -> Bundle:
    """The network over a prepared folder, exported."""
    words = ["data=dsstne_text", f"data.path={shop}/input", f"output_dir={shop}/prepared"]
    words.append(f"data.user_attributes={{gl_towns: {shop}/towns}}")
    prepare(config.compose("prepare", words))  # type: ignore[arg-type]
    files = f"-n {shop}/both.nc -i {shop}/input.features -o {shop}/output.features"
    further = ["--input", "gl_towns", f"{shop}/towns.features"]
    places = f"--prepared {shop}/prepared --output-dir {shop}/run"
    command.run(["import-weights", *files.split(), *further, *places.split()])
    told = [f"run={shop}/run", f"output_dir={shop}/bundle", "program=false"]
    export(config.compose("export", told))  # type: ignore[arg-type]
    return deeprec.load(str(shop / "bundle"))


def test_a_bundle_answers_as_predict_does(shop: Path, bundle: Bundle) -> None:
    found = lists(shop, "both", *towns(shop))
    users = list(found)[:20]
    rows = {name: read_samples(shop / name).rows for name in ("input", "towns")}
    answers = bundle.recommend(
        [rows["input"][user][0] for user in users],
        attributes={"gl_towns": [rows["towns"][user][0] for user in users]},
        k=10,
        exclude_seen=False,
    )
    for answer, (items, scores) in zip(answers, (found[user] for user in users)):
        assert [*answer.item_ids] == items
        np.testing.assert_allclose(1 / (1 + np.exp(-np.array(answer.scores))), scores, atol=1e-5)
    assert list(bundle.golden()) == []


def test_its_run_is_evaluated_and_goes_back_to_a_network(shop: Path, bundle: Bundle) -> None:
    told = config.compose("evaluate", [f"run={shop}/run", "baselines=[popularity]", "examples=0"])
    evaluate(told)  # type: ignore[arg-type]
    assert '"ndcg@10"' in (shop / "run" / "report.json").read_text()
    command.run(["export-network", "-r", f"{shop}/run", "-n", f"{shop}/back.nc",
                 "-f", f"{shop}/back"])  # fmt: skip
    network, old = read_network(shop / "back.nc"), read_network(shop / "both.nc")
    assert [layer.data_set for layer in network.layers[:2]] == ["gl_input", "gl_towns"]
    items, places = read_index(shop / "back"), read_index(shop / "back.gl_towns")
    rows = {name: read_samples(shop / name).rows["u7"][0] for name in ("input", "towns")}
    [again] = forward(network, [[items[i] for i in rows["input"]]],
                      [[places[town] for town in rows["towns"]]])  # fmt: skip
    [before] = forward(old, columns(shop, "input", ["u7"]), columns(shop, "towns", ["u7"]))
    outputs = read_index(shop / "output.features")
    for item, column in outputs.items():
        assert again[items[item]] == pytest.approx(before[column], abs=1e-5)


def test_the_run_beside_the_network_is_an_ordinary_one(shop: Path, tmp_path: Path) -> None:
    command.run(["export-network", "-r", f"{shop}/both.run", "-n", f"{tmp_path}/again.nc",
                 "-f", f"{tmp_path}/columns"])  # fmt: skip
    again, network = read_network(tmp_path / "again.nc"), read_network(shop / "both.nc")
    users = ["u0", "u1"]
    given = [columns(shop, name, users) for name in ("input", "towns")]
    labels = len(read_index(shop / "output.features"))
    found, expected = forward(again, *given), forward(network, *given)
    np.testing.assert_allclose(found[:, :labels], expected[:, :labels], atol=1e-5)
    assert open_run(shop / "both.run").config.model["layers"][1]["sources"] == ["Town", "history"]


def test_an_attribute_called_as_a_data_set_of_items_needs_another_name(
    shop: Path, tmp_path: Path
) -> None:
    words = ["data=dsstne_text", f"data.path={shop}/input", f"output_dir={tmp_path}/prepared"]
    words.append(f"data.user_attributes={{gl_input: {shop}/towns, our_output: {shop}/towns}}")
    prepare(config.compose("prepare", words))  # type: ignore[arg-type]
    plain = ("model=layered", "loss=marginal", "trainer.max_epochs=1", "logger.wandb=off")
    train_run(composed(tmp_path / "prepared", tmp_path / "run", *plain))
    files = ["-r", f"{tmp_path}/run", "-n", f"{tmp_path}/n.nc", "-f", f"{tmp_path}/columns"]
    for name, taken in (("gl", "gl_input"), ("our", "our_output")):
        with pytest.raises(ConfigError, match=f"-d {name} calls a data set '{taken}', and so is a"):
            command.run(["export-network", *files, "-d", name])
        assert not (tmp_path / "n.nc").exists()
    command.run(["export-network", *files, "-d", "gl_items"])
    network = read_network(tmp_path / "n.nc")
    assert network.history.data_set == "gl_items_input"
    assert [*network.further] == ["gl_input", "our_output"]


def drawn() -> Network:
    """Three inputs, of which the second is the history: its data set is that of the output."""
    draw = np.random.default_rng(3)
    layers = [
        Layer("Early", LayerKind.INPUT, data_set="early", extents=(128,), flags=LayerFlag.SPARSE),
        Layer("Items", LayerKind.INPUT, data_set="same", extents=(256,), flags=LayerFlag.SPARSE),
        Layer("Late", LayerKind.INPUT, data_set="late", extents=(128,)),
        Layer("A", LayerKind.HIDDEN, extents=(6,), sources=["Late", "Items", "Early"],
              activation=Activation.TANH),
        Layer("B", LayerKind.HIDDEN, extents=(6,), sources=["Early", "A", "Late"], skips=["A"]),
        Layer("Output", LayerKind.OUTPUT, data_set="same", extents=(256,), sources=["B", "A"]),
    ]  # fmt: skip
    network = Network("drawn", layers)
    for layer in layers[3:]:
        for name in layer.sources:
            shape = network.layer(name).units, layer.units
            values = (draw.normal(size=shape) * 0.5).astype(np.float32)
            bias = draw.normal(size=layer.units).astype(np.float32)
            network.weights.append(Weight(name, layer.name, bias, values))
    return network


def test_the_history_is_the_input_of_the_data_set_that_is_asked(tmp_path: Path) -> None:
    write_network(tmp_path / "n.nc", drawn())
    network = read_network(tmp_path / "n.nc")
    assert (network.history.name, [*network.further]) == ("Items", ["early", "late"])
    model = new_model(network, all_columns(network), "drawn")
    early, items, late = [[5], [0, 1], []], [[3, 0], [], [255]], [[7, 127], [], [2]]

    def rows(columns: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        ends = torch.tensor([0, *np.cumsum([len(row) for row in columns])])
        return torch.tensor([one for row in columns for one in row], dtype=torch.int64), ends

    with torch.no_grad():
        attributes = {"early": rows(early), "late": rows(late)}
        hidden = model.encode(*rows(items), torch.zeros(0), attributes).hidden_BD
        found = torch.sigmoid(hidden @ model.item_weight.T + model.item_bias)
    np.testing.assert_allclose(found.numpy(), forward(network, early, items, late), atol=1e-5)


def test_import_network_says_what_each_input_became(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps({**MARGINAL, "Denoising": {"p": 0.2}, "Layers": LAYERS})
    (tmp_path / "n.json").write_text(text)
    command.run(["import-network", str(tmp_path / "n.json")])
    said = capsys.readouterr().out
    assert "Items: data set 'gl_input' is the history of a user" in said
    assert "Towns: data set 'gl_towns' is the user attribute 'gl_towns', several values" in said
    assert "Both: 8 tanh units from Town, history" in said
    assert (
        "Denoising.p: model.input_dropout=0.2, drawn anew at each step, of history, user:" in said
    )
    text = (tmp_path / "imported" / "experiment" / "n.yaml").read_text()
    assert "- user:gl_towns" in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "the network reads 'gl_towns' too; give each as --input"),
        (["--input", "gl_town", "towns.features", "towns"], "--input gl_town: .* did you mean"),
        (["--input", "gl_towns", "few.features", "towns"], "few.features names column 128, and th"),
        (["--input", "gl_towns", "towns.features", "recs"], "-s must be a file of its own"),
        (
            [
                *["--input", "gl_towns", "few.features", "towns"],
                *["--input", "gl_towns", "towns.features", "towns"],
            ],
            "--input gl_towns is given twice, with .*few.features .* and with .*towns.features",
        ),
    ],
)
def test_what_is_not_given_as_the_network_reads_it_is_refused(
    shop: Path, flags: list[str], said: str
) -> None:
    write_index(shop / "few.features", {"town0": 128})
    files = {"few.features", "towns.features", "towns", "recs"}
    where = [str(shop / flag) if flag in files else flag for flag in flags]
    with pytest.raises((ConfigError, DataError), match=said):
        lists(shop, "both", *where)


def test_data_sets_and_attributes_must_be_those_of_the_inputs(shop: Path, tmp_path: Path) -> None:
    few = sparse("gl_towns", 128, [[1]])
    write_data_sets(tmp_path / "few.nc", [few])
    (tmp_path / "both.json").write_text((shop / "both.json").read_text())
    files = ["-c", f"{tmp_path}/both.json", "-o", f"{shop}/output.nc", "-n", f"{tmp_path}/n.nc"]
    with pytest.raises(DataError, match="'gl_input' has 120 examples and 'gl_towns' 1"):
        command.run(["train", *files, "-i", f"{shop}/input.nc", f"{tmp_path}/few.nc"])
    with pytest.raises(ConfigError, match="reads data set 'gl_towns', and what is there is 'gl_in"):
        command.run(["train", *files, "-i", f"{shop}/input.nc"])
    twice = f"data set 'gl_towns' is there 2 times, in {shop}/towns.nc and in {tmp_path}/few.nc; gi"
    with pytest.raises(ConfigError, match=twice):
        names = [f"{shop}/input.nc", f"{shop}/towns.nc", f"{tmp_path}/few.nc"]
        command.run(["train", *files, "-i", *names])
    words = ["data=dsstne_text", f"data.path={shop}/input", f"output_dir={tmp_path}/plain"]
    prepare(config.compose("prepare", words))  # type: ignore[arg-type]
    given = f"-n {shop}/both.nc -i {shop}/input.features -o {shop}/output.features"
    places = f"--prepared {tmp_path}/plain --output-dir {tmp_path}/run"
    further = ["--input", "gl_towns", f"{shop}/towns.features"]
    with pytest.raises(ConfigError, match=r"reads gl_towns, and .* has no user attribute of this"):
        command.run(["import-weights", *given.split(), *places.split(), *further])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("same", "same"), "several input layers read one data set"),
        (("role", "x"), "no user attribute may be called 'role'"),
    ],
)
def test_inputs_that_cannot_be_attributes_are_refused(
    names: tuple[str, str], said: str, tmp_path: Path
) -> None:
    layers = [LAYERS[0], *({"Kind": "Input", "DataSet": name} for name in names), *LAYERS[2:]]
    layers[3] = {"Name": "Town", "N": 6, "Source": ["Input1", "Input2"]}
    (tmp_path / "n.json").write_text(json.dumps({**MARGINAL, "Layers": layers}))
    with pytest.raises(ConfigError, match=said):
        command.run(["import-network", str(tmp_path / "n.json")])
