"""Nearest neighbours of items and users, held against every pair compared in numpy."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from deeprec import config
from deeprec.batch import Batch, Jagged
from deeprec.data.judge import judged_batch
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.model.rank import rank
from deeprec.neighbours import neighbours
from deeprec.train import train
from deeprec.trainer.run import open_run
from deeprec.verb import NeighboursConfig
from small_shop import composed, make


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neighbours")
    prepared = make(folder / "prepared", repeats=False)
    words = ("model.hidden_dims=[8]", "trainer.max_epochs=2", "logger.wandb=off")
    train(composed(prepared, folder / "run", *words))
    return folder / "run"


def found(run: Path, output: Path, *words: str) -> dict[str, list[list[str]]]:
    given = (f"run={run}", f"output={output}", *words)
    neighbours(cast(NeighboursConfig, config.compose("neighbours", given)))
    lines = [line.split("\t") for line in output.read_text().splitlines()]
    return {name: [one.split(":") for one in told.split(" ")] for name, told in lines}


def compared(vectors: np.ndarray, k: int) -> list[list[int]]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()


@pytest.mark.parametrize("similarity", ["product", "cosine"])
def test_items_near_an_item_are_those_of_all_pairs(
    run: Path, tmp_path: Path, similarity: str
) -> None:
    words = ("k=5", "batch=7", f"similarity={similarity}", "score_precision=6")
    told = found(run, tmp_path / "items", *words, f"vectors={tmp_path / 'vectors'}")
    vectors = open_run(run).model.item_weight.detach().double().numpy()
    if similarity == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"i{i:02}" for i in range(24)]
    assert list(told) == ids
    for row, near in enumerate(compared(vectors, 5)):
        assert [name for name, _ in told[ids[row]]] == [ids[i] for i in near]
        scores = [float(score) for _, score in told[ids[row]]]
        np.testing.assert_allclose(scores, vectors[near] @ vectors[row], atol=1e-5)
    name, numbers = (tmp_path / "vectors").read_text().splitlines()[3].split("\t")
    assert name == "i03"
    np.testing.assert_allclose([float(one) for one in numbers.split(" ")], vectors[3], rtol=1e-4)


def test_users_near_a_user_have_what_the_model_says_alike(run: Path, tmp_path: Path) -> None:
    told = found(run, tmp_path / "users", "of=users", "k=3", "keys_only=true")
    opened, prepared = open_run(run), Prepared(run.parent / "prepared")
    batch = judged_batch(prepared, np.arange(60), "holdout", with_target=False)
    attributes = {name: (one.values, one.offsets) for name, one in batch.attributes.items()}
    history = batch.history
    with torch.no_grad():
        encoded = opened.model.encode(history.values, history.offsets, batch.known_ages, attributes)
    vectors = encoded.hidden_BD.double().numpy()
    for row, near in enumerate(compared(vectors, 3)):
        assert [name for [name] in told[f"u{row:02}"]] == [f"u{i:02}" for i in near]
    same_taste = [int(name[1:]) % 2 == int(user[1:]) % 2 for user in told for [name] in told[user]]
    assert np.mean(same_taste) > 0.9


def test_there_are_no_more_than_all_others(run: Path, tmp_path: Path) -> None:
    assert {len(row) for row in found(run, tmp_path / "all", "k=500").values()} == {23}


def solved(run: Path, model: str, output: Path) -> Path:
    train(composed(run.parent / "prepared", output, f"model={model}", "logger.wandb=off"))
    return output


@pytest.mark.parametrize("model", ["ease", "item_to_item"])
def test_items_near_an_item_are_what_it_says_alone(run: Path, tmp_path: Path, model: str) -> None:
    path = solved(run, model, tmp_path / model)
    told = found(path, tmp_path / "items", "k=4", "score_precision=6")
    opened, alone = open_run(path).model, torch.arange(24)
    one_each = Batch(alone, Jagged(alone, torch.arange(25)))
    items, scores = rank(opened, one_each, 4, exclude_seen=True)
    for row, near in enumerate(told.values()):
        assert [name for name, _ in near] == [f"i{item:02}" for item in items[row].tolist()]
        np.testing.assert_allclose([float(score) for _, score in near], scores[row], atol=1e-5)
    assert {len(near) for near in told.values()} == {4}
    with pytest.raises(ConfigError, match=r"of=users: the model of .* has no vectors"):
        found(path, tmp_path / "none", "of=users")


def test_of_a_model_that_tells_no_items_apart_nothing_is_near(run: Path, tmp_path: Path) -> None:
    path = solved(run, "popularity", tmp_path / "popularity")
    with pytest.raises(ConfigError, match="no vectors of items and users, and no table"):
        found(path, tmp_path / "none")
