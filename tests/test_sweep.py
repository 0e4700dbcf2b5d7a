"""A sweep ends with a run that is as good as it says, and has seen validation alone."""

import os
import re
import shutil
import signal
import threading
import time
from dataclasses import asdict
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import small_shop
import standin
from deeprec.cli import main
from deeprec.config import compose
from deeprec.errors import ConfigError, DataError, DeeprecError
from deeprec.part import called
from deeprec.search.crew import Crew
from deeprec.search.worker import Ended, Validated
from deeprec.sweep import sweep
from deeprec.train import train
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.run import RunFolder, open_run
from deeprec.verb import SweepConfig, TrainConfig

SPACE = """\
# A shop of 24 items.
_target_: deeprec.search.space.Space
fixed: [target=after_cut, target.window_days=20, trainer.batch_users=16]
ranges:
  model.hidden_dims: [[4], [8], [128]]
  optimizer.lr: {low: 0.001, high: 0.1, log: true}
  loss: [softmax, marginal]
"""
WORDS = ("trainer.max_epochs=2", "target.cut_days=60", "trainer.validation_cutoff=5")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("data") / "prepared")


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "sweep").mkdir()
    (folder / "sweep" / "shop.yaml").write_text(SPACE)
    return folder


def told(prepared: Path, output: Path, configs: Path, *words: str) -> SweepConfig:
    given = (f"prepared={prepared}", f"output_dir={output}", "sweep=shop", *WORDS, *words)
    return cast(SweepConfig, compose("sweep", given, config_dir=configs))


