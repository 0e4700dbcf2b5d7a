"""The config of a run as an experiment file: what sets it apart from the defaults, and no more."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from deeprec import config as configs
from deeprec.composition import Composer
from deeprec.search.space import label
from deeprec.verb import TrainConfig

PLACES = ("prepared", "output_dir", "resume", "logger")  # not of what is trained


def experiment(run: TrainConfig, composer: Composer, *, own_threads: bool) -> str:
    """The file without its comments; `train` with it and nothing else trains the same.

    Args:
        run: the config of the run.
        composer: of `train`, open.
        own_threads: whether its threads were its share of a machine and are no wish.
    """
    told = configs.to_dict(run)
    groups = {name: told[name]["_target_"] for name in composer.groups if told.get(name)}
    choices = {group: composer.choice_of(group, target) for group, target in groups.items()}
    words = [f"{group}={choice}" for group, choice in choices.items() if choice]
    base, mistakes = configs.read(composer, [*words, "++prepared=known", "++output_dir=known"])
    assert isinstance(base, TrainConfig), mistakes
    without = {key: value for key, value in told.items() if key not in PLACES}
    differs = _differing(without, configs.to_dict(base))
    if own_threads and "trainer" in differs:
        differs["trainer"].pop("threads", None)
    defaults = configs.group_defaults("train")
    overrides = [
        {f"override /{group}": choice}
        for group, choice in choices.items()
        if choice != defaults[group] and group not in PLACES
    ]
    content = {"defaults": overrides, **differs} if overrides else differs
    return OmegaConf.to_yaml(OmegaConf.create({k: v for k, v in content.items() if v != {}}))


def _differing(told: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config differs from another, parts key by key."""
    found: dict[str, Any] = {}
    for key, value in told.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            found[key] = _differing(value, base[key])
        elif key not in base or label(value) != label(base[key]):
            found[key] = value
    return found
