"""Outputs with values, dense ones and weighted examples, trained as the errors of DSSTNE say."""

import json
from pathlib import Path

import numpy as np
import pytest

from deeprec.dsstne import command
from deeprec.dsstne.data_set import (
    Attribute,
    DataSet,
    DataType,
    read_data_sets,
    sparse,
    write_data_sets,
)
from deeprec.dsstne.network_file import read_network
from deeprec.dsstne.validate import validate
from deeprec.errors import ConfigError, DataError
from deeprec.trainer.run import open_run
from numpy_network import forward

COUNT = 48


def dense(name: str, rows: np.ndarray) -> DataSet:
    values = rows.astype(np.float32).reshape(-1)
    return DataSet(name, Attribute(0), DataType.FLOAT, (rows.shape[1],), values=values)


def definition(path: Path, error: str, activation: str, **more: object) -> Path:
    told = {
        "ErrorFunction": error,
        "Layers": [
            {"Name": "Input", "N": "auto", "DataSet": "gl_input", "Sparse": True},
            {"Name": "Hidden", "N": 4, "Activation": "Linear"},
            {"Name": "Output", "N": "auto", "DataSet": "gl_output", "Activation": activation},
        ],
        **more,
    }
    path.write_text(json.dumps(told))
    return path


def trained(folder: Path, outputs: DataSet, error: str, activation: str) -> np.ndarray:
    """What the trained network says of everybody, who are all alike."""
    write_data_sets(folder / "in.nc", [sparse("gl_input", 128, [[0]] * COUNT)])
    write_data_sets(folder / "out.nc", [outputs])
    path = definition(folder / "c.json", error, activation)
    words = f"-c {path} -i {folder}/in.nc -o {folder}/out.nc -n {folder}/gl.nc"
    how = "-e 30 -b 12 --optimizer adam -mu .9 -mu1 .99 -alpha .05 -lambda 0"
    command.run(["train", *words.split(), *how.split()])
    return forward(read_network(folder / "gl.nc"), [[0]])[0]


WANTED = np.array([0.0, 0.75, -0.5, 0.0, 1.5])


@pytest.mark.parametrize(
    ("error", "activation", "best"),
    [
        ("L2", "Linear", WANTED),
        ("L1", "Linear", WANTED),
        ("L2", "Tanh", WANTED.clip(-1, 1)),
        ("CrossEntropy", "Sigmoid", np.array([0.0, 0.75, 0.2, 0.0, 1.0])),
        ("CrossEntropy", "SoftMax", np.array([0.0, 0.75, 0.2, 0.0, 1.0]) / 1.95),
    ],
)
def test_a_dense_output_is_learned_as_it_is(
    error: str, activation: str, best: np.ndarray, tmp_path: Path
) -> None:
    wanted = best if activation in ("Sigmoid", "SoftMax") else WANTED
    rows = np.zeros((COUNT, 128))
    rows[:, :5] = wanted
    found = trained(tmp_path, dense("gl_output", rows), error, activation)
    np.testing.assert_allclose(found[:5], best, atol=0.09)


def test_values_of_a_sparse_output_are_read_by_the_squared_error(tmp_path: Path) -> None:
    outputs = sparse("gl_output", 128, [[1, 2]] * COUNT, [[0.75, -0.5]] * COUNT)
    found = trained(tmp_path, outputs, "L2", "Linear")
    np.testing.assert_allclose(found[:3], [0.0, 0.75, -0.5], atol=0.05)


def test_values_of_a_sparse_output_are_1_to_a_cross_entropy(tmp_path: Path) -> None:
    outputs = sparse("gl_output", 128, [[1], [2]] * (COUNT // 2), [[9.0], [0.1]] * (COUNT // 2))
    found = trained(tmp_path, outputs, "CrossEntropy", "Sigmoid")
    np.testing.assert_allclose(found[1:3], [0.5, 0.5], atol=0.06)


def test_an_example_counts_as_it_weighs(tmp_path: Path) -> None:
    """Half want one column, half another, at three times the weight; two unique rows, indexed."""
    outputs = sparse("gl_output", 128, [[1], [2]])
    outputs.attributes |= Attribute.WEIGHTED | Attribute.INDEXED
    outputs.weights = np.array([0.5, 1.5], np.float32)
    outputs.index = np.array([0, 1] * (COUNT // 2), np.uint32)
    found = trained(tmp_path, outputs, "CrossEntropy", "Sigmoid")
    np.testing.assert_allclose(found[1:3], [0.25, 0.75], atol=0.06)
    [again] = read_data_sets(tmp_path / "out.nc")
    assert again.example_weights is not None
    assert again.example_weights.tolist() == [0.5, 1.5] * (COUNT // 2)


def test_values_that_are_no_share_are_refused(tmp_path: Path) -> None:
    rows = np.full((COUNT, 128), 1.25)
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], got 1\.25; scale it, or take"):
        trained(tmp_path, dense("gl_output", rows), "CrossEntropy", "Sigmoid")


@pytest.mark.parametrize("error", ["L1", "L2", "L2Hinge", "Hinge"])
def test_gradients_of_values_are_those_of_the_loss(error: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    rows = np.where(draw.random((6, 128)) < 0.3, draw.normal(size=(6, 128)) + 3, 0.0)
    outputs = dense("gl_output", rows)
    outputs.weights = draw.random(6).astype(np.float32)
    outputs.attributes |= Attribute.WEIGHTED
    write_data_sets(tmp_path / "in.nc", [sparse("gl_input", 128, [[i] for i in range(6)])])
    write_data_sets(tmp_path / "out.nc", [outputs])
    path = definition(tmp_path / "c.json", error, "Elu", DeltaBoost={"one": 2.0, "zero": 1.0})
    found = validate(definition=path, inputs=[tmp_path / "in.nc"], outputs=[tmp_path / "out.nc"])
    assert len(found) > 3
    assert all(one.is_right for one in found)


def test_a_hinge_becomes_the_regression_that_it_is(tmp_path: Path) -> None:
    rows = np.where(np.arange(128) < 3, 1.0, -1.0) * np.ones((COUNT, 1))
    found = trained(tmp_path, dense("gl_output", rows), "Hinge", "Tanh")
    assert (found[:3] > 0.9).all()
    assert (found[3:] < -0.9).all()
    loss = open_run(tmp_path / "gl.run").config.loss
    assert loss is not None
    assert (loss["error"], loss["output"], loss["values"]) == ("hinge", "tanh", True)


def test_a_softmax_cannot_ignore_zeros(tmp_path: Path) -> None:
    outputs = sparse("gl_output", 128, [[1]] * COUNT)
    outputs.attributes |= Attribute.SPARSE_IGNORE_ZERO
    with pytest.raises(ConfigError, match="in a softmax every column competes"):
        trained(tmp_path, outputs, "CrossEntropy", "SoftMax")