@pytest.fixture(scope="module")
def swept(prepared: Path, configs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trials."""
    output = tmp_path_factory.mktemp("sweeps") / "shop"
    best = sweep(told(prepared, output, configs, "trials=3"))
    assert best.resolve() == (output / "best").resolve()
    return output


def scores(output: Path) -> dict[str, float]:
    """The best validation of each trial, from what the run wrote itself."""
    found = {}
    for path in sorted((output / "trials").glob("*/metrics.csv")):
        if rows := read_metrics(path):  # one that was stopped may have come to none
            found[path.parent.name] = max(float(row["val/ndcg@5"]) for row in rows)
    return found


def best_of(output: Path) -> str:
    """The name of the best trial."""
    return (output / "best").resolve().name


def test_the_best_run_is_the_best_and_whole(swept: Path) -> None:
    found = scores(swept)
    assert list(found) == ["0000", "0001", "0002"]
    run = open_run(swept / "best")
    assert run.finished
    assert run.checkpoint.score == max(found.values())
    assert best_of(swept) == max(found, key=lambda name: found[name])


def test_the_first_trial_is_the_defaults(swept: Path, prepared: Path, configs: Path) -> None:
    first = RunFolder(swept / "trials" / "0000").config
    places = (f"prepared={prepared}", f"output_dir={first.output_dir}", "logger.wandb=off")
    fixed = ("target=after_cut", "target.window_days=20", "trainer.batch_users=16")
    assert first == compose("train", [*places, *fixed, *WORDS], config_dir=configs)


def test_the_best_config_trains_to_the_same_score(swept: Path, tmp_path: Path) -> None:
    text = (swept / "experiment" / "best.yaml").read_text()
    best = RunFolder(swept / "best").config
    words = ["experiment=best", f"prepared={best.prepared}", f"output_dir={tmp_path / 'run'}"]
    again = cast(TrainConfig, compose("train", words, config_dir=swept))
    own = ("output_dir", "logger")
    assert {k: v for k, v in asdict(again).items() if k not in own} == {
        k: v for k, v in asdict(best).items() if k not in own
    }
    run = open_run(train(again))
    assert run.checkpoint.score == open_run(swept / "best").checkpoint.score
    assert f"validation ndcg@5 {run.checkpoint.score:.4f}" in text
    assert "ndcg@100" not in text + (swept / "sweep.html").read_text()


def test_of_the_others_configs_and_metrics_stay(swept: Path, tmp_path: Path) -> None:
    others = [
        path for path in (swept / "trials").glob("0???") if path != (swept / "best").resolve()
    ]
    assert len(others) == 2
    for path in others:
        assert not list((path / "checkpoints").iterdir())
        assert read_metrics(path / "metrics.csv")
        with pytest.raises(ConfigError, match="has no checkpoint yet"):
            open_run(path)
    shutil.copytree(others[0], tmp_path / "run")
    before = scores(swept)[others[0].name]
    train(TrainConfig(resume=str(tmp_path / "run")))  # trains it again
    assert open_run(tmp_path / "run").checkpoint.score == before


def test_the_page_says_what_was_found(swept: Path) -> None:
    text = (swept / "sweep.html").read_text()
    cells = re.findall(r'<th scope="row">(\d)</th><td>([\d.]+)</td>', text)
    best_first = sorted(scores(swept).items(), key=lambda one: -one[1])
    assert cells == [(str(int(name)), f"{score:.4f}") for name, score in best_first]
    assert (swept / "experiment" / "best.yaml").read_text() in unescape(text)
    assert "told from 12 trials on" in text
    assert "so far there are 3" in text
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "src=" not in text


def test_a_sweep_goes_on_and_no_other_goes_on_in_its_folder(
    swept: Path, prepared: Path, configs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shop"
    shutil.copytree(swept, output, symlinks=True)
    (output / "best").rename(output / ".best.tmp-1")  # killed before the last trial was shelved
    last = RunFolder(output / "trials" / ("0001" if best_of(swept) == "0000" else "0000"))
    shutil.copytree(swept / "best" / "checkpoints", last.checkpoints, dirs_exist_ok=True)
    sweep(told(prepared, output, configs, "trials=3"))
    assert (output / "best").readlink() == (swept / "best").readlink()
    assert not any(last.checkpoints.iterdir())
    assert not (output / ".best.tmp-1").is_symlink()
    sweep(told(prepared, output, configs, "trials=4"))
    found = scores(output)
    assert len(found) == 4
    assert scores(swept).items() <= found.items()
    with pytest.raises(ConfigError, match="holds a sweep with another setting of all runs"):
        sweep(told(prepared, output, configs, "trials=4", "trainer.bucket_lengths=true"))
    other = tmp_path / "other"
    standin.prepared_folder(other)
    with pytest.raises(ConfigError, match="holds a sweep with another prepared folder"):
        sweep(told(other, output, configs, "trials=4"))
    small_shop.make(tmp_path / "never again", repeats=False)  # the same events
    with pytest.raises(ConfigError, match="holds a sweep with another prepared folder"):
        sweep(told(tmp_path / "never again", output, configs, "trials=4"))


def test_the_holdout_is_never_read(
    swept: Path, prepared: Path, configs: Path, tmp_path: Path
) -> None:
    """Its bytes are nonsense here, and nothing changes."""
    copy = tmp_path / "prepared"
    shutil.copytree(prepared, copy)
    holdout = copy / "holdout.arrow"
    holdout.write_bytes(os.urandom(holdout.stat().st_size))
    sweep(told(copy, tmp_path / "shop", configs, "trials=1"))
    assert scores(tmp_path / "shop").items() <= scores(swept).items()


def test_workers_share_the_trials(
    swept: Path, prepared: Path, configs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "shop"
    sweep(told(prepared, output, configs, "trials=3", "workers=2", "keep=all"))
    found = scores(output)
    assert list(found) == ["0000", "0001", "0002"]
    assert found["0000"] == pytest.approx(scores(swept)["0000"], abs=1e-6)  # other threads
    assert all(open_run(output / "trials" / name).finished for name in found)
    assert "threads" not in (output / "experiment" / "best.yaml").read_text()


def test_a_trial_that_fails_is_told_and_the_sweep_goes_on(
    prepared: Path, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep").mkdir()
    rates = "optimizer.lr: [0.003, 1.0e+30]"
    (tmp_path / "sweep" / "shop.yaml").write_text(
        re.sub(r"optimizer.lr: .*", rates, SPACE).replace("[4], [8], [128]", "[8], [128]")
    )
    output = tmp_path / "shop"
    sweep(told(prepared, output, tmp_path, "trials=2"))
    said = capsys.readouterr().out
    page = (output / "sweep.html").read_text()
    failed = re.findall(r"trial +(\d)  failed  (.*)", said)
    assert failed
    assert all(reason.startswith("the loss became ") for _, reason in failed)
    assert f"2 trials, {len(failed)} failed" in said
    assert page.count("failed: ") == len(failed)
    assert "failed" not in (output / "best" / "status.json").read_text()


def test_a_sweep_whose_trials_all_fail_ends_soon(
    prepared: Path, configs: Path, tmp_path: Path
) -> None:
    config = told(prepared, tmp_path / "shop", configs, "trials=100", "target.window_days=300")
    with pytest.raises(DeeprecError, match=r"(?s)none of 5 trials has succeeded:.*window_days=300"):
        sweep(config)


def test_time_that_is_up_stops_a_run_that_counts_as_far_as_it_got(
    prepared: Path, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep's own clock jumps to its end when the run has validated twice."""
    output = tmp_path / "shop"
    metrics = output / "trials" / "0000" / "metrics.csv"

    def hours() -> float:
        return 7200.0 if metrics.exists() and len(read_metrics(metrics)) >= 2 else 0.0

    monkeypatch.setattr("deeprec.search.loop.time", SimpleNamespace(monotonic=hours))
    config = told(prepared, output, configs, "minutes=60", "trainer.max_epochs=100000")
    config.train += ["trainer.early_stopping_patience=null"]
    sweep(config)
    run = open_run(output / "best")
    assert run.finished
    assert run.checkpoint.score == max(scores(output).values())
    epochs = len(read_metrics(output / "best" / "metrics.csv"))
    assert 2 <= epochs < 100_000
    assert "time was up" in (output / "sweep.html").read_text()


def test_a_worker_that_dies_is_a_failed_trial(prepared: Path, tmp_path: Path) -> None:
    config = small_shop.settings(prepared, tmp_path / "run", "trainer.max_epochs=100000")
    crew = Crew(1, [])
    crew.start(0, config, tmp_path / "run.log")
    heard = []
    while crew.at_work:
        for number, message in crew.messages(60.0):
            heard.append(message)
            if isinstance(message, Validated):
                os.kill(crew._workers[number].process.pid or 0, signal.SIGKILL)
    assert isinstance(heard[0], Validated)
    assert heard[1:] == [Ended("its process was killed, as the system does where memory runs out")]
    assert "epoch   1/100000" in (tmp_path / "run.log").read_text()


def test_the_best_of_each_model_is_blended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = small_shop.make(tmp_path / "prepared", repeats=False)
    left_out = ("popularity", "ease", "ials", "graph_filter", "linear", "variational", "sequence")
    words = [f"prepared={prepared}", f"output_dir={tmp_path / 'all'}", "trials=2"]
    words += [f"sweep.new.{name}=null" for name in left_out]  # two stay
    best = open_run(sweep(cast(SweepConfig, compose("sweep", words))))
    blend = open_run(tmp_path / "all" / "blend")
    said = "".join(capsys.readouterr().out.split())
    assert "blendingthebestrunofeachof2models,whichcomesontopofthebudget" in said
    for member in blend.config.model["members"]:  # beside the trials that they came of
        assert f"({called(member)})" in said
    assert blend.finished
    assert blend.checkpoint.score is not None
    assert blend.checkpoint.score > (best.checkpoint.score or 0.0)
    page = (tmp_path / "all" / "sweep.html").read_text()
    assert f"blended, reach <strong>{blend.checkpoint.score:.4f}</strong>" in page
    before = RunFolder(tmp_path / "all" / "blend").status["id"]
    sweep(cast(SweepConfig, compose("sweep", words)))  # made again of what is there
    assert open_run(tmp_path / "all" / "blend").checkpoint.score == blend.checkpoint.score
    assert RunFolder(tmp_path / "all" / "blend").status["id"] != before
    sweep(cast(SweepConfig, compose("sweep", [*words, "blend=false"])))
    assert not (tmp_path / "all" / "blend").exists()


@pytest.mark.slow
def test_a_signal_lets_trials_save_and_keeps_everything(
    prepared: Path, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shop"
    words = [f"prepared={prepared}", f"output_dir={output}", "sweep=shop", *WORDS[1:]]
    command = ["sweep", "--config-dir", str(configs), *words, "trainer.max_epochs=3"]

    def interrupt() -> None:
        """When the second trial has begun."""
        while not (output / "trials" / "0001.log").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main([*command, "trials=100"]) == 130
    said = capsys.readouterr()
    assert "SIGINT: trials save and end, then the sweep" in said.out
    assert "trials are kept in" in said.err
    assert "Traceback" not in said.err
    assert open_run(output / "best").checkpoint.score == max(scores(output).values())
    kept = scores(output)
    assert main([*command, "trials=3"]) == 0
    assert kept.items() <= scores(output).items()
    assert len(scores(output)) >= 3


# what is refused


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["sweep", *words]) == 2
    return capsys.readouterr().err


def test_every_mistake_of_the_command_is_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "prepared=p", "minuts=3", "modle.width=3", "loss=marginel", "sead=2")
    assert said.splitlines() == [
        "deeprec sweep cannot start:",
        "  - minuts: unknown key; did you mean 'minutes'?",
        "  - sead: unknown key; did you mean 'seed'?",
        "  - minutes: missing; give minutes=30, or trials=20, or both",
        "  - loss: expected one of asymmetric, auto, contrastive_divergence, cosine, "
        "cosine_contrastive, hinge, marginal, regression, sampled_binary, sampled_softmax, "
        "softmax, squared, got 'marginel'; did you mean 'marginal'?",
        "  - modle: unknown key; did you mean 'model'?",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["minutes=0"], "minutes: expected more than 0, got 0"),
        (["trials=0"], "trials: expected 1 or more, got 0"),
        (["trials=3", "workers=0"], "workers: expected 1 or more, got 0"),
        (["trials=3", "resume=runs/x"], "resume: a sweep goes on when its command is given again"),
        (["trials=3", "sweep=liner"], "got 'liner'; did you mean 'linear'?"),
        (
            ["trials=3", "sweep=linear", "sweep.ranges.a=[1]"],
            "sweep.ranges: a: expected two or more different",
        ),
        (["trials=3", "-m"], "deeprec sweep is one command for all; leave -m out"),
    ],
)
def test_a_mistake_is_refused_with_the_way_out(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "prepared=p", *words)


def test_a_mistake_in_a_space_is_named_before_the_first_trial(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "shop.yaml").write_text(SPACE.replace("optimizer.lr", "optimizer.ler"))
    words = [f"prepared={prepared}", f"output_dir={tmp_path / 'out'}", "sweep=shop", "trials=3"]
    said = refused(capsys, "--config-dir", str(tmp_path), *words)
    assert "Adam has no such argument; did you mean 'lr'?" in said
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_sweep_is_left_alone(
    prepared: Path, configs: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis").write_text("ten years")
    with pytest.raises(ConfigError, match="is in the way"):
        sweep(told(prepared, tmp_path, configs, "trials=1"))


def test_data_without_validation_users_are_refused(configs: Path, tmp_path: Path) -> None:
    bare = small_shop.make(tmp_path / "bare", validated=False)
    with pytest.raises(DataError, match="a search must not see the holdout; prepare the events"):
        sweep(told(bare, tmp_path / "shop", configs, "trials=1"))
    assert not (tmp_path / "shop").exists()
