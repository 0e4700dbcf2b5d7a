"""The file of `encoder`: read as DSSTNE reads it, and its three commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deeprec.dsstne import command, validate
from deeprec.dsstne.data_set import Attribute, DataSet, read_data_sets, sparse, write_data_sets
from deeprec.dsstne.encoder import read_told
from deeprec.dsstne.network_file import write_network
from deeprec.errors import ConfigError, DataError, NonFiniteError
from deeprec.loss.marginal import Marginal
from numpy_network import drawn, forward

NETWORKS = Path(__file__).parent / "networks"


def data(path: Path, names: tuple[str, str] = ("input", "output"), width: int = 128) -> DataSet:
    draw = np.random.default_rng(0)
    rows = [draw.permutation(width)[: draw.integers(2, 9)].tolist() for _ in range(30)]
    asked = [row[::-1][: len(row) // 2] for row in rows]
    write_data_sets(path, [sparse(names[0], width, rows), sparse(names[1], width, asked)])
    return sparse(names[0], width, rows)


def told(path: Path, **values: Any) -> str:
    path.write_text(json.dumps(values))
    return str(path)


def test_defaults_and_keys_in_any_case(tmp_path: Path) -> None:
    steps = {"EPOCHS": 3, "Lambda": 0.5, "CheckpointInterval": 1, "AlphaInterval": 20}
    path = told(tmp_path / "c.cdl", Version=0.8, NETWORK="n.json", data="d.nc", Command="Train",
                TrainingParameters=steps)  # fmt: skip
    found = read_told(Path(path))
    assert (found.interval, found.multiplier) == (20, 0.5)
    assert (found.command, found.network, found.data) == ("train", "n.json", ("d.nc",))
    assert (found.epochs, found.alpha, found.mu, found.decay) == (3, 0.1, 0.9, 0.5)
    assert [one.outcome for one in found.remarks] == ["not carried"]


def test_what_it_refuses_is_named_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {"MiniBatch": 500, "Optimizer": "RMSProp", "Alhpa": 1}
    path = told(tmp_path / "c.cdl", Network="n.json", Command="Train", TrainingParameters=steps)
    with pytest.raises(ConfigError) as caught:
        command.run(["encoder", path])
    assert capsys.readouterr().out == ""  # it stands once, in the error
    for words in (
        "MiniBatch: DSSTNE documents this",
        "Optimizer: sgd or nesterov, got 'rmsprop'",
        "did you mean 'alpha'?",
        "Epochs: must be given",
        "Data: must be given",
    ):
        assert words in str(caught.value)


WRONG = [
    ("TrainingParameters", "5", "TrainingParameters: must be an object, got 5"),
    ("TrainingParameters", "null", "TrainingParameters: must be an object, got None"),
    ("TrainingParameters", "[1]", r"TrainingParameters: must be an object, got \[1\]"),
    ("Network", "null", "Network: must be a text, got None"),
    ("Data", "7", "Data: must be a file, or a list of files, got 7"),
    ("Data", "[1]", r"Data: must be a file, or a list of files, got \[1\]"),
    ("Data", "[]", "Data: must be given"),
    ("Command", "[]", r"Command: must be a text, got \[\]"),
    ("RandomSeed", '"x"', "RandomSeed: must be a whole number of 64 bits, got 'x'"),
    ("RandomSeed", "null", "RandomSeed: must be a whole number of 64 bits, got None"),
    ("RandomSeed", "1" + "0" * 30, "RandomSeed: must be a whole number of 64 bits, got 10{30}$"),
]
WRONG_STEPS = [
    ("Epochs", '"many"', "Epochs: must be a whole number of 64 bits, got 'many'"),
    ("Epochs", "null", "Epochs: must be a whole number of 64 bits, got None"),
    ("Epochs", "1e400", "Epochs: must be a whole number of 64 bits, got inf"),
    ("Epochs", "NaN", "Epochs: must be a whole number of 64 bits, got nan"),
    ("Epochs", "2.5", r"Epochs: must be a whole number of 64 bits, got 2\.5"),
    ("Alpha", '"x"', "Alpha: must be a finite number, got 'x'"),
    ("Alpha", "Infinity", "Alpha: must be a finite number, got inf"),
    ("Mu", "{}", "Mu: must be a finite number, got {}"),
    ("Lambda", "NaN", "Lambda: must be a finite number, got nan"),
    ("Results", "null", "Results: must be a text, got None"),
    ("Optimizer", "3", "Optimizer: must be a text, got 3"),
]


@pytest.mark.parametrize(("key", "text", "says"), [*WRONG, *WRONG_STEPS])
def test_a_value_of_a_wrong_kind_is_refused_once_by_its_key(
    tmp_path: Path, key: str, text: str, says: str
) -> None:
    values = {"Network": '"n.json"', "Data": '"d.nc"', "Command": '"train"'}
    steps = {"Epochs": "2"}
    (steps if (key, text, says) in WRONG_STEPS else values)[key] = text
    inner = ", ".join(f'"{name}": {one}' for name, one in steps.items())
    values.setdefault("TrainingParameters", f"{{{inner}}}")
    lines = ", ".join(f'"{name}": {one}' for name, one in values.items())
    (tmp_path / "c.cdl").write_text(f"{{{lines}}}")
    with pytest.raises(ConfigError, match=says) as caught:
        command.run(["encoder", str(tmp_path / "c.cdl")])
    assert str(caught.value).count(f"- {key}:") == 1


def test_a_key_is_quoted_as_it_was_written(tmp_path: Path) -> None:
    path = told(tmp_path / "c.cdl", netWORK="n.json", data=[], COMMAND="fly", trainingParameters=5)
    with pytest.raises(ConfigError) as caught:
        command.run(["encoder", path])
    said = [line.split(":")[0] for line in str(caught.value).splitlines() if "  - " in line]
    assert said == ["  - trainingParameters", "  - COMMAND", "  - data"]


def test_what_is_nested_too_deeply_is_no_file_of_it(tmp_path: Path) -> None:
    (tmp_path / "c.cdl").write_text('{"Network": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(DataError, match="cannot be read as a JSON object"):
        read_told(tmp_path / "c.cdl")


def test_it_trains_and_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data(tmp_path / "d.nc")
    network = {
        "ErrorFunction": "CrossEntropy",
        "Layers": [
            {"DataSet": "input", "Sparse": True, "N": "auto"},
            {"N": 4},
            {"DataSet": "output", "N": "auto"},
        ],
    }
    told(tmp_path / "n.json", **network)
    steps = {"Epochs": 2, "Optimizer": "Nesterov", "Results": "r.nc"}
    command.run(["encoder", told(tmp_path / "t.cdl", Network="n.json", Data="d.nc",
                                 Command="train", TrainingParameters=steps)])  # fmt: skip
    capsys.readouterr()
    command.run(["encoder", told(tmp_path / "p.cdl", Network="r.nc", Data="d.nc",
                                 Command="Predict")])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "k,precision,recall,ndcg"
    assert [line.split(",")[0] for line in lines[1:]] == [str(k) for k in range(1, 11)]


def test_data_sets_may_lie_in_files_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `generate` writes them; what is said of them is what is said of one file with both."""
    data(tmp_path / "both.nc", ("gl_input", "gl_output"))
    for side, one in zip(("input", "output"), read_data_sets(tmp_path / "both.nc")):
        write_data_sets(tmp_path / f"{side}.nc", [one])
    network = drawn((128, 128))
    network.layers[0].data_set, network.layers[-1].data_set = "gl_input", "gl_output"
    write_network(tmp_path / "n.nc", network)
    files = [str(tmp_path / name) for name in ("both.nc", "output.nc", "input.nc")]
    said = []
    for given in (files[0], files[:1], files[1:]):
        path = told(tmp_path / "p.cdl", Network=str(tmp_path / "n.nc"), Data=given,
                    Command="Predict")  # fmt: skip
        command.run(["encoder", path])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] == said[2]
    assert len(said[0].splitlines()) == 11
    path = told(tmp_path / "p.cdl", Network=str(tmp_path / "n.nc"), Data=files[1],
                Command="Predict")  # fmt: skip
    with pytest.raises(ConfigError, match="reads data set 'gl_input', and what is there is 'gl_o"):
        command.run(["encoder", path])


