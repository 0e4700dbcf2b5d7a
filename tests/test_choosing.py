"""`experiment=auto`: what it chooses for which data, and that what was said besides it holds."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import small_shop
from deeprec.choosing import chosen, shape_of
from deeprec.config import compose
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, Interrupted
from deeprec.model.auto import Auto, Choice, Shape
from deeprec.prepare import prepare
from deeprec.train import _folders, train
from deeprec.trainer.run import open_run
from deeprec.verb import PrepareConfig, TrainConfig


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_shop.make(tmp_path_factory.mktemp("data") / "prepared")


def config(prepared: Path, output: Path, *words: str) -> TrainConfig:
    place = [f"prepared={prepared}", f"output_dir={output}", "logger.wandb=off"]
    composed = compose("train", [*place, "experiment=auto", *words])
    assert isinstance(composed, TrainConfig)
    return composed


def test_what_is_taken_again_gets_windows_as_long_as_it_is_judged_on() -> None:
    words = Auto().choose(Shape(2_000, 16_000, 300_000, True, 300.0, 30.0)).words
    assert [*words] == [
        "experiment=complete_journey",
        "target.window_days=30",
        "target.cut_days=34.5",
    ]
    short = Auto().choose(Shape(2_000, 16_000, 300_000, True, 40.0, 30.0)).words
    assert "target.window_days=10" in short  # a window and a history must fit


def test_what_is_taken_again_is_learned_as_it_is_judged() -> None:
    """Windows of days found nobody to train on where users end at different times."""
    last = Shape(2_000, 16_000, 400_000, True, 3_000.0, None, judges_next=True)
    next_event = ["target.window_events=1", "target.cut_days=null"]
    assert [*Auto().choose(last).words] == ["experiment=complete_journey", *next_event]
    for days in (None, 300.0):  # drawn at random, with times or without
        drawn = Auto().choose(Shape(2_000, 16_000, 400_000, True, days, None))
        assert [*drawn.words] == ["experiment=taken_again"]


def test_beside_what_is_taken_again_stands_what_is_soon_trained() -> None:
    def models(shape: Shape) -> list[str]:
        return [words[0] for words in Auto().choose(shape).beside]

    own = ["model=own_frequency", "model=item_to_item"]
    assert models(Shape(2_000, 16_000, 400_000, True, 300.0, 30.0)) == own
    assert models(Shape(2_000, 4_000, 400_000, True, 300.0, 30.0)) == [*own, "model=ease"]
    few_events = Shape(2_000, 16_000, 200_000, True, 300.0, 30.0)
    assert models(few_events) == [*own, "experiment=sequence"]
    seldom = replace(few_events, had_before=0.1)
    new = Auto().choose(replace(seldom, repeats=False))
    assert models(seldom) == [*own, *(words[0] for words in (new.words, *new.beside))]


def test_a_model_that_is_blended_in_two_ways_has_two_folders(tmp_path: Path) -> None:
    """Item-to-item counts all alike beside what is taken again, and fades beside what is new."""
    shape = Shape(2_000, 4_000, 30_000, True, 300.0, 30.0, had_before=0.1)
    words = [*Auto().choose(shape).beside]
    twice = [each for each in words if each[0] == "model=item_to_item"]
    assert len(twice) == 2
    data = ["data=synthetic", "data.num_users=300", "data.num_items=4000", "data.zipf=0.3"]
    data += ["data.repeats=true", "data.repeat_share=0", "data.events_per_user=15"]
    config_of = compose("prepare", [*data, f"output_dir={tmp_path / 'prepared'}"])
    opened = Prepared(prepare(cast(PrepareConfig, config_of)))
    assert shape_of(opened).mostly_new
    given = chosen(config(opened.path, tmp_path / "run"), opened)
    names = _folders(given)
    assert len({*names}) == len(names)
    assert {"item_to_item", "2-item_to_item"} <= {*names}


def test_what_was_had_before_is_counted_in_validation(tmp_path: Path) -> None:
    prepared = Prepared(small_shop.make(tmp_path / "again", repeats=True))
    everybody = np.arange(prepared.num_users)
    parts = (prepared.parts[name].take(everybody) for name in ("train", "validation"))
    known, validated = (np.split(one.items, one.offsets[1:-1]) for one in parts)
    had = [item in known[user] for user in everybody for item in validated[user].tolist()]
    assert shape_of(prepared).had_before == pytest.approx(np.mean(had))
    assert 0.0 < np.mean(had) < 1.0


def test_few_users_who_take_things_again_get_many_steps() -> None:
    few = Auto().choose(Shape(190, 16_000, 400_000, True, 300.0, 30.0))
    assert few.words[-1] == "trainer.batch_users=19"
    assert [*few.beside] == [["model=own_frequency"], ["model=item_to_item"]]
    many = Auto().choose(Shape(2_000, 16_000, 400_000, True, 300.0, 30.0))
    assert "trainer.batch_users" not in " ".join(many.words)
    assert many.beside == few.beside
    assert not Auto().choose(Shape(10**6, 4_000, 10**8, True, 300.0, 30.0)).beside


def test_how_it_is_judged_says_what_is_trained_beside() -> None:
    """What is new is judged by time, what comes next by leaving the last out."""
    recent = ["model=popularity", "model.recent_days=15"]
    last_had = ["model=item_to_item", "model.history_weighting=decayed", "model.fade_days=15"]
    sequence = ["experiment=sequence", "trainer.max_epochs=12", "trainer.batch_users=50"]
    sequence += ["trainer.early_stopping_patience=3"]
    by_time = Auto().choose(Shape(6_000, 3_000, 80_000, False, 300.0, 30.0)).beside
    assert recent in by_time
    assert last_had in by_time
    assert sequence in by_time
    last = Shape(6_000, 3_000, 80_000, False, 300.0, None, judges_next=True)
    assert sequence in Auto().choose(last).beside
    assert recent not in Auto().choose(last).beside
    assert last_had not in Auto().choose(last).beside
    random = Auto().choose(Shape(6_000, 3_000, 80_000, False, 300.0, None)).beside
    assert not any("sequence" in word for words in random for word in words)
    large = Auto().choose(Shape(60_000, 3_000, 2_000_000, False, 300.0, 30.0)).beside
    assert not any("sequence" in word for words in large for word in words)


def test_a_large_catalog_keeps_its_gram_matrix() -> None:
    words = Auto().choose(Shape(10**6, 2 * 10**6, 10**8, False, None, None)).words
    assert {"loss.gram_items=4096", "model.width=64", "trainer.max_epochs=4"} <= {*words}


@pytest.mark.parametrize(
    ("users", "items", "pairs", "model"),
    [
        (6_000, 3_000, 700_000, "experiment=linear"),  # as MovieLens 1M
        (4_000, 3_600, 240_000, "model=ease"),  # as a web shop
        (70_000, 25_000, 590_000, "model=sparse_ease"),  # as purchases of books
        (200, 500, 5_000, "experiment=linear"),  # too few users for what EASE adds by default
        (10**6, 10**6, 10**7, "experiment=linear"),
    ],
)
def test_few_users_an_item_call_for_regressions(
    users: int, items: int, pairs: int, model: str
) -> None:
    assert Auto().choose(Shape(users, items, pairs, False, None, None)).words[0] == model


@pytest.mark.parametrize(
    ("items", "pairs", "models"),
    [
        (
            3_000,
            700_000,
            ["experiment=linear", "model=ease", "experiment=ials", "model=variational"],
        ),
        (
            3_000,
            200_000,
            ["model=ease", "experiment=linear", "experiment=ials", "model=variational"],
        ),
        (90_000, 900_000, ["model=sparse_ease", "experiment=linear", "experiment=ials"]),
        (900_000, 9_000_000, ["experiment=linear"]),  # neighbours and factors are too much
    ],
)
def test_models_that_err_differently_stand_beside_each_other(
    items: int, pairs: int, models: list[str]
) -> None:
    choice = Auto().choose(Shape(6_000, items, pairs, False, None, None))
    assert [words[0] for words in (choice.words, *choice.beside)] == models


def test_several_are_trained_and_blended_and_an_interrupted_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=seeds", "data.repeats=false", f"output_dir={tmp_path / 'prepared'}"]
    new = prepare(cast(PrepareConfig, compose("prepare", words)))
    told = config(new, tmp_path / "run", "trainer.max_epochs=2")

    def broken(*_: object) -> None:
        raise Interrupted("SIGTERM", 15)

    with monkeypatch.context() as patch:
        patch.setattr("deeprec.train.weighed", broken)
        with pytest.raises(Interrupted):
            train(told)
    assert not (tmp_path / "run").exists()
    before = {path.name for path in (tmp_path / "run.members").iterdir()}
    others = "linear_autoencoder", "variational", "sequence_encoder"
    assert before == {*others, "ease", "ials", "popularity", "item_to_item"}
    # what a kill leaves that comes while a member is begun, and then one while the blend is written
    (tmp_path / "run.members" / ".ials.tmp-1-dead").mkdir()
    shutil.copytree(tmp_path / "run.members", tmp_path / "kept")
    shutil.copytree(tmp_path / "run.members" / "ease", tmp_path / "run")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    (tmp_path / "run" / "status.json").write_text(json.dumps({**status, "from_data": False}))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "manifest.json").unlink()
    capsys.readouterr()
    run = open_run(train(told))
    assert capsys.readouterr().out.count("there is nothing to resume") == 7
    assert not (tmp_path / "run.members").exists()
    if run.config.model["_target_"] == "deeprec.model.blend.Blend":
        assert len(run.config.model["members"]) > 1
    assert run.checkpoint.score is not None
    again = (
        "resume=auto",
        "trainer.prefetch_processes=0",
    )  # which changes nothing of what is learned
    assert train(config(new, run.path, "trainer.max_epochs=2", *again)) == run.path
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs: asked for 3, the run has 2\n"):
        train(config(new, run.path, "trainer.max_epochs=3", "resume=auto"))
    with pytest.raises(ConfigError, match=r"max_epochs: left out, the run was begun with 2\n"):
        train(config(new, run.path, "resume=auto"))
    # killed before the members were taken away, or while they were
    (tmp_path / "kept").rename(tmp_path / "run.members")
    (tmp_path / ".run.members.tmp-1-dead").mkdir()
    with pytest.raises(ConfigError, match="holds a finished run"):
        train(told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prepared", "run"]


def test_where_nobody_can_be_judged_models_weigh_the_same_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The only validation user takes again what it had; a folder of all events validates nobody."""
    had = [("u0", "a"), ("u0", "b"), ("u1", "b"), ("u1", "c"), ("u2", "c"), ("u2", "d")]
    rows = [(*pair, f"2024-01-{1 + day:02}") for day, pair in enumerate([*had, ("u3", "a")])]
    rows += [("u0", "a", "2024-02-01"), ("u1", "d", "2024-03-01")]
    events = tmp_path / "events.csv"
    events.write_text("\n".join(map(",".join, [("user_id", "item_id", "timestamp"), *rows])))
    table = ["data=table", f"data.events={events}", "data.time=timestamp", "split=time_cut"]
    cuts = ["split.validation_from=2024-01-20", "split.holdout_from=2024-02-20"]
    for name, words, why in (
        ("again", cuts, "has 1 validation user, of whom none took an item there that was new"),
        ("all", [*cuts, "train_on=everything"], "has no validation part"),
    ):
        place = tmp_path / name
        words = [*table, *words, f"output_dir={place}"]
        prepare(cast(PrepareConfig, compose("prepare", words)))
        capsys.readouterr()
        run = open_run(train(config(place, tmp_path / f"{name}.run", "trainer.max_epochs=1")))
        weights = run.config.model["weights"]
        assert len(weights) > 1
        assert weights == [1 / len(weights)] * len(weights)
        said = capsys.readouterr().out
        assert "nan" not in said
        assert f"{place} {why}" in said
        assert f"each of the {len(weights)} models weighs {1 / len(weights):.2f}" in said
        assert f"`deeprec refit run=RUN prepared={place} output_dir=" in said


