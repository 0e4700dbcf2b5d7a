"""Whether a command asks for the run that is there, as one that a scheduler repeats does."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deeprec.config import to_dict
from deeprec.errors import ConfigError
from deeprec.loss.auto import COSINE, SAMPLED, SOFTMAX
from deeprec.override import key_of
from deeprec.part import called
from deeprec.resumed import FREE
from deeprec.verb import TrainConfig

ANYWAY = (
    "prepared",
    "output_dir",
    "resume",
    "replay",
    "logger",
)  # change nothing of what is learned
AUTO, BLEND = "deeprec.model.auto.Auto", "deeprec.model.blend.Blend"
LOSS_AUTO = "deeprec.loss.auto.Auto"  # the run holds what these chose


def refuse_another(asked: TrainConfig, kept: TrainConfig, path: object) -> None:
    """A run goes on under the config it has, so a command beside it must ask for that one.

    Raises:
        ConfigError: with each setting that differs.
    """
    if _target(asked) == AUTO and _target(kept) == BLEND:
        # which keeps none of the settings that its members were trained with, but what was said
        different = list(_other_words(asked.model.get("told") or (), kept.model.get("told")))
    else:
        different = list(_differences(to_dict(asked), to_dict(kept)))
    if different:
        lines = "\n".join(f"  - {one}" for one in different)
        raise ConfigError(
            f"{path} holds a run with other settings:\n{lines}\n"
            "give the command that it was begun with, or another output_dir"
        )


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """What trains a run again, as plain values: not where it lies, nor on what it is trained."""
    return {name: value for name, value in to_dict(config).items() if name not in ANYWAY}


def of_training(words: Sequence[str]) -> list[str]:
    """Those words of a command that change what is learned.

    Example:
        >>> of_training(["output_dir=a", "seed=3", "trainer.on_disk_full=stop", "logger.wandb=off"])
        ['seed=3']
    """
    elsewhere = (*ANYWAY, "experiment", "hydra")
    keys = {word: key_of(word) for word in words}
    return [
        word
        for word, key in keys.items()
        if key not in FREE and key.partition(".")[0] not in elsewhere
    ]


def _other_words(asked: Sequence[str], kept: Sequence[str] | None) -> Iterator[str]:
    """What one command said of how members are trained, and the other did not.

    Args:
        kept: None: an earlier version wrote the run, or its members are runs of their own.
    """
    if kept is None:
        return
    one, other = (
        {key_of(word): word.partition("=")[2] for word in of_training(words)}
        for words in (asked, kept)
    )
    for key in sorted(one.keys() | other.keys()):
        if key not in one:
            yield f"{key}: left out, the run was begun with {other[key]}"
        elif key not in other:
            yield f"{key}: asked for {one[key]}, the run was begun without it"
        elif one[key] != other[key]:
            yield f"{key}: asked for {one[key]}, the run has {other[key]}"


def _differences(asked: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[str]:
    for name in asked.keys() - set(ANYWAY):
        is_part = isinstance(asked[name], Mapping)
        if is_part and (kept[name] is None or asked[name]["_target_"] == AUTO):
            continue  # of a solved model, or chosen when the run began
        if is_part and asked[name]["_target_"] == LOSS_AUTO:
            yield from _unlike_chosen(asked[name], kept[name])
            continue
        one, other = _leaves(name, asked[name]), _leaves(name, kept[name])
        for path in sorted(one.keys() | other.keys()):
            if path not in FREE and one.get(path) != other.get(path):
                yield f"{path}: asked for {one.get(path)!r}, the run has {other.get(path)!r}"


def _unlike_chosen(asked: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[str]:
    """Why `loss=auto` cannot have chosen the loss of a run, whatever memory there was."""
    if kept["_target_"] not in (SOFTMAX, SAMPLED, COSINE):
        yield f"loss: asked for loss=auto, which never chooses what the run has, {called(kept)}"
    elif kept["_target_"] == SAMPLED and kept["negatives"] != asked["negatives"]:
        told = kept["negatives"]
        yield f"loss.negatives: asked for {asked['negatives']!r}, the run has {told!r}"


def _leaves(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: list(value) if isinstance(value, tuple) else value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _leaves(f"{path}.{key}", inner)
    return found


def _target(config: TrainConfig) -> object:
    return config.model.get("_target_")