def test_data_sets_that_do_not_fit_are_refused_before_they_are_judged(tmp_path: Path) -> None:
    write_network(tmp_path / "n.nc", drawn((128, 128)))
    path = told(tmp_path / "p.cdl", Network=str(tmp_path / "n.nc"), Data=str(tmp_path / "d.nc"),
                Command="Predict")  # fmt: skip
    data(tmp_path / "d.nc", ("d_input", "d_output"), width=256)
    with pytest.raises(ConfigError, match="'Items' has N=128, and data set 'd_input' is 256 wide"):
        command.run(["encoder", path])
    sets = [sparse("d_input", 128, [[1], [2]]), sparse("d_output", 128, [[1]])]
    write_data_sets(tmp_path / "d.nc", sets)
    with pytest.raises(DataError, match="'d_input' has 2 examples and 'd_output' 1"):
        command.run(["encoder", path])


@pytest.mark.parametrize("weighted", [False, True])
def test_figures_are_those_of_the_ranking_by_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weighted: bool
) -> None:
    inputs = data(tmp_path / "d.nc", width=128)
    weights = None
    if weighted:
        weights = np.random.default_rng(1).uniform(-3, 3, inputs.num_examples).astype(np.float32)
        sets = read_data_sets(tmp_path / "d.nc")
        sets[0].weights = weights
        sets[0].attributes |= Attribute.WEIGHTED
        write_data_sets(tmp_path / "d.nc", sets)
    network = drawn((128, 128))
    network.layers[0].data_set, network.layers[-1].data_set = "input", "output"
    write_network(tmp_path / "n.nc", network)
    path = told(tmp_path / "p.cdl", Network=str(tmp_path / "n.nc"), Data=str(tmp_path / "d.nc"),
                Command="Predict")  # fmt: skip
    command.run(["encoder", path])
    told_at_5 = capsys.readouterr().out.splitlines()[5].split(",")
    offsets, columns, _ = inputs.rows()
    rows = [row.tolist() for row in np.split(columns, offsets[1:-1])]
    best = np.argsort(-forward(network, rows, weights=weights), axis=1)[:, :5]
    wanted = [{*row[::-1][: len(row) // 2]} for row in rows]
    hits = [[item in having for item in row] for row, having in zip(best.tolist(), wanted)]
    assert float(told_at_5[1]) == pytest.approx(np.mean([sum(h) / 5 for h in hits]), abs=5e-5)
    recalls = [sum(h) / len(having) for h, having in zip(hits, wanted)]
    assert float(told_at_5[2]) == pytest.approx(np.mean(recalls), abs=5e-5)
    gains = [sum(hit / np.log2(place + 2) for place, hit in enumerate(row)) for row in hits]
    for flags, most in ((["--compatibility", "none"], 5), (["--compatibility", "dsstne"], 99)):
        command.run(["encoder", path, *flags])
        found = float(capsys.readouterr().out.splitlines()[5].split(",")[3])
        ideals = [sum(1 / np.log2(i + 2) for i in range(min(len(w), most))) for w in wanted]
        assert found == pytest.approx(np.mean(np.divide(gains, ideals)), abs=5e-5)


def test_values_of_an_analog_input_are_told_to_count_as_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = drawn((128, 128))
    write_network(tmp_path / "n.nc", network)
    path = told(tmp_path / "p.cdl", Network=str(tmp_path / "n.nc"), Data=str(tmp_path / "d.nc"),
                Command="Predict")  # fmt: skip
    rows, asked = [[1, 2], [3]], sparse("d_output", 128, [[1], [2]])
    said = []
    for values in (None, [[2.0, 0.5], [1.0]]):
        write_data_sets(tmp_path / "d.nc", [sparse("d_input", 128, rows, values), asked])
        command.run(["encoder", path])
        said.append(capsys.readouterr().out)
    assert said[1] == f"note data set 'd_input': values other than 1 count as 1\n{said[0]}"


@pytest.mark.parametrize("name", ["movielens", "wide", "tied", "marginal", "analog"])
def test_gradients_of_the_sample_networks_are_right(tmp_path: Path, name: str) -> None:
    network = json.loads("\n".join(
        line for line in (NETWORKS / f"{name}.json").read_text().splitlines() if "//" not in line
    ))  # fmt: skip
    layers = network["Layers"]
    layers[0]["N"] = layers[-1]["N"] = "auto"
    told(tmp_path / "n.json", **network)
    data(tmp_path / "d.nc", (layers[0]["DataSet"], layers[-1]["DataSet"]))
    flags = ["-c", tmp_path / "n.json", "-i", tmp_path / "d.nc", "-o", tmp_path / "d.nc"]
    assert command.run(["validate", *map(str, flags)]) == 0


@pytest.mark.parametrize(("name", "flag"), [("train", "-e"), ("train", "-b"), ("validate", "-b")])
def test_no_epoch_and_no_example_are_refused(tmp_path: Path, name: str, flag: str) -> None:
    network = ["-n", f"{tmp_path}/n.nc"] if name == "train" else []
    with pytest.raises(ConfigError, match=f"{flag} must be 1 or more, got 0"):
        command.run([name, "-c", "c.json", "-i", "i.nc", "-o", "o.nc", *network, flag, "0"])


def test_a_wrong_gradient_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data(tmp_path / "d.nc", ("gl_input", "gl_output"))
    slope = Marginal._target_slope
    monkeypatch.setattr(Marginal, "_target_slope", lambda self, scores: 1.01 * slope(self, scores))
    with pytest.raises(NonFiniteError, match="item_weight"):
        validate.validate(
            definition=NETWORKS / "movielens.json",
            inputs=[tmp_path / "d.nc"],
            outputs=[tmp_path / "d.nc"],
        )