def test_what_is_said_besides_auto_holds(prepared: Path, tmp_path: Path) -> None:
    opened = Prepared(prepared)
    given = config(prepared, tmp_path, "optimizer.lr=0.07", "trainer.max_epochs=2", "seed=5")
    picked, *_ = chosen(given, opened)
    words = Auto().choose(shape_of(opened)).words
    reference = compose("train", [f"prepared={prepared}", "output_dir=x", *words])
    assert isinstance(reference, TrainConfig)
    assert picked.model == reference.model
    assert picked.loss == reference.loss
    assert picked.target == reference.target
    assert picked.optimizer == {**(reference.optimizer or {}), "lr": 0.07}
    assert picked.trainer == {**reference.trainer, "max_epochs": 2}
    assert picked.seed == 5
    named = compose("train", [f"prepared={prepared}", "output_dir=x"])
    assert isinstance(named, TrainConfig)
    assert chosen(named, opened) == [named]


def test_what_is_said_holds_where_it_is_the_default_too(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Prepared(prepared)
    plain = compose("train", [f"prepared={prepared}", "output_dir=x"])
    assert isinstance(plain, TrainConfig)
    usual = plain.trainer["max_epochs"]
    silent, *_ = chosen(config(prepared, tmp_path), opened)
    assert silent.trainer["max_epochs"] != usual
    words = (f"trainer.max_epochs={usual}", "loss=softmax")
    picked, *_ = chosen(config(prepared, tmp_path, *words), opened)
    assert f"trainer.max_epochs={usual} loss=softmax\n" in capsys.readouterr().out
    assert picked.trainer == {**silent.trainer, "max_epochs": usual}
    assert picked.loss == plain.loss != silent.loss
    assert picked.target == silent.target
    assert picked.optimizer == silent.optimizer


def test_several_processes_train_only_what_is_trained(tmp_path: Path) -> None:
    opened = Prepared(small_shop.make(tmp_path / "prepared", repeats=False))
    words = "trainer.processes=2", "trainer.shard_catalog=true"
    given = chosen(config(opened.path, tmp_path / "run", *words), opened)
    processes = {one.model["_target_"].split(".")[2]: one.trainer["processes"] for one in given}
    solved = {"ease": 1, "ials": 1, "popularity": 1, "item_to_item": 1}
    trained = {"linear_autoencoder": 2, "variational": 2, "sequence_encoder": 2}
    assert processes == solved | trained
    shares = {one.model["_target_"].split(".")[2]: one.trainer["shard_catalog"] for one in given}
    assert [name for name, shared in shares.items() if shared] == ["variational"]


def test_what_makes_a_chosen_model_smaller_may_be_said(
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    choice = Choice(["experiment=linear", "model.width=64"], "", [["model=svd"], ["model=ease"]])
    monkeypatch.setattr(Auto, "choose", lambda *_: choice)
    smaller = ["model.width=8", "model.warm_start=false", "optimizer=rowwise_adagrad"]
    given = chosen(config(prepared, tmp_path / "run", *smaller), Prepared(prepared))
    assert [one.model.get("width") for one in given] == [8, 8, None]
    assert [one.model.get("warm_start") for one in given] == [False, None, None]
    assert given[0].optimizer is not None
    assert given[0].optimizer["_target_"].endswith(".RowwiseAdagrad")
    said = capsys.readouterr().out
    assert "model.width=64 logger.wandb=off model.width=8 model.warm_start=false" in said
    assert "  model=svd logger.wandb=off model.width=8 optimizer" in said
    assert "  model=ease logger.wandb=off optimizer" in said
    with pytest.raises(ConfigError, match=r"model.depth: .* has no such argument"):
        config(prepared, tmp_path / "run", "model.depth=3")


def test_a_model_that_refuses_what_the_others_take_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=seeds", "data.repeats=false", f"output_dir={tmp_path / 'prepared'}"]
    prepared = prepare(cast(PrepareConfig, compose("prepare", words)))
    beside = [["model=popularity"], ["model=item_to_item"], ["model=svd", "model.width=4"]]
    beside += [["model=variational", "loss=softmax", "optimizer.lr=1e30"]]
    choice = Choice(["model=ease"], "", beside)
    monkeypatch.setattr(Auto, "choose", lambda *_: choice)
    run = train(config(prepared, tmp_path / "run", "item_attributes=[taste]"))
    said = " ".join(capsys.readouterr().out.split())
    assert "popularity is left out: item_attributes: Popularity learns nothing from what" in said
    assert "item_to_item is left out" in said
    assert "variational is left out: the norm of item_weight became inf" in said
    assert open_run(run).finished
    assert not (tmp_path / "run.members").exists()
    choice = Choice(["model=popularity"], "", [["model=ease"]])
    with pytest.raises(ConfigError, match="Popularity learns nothing"):  # it is the one chosen
        train(config(prepared, tmp_path / "other", "item_attributes=[taste]"))


def test_the_run_holds_what_was_chosen(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deeprec.model.auto.COUNTED", 0)
    run = train(config(prepared, tmp_path / "run", "trainer.max_epochs=1"))
    told = open_run(run).config
    assert told.model["_target_"] == "deeprec.model.autoencoder.Autoencoder"
    assert train(TrainConfig(resume=str(run))) == run
    assert train(config(prepared, run, "trainer.max_epochs=1", "resume=auto")) == run
    with pytest.raises(ConfigError, match=r"optimizer\.lr: asked for 0.5, the run has"):
        train(config(prepared, run, "trainer.max_epochs=1", "resume=auto", "optimizer.lr=0.5"))


def test_a_loss_that_the_chosen_model_cannot_have_is_refused(
    prepared: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="unit_vectors"):
        train(config(prepared, tmp_path / "run", "loss=cosine_contrastive"))
