"""A blend of runs is a run: chosen on validation, whole in its folder, exported as one model."""

import json
import shutil
from pathlib import Path
from typing import cast

import pytest
import torch

import deeprec
import small_shop
from deeprec.blend import blend, cutoff_of
from deeprec.config import compose
from deeprec.data.dataset import JudgedBatches
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.evaluate import evaluate
from deeprec.export import export
from deeprec.train import train
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.run import open_run
from deeprec.trainer.validation import validate
from deeprec.verb import BlendConfig, EvaluateConfig, ExportConfig, TrainConfig

MEMBERS = {
    "own": ("model=own_frequency",),
    "near": ("model=item_to_item", "model.neighbours=200"),
    "neural": (
        "target=after_cut",
        "target.window_days=20",
        "target.cut_days=60",
        "model.hidden_dims=[8]",
        "trainer.max_epochs=3",
        "trainer.batch_users=16",
    ),
}


def trained(prepared: Path, output: Path, *words: str) -> Path:
    given = (f"prepared={prepared}", f"output_dir={output}", *words)
    return train(cast(TrainConfig, compose("train", given)))


def told(output: Path, *runs: Path) -> BlendConfig:
    names = ",".join(str(run) for run in runs)
    return cast(BlendConfig, compose("blend", [f"runs=[{names}]", f"output_dir={output}"]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture(scope="module")
def members(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    runs = tmp_path_factory.mktemp("runs")
    return [trained(prepared, runs / name, *words) for name, words in MEMBERS.items()]


@pytest.fixture(scope="module")
def blended(members: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of copies that are gone afterwards."""
    folder = tmp_path_factory.mktemp("blend")
    copies = [Path(shutil.copytree(run, folder / run.name)) for run in members]
    output = blend(told(folder / "all", *copies))
    for copy in copies:
        shutil.rmtree(copy)
    return output


def validation_of(run: Path) -> float:
    opened = open_run(run)
    batches = JudgedBatches(
        Prepared(opened.prepared), "validation", batch_users=64, exclude_seen=False
    )
    score = validate(opened.model, batches, exclude_seen=False, device=torch.device("cpu"))
    assert score is not None
    return score


def test_no_member_is_better_on_validation(blended: Path, members: list[Path]) -> None:
    assert validation_of(blended) >= max(validation_of(run) for run in members)
    assert open_run(blended).checkpoint.score == pytest.approx(validation_of(blended))


def test_weights_are_best_by_lists_of_the_length_that_is_asked(
    members: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = told(tmp_path / "five", *members)
    config.cutoff = 5
    five = blend(config)
    judged = ["part=validation", "baselines=[]", "examples=0", "slices=[]", "cutoffs=[5]"]
    both = [f"run={five}", f"compare=[{members[0]}]", f"output_dir={tmp_path / 'report'}"]
    printed = capsys.readouterr().out
    report = evaluate(cast(EvaluateConfig, compose("evaluate", [*both, *judged])))
    together, own = (system["metrics"]["ndcg@5"]["mean"] for system in report["systems"])
    assert together > own
    assert "diversity.embedding@5" not in report["systems"][0]["metrics"]  # of tables side by side
    assert "ndcg@5" in printed
    assert f"{together:.4f}" in printed  # as evaluation counts it
    score = validation_of(five)  # of any run, so that metrics.csv and sweeps compare the same
    assert f"blend: weights best by ndcg@5, validation ndcg@100 {score:.4f}" in printed
    assert open_run(five).config.model["cutoff"] == 5


def test_a_run_goes_by_lists_of_the_length_that_it_is_told(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(prepared, tmp_path / "run", "model=popularity", "trainer.validation_cutoff=5")
    judged = ["part=validation", "baselines=[]", "examples=0", "slices=[]", "cutoffs=[5]"]
    words = [f"run={run}", f"output_dir={tmp_path / 'report'}", *judged]
    report = evaluate(cast(EvaluateConfig, compose("evaluate", words)))
    opened = open_run(run)
    assert opened.checkpoint.score == report["systems"][0]["metrics"]["ndcg@5"]["mean"]
    assert f"validation ndcg@5 {opened.checkpoint.score:.4f}" in capsys.readouterr().out
    assert float(read_metrics(run / "metrics.csv")[-1]["val/ndcg@5"]) == opened.checkpoint.score
    assert cutoff_of(opened.config) == 5  # of a blend that it is in
    other = trained(prepared, tmp_path / "other", "model=item_to_item")
    with pytest.raises(ConfigError, match=r"judged by lists of different length.* cutoff=5"):
        blend(told(tmp_path / "both", run, other))


@pytest.mark.slow
def test_it_is_exported_and_evaluated_without_its_members(blended: Path, tmp_path: Path) -> None:
    judged = [f"run={blended}", "baselines=[]", "examples=0"]
    report = evaluate(cast(EvaluateConfig, compose("evaluate", judged)))
    assert report["systems"][0]["metrics"]["ndcg@20"]["mean"] > 0.0
    bundle = tmp_path / "bundle"
    words = [f"run={blended}", f"output_dir={bundle}"]
    export(cast(ExportConfig, compose("export", words)))  # compares with what was evaluated
    answer = deeprec.load(bundle).recommend([[]], k=3)[0]
    assert len(answer.item_ids) == 3


def test_it_does_not_say_that_it_is_solved(
    members: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blend(told(tmp_path / "all", *members))
    said = capsys.readouterr().out
    assert "the members are trained already: loss, optimizer and target are not used" in " ".join(
        said.split()
    )
    assert "this model is solved" not in said


def test_runs_of_different_folders_are_refused(members: list[Path], tmp_path: Path) -> None:
    other = small_shop.make(tmp_path / "other", validated=False)
    foreign = trained(other, tmp_path / "foreign", "model=popularity")
    with pytest.raises(ConfigError, match="were trained on different prepared folders"):
        blend(told(tmp_path / "both", members[0], foreign))
    assert not (tmp_path / "both").exists()


def test_a_blend_that_is_no_better_is_not_written(members: list[Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(members[0], tmp_path / "copy"))
    with pytest.raises(ConfigError, match="alone is as good on validation as any blend of these"):
        blend(told(tmp_path / "same", members[0], copy))
    assert not (tmp_path / "same").exists()


def test_a_blend_without_its_checkpoint_is_not_gone_on_with(
    blended: Path, members: list[Path], tmp_path: Path
) -> None:
    own = shutil.ignore_patterns("wandb")  # what it leaves there, it writes when it likes
    stopped = Path(shutil.copytree(blended, tmp_path / "stopped", ignore=own))
    shutil.rmtree(stopped / "checkpoints")
    (stopped / "checkpoints").mkdir()
    (stopped / "manifest.json").unlink()
    with pytest.raises(
        ConfigError, match=r"weights from elsewhere .* stopped before they were in it"
    ):
        train(TrainConfig(resume=str(stopped)))
    assert not json.loads((stopped / "status.json").read_text())["resumable"]
    given = {"runs": [str(one) for one in members[:2]], "weights": [0.5, 0.5]}
    again = blend(BlendConfig(output_dir=str(stopped), **given))  # takes its place
    assert open_run(again).finished


def test_one_run_is_no_blend(members: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs: expected two or more"):
        told(tmp_path / "one", members[0])


def test_a_run_beside_itself_is_no_blend(members: list[Path], tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.symlink_to(members[0])
    with pytest.raises(ConfigError, match=f"runs: {again} stands there twice"):
        blend(told(tmp_path / "one", members[0], members[1], again))
    assert not (tmp_path / "one").exists()
