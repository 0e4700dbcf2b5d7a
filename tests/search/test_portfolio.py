"""Several spaces in one search: those that suit the data, each trial of one of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deeprec import config
from deeprec.composition import Composer
from deeprec.config import compose
from deeprec.errors import ConfigError
from deeprec.model.auto import Auto, Shape
from deeprec.search.portfolio import Portfolio
from deeprec.search.portfolio_plan import PortfolioPlan
from deeprec.search.shelf import Shelf
from deeprec.search.space import SPACE
from deeprec.search.study import Study
from deeprec.search.trial import Trial
from deeprec.verb import SweepConfig

MANY_USERS_AN_ITEM = Shape(6_000, 3_000, 800_000, False, None, None)
FEW_USERS_AN_ITEM = Shape(6_000, 3_000, 80_000, False, None, None)


def swept(*words: str) -> SweepConfig:
    found = compose("sweep", ["sweep=auto", "prepared=p", "trials=1", *words])
    assert isinstance(found, SweepConfig)
    return found


AS_IT_COMES = swept()


def planned(composer: Composer, shape: Shape, *words: str) -> PortfolioPlan:
    told = replace(AS_IT_COMES, train=list(words))  # Hydra is at work on the configs of train
    space = config.instantiate(told.sweep)
    assert isinstance(space, Portfolio)
    return PortfolioPlan(told, space.suited(shape), Auto().choose(shape), composer)


@pytest.fixture
def composer() -> Iterator[Composer]:
    with config.opened("train") as opened:
        yield opened


def names(shape: Shape, *words: str) -> list[str]:
    space = config.instantiate(swept(*words).sweep)
    assert isinstance(space, Portfolio)
    return list(space.suited(shape))


def ended(number: int, values: dict[str, Any], score: float) -> Trial:
    return Trial(number, "whole", score, values, epochs=1, seconds=1.0, ended=1.0, reason=None)


def test_where_items_are_seldom_taken_again_what_is_new_is_searched_too() -> None:
    seldom = Shape(3_000, 800, 30_000, True, 300.0, 30.0, had_before=0.1)
    often = names(replace(seldom, had_before=0.5))
    found = names(seldom)
    assert found[: len(often)] == often
    assert {*found} == {*often, *names(replace(seldom, repeats=False))}


def test_the_spaces_suit_the_data() -> None:
    assert names(Shape(10, 10, 50, True, None, None)) == ["taken_again", "item_to_item", "ease"]
    by_time = ["complete_journey", "item_to_item", "ease", "sequence"]
    assert names(Shape(10, 10, 50, True, 30.0, 10.0)) == by_time
    assert names(Shape(10, 10, 50, True, 30.0, None, judges_next=True)) == [
        "sequence",
        *by_time[:3],
    ]
    assert names(Shape(10, 10, 50, False, 30.0, None))[-1] == "sequence"
    assert names(Shape(10, 10, 50, False, 30.0, None, judges_next=True))[0] == "sequence"
    assert {"ease", "linear", "ials", "variational"} <= set(names(MANY_USERS_AN_ITEM))
    assert "sequence" not in names(MANY_USERS_AN_ITEM)  # it knows no times
    large = names(Shape(10_000, 1_000_000, 9_000_000, False, None, None))
    assert large == ["linear", "ials"]  # [V, V] and lists of neighbours are too much
    assert "ials" not in names(MANY_USERS_AN_ITEM, "sweep.new.ials=null")


def test_what_auto_would_train_comes_first_then_each_as_it_comes(
    composer: Composer, tmp_path: Path
) -> None:
    plan = planned(composer, FEW_USERS_AN_ITEM)
    study = Study(tmp_path, plan, {}, seed=1, prune=True, workers=1)
    spaces = plan.ranges[SPACE].ends
    found = []
    for _ in range(len(spaces) + 6):
        number, values = study.ask()
        study.settle(ended(number, values, 0.1 + 0.01 * number))
        found.append(values)
    assert [one[SPACE] for one in found[: len(spaces)]] == spaces
    for number in range(len(spaces), len(found)):  # every second is of the space whose turn it is
        if number % 2:
            assert found[number][SPACE] == spaces[number // 2 % len(spaces)]
    assert spaces[0] == "ease"
    for values in found:
        own = [key for key in values if key != SPACE]
        assert all(key.startswith(f"{values[SPACE]}/") for key in own)
        assert all(plan.ranges[key].holds(value) for key, value in values.items())
    composed = plan.config_of(found[0], Path("run"))
    assert composed.model["_target_"] == "deeprec.model.ease.Ease"
    assert composed.model["l2"] is None  # as it ships


def test_a_run_is_compared_with_those_of_its_own_space(composer: Composer, tmp_path: Path) -> None:
    """That others are further at half of their epochs says nothing of one that learns slowly."""
    plan = planned(composer, FEW_USERS_AN_ITEM)
    study = Study(tmp_path, plan, {}, seed=1, prune=True, workers=1)
    told: dict[object, list[bool]] = {}
    for _ in range(len(plan.ranges[SPACE].ends) + 24):
        number, values = study.ask()
        score = 0.1 if values[SPACE] == "ials" else 0.5 - 0.001 * number
        told.setdefault(values[SPACE], []).append(study.is_behind(number, 5, 10, score))
        study.settle(ended(number, values, score))
    assert not any(told["ials"])
    assert any(any(behind) for behind in told.values())


def test_the_words_of_auto_hold_for_its_space(composer: Composer) -> None:
    plan = planned(composer, MANY_USERS_AN_ITEM)
    first = plan.config_of(plan.first_tried()[0], Path("run"))
    words = Auto().choose(MANY_USERS_AN_ITEM).words
    told, mistakes = config.translate(composer, words, multirun=False)
    place = ["prepared=p", "output_dir=run", "logger.wandb=off", "seed=1"]
    alone, more = config.read(composer, [*told, *(f"++{word}" for word in place)])
    assert not [*mistakes, *more]
    assert first == alone


def test_what_auto_would_train_beside_is_tried_first_of_its_space(composer: Composer) -> None:
    by_time = Shape(1_000, 500, 4_000, False, 300.0, 30.0)
    plan = planned(composer, by_time)
    first = {one[SPACE]: plan.config_of(one, Path("run")) for one in plan.first_tried()}
    assert first["popularity"].model["recent_days"] == 15
    assert first["item_to_item"].model["history_weighting"] == "decayed"
    assert first["sequence"].trainer["batch_users"] == 32


def test_a_word_for_all_runs_is_searched_in_none(composer: Composer) -> None:
    plan = planned(composer, MANY_USERS_AN_ITEM, "trainer.max_epochs=3")
    assert not any(key.endswith("/trainer.max_epochs") for key in plan.ranges)
    for values in plan.first_tried():
        assert plan.config_of(values, Path("run")).trainer["max_epochs"] == 3
    assert plan.words == ["logger.wandb=off", "trainer.max_epochs=3"]


@pytest.mark.parametrize("word", ["model=ease", "experiment=smoke"])
def test_a_model_in_the_command_is_refused_with_the_way_out(composer: Composer, word: str) -> None:
    with pytest.raises(ConfigError, match=f"sweep=autoencoder {word}"):
        planned(composer, MANY_USERS_AN_ITEM, word)


def test_the_weights_of_the_best_of_each_space_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, "best", lambda values: str(values[SPACE]))
    trials = [
        ended(0, {SPACE: "ease"}, 0.3),
        ended(1, {SPACE: "ials"}, 0.2),
        ended(2, {SPACE: "ease"}, 0.4),
    ]
    assert [one.number for one in shelf.best_of_each(trials)] == [2, 1]
