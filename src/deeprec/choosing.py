"""`model=auto`: the config of a run whose model is chosen by the data."""

from collections.abc import Set
from dataclasses import replace
from typing import Any

from deeprec.config import check, compose, to_dict
from deeprec.console import console
from deeprec.data.judge import share_had_before
from deeprec.data.store import SECONDS_PER_DAY, Prepared
from deeprec.errors import ConfigError
from deeprec.model.auto import Auto, Shape
from deeprec.override import key_of
from deeprec.part import find, instantiate
from deeprec.schema import Part
from deeprec.trainer.kinds import input_reads_catalog
from deeprec.trainer.loop import ALONE
from deeprec.verb import TrainConfig, VerbConfig, is_solved

LOOKED_AT = 20_000  # users, for what they had before
UNKNOWN_DAYS = 30.0  # that are judged after a time cut, where no validation part tells
PARTS = ("loss", "optimizer", "target", "trainer")
NOT_OF_MODELS = ("experiment", "model", "prepared", "output_dir", "resume")


def chosen(config: TrainConfig, prepared: Prepared) -> list[TrainConfig]:
    """The same config where it names its model; else those that the prepared folder calls for.

    Whatever a person said is kept, and what the config says otherwise than the defaults do. Several
    are meant to be trained one after the other and blended.

    Raises:
        ConfigError: what is kept does not fit what was chosen.
    """
    if find(config.model["_target_"]) is not Auto:
        return [config]
    if config.start_from is not None:
        raise ConfigError(
            "start_from: experiment=auto chooses a model, which may be another than that of the run"
            f"; give the settings of that run, or `deeprec refit run={config.start_from} "
            "keep_weights=true`, which takes them"
        )
    auto: Auto = instantiate(config.model)
    choice = auto.choose(shape_of(prepared))
    console.print(f"experiment=auto: {choice.why}", soft_wrap=True)
    said = {key_of(word): word for word in auto.told}
    place = [f"prepared={prepared.path}", "output_dir=unused"]
    defaults = compose("train", place)
    configs = []
    for words in (choice.words, *choice.beside):
        picked = _with_settings(compose("train", [*place, *words]), auto)
        besides = [
            word
            for key, word in said.items()
            if key not in NOT_OF_MODELS and _is_of(key, picked.model)
        ]
        console.print(f"  {' '.join([*words, *besides])}", soft_wrap=True)
        configs.append(_picked(config, said.keys(), defaults, picked))
    return configs


def _with_settings(config: VerbConfig, auto: Auto) -> TrainConfig:
    """A chosen model as the command wants it, where it has such settings."""
    assert isinstance(config, TrainConfig)
    own = {name: value for name, value in auto.settings.items() if name in config.model}
    return replace(config, model={**config.model, **own})


def _is_of(key: str, model: Part) -> bool:
    """Whether a word is of no model, or of one that has such a setting."""
    group, _, name = key.partition(".")
    return group != "model" or name in model


def _picked(
    config: TrainConfig, told: Set[str], defaults: VerbConfig, picked: TrainConfig
) -> TrainConfig:
    def merged_part(name: str) -> dict[str, Any]:
        given, default = getattr(config, name), getattr(defaults, name)
        if name in told or given["_target_"] != default["_target_"]:
            return dict(given)
        said = {
            key: value
            for key, value in given.items()
            if f"{name}.{key}" in told or default.get(key) != value
        }
        return {**getattr(picked, name), **said}

    merged: dict[str, Any] = {name: merged_part(name) for name in PARTS}
    if is_solved(picked.model):  # by one process, whatever trains the others
        merged["trainer"] = {**merged["trainer"], **ALONE}
    elif input_reads_catalog(
        find(picked.model["_target_"]), tied=bool(picked.model.get("tied", False))
    ):
        merged["trainer"] = {**merged["trainer"], "shard_catalog": False, "shard_inputs": False}
    config = replace(config, model=picked.model, **merged)
    check(to_dict(config), "train")
    return config


def shape_of(prepared: Prepared) -> Shape:
    """What the choice depends on."""
    period = prepared.training_period
    starts, ends = prepared.instant("validation"), prepared.instant("holdout")
    return Shape(
        num_users=len(prepared.training_users()),
        num_items=prepared.num_items,
        num_pairs=int(prepared.popularity.sum()),
        repeats=prepared.repeats,
        training_days=None if period is None else (period[1] - period[0]) / SECONDS_PER_DAY,
        judged_days=_judged_days(starts, ends),
        judges_next=prepared.manifest.get("split", {}).get("name") == "leave_last_out",
        had_before=(
            share_had_before(prepared, "validation", LOOKED_AT) if prepared.repeats else None
        ),
    )


def _judged_days(starts: int | None, ends: int | None) -> float | None:
    """How long the validation part is, or would be: it may be trained on too."""
    if ends is None:
        return None
    return UNKNOWN_DAYS if starts is None else (ends - starts) / SECONDS_PER_DAY
