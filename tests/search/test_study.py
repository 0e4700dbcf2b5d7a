"""What is tried depends on the seed and on what was found, however often a sweep is stopped."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from deeprec import config
from deeprec.composition import Composer
from deeprec.errors import ConfigError
from deeprec.search.importance import importances
from deeprec.search.space import Interval
from deeprec.search.space_plan import SpacePlan
from deeprec.search.study import Study
from deeprec.search.trial import Trial, best, counted, ranked
from deeprec.verb import SweepConfig

SPACE = {
    "_target_": "deeprec.search.space.Space",
    "fixed": ["model=linear_autoencoder", "loss=cosine"],
    "ranges": {
        "model.width": {"low": 8, "high": 512, "log": True},
        "optimizer.lr": {"low": 0.001, "high": 0.1, "log": True},
        "loss": ["cosine", "squared"],
        "loss.zero_scale": {"low": 0.1, "high": 1.0, "when": {"loss": "squared"}},
        "trainer.batch_users": [64, 128],
    },
}


@pytest.fixture
def plan() -> Iterator[SpacePlan]:
    with config.opened("train") as composer:
        yield planned(composer)


def swept(*words: str, space: dict[str, Any] = SPACE) -> SweepConfig:
    return SweepConfig(prepared="p", sweep=space, trials=3, train=list(words))


def planned(composer: Composer, *words: str, space: dict[str, Any] = SPACE) -> SpacePlan:
    told = swept(*words, space=space)
    return SpacePlan(told, config.instantiate(told.sweep), composer)


def opened(folder: Path, plan: SpacePlan, *, seed: int = 1, about: str = "this") -> Study:
    return Study(folder, plan, {"data": about}, seed=seed, prune=True, workers=1)


def score(values: dict[str, Any]) -> float:
    """A truth to be found: best at lr .02 and width 64, whatever the rest."""
    off = math.log(values.get("optimizer.lr", 0.003) / 0.02)
    return -(off**2) - math.log(values["model.width"] / 64) ** 2


def ended(number: int, values: dict[str, Any], **more: Any) -> Trial:
    known = {"state": "whole", "score": 0.0, "epochs": 3, "seconds": 2.0, "ended": 5.0}
    return Trial(number=number, values=values, reason=None, **{**known, **more})


def tried(study: Study, count: int) -> list[dict[str, Any]]:
    found = []
    for _ in range(count):
        number, values = study.ask()
        study.settle(ended(number, values, score=score(values)))
        found.append(values)
    return found


def test_the_defaults_come_first_without_what_the_ranges_do_not_hold(
    plan: SpacePlan, tmp_path: Path
) -> None:
    (first,) = tried(opened(tmp_path, plan), 1)
    assert first == {"model.width": 256, "loss": "cosine"}  # no batch: 256; a rate that goes by it
    composed = plan.config_of(first, Path("run"))
    assert composed.trainer["batch_users"] == 256


def test_values_keep_to_their_ranges_and_conditions(plan: SpacePlan, tmp_path: Path) -> None:
    for values in tried(opened(tmp_path, plan), 15):
        assert all(plan.ranges[key].holds(value) for key, value in values.items())
        assert ("loss.zero_scale" in values) == (values["loss"] == "squared")
        assert plan.config_of(values, Path("run")).model["width"] == values["model.width"]


def test_a_sweep_that_goes_on_tries_what_one_never_stopped_tries(
    plan: SpacePlan, tmp_path: Path
) -> None:
    for name in ("whole", "parts", "other"):
        (tmp_path / name).mkdir()
    whole = tried(opened(tmp_path / "whole", plan), 16)
    parts = [values for n in (5, 8, 3) for values in tried(opened(tmp_path / "parts", plan), n)]
    assert whole == parts
    assert whole != tried(opened(tmp_path / "other", plan, seed=2), 16)
    assert len({str(values) for values in whole}) == 16


def test_nothing_is_tried_twice_while_there_is_something_else(tmp_path: Path) -> None:
    ranges = {"loss": ["cosine", "squared"], "trainer.batch_users": [64, 128]}
    with config.opened("train") as composer:
        plan = planned(composer, space=SPACE | {"ranges": ranges})
        study = opened(tmp_path, plan)
        found = []
        for _ in range(7):
            number, values = study.ask()
            study.settle(ended(number, values, score=1.0 - 0.01 * number))
            found.append((number, values))
    # cosine with the default batch, which is none of the two; then each pair
    assert len({str(values) for _, values in found[:5]}) == 5
    assert found[5][0] - found[4][0] > 10  # drawn again and again, and then let be
    assert [one.number for one in opened(tmp_path, plan).trials] == [n for n, _ in found]


def test_it_learns_where_the_best_lie(tmp_path: Path) -> None:
    with config.opened("train") as composer:
        plan = planned(composer, "loss=cosine", "trainer.batch_users=64")
        found = [score(values) for values in tried(opened(tmp_path, plan), 30)]
    drawn, modelled = found[1:10], found[20:]
    assert median(modelled) > median(drawn) / 3  # scores are below 0; some trials explore


def test_what_was_at_work_when_a_sweep_was_killed_is_tried_again(
    plan: SpacePlan, tmp_path: Path
) -> None:
    study = opened(tmp_path, plan)
    tried(study, 3)
    _, lost = study.ask()
    again = opened(tmp_path, plan)
    assert [one.state for one in again.trials] == ["whole"] * 3 + ["lost"]
    number, values = again.ask()
    assert (number, values) == (4, lost)
    again.settle(ended(number, values))
    assert [one.number for one in counted(again.trials)] == [0, 1, 2, 4]


def test_what_was_cut_short_is_tried_again_once(plan: SpacePlan, tmp_path: Path) -> None:
    study = opened(tmp_path, plan)
    tried(study, 2)
    number, values = study.ask()
    study.settle(ended(number, values, state="short", score=9.0))
    again = opened(tmp_path, plan)
    number, same = again.ask()
    assert same == values
    again.settle(ended(number, same, score=1.0))
    (after,) = tried(opened(tmp_path, plan), 1)
    assert after != values


def test_a_sweep_killed_while_it_was_begun_tries_the_defaults_first_and_once(
    plan: SpacePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr("optuna.study.Study.set_user_attr", killed)
        opened(tmp_path, plan)
    first, second = tried(opened(tmp_path, plan), 2)
    assert first == {"model.width": 256, "loss": "cosine"}
    assert second != first


def test_seconds_add_up_over_calls(plan: SpacePlan, tmp_path: Path) -> None:
    study = opened(tmp_path, plan)
    assert study.seconds == 0.0
    study.set_seconds(12.5)
    assert opened(tmp_path, plan).seconds == 12.5


def test_another_sweep_is_refused_by_what_differs(plan: SpacePlan, tmp_path: Path) -> None:
    opened(tmp_path, plan)
    with pytest.raises(ConfigError, match="holds a sweep with another data; give another"):
        opened(tmp_path, plan, about="that")


def test_a_run_below_the_median_at_its_share_of_epochs_is_behind(
    plan: SpacePlan, tmp_path: Path
) -> None:
    """Medians of .1 .2 .3 .4 .5 times the share done: .15 at half, .3 at the end."""
    study = opened(tmp_path, plan)
    for at in range(1, 6):
        number, values = study.ask()
        for epoch in range(1, 11):
            assert not study.is_behind(number, epoch, 10, 0.1 * at * epoch / 10)
        study.settle(ended(number, values))
    for last, behind in ((0.14, True), (0.16, False)):
        number, values = study.ask()
        assert not study.is_behind(number, 4, 20, 0.0)  # 20 %: too early to be told
        assert study.is_behind(number, 10, 20, last) is behind  # half of twice as many epochs
        study.settle(ended(number, values, state="behind"))


def test_failures_come_last_and_never_are_the_best() -> None:
    trials = [
        ended(0, {}, score=0.2),
        ended(1, {}, score=None, state="failed"),
        ended(2, {}, score=0.3),
        ended(3, {}, score=0.3),
    ]
    assert [one.number for one in ranked(trials)] == [2, 3, 0, 1]
    assert best(trials) == trials[2]
    assert best(trials[1:2]) is None


def test_what_decides_the_score_is_most_important() -> None:
    ranges = {"a": Interval(0.0, 1.0), "b": Interval(0.0, 1.0)}
    points = [(at / 40, (7 * at % 40) / 40) for at in range(40)]
    trials = [ended(at, {"a": a, "b": b}, score=-abs(a - 0.3)) for at, (a, b) in enumerate(points)]
    found = importances(trials, ranges)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["a"] > 0.8
    assert importances(trials[:11], ranges) == {}


# what is wrong with a space is said before anything is trained


def refused(*words: str, fixed: tuple[str, ...] = (), **ranges: Any) -> str:
    renamed = {key.replace("__", "."): value for key, value in ranges.items()}
    space = {"_target_": "deeprec.search.space.Space", "ranges": renamed, "fixed": list(fixed)}
    with config.opened("train") as composer, pytest.raises(ConfigError) as refusal:
        planned(composer, *words, space=space).refuse_mistakes()
    return str(refusal.value)


def test_every_mistake_of_a_space_is_named_before_the_first_trial() -> None:
    said = refused(
        optimizer__ler=[0.1, 0.2],
        loss=["softmax", "marginel"],
        model__hidden_dims=[[64], ["wide"]],
        trainer__max_epochs={"low": 0, "high": 5},
        laser=[1, 2],
    )
    assert "optimizer.ler: deeprec.trainer.optimizer.Adam has no such argument; did you" in said
    assert "got 'marginel'; did you mean 'marginal'?" in said
    assert "model.hidden_dims: expected a list (each a whole number), got ['wide']" in said
    assert "trainer.max_epochs: must be 1 or more, got 0" in said
    assert "laser: unknown key; choose from brake" in said


def test_a_setting_of_one_choice_needs_a_condition() -> None:
    ranges = {"loss": ["softmax", "asymmetric"], "loss__one_focus": {"low": 0.0, "high": 0.2}}
    refusal = "loss.one_focus: deeprec.loss.softmax.Softmax has no such argument"
    assert refusal in refused(**ranges)
    ranges["loss__one_focus"] = {"low": -0.5, "high": 0.2, "when": {"loss": "asymmetric"}}
    said = refused(**ranges)
    assert "one_focus" in said  # below 0; its condition makes it a setting of the right loss
    assert "no such argument" not in said


def test_a_word_wins_over_the_space() -> None:
    with config.opened("train") as composer:
        fixed = planned(composer, "loss=squared", "trainer.batch_users=32")
        fixed.refuse_mistakes()
        assert list(fixed.ranges) == ["model.width", "optimizer.lr", "loss.zero_scale"]
        assert fixed.applies("loss.zero_scale", {"model.width": 8})
        composed = fixed.config_of({"model.width": 8}, Path("run"))
        assert composed.loss["_target_"] == "deeprec.loss.squared.Squared"
        assert composed.trainer["batch_users"] == 32
        every = [f"{key}=8" for key in SPACE["ranges"] if key != "loss"]  # type: ignore[attr-defined]
        with pytest.raises(ConfigError, match="fixes every setting"):
            planned(composer, "loss=squared", *every)
