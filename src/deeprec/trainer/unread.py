"""Settings that a run does not read, because another one stands before them.

An experiment may set them, so they are told and not refused.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from deeprec.part import find
from deeprec.trainer.facts import Facts
from deeprec.verb import TrainConfig

Part = Mapping[str, Any]


class Rule(NamedTuple):
    """A setting of a part, and what of that part or of the data stands before it."""

    part: str
    setting: str
    stands_before: Callable[[Part, Facts], bool]
    why: str


BETWEEN_EVENTS = "target.window_events is set, which cuts between events"
RULES = (
    Rule("target", "window_days", lambda part, _: bool(part.get("window_events")), BETWEEN_EVENTS),
    Rule("target", "cut_days", lambda part, _: bool(part.get("window_events")), BETWEEN_EVENTS),
    Rule(
        "model",
        "fade_days",
        lambda part, _: part.get("history_weighting") != "decayed",
        "events fade with model.history_weighting=decayed alone",
    ),
    Rule(
        "model",
        "output_init_std",
        lambda part, _: bool(part.get("tied")),
        "with model.tied=true there is one table, which begins by model.init_std",
    ),
    Rule(
        "model",
        "reconstruction",
        lambda _, facts: not facts.repeats,
        "it finds items that target= leaves out of a history, and here none may be asked for again",
    ),
    Rule(
        "model",
        "normalize",
        lambda part, _: part.get("pooling") == "mean",
        "model.pooling=mean knows no scale of weights",
    ),
    Rule(
        "model",
        "dropped_inputs",
        lambda part, _: not part.get("input_dropout"),
        "model.input_dropout=0 drops nothing",
    ),
    Rule(
        "model",
        "table_backend",
        lambda part, facts: bool(part.get("tied")) and not facts.fields,
        "with model.tied=true there is no input table beside the catalog's",
    ),
)


def unread(config: TrainConfig, facts: Facts) -> Iterator[str]:
    """What to say of each setting that is not as it comes, and is without effect in this run."""
    for part_name, setting, stands_before, why in RULES:
        part = getattr(config, part_name)
        if part is None or setting not in part or part[setting] == _default(part, setting):
            continue
        if stands_before(part, facts):
            value = json.dumps(part[setting])
            yield f"{part_name}.{setting}={value} is not read: {why}"


def _default(part: Part, setting: str) -> object:
    default = inspect.signature(find(part["_target_"])).parameters[setting].default
    return list(default) if isinstance(default, tuple) else default
