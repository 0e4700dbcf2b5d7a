"""A run trains, is refused when it must be, and goes on as if it had never stopped."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from rich.table import Table
from safetensors.torch import load_file
from torch import nn

import small_shop
import standin
from deeprec import disk, folder
from deeprec.batch import Task
from deeprec.config import compose
from deeprec.data.store import Prepared
from deeprec.errors import (
    ConfigError,
    DataError,
    IntegrityError,
    Interrupted,
    NonFiniteError,
    ResourceError,
)
from deeprec.model.autoencoder import Autoencoder
from deeprec.train import train
from deeprec.trainer import checkpoint, memory
from deeprec.trainer.callback import Keeper
from deeprec.trainer.facts import trained_model
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Adam, RowwiseAdagrad
from deeprec.trainer.run import RunFolder, open_run
from deeprec.trainer.saving import Saver
from deeprec.verb import TrainConfig
from deeprec.work import Work


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("data") / "prepared")


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    return load_file(last / "weights.safetensors") | load_file(last / "optimizer.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def scores(run: Path) -> list[tuple[str, str, str]]:
    rows = read_metrics(run / "metrics.csv")
    return [(row["step"], row["loss"], row["val/ndcg@100"]) for row in rows]


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs without interruption."""
    return train(small_shop.settings(prepared, tmp_path_factory.mktemp("runs") / "whole"))


