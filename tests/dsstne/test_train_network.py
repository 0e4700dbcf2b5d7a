"""`generate`, `train` and `predict` one after the other, as a DSSTNE shop calls them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import small_shop
from deeprec.assembly import Assembly
from deeprec.batch import Task
from deeprec.data.dataset import Batches
from deeprec.data.grouping import Grouping
from deeprec.data.store import Prepared
from deeprec.data.target import ByKind
from deeprec.dsstne import command
from deeprec.dsstne.data_set import (
    Attribute,
    DataSet,
    DataType,
    read_data_sets,
    sparse,
    write_data_sets,
)
from deeprec.dsstne.network import LayerKind
from deeprec.dsstne.network_file import read_network
from deeprec.dsstne.text import read_index, read_samples
from deeprec.dsstne.train_data import Examples, prepare_data
from deeprec.dsstne.train_network import Steps
from deeprec.errors import ConfigError
from deeprec.model.hidden import Hidden
from deeprec.model.layered import Layered
from deeprec.trainer.momentum import Momentum
from deeprec.trainer.optimizer import Sgd
from deeprec.trainer.run import open_run
from numpy_network import forward

DEFINITION = {
    "Denoising": {"p": 0.2},
    "ErrorFunction": "ScaledMarginalCrossEntropy",
    "ScaledMarginalCrossEntropy": {"oneTarget": 1.0, "zeroTarget": 0.0},
    "Layers": [
        {"Name": "Input", "N": "auto", "DataSet": "gl_input", "Sparse": True},
        {"Name": "Hidden", "N": 8, "Activation": "Tanh"},
        {"Name": "Output", "N": "auto", "DataSet": "gl_output", "Sparse": True},
    ],
}


def shop(tmp_path: Path, *, asked: str = "same") -> Path:
    """Samples of two tastes, their data sets and a definition; returns the folder."""
    draw = np.random.default_rng(0)
    shown, wanted = [], []
    for user in range(120):
        low = 0 if user % 2 else 20
        items = draw.permutation(20)[:8] + low
        shown.append(f"u{user}\t" + ":".join(f"i{item},1" for item in items))
        wanted.append(f"u{user}\t" + ":".join(f"j{item % 20 + 20 - low}" for item in items))
    (tmp_path / "input").write_text("\n".join(shown) + "\n")
    (tmp_path / "output").write_text("\n".join(shown if asked == "same" else wanted) + "\n")
    (tmp_path / "config.json").write_text(json.dumps(DEFINITION))
    for side in ("input", "output"):
        words = f"-d gl_{side} -i {tmp_path / side} -o {tmp_path / side}.nc -c"
        index = f"-f {tmp_path / side}.features -s {tmp_path / side}.samples"
        command.run(["generate", *words.split(), *index.split()])
    return tmp_path


def trained(folder: Path, *flags: str) -> None:
    words = f"-c {folder}/config.json -i {folder}/input.nc -o {folder}/output.nc -n {folder}/gl.nc"
    command.run(["train", *words.split(), *flags])


def lists(folder: Path, *flags: str) -> dict[str, tuple[list[str], list[float | None]]]:
    words = f"-d gl -i {folder}/input.features -o {folder}/output.features -n {folder}/gl.nc"
    files = f"-r {folder}/input -s {folder}/recs -f {folder}/input -k 12"
    command.run(["predict", *words.split(), *files.split(), *flags])
    return read_samples(folder / "recs").rows


def test_what_is_trained_recommends_what_the_taste_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shop(tmp_path)
    trained(folder, "-e", "12", "-b", "16", "--optimizer", "adam", "-mu", ".9", "-mu1", ".99",
            "-alpha", ".04")  # fmt: skip
    rows, own = lists(folder), read_samples(folder / "input").rows
    right = [int(item[1:]) // 20 != int(user[1:]) % 2 for user in rows for item in rows[user][0]]
    assert np.mean(right) > 0.95
    assert not any({*rows[user][0]} & {*own[user][0]} for user in rows)
    network = read_network(folder / "gl.nc")
    index = read_index(folder / "input.features")
    [scores] = forward(network, [[index[item] for item in own["u0"][0]]])
    outputs = read_index(folder / "output.features")
    told = [scores[outputs[item]] for item in rows["u0"][0]]
    np.testing.assert_allclose(told, np.array(rows["u0"][1], float), atol=6e-4)  # of %4.3f
    assert (folder / "gl.run" / "manifest.json").is_file()
    assert network.denoising_p == pytest.approx(0.2)
    with pytest.raises(ConfigError, match=r"gl\.nc is there already"):
        trained(folder)
    said = capsys.readouterr().out
    assert said.count("next: ") == 1
    assert f"next: deeprec dsstne predict -n {folder}/gl.nc" in said


def test_until_the_network_is_there_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shop(tmp_path)
    trained(folder, "-e", "2", "-b", "64")
    whole = (folder / "gl.nc").read_bytes()
    (folder / "gl.nc").unlink()  # killed before it was written
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs: asked for 3, the run has 2"):
        trained(folder, "-e", "3", "-b", "64")
    trained(folder, "-e", "2", "-b", "64")
    said = " ".join(capsys.readouterr().out.split())
    assert "is finished already; there is nothing to resume" in said
    assert (folder / "gl.nc").read_bytes() == whole
    (folder / "gl.nc").unlink()
    identity = Prepared(folder / "gl.prepared").identity
    [asked] = read_data_sets(folder / "output.nc")
    fewer = sparse("gl_output", asked.width, [[0]] * asked.num_examples)
    write_data_sets(folder / "output.nc", [fewer])
    with pytest.raises(ConfigError, match="was trained on other data sets"):
        trained(folder, "-e", "2", "-b", "64")
    assert Prepared(folder / "gl.prepared").identity == identity


def test_another_output_is_learned_from_the_input(tmp_path: Path) -> None:
    folder = shop(tmp_path, asked="other")
    trained(folder, "-e", "12", "-b", "16", "--optimizer", "nesterov", "-mu", ".9", "-alpha", ".1")
    rows = lists(folder)
    right = [int(item[1:]) // 20 == int(user[1:]) % 2 for user in rows for item in rows[user][0]]
    assert np.mean(right) > 0.9
    assert {item[0] for features, _ in rows.values() for item in features} == {"j"}


def test_prepared_data_hold_every_example_once(tmp_path: Path) -> None:
    inputs = sparse("in", 128, [[5, 1, 5], [], [7]], [[1, 2, 3], [], [1]])
    outputs = sparse("out", 256, [[200], [3, 4], [7]])
    outputs.weights, outputs.attributes = (
        np.ones(3, np.float32),
        outputs.attributes | Attribute.WEIGHTED,
    )
    further = {"towns": sparse("towns", 3, [[2, 0, 2], [], [1]])}
    examples = Examples(inputs, outputs, further)
    assert prepare_data(tmp_path / "p", examples, weigh=False) == "by_kind"
    prepared = Prepared(tmp_path / "p")
    events = prepared.parts["train"].take(np.arange(3))
    assert events.offsets.tolist() == [0, 3, 5, 7]
    assert events.items.tolist() == [1, 5, 200, 3, 4, 7, 7]
    assert events.kinds is not None
    assert events.kinds.tolist() == [0, 0, 1, 1, 1, 0, 1]
    assert prepared.num_items == 256
    assert prepared.popularity[[5, 200, 7]].tolist() == [0, 1, 1]
    for model, learns in (("linear", "to rebuild"), ("sequence", "what comes next in")):
        words = (f"experiment={model}", "target=by_kind")
        told = small_shop.composed(tmp_path / "p", tmp_path / "run", *words)
        with pytest.raises(ConfigError, match=f"learns {learns} the events that it is shown"):
            Assembly(told, prepared)
    again = sparse("again", 128, [[1, 5], [], [7]])
    assert prepare_data(tmp_path / "q", Examples(inputs, again), weigh=False) == "reconstruct"
    assert prepared.vocabularies == {"towns": ["0", "1", "2"]}
    towns = prepared.attribute("towns", np.array([2, 0, 1]))
    assert (towns.values.tolist(), towns.offsets.tolist()) == ([1, 0, 2], [0, 1, 3, 3])


def test_weights_of_an_input_multiply_what_its_examples_show(tmp_path: Path) -> None:
    inputs, towns = sparse("in", 8, [[5, 1], [3], []]), sparse("towns", 4, [[2, 0], [1], [3]])
    for one, weights in ((inputs, [0.5, 2.0, 7.0]), (towns, [3.0, 0.0, 0.25])):
        one.attributes, one.weights = one.attributes | Attribute.WEIGHTED, np.float32(weights)
    outputs = sparse("out", 8, [[0], [4, 3], [7]])
    prepare_data(tmp_path / "p", Examples(inputs, outputs, {"towns": towns}), weigh=False)
    batches = Batches(Prepared(tmp_path / "p"), ByKind(), grouping=Grouping(8), seed=0)
    layers = [Hidden(name="a", units=3, activation="identity")]
    model = Layered(8, fields={"towns": 4}, layers=layers)
    [task] = model.tasks(model.arrange(batches.batch(0, 0), torch.Generator()))
    assert isinstance(task, Task)
    history, town, bias = (
        value.detach().numpy()
        for value in (
            model.state_dict()["inputs.0.tables.history"],
            model.state_dict()["inputs.0.tables.user:towns"],
            model.state_dict()["layers.0.bias"],
        )
    )
    rows = [
        0.5 * history[[5, 1]].sum(0) + 3.0 * town[[2, 0]].sum(0),
        2.0 * history[3],
        0.25 * town[3],
    ]
    expected = np.stack(rows) + bias
    np.testing.assert_allclose(task.encoded.hidden_BD.detach().numpy(), expected, atol=1e-6)


def test_an_input_of_numbers_alone_says_nothing_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = np.float32([0.5, 2.0, 7.0, 0.25])
    dense = DataSet("in", Attribute(0), DataType.FLOAT, (2,), values=numbers)
    prepare_data(tmp_path / "p", Examples(dense, sparse("out", 4, [[0], [1]])), weigh=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "'in': values other than 1 count as 1" in said
    assert "all examples have the same, and nothing is learned of it" in said


def test_data_sets_are_found_by_name_and_fit_their_layers(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    [data_set] = read_data_sets(folder / "input.nc")
    data_set.name = "other"
    write_data_sets(folder / "input.nc", [data_set])
    with pytest.raises(
        ConfigError, match="reads data set 'gl_input', and what is there is 'other'"
    ):
        trained(folder)
    data_set.name = "gl_input"
    write_data_sets(folder / "input.nc", [sparse("first", 128, [[1]]), data_set])
    told = json.loads((folder / "config.json").read_text())
    told["Layers"][2]["N"] = 64
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="layer 'Output' has N=64, and data set 'gl_output' is"):
        trained(folder)


def test_flags_and_definition_reach_the_run(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    told = json.loads((folder / "config.json").read_text())
    told["Layers"][2]["WeightNorm"] = 0.25
    (folder / "config.json").write_text(json.dumps(told))
    flags = "-e 2 -lambda1 .01 --alpha-interval 3 --alpha-multiplier .7 -alpha .5"
    trained(folder, *flags.split())
    run = open_run(folder / "gl.run", "last")
    assert run.config.optimizer is not None
    held = run.config.optimizer["constraints"]
    assert (held["table_l1_decay"], held["item_norm"]) == (0.01, 0.25)
    assert run.config.rate is not None
    assert (run.config.rate["every_epochs"], run.config.rate["factor"]) == (3, 0.7)
    weights = read_network(folder / "gl.nc").weight("Hidden", "Output").values
    assert weights is not None
    assert np.linalg.norm(weights, axis=0).max() <= 0.25 + 1e-6
    (folder / "gl.nc").unlink()
    shutil.rmtree(folder / "gl.run")
    (folder / "config.json").write_text(json.dumps({**told, "decay": 0.1}))
    with pytest.raises(ConfigError, match=r"AlphaInterval=3 and decay=0\.1 of the network both"):
        trained(folder, *flags.split())


def test_its_conventions_are_one_flag(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    (folder / "filter").write_text("u0\ti1,0:i2,100\n")
    trained(folder, "-e", "1", "--compatibility", "dsstne")
    config = open_run(folder / "gl.run").config
    assert config.compatibility == "dsstne"
    assert config.brake is not None
    told, flags = {}, ["-f", str(folder / "filter"), "-k", "20"]
    for name, more in {
        "exclude": [],
        "dsstne": ["--compatibility", "dsstne"],
        "multiply": ["--filter-mode", "multiply"],
    }.items():
        told[name] = lists(folder, *flags, *more)["u0"]
    assert told["dsstne"] == told["multiply"] != told["exclude"]
    assert told["dsstne"][0][0] == "i2"  # times 100


def test_flags_default_to_those_of_dsstne() -> None:
    sgd = Sgd(**Steps().part())
    assert (sgd.lr, sgd.of_table().lr, sgd.limits.weight_decay) == (0.025, 0.025, 0.0001)
    assert (Steps().epochs, Steps().batch, Steps().seed) == (40, 1024, 12134)
    assert sgd.rate(17, 20) == 1.0  # a rate that stays
    nesterov = Momentum(nesterov=True, **Steps(optimizer="nesterov", mu=0.9).part())
    assert (nesterov.momentum, nesterov.nesterov) == (0.9, True)


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_says_the_default_of_every_flag_that_may_be_left_out(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.run([name, "-h"])
    usage, _, meanings = capsys.readouterr().out.partition("options:")
    optional = re.findall(r"\[(-[^\s\]]+)\s", usage)  # those that take a value, and -c
    without = {"generate": "-c", "train": "-d", "predict": "-f"}.get(name)
    told = {}
    for line in re.split(r"\n  (?=-)", meanings)[1:]:
        flag, *words = line.split()
        told[flag] = " ".join(words)
    for flag in optional:
        assert flag == without or "default: " in told[flag]
    if name == "train":
        assert told["-e"] == "E epochs; default: 40"
        assert told["-alpha"] == "ALPHA learning rate; default: 0.025"


def test_the_network_that_is_written_keeps_what_the_definition_says(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    trained(folder, "-e", "1")
    network = read_network(folder / "gl.nc")
    assert [layer.data_set for layer in network.layers] == ["gl_input", "", "gl_output"]
    assert [layer.units for layer in network.layers] == [128, 8, 128]
    assert network.one_target == 1.0
    assert network.of_kind(LayerKind.HIDDEN)[0].sources == ["Input"]


def test_values_of_an_analog_output_weigh_its_targets(tmp_path: Path) -> None:
    inputs = sparse("in", 128, [[5, 1], [7]])
    outputs = sparse("out", 128, [[9, 2, 9], [3]], [[4, 1, 8], [0.5]])
    assert prepare_data(tmp_path / "p", Examples(inputs, outputs), weigh=True) == "by_kind"
    prepared = Prepared(tmp_path / "p")
    batches = Batches(prepared, ByKind(weigh=True), grouping=Grouping(8), seed=0)
    target = batches.batch(0, 0).target
    assert target is not None
    assert target.weights is not None
    assert target.values.tolist() == [2, 9, 3]
    assert target.weights.tolist() == [1, 8, 0.5]
    words = ("experiment=linear", "target.weigh=true")
    with pytest.raises(ConfigError, match="must be false with LinearAutoencoder"):
        Assembly(small_shop.composed(tmp_path / "p", tmp_path / "run", *words), prepared)


def test_the_data_scaled_error_follows_the_values(tmp_path: Path) -> None:
    """Two items are asked for alike, one at ten times the value: it scores higher."""
    rows, values = [[0]] * 40, [[10.0 if i % 2 else 1.0] for i in range(40)]
    asked = [[1 + i % 2] for i in range(40)]
    write_data_sets(tmp_path / "in.nc", [sparse("gl_input", 128, rows)])
    write_data_sets(tmp_path / "out.nc", [sparse("gl_output", 128, asked, values)])
    told = {**DEFINITION, "ErrorFunction": "DataScaledMarginalCrossEntropy"}
    (tmp_path / "c.json").write_text(json.dumps(told))
    words = f"-c {tmp_path}/c.json -i {tmp_path}/in.nc -o {tmp_path}/out.nc -n {tmp_path}/gl.nc"
    how = "-e 25 -b 10 --optimizer adam -mu .9 -mu1 .99 -alpha .06"
    command.run(["train", *words.split(), *how.split()])
    [scores] = forward(read_network(tmp_path / "gl.nc"), [[0]])
    # each is asked for by half of the users: p = w / (w + 1)
    np.testing.assert_allclose(scores[1:3], [1 / 2, 10 / 11], atol=0.05)


def test_zeros_that_are_to_be_ignored_cost_nothing(tmp_path: Path) -> None:
    folder = shop(tmp_path)
    [data_set] = read_data_sets(folder / "output.nc")
    data_set.attributes |= Attribute.SPARSE_IGNORE_ZERO
    write_data_sets(folder / "output.nc", [data_set])
    trained(folder, "-e", "1")
    run = open_run(folder / "gl.run")
    assert run.config.loss is not None
    assert (run.config.loss["zero_scale"], run.config.loss["one_scale"]) == (0.0, 1.0)
