"""Whether a command asks for the run that is there, as one that a scheduler repeats does."""

from collections.abc import Iterator, Mapping
from typing import Any

from deeprec.config import TrainConfig, to_dict
from deeprec.errors import ConfigError
from deeprec.resumed import FREE

ANYWAY = (
    "prepared",
    "output_dir",
    "resume",
    "replay",
    "logger",
)  # change nothing of what is learned
AUTO, BLEND = "deeprec.model.auto.Auto", "deeprec.model.blend.Blend"
CHOOSING = ("deeprec.loss.auto.Auto", AUTO)  # the run holds what they chose


def refuse_another(asked: TrainConfig, kept: TrainConfig, path: object) -> None:
    """A run goes on under the config it has, so a command beside it must ask for that one.

    Raises:
        ConfigError: with each setting that differs.
    """
    if _target(asked) == AUTO and _target(kept) == BLEND:
        return  # which keeps none of the settings that its members were trained with
    different = list(_differences(to_dict(asked), to_dict(kept)))
    if different:
        lines = "\n".join(f"  - {one}" for one in different)
        raise ConfigError(
            f"{path} holds a run with other settings:\n{lines}\n"
            "give the command that it was begun with, or another output_dir"
        )


def _differences(asked: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[str]:
    for name in asked.keys() - set(ANYWAY):
        is_part = isinstance(asked[name], Mapping)
        if is_part and (kept[name] is None or asked[name]["_target_"] in CHOOSING):
            continue  # of a solved model, or chosen when the run began
        one, other = _leaves(name, asked[name]), _leaves(name, kept[name])
        for path in sorted(one.keys() | other.keys()):
            if path not in FREE and one.get(path) != other.get(path):
                yield f"{path}: asked for {one.get(path)!r}, the run has {other.get(path)!r}"


def _leaves(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: list(value) if isinstance(value, tuple) else value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _leaves(f"{path}.{key}", inner)
    return found


def _target(config: TrainConfig) -> object:
    return config.model.get("_target_")