def test_a_run_folder_is_whole_and_opens_without_the_data(whole: Path, prepared: Path) -> None:
    manifest = folder.verify(whole, "run")
    assert {"config.yaml", "environment.json", "prepared.json", "metrics.csv"} <= set(
        manifest["files"]
    )
    assert json.loads((whole / "status.json").read_text())["state"] == "finished"
    run = open_run(whole)
    assert run.prepared == prepared
    assert run.config.seed == 1
    rows = read_metrics(whole / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    best = max(float(row["val/ndcg@100"]) for row in rows)
    assert run.checkpoint.score == best
    assert open_run(whole, "last").checkpoint.step == 16
    assert not run.model.training  # type: ignore[attr-defined]


def test_training_learns_what_the_data_holds(whole: Path, prepared: Path, tmp_path: Path) -> None:
    still = ("optimizer.lr=1e-9", "trainer.max_epochs=1")
    untrained = open_run(train(small_shop.settings(prepared, tmp_path / "run", *still)))
    trained = open_run(whole)
    assert untrained.checkpoint.score is not None
    assert trained.checkpoint.score is not None
    assert trained.checkpoint.score > untrained.checkpoint.score + 0.05


@pytest.mark.parametrize(
    ("loss", "begins_at_0"), [("squared", True), ("cosine", True), ("softmax", False)]
)
def test_the_bias_begins_at_log_odds_only_where_the_loss_reads_scores_so(
    prepared: Path, tmp_path: Path, loss: str, begins_at_0: bool
) -> None:
    words = f"loss={loss}", "model.reconstruction=0"
    config = small_shop.settings(prepared, tmp_path / "run", *words)
    bias_V = Work(config, Prepared(prepared)).learner.recommender.item_bias
    assert bool((bias_V == 0.0).all()) is begins_at_0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["loss=cosine_contrastive"], ["loss: cosine_contrastive needs"]),
        (
            ["loss=cosine", "loss.exclude_self=true", "loss.gram_items=25"],
            [
                "model.reconstruction: must be 0 with Cosine",
                "loss.exclude_self: must be false or null",
                "loss.gram_items: must be at most the 24",
                "loss.gram_items: needs a model with one task",
            ],
        ),
        (
            ["loss=squared", "loss.gram_items=5"],
            ["loss.gram_items: needs a model with one task", "must be 0 with Squared, to which"],
        ),
        (
            ["loss=sampled_softmax", "loss.negatives=5", "loss.pool=25"],
            ["loss.pool: must be at most the 24 items of the catalog, got 25; draw fewer, or set"],
        ),
        (
            ["loss=sampled_binary", "loss.negatives=5", "loss.pool=25"],
            ["loss.pool: must be at most the 24"],
        ),
        (["loss=regression", "loss.output=identity"], ["model.reconstruction: must be 0 with"]),
        (
            [
                "loss=squared",
                "loss.gram_items=5",
                "model.tied=true",
                "model.repeat_scores=false",
                "model.reconstruction=0",
            ],
            ["loss.gram_items: cannot keep a Gram matrix"],
        ),
    ],
)
def test_a_loss_that_cannot_train_the_model_is_refused_before_a_step(
    prepared: Path, tmp_path: Path, words: list[str], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as refusal:
        Work(small_shop.settings(prepared, tmp_path / "run", *words), Prepared(prepared))
    assert len(str(refusal.value).splitlines()) == 1 + len(said)
    for one in said:
        assert one in str(refusal.value)


def test_too_little_room_for_all_checkpoints_is_told_before_training(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = Work(small_shop.settings(prepared, tmp_path / "run"), Prepared(prepared))
    saver = Saver(tmp_path / "run" / "checkpoints", {}, lambda progress: None)
    (tmp_path / "one").mkdir()
    saved = checkpoint.save(tmp_path / "one", work.learner, None, {})
    files = saved.glob("*.safetensors")
    tensors = sum(one.nbytes for file in files for one in load_file(file).values())

    def said(free: float, saves: int | None) -> str:
        monkeypatch.setattr(disk, "free_bytes", lambda path: int(free * tensors))
        capsys.readouterr()
        saver.refuse_without_room(work.learner, saves)
        return " ".join(capsys.readouterr().out.split())

    assert "no room for all" not in said(4.1, None)
    assert "no room for all" not in said(1.1, 1)
    for free, saves in ((3.5, None), (1.5, 2)):
        told = said(free, saves)
        assert "no room for all of these, and the run may end there" in told
        assert "optimizer=rowwise_adagrad" in told
        assert "trainer.on_disk_full=continue" in told
    with pytest.raises(ResourceError, match="no room on this disk"):
        said(0.5, None)


@pytest.mark.parametrize(("model", "chosen"), [("autoencoder", "Softmax"), ("linear", "Cosine")])
def test_a_run_keeps_the_loss_that_auto_chose(
    prepared: Path, tmp_path: Path, model: str, chosen: str
) -> None:
    told = [f"prepared={prepared}", f"output_dir={tmp_path / 'run'}", "logger.wandb=off"]
    words = ["experiment=linear"] if model == "linear" else []
    config = compose("train", [*told, *words, "loss=auto", "trainer.max_epochs=1"])
    assert isinstance(config, TrainConfig)
    run = train(config)
    assert open_run(run).config.loss["_target_"].endswith(f".{chosen}")
    assert train(TrainConfig(resume=str(run))) == run
    again = [*told, *words, "trainer.max_epochs=1", "resume=auto"]
    assert train(compose("train", [*again, "loss=auto"])) == run  # type: ignore[arg-type]


def test_auto_goes_on_with_no_loss_that_it_never_chooses(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = [f"prepared={prepared}", f"output_dir={run}", "logger.wandb=off", "trainer.max_epochs=1"]
    train(compose("train", [*told, "loss=hinge"]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="loss=auto, which never chooses what the run has, hinge"):
        train(compose("train", [*told, "loss=auto", "resume=auto"]))  # type: ignore[arg-type]


def test_a_size_in_interactions_goes_before_the_default_in_users(
    prepared: Path, tmp_path: Path
) -> None:
    config = small_shop.settings(prepared, tmp_path / "run", "trainer.batch_interactions=400")
    assert len(Work(config, Prepared(prepared)).data.training) == 6  # 60 users of 40 events


@pytest.mark.parametrize(
    ("words", "users"),
    [((), 256), (("trainer.batch_users=64",), 64), (("trainer.batch_interactions=400",), 10)],
)
def test_the_optimizer_knows_how_many_users_share_a_step(
    prepared: Path, tmp_path: Path, words: tuple[str, ...], users: int
) -> None:
    """60 users of 40 events; a size in users counts though there be fewer."""
    told = ("model.hidden_dims=[8]", "logger.wandb=off", *words)
    work = Work(small_shop.composed(prepared, tmp_path / "run", *told), Prepared(prepared))
    assert isinstance(work.learner, Training)
    [layers, *_] = work.learner.optimizer.build(work.learner.model)  # type: ignore[arg-type]
    assert layers.param_groups[0]["lr"] == pytest.approx(0.003 * math.sqrt(users / 256))


def test_the_plan_advises_settings_that_the_run_has(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [f"prepared={prepared}", f"output_dir={tmp_path / 'run'}", "experiment=linear"]
    config = compose("train", [*told, "trainer.batch_interactions=400"])
    assert isinstance(config, TrainConfig)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10)
    with pytest.raises(ResourceError) as refusal:
        Work(config, Prepared(prepared))
    assert "model.width" in str(refusal.value)
    assert "trainer.batch_interactions" in str(refusal.value)
    assert "hidden_dims" not in str(refusal.value)
    assert "batch_users" not in str(refusal.value)


def test_a_batch_weighs_as_many_users_as_it_has_in_the_loss_of_an_epoch(
    prepared: Path, tmp_path: Path
) -> None:
    training = Work(small_shop.settings(prepared, tmp_path / "run"), Prepared(prepared)).learner
    for loss, users in ((1.0, 30), (4.0, 10)):
        training.count_loss(torch.tensor(loss), users)
    assert training.mean_loss() == pytest.approx((1.0 * 30 + 4.0 * 10) / 40)
    assert training.progress.loss_users == 0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    whole: Path, prepared: Path, tmp_path: Path
) -> None:
    assert same_weights(whole, train(small_shop.settings(prepared, tmp_path / "again")))
    other = train(small_shop.settings(prepared, tmp_path / "other", "seed=2"))
    assert not same_weights(whole, other)


SEQUENCE = ("model=sequence_encoder", "model.width=8", "model.max_events=10")


class Note(Keeper):
    """Keeps what each step is asked."""

    seen: ClassVar[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        self.seen.append(batch.asked[0].target.values)
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)


def test_threads_change_no_batch_and_no_weight_by_more_than_rounding(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeprec.work.Keeper", Note)
    before, runs, seen = torch.get_num_threads(), [], []
    try:
        for number in (1, 2):
            words = (f"trainer.threads={number}", "model.hidden_dims=[256]", "trainer.max_epochs=2")
            monkeypatch.setattr(Note, "seen", [])
            runs.append(
                weights(train(small_shop.settings(prepared, tmp_path / f"{number}", *words)))
            )
            seen.append(Note.seen)
    finally:
        torch.set_num_threads(before)
    assert len(seen[0]) == 8
    assert all(torch.equal(*both) for both in zip(*seen, strict=True))
    for name, one in runs[0].items():
        torch.testing.assert_close(one, runs[1][name], rtol=1e-3, atol=1e-4)


class Stop(Keeper):
    """Asks a run to stop as a signal would, after some steps."""

    after = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        if module.progress.step == self.after:
            signal.raise_signal(signal.SIGTERM)
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)


RISING = "model.hidden_dims=[8]", "model.code_dim=4", "model.beta=1", "model.anneal_steps=11"
TURNS = "model.width=8", "model.code_dim=4", "model.encoder_steps=3", "model.decoder_steps=2"
HIDDEN = "_target_: deeprec.model.hidden.Hidden,name: a,units: 6,batch_norm: true,dropout: 0.2"
LAYERED = "model=layered", f"model.layers=[{{{HIDDEN},sparseness: 0.1,sparseness_weight: 1.0}}]"


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("optimizer=adam",), (4, 5, 11)),
        (("optimizer=adam",), (8,)),
        (("optimizer=rowwise_adagrad",), (6,)),
        (SEQUENCE, (5,)),
        (("model=variational", *RISING), (5, 9)),  # while the weight of the divergence rises
        (("model=recvae", *TURNS), (3, 6, 9)),  # before and after a renewal, and within turns
        ((*LAYERED, "optimizer=nesterov"), (5,)),  # with the statistics of batch norm
        ((*LAYERED, "optimizer=adadelta"), (9,)),
        (("loss=sampled_softmax", "trainer.prefetch_processes=2"), (6,)),
    ],
)
def test_a_resumed_run_ends_as_one_that_was_never_interrupted(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: tuple[int, ...],
    words: tuple[str, ...],
) -> None:
    alone = "trainer.prefetch_processes=0"  # whoever makes the batches, they are the same
    truth = train(small_shop.settings(prepared, tmp_path / "truth", *words, alone))
    run = tmp_path / "run"
    monkeypatch.setattr("deeprec.work.Keeper", Stop)
    config = small_shop.settings(prepared, run, *words)
    ids = set()
    for after in steps:
        monkeypatch.setattr(Stop, "after", after)
        with pytest.raises(Interrupted, match=f"after step {after}") as stopped:
            train(config)
        assert stopped.value.exit_code == 143
        status = json.loads((run / "status.json").read_text())
        assert status["state"] == "interrupted"
        assert status["resumable"]
        ids.add(status["id"])
        assert not (run / "manifest.json").exists()
        config = TrainConfig(resume=str(run))
    monkeypatch.setattr(Stop, "after", 0)
    assert train(config) == run
    assert len(ids) == 1  # to a tracker it is one run
    assert same_weights(truth, run)
    assert scores(truth) == scores(run)  # also of the epochs that were interrupted
    assert scores(run)[-1][0] == "16"
    folder.verify(run, "run")
    assert train(config) == run  # finished: nothing to do, and nothing changes
    folder.verify(run, "run")


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    whole: Path, prepared: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    script = """
import os, signal, sys
from pathlib import Path
import small_shop
import standin
from deeprec.model.autoencoder import Autoencoder
from deeprec.train import train
from deeprec.work import Work
from deeprec.trainer.callback import Keeper
class Die(Keeper):
    def on_train_batch_end(self, trainer, module, *rest):
        if module.progress.step == 11:
            os.kill(os.getpid(), signal.SIGKILL)
import deeprec.work
deeprec.work.Keeper = Die
train(small_shop.settings(Path(sys.argv[1]), Path(sys.argv[2])))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(prepared), str(run)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert [row[0] for row in scores(run)] == ["4", "8"]
    damaged = run / "checkpoints" / "step-00000008" / "weights.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    train(TrainConfig(resume=str(run)))  # from step 4, the newest that is whole
    assert same_weights(whole, run)
    assert scores(whole) == scores(run)


def test_no_whole_checkpoint_is_an_error_and_not_a_new_start(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeprec.work.Keeper", Stop)
    monkeypatch.setattr(Stop, "after", 2)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(small_shop.settings(prepared, run))
    (run / "checkpoints" / "step-00000002" / "optimizer.safetensors").unlink()
    with pytest.raises(IntegrityError, match="no checkpoint is whole") as found:
        train(TrainConfig(resume=str(run)))
    assert f"`mv {run} {run}.damaged`" in str(found.value)
    assert f"`deeprec train resume={run}` again" in str(found.value)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["resumable"], status["next"]) == ("failed", False, None)


def flip(path: Path, place: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "config.yaml",
        "environment.json",
        "prepared.json",
        "metrics.csv",
        "status.json",
        "checkpoints/step-00000016/progress.json",
        "checkpoints/step-00000016/manifest.json",
    ],
)
def test_a_changed_file_of_a_finished_run_is_named(whole: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "report.json").write_text("{}")  # an evaluation adds it
    open_run(run)
    flip(run / name, -20)
    with pytest.raises(IntegrityError, match=re.escape(str(run / name))):
        open_run(run)


@pytest.mark.parametrize("name", ["config.yaml", "prepared.json", "status.json"])
@pytest.mark.parametrize("content", ["[", "{}", "1", "\0", "'"])
def test_a_damaged_file_of_an_unfinished_run_is_named(
    whole: Path, tmp_path: Path, name: str, content: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    (run / name).write_text(content)
    if name != "status.json":  # evaluation does not read it
        with pytest.raises(IntegrityError, match=re.escape(str(run))):
            open_run(run)
    if (name, content) != ("config.yaml", "{}"):
        with pytest.raises(IntegrityError, match=re.escape(str(run / name))):
            train(TrainConfig(resume=str(run)))


def test_a_report_made_before_the_seal_may_be_made_again(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    (run / "report.json").write_text("{}")
    train(TrainConfig(resume=str(run)))  # nothing is left but to seal it
    (run / "report.json").write_text("[]")
    assert open_run(run).finished


def test_a_run_is_never_written_over(whole: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds a finished run; give another output_dir"):
        train(small_shop.settings(prepared, whole))
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="holds a run; go on with it by `deeprec train resume="):
        train(small_shop.settings(prepared, tmp_path / "run"))
    (tmp_path / "thesis").write_text("ten years")
    with pytest.raises(ConfigError, match="is in the way"):
        train(small_shop.settings(prepared, tmp_path))
    with pytest.raises(ConfigError, match="there is no run here"):
        train(TrainConfig(resume=str(tmp_path)))


def test_a_run_that_is_being_written_is_refused(
    whole: Path, prepared: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys, time; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX);"
            "print('held', flush=True); time.sleep(60)",
            str(run),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        for asked in (TrainConfig(resume=str(run)), small_shop.settings(prepared, run)):
            with pytest.raises(ConfigError, match="is being written by process"):
                train(asked)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    train(TrainConfig(resume=str(run)))  # the lock went with its process


def test_what_cannot_start_leaves_nothing_behind(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError, match="window_days=300"):
        train(small_shop.settings(prepared, run, "target.window_days=300"))
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda: no CUDA device answers"):
        train(small_shop.settings(prepared, run, "trainer.device=cuda"))
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000)
    with pytest.raises(ResourceError, match=r"most goes to .*: use a smaller .*"):
        train(small_shop.settings(prepared, run))
    assert not run.exists()


def test_a_plan_that_does_not_fit_names_what_helps(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r": use a smaller model\.hidden_dims$"):
        train(small_shop.settings(prepared, tmp_path, "model.hidden_dims=[2000000000]"))
    lines = [
        memory.Line("a table", 60, ("width",)),
        memory.Line("a batch", 50, ("batch",)),
        memory.Line("scores", 40, ("block", "batch")),
    ]
    for available, way_out in (
        (149, "batch or width or block"),
        (100, "batch or width"),
        (60, "batch"),
        (50, "batch and width"),
        (0, "batch and width"),
    ):
        with pytest.raises(ResourceError, match=f"most goes to a table .*: use {way_out}$"):
            memory.check(lines, available)
    memory.check(lines, 150)
    assert isinstance(memory.show(lines, 1500), Table)  # a tenth, in full
    lines = [memory.Line("a table", 12_300_000, ())]
    assert memory.show(lines, 10**9) == "memory plan: 12.3 MB of 1,000.0 MB available"


def test_a_run_plans_what_its_loss_makes(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[memory.Line] = []
    monkeypatch.setattr(memory, "check", lambda lines, _: told.extend(lines))
    for words, there, absent in (
        (("loss=squared",), "Gram matrix [", "scores"),
        (("loss=squared", "loss.gram_items=5"), "kept Gram matrix [", "scores"),
        (("loss=sampled_softmax", "loss.negatives=5", "loss.pool=20"), "pool of 20 ", "Gram"),
        (("loss=sampled_softmax", "loss.negatives=5"), "blocks of scores", "pool"),
    ):
        told.clear()
        config = small_shop.settings(prepared, tmp_path / "run", "model.reconstruction=0", *words)
        Work(config, Prepared(prepared))
        names = " ".join(line.name for line in told)
        assert there in names
        assert absent not in names


def test_where_the_optimizer_takes_most_a_smaller_one_is_named() -> None:
    with torch.device("meta"):
        model = Autoencoder(1_000_000, hidden_dims=[64])
    sizes = {"batch_users": 256, "batch_events": 10_000, "block_items": 2048}
    tables = 2 * 4 * 64 * 1_000_000
    adam = memory.plan(model, Adam(), drawn_items=4096, **sizes)
    with pytest.raises(ResourceError, match=r": use .*optimizer=rowwise_adagrad"):
        memory.check(adam, 2 * tables)
    memory.check(memory.plan(model, RowwiseAdagrad(), drawn_items=4096, **sizes), 2 * tables)
    [rows] = [line.bytes for line in adam if "14,096 items" in line.name]
    assert rows == 2 * 4 * 64 * 14_096
    assert memory.plan(model, Adam(), **sizes) == [line for line in adam if line.bytes != rows]


def test_what_processes_keep_of_the_weights_is_planned_on_a_cpu() -> None:
    with torch.device("meta"):
        model = Autoencoder(1_000_000, hidden_dims=[64])
    sizes = {"batch_users": 256, "batch_events": 10_000, "block_items": 2048}
    alone = memory.plan(model, RowwiseAdagrad(), **sizes)
    forked = memory.plan(model, RowwiseAdagrad(), forked=True, **sizes)
    [more] = [line for line in forked if line not in alone]
    tables = 2 * 1_000_000 * (64 + 1)  # with a number a row that the optimizer remembers
    assert 4 * tables <= more.bytes <= 1.1 * 4 * tables
    assert "trainer.prefetch_processes=0" in more.settings
    on_cuda = memory.plan(model, RowwiseAdagrad(), forked=True, device="cuda", **sizes)
    assert more.name not in {line.name for line in on_cuda}


def test_what_processes_that_share_the_catalog_hold_of_it_is_planned_once() -> None:
    with torch.device("meta"):
        model = Autoencoder(1_000_000, hidden_dims=[64])
    sizes = {"batch_users": 256, "batch_events": 10_000, "block_items": 2048}
    table = 4 * 64 * 1_000_000  # and Adam remembers two more
    for device, whole, parts in (("cpu", 4, 1), ("cuda", 1, 1 / 4)):
        held, shared = (
            {
                one.name: one.bytes
                for one in memory.plan(
                    model, Adam(), processes=4, shards=shards, device=device, **sizes
                )
                if one.name.startswith("item_weight") or "together" in one.name
            }
            for shards in (False, True)
        )
        assert [*held.values()] == [whole * table, whole * 2 * table]
        rows = table * 65 / 64  # with the bias
        together = [rows, 2 * rows] if device == "cpu" else []  # on CUDA that is on the host
        assert [*shared.values()] == [parts * table, parts * 2 * table, *together]


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(
    prepared: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"optimizer\.lr"):
        train(
            small_shop.settings(
                prepared,
                run,
                "optimizer.lr=1e30",
                "optimizer.table_lr=1e30",
                "optimizer.warmup_steps=0",
                "model.activation=identity",
            )
        )
    assert not run.exists()
    with pytest.raises(NonFiniteError, match="is not finite again, first: "):
        train(TrainConfig(replay=str(tmp_path / "run.replay")))


def test_a_run_that_nobody_teaches_says_so_and_leaves_nothing(
    prepared: Path, tmp_path: Path
) -> None:
    words = ("target=after_cut", "target.min_history_events=10_000")
    with pytest.raises(DataError, match=r"none of 60 users had both a history and a target"):
        train(small_shop.settings(prepared, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_where_nothing_can_fade_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timeless = standin.prepared_folder(tmp_path / "prepared", times=False).path
    words = ["model=ease", "model.history_weighting=decayed", "logger.wandb=off"]
    train(small_shop.composed(timeless, tmp_path / "run", *words))
    assert "no times, so nothing fades" in capsys.readouterr().out


def test_after_a_loss_that_is_not_finite_what_was_saved_is_whole(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_of = Training._loss_of

    def sometimes_nan(module: Training, tasks: list[Task]) -> torch.Tensor:
        return loss_of(module, tasks) * (math.nan if module.progress.step == 6 else 1.0)

    run = tmp_path / "run"
    replay = TrainConfig(replay=str(tmp_path / "run.replay"))
    with monkeypatch.context() as failing:
        failing.setattr(Training, "_loss_of", sometimes_nan)
        with pytest.raises(NonFiniteError, match="became nan at or before step 6") as failed:
            train(small_shop.settings(prepared, run))
        assert failed.value.exit_code == 6
        assert f"deeprec train replay={run}.replay" in "".join(failed.value.__notes__)
        status = json.loads((run / "status.json").read_text())
        assert (status["state"], status["resumable"]) == ("failed", False)  # it would fail again
        assert status["next"] == f"deeprec train replay={run}.replay"
        with pytest.raises(NonFiniteError, match="step 6 is not finite again, first: "):
            train(replay)
    kept = {path.name: path for path in (tmp_path / "run.replay").iterdir()}
    users = json.loads(kept["users.json"].read_text())
    assert users == sorted({*users})
    assert len(users) == 16
    train(replay)  # nothing of it is wrong but what the test did to the loss
    found, rejected = checkpoint.newest_valid(run / "checkpoints")
    assert found is not None
    assert not rejected
    assert found.step == 4  # the end of the first epoch
    weights = load_file(found.path / "weights.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())


@pytest.mark.parametrize(
    ("name", "factor", "told"),
    [
        ("item_weight", 1e25, "the norm of item_weight became inf at or before step 4"),
        ("gradient", 1e30, r"the norm of the gradient became inf at step 0"),
    ],
)
def test_norms_that_are_not_finite_stop_a_run_whose_numbers_all_are(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    factor: float,
    told: str,
) -> None:
    run = tmp_path / "run"
    if name == "gradient":
        loss_of = Training._loss_of
        monkeypatch.setattr(Training, "_loss_of", lambda *args: loss_of(*args) * factor)
    else:
        monkeypatch.setattr("deeprec.work.Keeper", Grow)
    with pytest.raises(NonFiniteError, match=told) as failed:
        train(small_shop.settings(prepared, run))
    assert failed.value.exit_code == 6
    assert not run.exists()
    with pytest.raises(NonFiniteError, match="is not finite again, first: "):
        train(TrainConfig(replay=str(tmp_path / "run.replay")))


class Grow(Keeper):
    """Makes one item's weights so large that their squares overflow, and no loss by it."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)
        if module.progress.step == 4:
            module.model.item_weight.data[3] = 1e25


