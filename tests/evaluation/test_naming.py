"""Which runs count as seeds of one config, and what blends are called."""

from pathlib import PurePath
from typing import Any

import pytest

from deeprec.evaluation.naming import named, trained


def blend(seed: int, weights: list[float], **model: Any) -> dict[str, Any]:
    """A config as `deeprec blend` writes it."""
    members = [{"_target_": "a.Near"}, {"_target_": "a.Neural", "target_share": 0.1 * seed}]
    parts = {"_target_": "a.Blend", "members": members, "weights": weights, "cutoff": 100}
    trainer = {"threads": seed, "prefetch_batches": seed, "max_epochs": 3}
    return {"seed": seed, "model": {**parts, "told": None, **model}, "trainer": trainer}


def of_run(seed: int, lr: float = 0.1) -> list[dict[str, Any] | None]:
    """What the folder of a blend keeps of its members: one was trained elsewhere."""
    trainer = {"last_epoch": seed, "threads": seed, "max_epochs": 9}
    return [None, {"seed": seed, "optimizer": {"lr": lr}, "trainer": trainer}]


def auto(seed: int, members: int, word: str) -> dict[str, Any]:
    """As `experiment=auto` writes it: one seed may leave out what another takes."""
    told = [f"seed={seed}", f"optimizer.lr={word}"]
    return blend(seed, [1 / members] * members, told=told, members=[{}] * members)


def test_blends_whose_weights_were_chosen_are_seeds_of_one_config() -> None:
    one, other = blend(1, [0.4, 0.6]), blend(2, [0.5, 0.5])
    assert trained(one, of_run(1)) == trained(other, of_run(2))
    assert trained(one, of_run(1)) != trained(other, of_run(2, lr=0.2))
    assert named(["blend"] * 2, [one, other], [PurePath("x"), PurePath("y")]) == [
        "blend, seed=1",
        "blend, seed=2",
    ]
    assert trained(auto(1, 3, "0.1")) == trained(auto(2, 2, "0.1"))
    assert trained(auto(1, 3, "0.1")) != trained(auto(2, 3, "0.2"))


@pytest.mark.parametrize(("weights", "same"), [([0.4, 0.6], True), ([0.5, 0.5], False)])
def test_weights_that_were_given_are_of_the_config(weights: list[float], same: bool) -> None:
    one, other = blend(1, [0.4, 0.6], cutoff=None), blend(2, weights, cutoff=None)
    assert (trained(one, of_run(1)) == trained(other, of_run(2))) is same


@pytest.mark.parametrize(
    ("folders", "called"),
    [
        (["/d/sweeps/shop/best", "/d/runs/shop"], ["shop/best", "runs/shop"]),
        (["/d/a/blend", "/d/runs/shop"], ["a/blend", "runs/shop"]),  # "blend in blend" says nothing
        (["/d/runs/shop", "/d/runs/shop/again"], ["shop", "again"]),  # nothing sets these apart
        (["/d/runs/shop", "/d/runs/shop", "/d/runs/new"], ["shop", "shop", "new"]),
    ],
)
def test_a_folder_is_called_by_as_many_names_as_tell_it(
    folders: list[str], called: list[str]
) -> None:
    configs = [{"parts": n * "part "} for n in range(20, 20 + len(folders))]
    names = ["blend"] * len(folders)
    # a run of another model is called by no folder, and makes nobody's longer
    found = named([*names, "ease"], [*configs, {}], [*map(PurePath, folders), PurePath("/d/shop")])
    assert found == [*(f"blend in {one}" for one in called), "ease"]


def test_a_blend_that_nobody_composed_is_called_by_its_folder() -> None:
    """Its members and what it was told are no settings that anybody gave."""
    composed, chosen = blend(1, [0.4, 0.6]), auto(1, 2, "0.1")
    silent = blend(1, [0.5, 0.5], told=[], members=[{}] * 2)
    folders = [PurePath("/d/sweeps/first"), PurePath("/d/runs/auto"), PurePath("/d/runs/bare")]
    assert named(["blend"] * 3, [composed, chosen, silent], folders)[1:] == [
        "blend in auto",
        "blend in bare",
    ]
    both = named(["blend"] * 2, [composed, silent], folders[1:])
    assert both == ["blend in auto", "blend in bare"]
