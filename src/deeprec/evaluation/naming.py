"""What systems of a report are called: by model, by what sets runs apart, no two the same."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from deeprec.override import key_of
from deeprec.resumed import FREE

# of a config: not what was trained
OWN_PLACE = ("output_dir", "resume", "prepared", "logger")
OWN_PACE = ("trainer.threads", *FREE)
# of settings that a name is made of; runs that differ in more are called by their folder
MOST_KEYS, MOST_LETTERS = 3, 60
MADE = {"model.members", "model.told"}  # what a blend was made of, which nobody set


def named(
    names: Sequence[str], configs: Sequence[Mapping[str, Any]], folders: Sequence[PurePath]
) -> list[str]:
    """Names of runs: the model, and the settings in which runs of that model differ.

    Where these are many or long, the folder of the run stands for them.

    Args:
        names: of the models.
        configs: what each run was told.
        folders: where each lies.

    Example:
        >>> folders = [PurePath("/runs/x"), PurePath("/runs/y"), PurePath("/runs/z")]
        >>> named(["a", "a", "b"], [{"seed": 1}, {"seed": 2}, {"seed": 1}], folders)
        ['a, seed=1', 'a, seed=2', 'b']
        >>> named(["a", "a"], [{"parts": "p" * 80}, {"parts": "q" * 80}], folders[:2])
        ['a in x', 'a in y']
    """
    flat = [trained_alike(config) for config in configs]
    told = []
    for name, one, folder in zip(names, flat, folders, strict=True):
        same = [place for place, its in enumerate(names) if its == name]
        alike = [flat[place] for place in same]
        every = sorted({key for other in alike for key in other})
        keys = [key for key in every if len({str(other.get(key)) for other in alike}) > 1]
        settings = ", ".join(f"{_short(key, keys)}={one.get(key)}" for key in keys)
        if not keys:
            told.append(name)
        elif (
            len(keys) <= MOST_KEYS and len(settings) <= MOST_LETTERS and not MADE.intersection(keys)
        ):
            told.append(f"{name}, {settings}")
        else:
            told.append(f"{name} in {apart([folders[place] for place in same], name)[folder]}")
    return told


def trained_alike(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config without where it lies and what changes nothing of what is learned.

    Nor is there what a blend found out when it was made, which is another with each seed: weights
    that validation chose, what is known of the first batch, and of a blend that `experiment=auto`
    made its members, of which those that weigh nothing were left out.
    """
    config = {**config, "model": _as_told(config.get("model", {}))}
    return {key: value for key, value in _flat(config).items() if not key.startswith(OWN_PACE)}


def _as_told(model: Any) -> Any:
    if not isinstance(model, Mapping) or "members" not in model:
        return model
    if model.get("told") is not None:
        told = [word for word in model["told"] if key_of(word) != "seed"]
        return {**model, "members": None, "weights": None, "told": told}
    members = [
        {key: value for key, value in _as_told(member).items() if key != "target_share"}
        for member in model["members"]
    ]
    weights = model["weights"] if model["cutoff"] is None else None
    return {**model, "members": members, "weights": weights}


def apart(folders: Sequence[PurePath], model: str) -> dict[PurePath, str]:
    """What folders of runs of a model are called: so many of their last names as tell them apart.

    Where that can be had, none is also found in the path of another, or is the name of the model.

    Example:
        >>> list(apart([PurePath("/a/x/run"), PurePath("/a/y/run")], "blend").values())
        ['x/run', 'y/run']
        >>> list(apart([PurePath("/sweeps/shop/blend"), PurePath("/runs/shop")], "blend").values())
        ['shop/blend', 'runs/shop']
    """
    most = max(len(folder.parts) for folder in folders)
    ends = [
        {one: "/".join(one.parts[-count:]).lstrip("/") for one in folders}
        for count in range(1, most + 1)
    ]
    different = [names for names in ends if len({*names.values()}) == len(names)]
    return next((names for names in different if _telling(names, model)), different[0])


def _telling(names: Mapping[PurePath, str], model: str) -> bool:
    within = [
        other
        for folder, name in names.items()
        for other in names
        if other != folder and f"/{name}/" in f"/{other.as_posix()}/"
    ]
    return not within and model not in names.values()


def trained(
    config: Mapping[str, Any], members: Sequence[Mapping[str, Any] | None] | None = None
) -> dict[str, Any]:
    """What the runs of one config share over their seeds.

    Args:
        members: of a blend, what trains each again, as its run folder keeps it.
    """
    told = trained_alike(config)
    if told.get("model.members") is not None and members is not None:
        known = zip(members, told["model.members"], strict=True)
        told["model.members"] = [model if one is None else _of_member(one) for one, model in known]
    return {key: value for key, value in told.items() if key != "seed"}


def _of_member(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Without the epoch that was best of it."""
    return {key: one for key, one in trained(settings).items() if key != "trainer.last_epoch"}


def named_apart(names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """The names, a later one that is already taken called `name (kind)`, or `name 2`.

    Example:
        >>> named_apart(["a", "a", "a", "a"], ["run", "run", "baseline", "run"])
        ['a', 'a 2', 'a (baseline)', 'a 3']
    """
    taken: list[str] = []
    for name, kind in zip(names, kinds, strict=True):
        first_kind = kinds[taken.index(name)] if name in taken else kind
        told = name if first_kind == kind else f"{name} ({kind})"
        number, free = 2, told
        while free in taken:
            free, number = f"{told} {number}", number + 1
        taken.append(free)
    return taken


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not above and key in OWN_PLACE:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _short(key: str, keys: Sequence[str]) -> str:
    """The last word of a key where no other key ends so."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key