def test_a_run_that_ends_far_above_where_it_began_says_so_and_a_sound_one_does_not(
    whole: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((whole / "status.json").read_text())["warning"] is None
    words = ("optimizer.lr=1e4", "trainer.max_epochs=2")
    run = train(small_shop.settings(prepared, tmp_path / "run", *words))
    last_loss = float(read_metrics(run / "metrics.csv")[-1]["loss"])
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "finished"
    told = rf"the loss was \d\d\.\d at the first step, {re.escape(f'{last_loss:.3g}')} at the end"
    assert re.match(told, status["warning"])
    assert status["warning"] in " ".join(capsys.readouterr().out.split())


class SaveByItself(Keeper):
    """Asks Lightning for a checkpoint, as a callback of somebody else might."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        trainer.save_checkpoint(self.run.path.with_name("own.ckpt"))


def test_a_trainer_neither_writes_nor_reads_a_pickle(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeprec.work.Keeper", SaveByItself)
    with pytest.raises(ConfigError, match="would write a pickle there"):
        train(small_shop.settings(prepared, tmp_path / "run"))
    assert not any(tmp_path.iterdir())
    work = Work(small_shop.settings(prepared, tmp_path / "run"), Prepared(prepared))
    canary, trainer = tmp_path / "canary", work.loop._trainer([])
    (tmp_path / "bad.ckpt").write_bytes(f"cposix\nmkdir\n(V{canary}\ntR.".encode())
    with pytest.raises(ConfigError, match="would read it as a pickle"):
        trainer.fit(work.learner, work.data, ckpt_path=tmp_path / "bad.ckpt")  # type: ignore[arg-type]
    assert not canary.exists()


def test_weights_that_are_not_finite_are_refused_however_well_they_are_sealed(
    whole: Path, prepared: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    learner = Work(small_shop.settings(prepared, run), Prepared(prepared)).learner
    state = checkpoint.state_of(learner, 1.0)
    next(iter(state.weights.values())).view(-1)[3] = math.nan
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    checkpoint.write(run / "checkpoints", state, RunFolder(run).made_from())
    with pytest.raises(IntegrityError, match="not finite, which deeprec never saves"):
        open_run(run)
    with pytest.raises(IntegrityError, match="not finite, which deeprec never saves"):
        train(TrainConfig(resume=str(run)))


def test_a_renamed_checkpoint_is_refused_and_set_aside(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    last.rename(last.with_name("step-00000099"))
    (last.with_name("step-00000098")).mkdir()  # a half one, with no manifest
    train(TrainConfig(resume=str(run)))
    said = " ".join(capsys.readouterr().out.split())
    assert "step-00000098: no manifest.json, so this is not a finished checkpoint folder" in said
    assert " again" not in said  # nobody can make a checkpoint again, and nobody needs to
    assert same_weights(whole, run)
    assert len(list((run / "checkpoints").glob("rejected-step-0000009*"))) == 2


def test_a_checkpoint_of_other_shapes_is_refused_before_anything_is_copied(
    whole: Path, prepared: Path, tmp_path: Path
) -> None:
    found = checkpoint.best(whole / "checkpoints")
    assert found is not None
    config = small_shop.settings(prepared, tmp_path / "run", "model.hidden_dims=[4]")
    learner = Work(config, Prepared(prepared)).learner
    before = {name: one.clone() for name, one in learner.model.state_dict().items()}
    with pytest.raises(IntegrityError, match="has shape"):
        checkpoint.load(found, learner)
    after = learner.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_norms_are_those_of_the_weights(whole: Path) -> None:
    rows = read_metrics(whole / "metrics.csv")
    last = sorted((whole / "checkpoints").glob("step-*"))[-1]
    saved = load_file(last / "weights.safetensors")
    learned = {name for name, _ in open_run(whole, "last").model.named_parameters()}  # type: ignore[attr-defined]
    truth = math.sqrt(sum(float((saved[name].double() ** 2).sum()) for name in learned))
    assert float(rows[-1]["weight_norm"]) == pytest.approx(truth, rel=1e-5)
    assert float(rows[-1]["gradient_norm"]) > 0.0


class Fail(Keeper):
    """Fails as a bug would, after some steps."""

    after = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        if module.progress.step == self.after:
            raise RuntimeError("a bug")
        super().on_train_batch_end(trainer, module, outputs, batch, batch_idx)


def test_a_run_that_fails_before_its_first_checkpoint_leaves_its_place_free(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as failing:
        failing.setattr("deeprec.work.Keeper", Fail)
        failing.setattr(Fail, "after", 2)
        with pytest.raises(RuntimeError, match="a bug"):
            train(small_shop.settings(prepared, run))
        assert not list(tmp_path.iterdir())
        failing.setattr(Fail, "after", 6)
        with pytest.raises(RuntimeError, match="a bug"):
            train(small_shop.settings(prepared, run))
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["epoch"], status["resumable"]) == ("failed", 1, True)
    train(TrainConfig(resume=str(run)))


def test_a_block_of_no_items_is_refused_before_there_is_a_run(
    prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"loss\.block_items: must be 1 or more, got 0"):
        train(small_shop.settings(prepared, tmp_path / "run", "loss.block_items=0"))
    assert not list(tmp_path.iterdir())


def test_training_stops_early_and_keeps_the_best(prepared: Path, tmp_path: Path) -> None:
    words = ("trainer.max_epochs=60", "trainer.early_stopping_patience=2", "optimizer.lr=0.3")
    run = train(small_shop.settings(prepared, tmp_path / "run", *words))
    rows = read_metrics(run / "metrics.csv")
    assert len(rows) < 60
    found = [float(row["val/ndcg@100"]) for row in rows]
    assert found.index(max(found)) == len(found) - 3
    assert open_run(run).checkpoint.step == int(rows[-3]["step"])
    assert len(list((run / "checkpoints").iterdir())) == 3  # the best and the newest two


@pytest.mark.parametrize(
    ("loss", "model"),
    [("softmax", "model.reconstruction=0"), ("marginal", "model.repeat_scores=false")],
)
def test_other_parts_train_too(prepared: Path, tmp_path: Path, model: str, loss: str) -> None:
    words = (f"loss={loss}", model, "trainer.max_epochs=2")
    run = open_run(train(small_shop.settings(prepared, tmp_path / "run", *words)))
    assert run.checkpoint.score is not None


def test_a_model_that_learns_what_it_is_shown_alone_says_what_it_passes_over(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("experiment=rbm", "trainer.max_epochs=1", "logger.wandb=off")
    train(small_shop.composed(prepared, tmp_path / "one", *words, "target=next_item"))
    said = " ".join(capsys.readouterr().out.split())
    assert "Rbm reads no user attributes; these data have age.band" in said
    assert "Rbm learns to rebuild histories: of target= it reads" in said
    assert "model=autoencoder target=after_cut does" in said
    train(small_shop.composed(prepared, tmp_path / "two", *words))
    assert "learns to rebuild" not in capsys.readouterr().out


class Holding(Autoencoder):
    """Holds numbers that are no weights, so that no checkpoint has them."""

    def __init__(
        self,
        num_items: int,
        *,
        fields: Mapping[str, int] | None = None,
        popularity: torch.Tensor | None = None,
        num_users: int = 0,
        target_share: float = 1.0,
        repeats: bool = False,
    ) -> None:
        super().__init__(num_items, fields=fields, repeats=repeats, hidden_dims=[8])
        self.ones = torch.ones(num_items)
        self.register_buffer("twos", self.ones * 2, persistent=False)


def test_a_model_is_opened_with_what_it_holds_besides_its_weights(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPREC_TRUSTED_PACKAGES", __name__.split(".")[0])
    facts = open_run(whole).facts
    found = checkpoint.best(whole / "checkpoints")
    assert found is not None
    model = trained_model({"_target_": f"{__name__}.Holding"}, facts, found)
    assert model.ones.tolist() == [1.0] * facts.num_items
    assert model.twos.tolist() == [2.0] * facts.num_items
    saved = load_file(found.path / "weights.safetensors")
    opened = model.state_dict()
    assert opened.keys() == saved.keys()
    assert all(torch.equal(opened[name], saved[name]) for name in saved)
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())


def test_where_seen_items_are_excluded_a_history_is_reconstructed(tmp_path: Path) -> None:
    path = small_shop.make(tmp_path / "prepared", repeats=False)
    config = small_shop.settings(path, tmp_path / "run", "trainer.max_epochs=2")
    config.target = {"_target_": "deeprec.data.target.Reconstruct"}
    run = open_run(train(config))
    assert run.facts.target_share == pytest.approx(1.0, rel=0.1)  # of one batch
    assert run.model.repeat is None  # type: ignore[attr-defined]


def test_a_tracker_that_hangs_neither_delays_nor_changes_a_run(
    whole: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = tmp_path / "wandb"
    hanging.mkdir()
    (hanging / "__init__.py").write_text(
        "import json, os, time\n"
        "def init(dir, **_):\n"
        f"    with open({str(tmp_path / 'draft')!r}, 'w') as file:\n"
        "        json.dump([os.getpid(), dir], file)\n"
        f"    os.rename({str(tmp_path / 'draft')!r}, {str(tmp_path / 'told')!r})\n"
        "    time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr("deeprec.trainer.logger.FINISH_SECONDS", 0.5)
    started = time.monotonic()
    run = train(small_shop.settings(prepared, tmp_path / "run", "logger.wandb=offline"))
    assert time.monotonic() - started < 60  # it sleeps ten times as long
    while not (tmp_path / "told").exists() and time.monotonic() - started < 60:
        time.sleep(0.05)  # its process may be slower to start than the run is to end
    process, directory = json.loads((tmp_path / "told").read_text())
    os.kill(process, signal.SIGKILL)  # it was left to end by itself
    assert directory == str(run)
    assert same_weights(whole, run)
    assert scores(whole) == scores(run)
    folder.verify(run, "run")


def test_what_a_tracker_writes_is_in_no_manifest_and_a_run_is_sealed_before_it_ends(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    found: list[bool] = []

    class Slow:
        def write(self, row: Mapping[str, float]) -> None:
            (run / "wandb").mkdir(exist_ok=True)
            (run / "wandb" / "log").write_text("begun")

        def close(self) -> None:
            found.append((run / "manifest.json").is_file())
            (run / "wandb" / "log").write_text("ended")

    monkeypatch.setattr(
        "deeprec.trainer.logger.Logging.open",
        lambda self, metrics, *rest: [metrics, Slow()],
    )
    train(small_shop.settings(prepared, run, "trainer.max_epochs=1"))
    assert found == [True]
    open_run(run)


def test_a_checkpoint_of_another_run_is_refused(
    whole: Path, prepared: Path, tmp_path: Path
) -> None:
    other = train(small_shop.settings(prepared, tmp_path / "other", "seed=5"))
    (other / "manifest.json").unlink()  # it would tell already
    (other / "config.yaml").write_text((whole / "config.yaml").read_text())
    with pytest.raises(IntegrityError, match="made with another config"):
        open_run(other)
    assert RunFolder(other).config.seed == 1


@pytest.mark.parametrize(("judged", "told"), [(0, "export"), (9, "evaluate")])
def test_what_is_named_next_can_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judged: int, told: str
) -> None:
    prepared = small_shop.make(tmp_path / "prepared", counts={"holdout_users": judged})
    train(small_shop.composed(prepared, tmp_path / "run", "model=popularity", "logger.wandb=off"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"deeprec {told} run={tmp_path / 'run'}" in last
