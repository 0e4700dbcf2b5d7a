"""`experiment=dsstne_movielens20m` on a small file of the same form runs and judges as it says."""

from pathlib import Path
from typing import cast

import numpy as np

from deeprec.config import compose, configs_dir
from deeprec.data.store import Prepared
from deeprec.evaluate import evaluate
from deeprec.prepare import prepare
from deeprec.train import train
from deeprec.verb import EvaluateConfig, PrepareConfig, TrainConfig

USERS, FILMS = 40, 30


def ratings(folder: Path) -> Path:
    """Every user rates half of the films."""
    draw = np.random.default_rng(0)
    rows = [
        f"{user},{film},{draw.integers(1, 11) / 2},{1_000_000_000 + user * FILMS + film}"
        for user in range(1, USERS + 1)
        for film in sorted(draw.permutation(FILMS)[: FILMS // 2] + 1)
    ]
    folder.mkdir()
    (folder / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *rows, ""]))
    films = [f'{film},"Film {film} (1999)",Drama' for film in range(1, FILMS + 1)]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *films, ""]))
    return folder


def commands() -> list[list[str]]:
    """The words of each command in the comment of the experiment."""
    path = configs_dir() / "experiment" / "dsstne_movielens20m.yaml"
    comment = path.read_text().replace("\\\n#", "")
    lines = [line.removeprefix("#").split() for line in comment.splitlines()]
    return [words[1:] for words in lines if words[:1] == ["deeprec"]]


def test_its_own_commands_end_in_the_figures_that_dsstne_tells(tmp_path: Path) -> None:
    told = {"ml-20m": ratings(tmp_path / "ml-20m")}
    told |= {name: tmp_path / name.replace("/", "-") for name in ("prepared/ml20m", "runs/ml20m")}
    small = ["model.hidden_dims=[8,8,8]", "trainer.max_epochs=1", "logger.wandb=off"]

    def words(command: list[str]) -> list[str]:
        pairs = [word.partition("=") for word in command[1:]]
        return [f"{key}={told.get(value, value)}" for key, _, value in pairs]

    first, second, third = commands()
    prepare(cast(PrepareConfig, compose("prepare", words(first))))
    train(cast(TrainConfig, compose("train", [*words(second), *small])))
    report = evaluate(cast(EvaluateConfig, compose("evaluate", words(third))))
    protocol, figures = report["protocol"], report["systems"][0]["metrics"]
    assert protocol["exclude_seen"]
    assert protocol["split"]["holdout"] == 0.2
    parts = Prepared(tmp_path / "prepared-ml20m").parts
    assert sum(part.lengths.sum() for part in parts.values()) == USERS * FILMS // 2  # every rating
    for cutoff in (1, 10):
        assert 0.0 < figures[f"precision@{cutoff}"]["mean"] <= 1.0
