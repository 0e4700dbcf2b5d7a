"""Every space that comes with deeprec holds, end by end; so does the best of a solved model."""

from pathlib import Path

import pytest

from deeprec import config
from deeprec.composition import choices
from deeprec.config import compose
from deeprec.search.experiment import experiment
from deeprec.search.space_plan import SpacePlan
from deeprec.verb import SweepConfig, TrainConfig

SPACES = [one for one in choices("sweep", [config.configs_dir()]) if one != "auto"]


def plan_words(space: str) -> SweepConfig:
    found = compose("sweep", [f"sweep={space}", "prepared=p", "trials=1"])
    assert isinstance(found, SweepConfig)
    return found


@pytest.mark.parametrize("space", SPACES)
def test_train_takes_every_end_of_every_range(space: str) -> None:
    swept = plan_words(space)
    with config.opened("train") as composer:
        plan = SpacePlan(swept, config.instantiate(swept.sweep), composer)
        plan.refuse_mistakes()
        tried = [f"the ranges of {space}", *plan.defaults()]
    most = min(3, 1 + len(plan.ranges))
    assert len(tried) >= most  # most settings have a default inside their range


@pytest.mark.parametrize("model", ["ease", "ials", "item_to_item"])
def test_the_best_config_of_a_solved_model_is_an_experiment_that_trains_it(
    model: str, tmp_path: Path
) -> None:
    """A run of a solved model knows no loss, optimizer and target, and its file says so."""
    words = [f"model={model}", "model.history_weighting=log_count", "trainer.max_epochs=7"]
    run = compose("train", ["prepared=p", "output_dir=o", *words])
    assert isinstance(run, TrainConfig)
    run.loss = run.optimizer = run.target = None
    with config.opened("train") as composer:
        text = experiment(run, composer, own_threads=False)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "best.yaml").write_text(f"# @package _global_\n# Best.\n{text}")
    given = ["experiment=best", "prepared=p", "output_dir=o"]
    assert compose("train", given, config_dir=tmp_path) == run
