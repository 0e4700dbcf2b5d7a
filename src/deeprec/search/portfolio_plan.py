"""The plan of several spaces: a trial is of one of them, and its settings are named by it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeprec.composition import Composer
from deeprec.errors import ConfigError
from deeprec.model.auto import Choice
from deeprec.override import key_of
from deeprec.search.plan import Values
from deeprec.search.space import SPACE, Choices, Range, Space, of_space, setting_of
from deeprec.search.space_plan import SpacePlan
from deeprec.verb import SweepConfig, TrainConfig


class PortfolioPlan:
    """A `Plan` of several spaces.

    The first trial is what `experiment=auto` would train first, then come the other spaces, as it
    would train them beside that or by their defaults, then what is drawn: a space, which has its
    turn in every second trial, and settings of it.

    Args:
        config: of the sweep.
        spaces: by name, those that are tried first in front.
        choice: of `experiment=auto` for these data.
        composer: of `train`, open.

    Raises:
        ConfigError: the command names a model, or no space is for such data.
    """

    def __init__(
        self,
        config: SweepConfig,
        spaces: Mapping[str, Space],
        choice: Choice,
        composer: Composer,
    ) -> None:
        _refuse_model(config)
        if not spaces:
            raise ConfigError("sweep: none of its spaces is for such data; name one: sweep=ease")
        self._plans = {
            name: SpacePlan(config, one, composer)
            for name, one in _as_chosen(spaces, choice).items()
        }
        self.ranges: dict[str, Range] = {SPACE: Choices(list(self._plans))}
        for name, plan in self._plans.items():
            for key, one in plan.ranges.items():
                when = {of_space(name, other): wanted for other, wanted in one.when.items()}
                self.ranges[of_space(name, key)] = replace(one, when={SPACE: [name], **when})

    @property
    def words(self) -> list[str]:
        """What the runs of every space are told."""
        told = [plan.words for plan in self._plans.values()]
        return [word for word in told[0] if all(word in words for words in told)]

    def settings(self) -> dict[str, Any]:
        return {name: plan.settings() for name, plan in self._plans.items()}

    @property
    def metric(self) -> str:
        return next(plan.metric for plan in self._plans.values())

    @property
    def shares_threads(self) -> bool:
        return all(plan.shares_threads for plan in self._plans.values())

    def refuse_mistakes(self) -> None:
        for plan in self._plans.values():
            plan.refuse_mistakes()

    def defaults(self) -> Values:
        found: Values = {}
        for values in self.first_tried():
            found = values | found  # the space of the first stands
        return found

    def first_tried(self) -> list[Values]:
        return [
            {SPACE: name} | {of_space(name, key): one for key, one in plan.defaults().items()}
            for name, plan in self._plans.items()
        ]

    def turn(self, number: int) -> Values:
        """Every second trial is of the next space, so that what one is best at hides no other."""
        names = list(self._plans)
        return {SPACE: names[number // 2 % len(names)]} if number % 2 else {}

    def family(self, values: Mapping[str, object]) -> str:
        return str(values[SPACE])

    def applies(self, key: str, values: Mapping[str, object]) -> bool:
        if key == SPACE:
            return True
        name = self.family(values)
        own = self._own(name, values)
        return key == of_space(name, setting_of(key)) and self._plans[name].applies(
            setting_of(key), own
        )

    def config_of(self, values: Mapping[str, object], output_dir: Path) -> TrainConfig:
        name = self.family(values)
        return self._plans[name].config_of(self._own(name, values), output_dir)

    def _own(self, name: str, values: Mapping[str, object]) -> Values:
        """The values as the space itself calls them."""
        return {
            setting_of(key): one
            for key, one in values.items()
            if key == of_space(name, setting_of(key))
        }


def _as_chosen(spaces: Mapping[str, Space], choice: Choice) -> dict[str, Space]:
    """With what `experiment=auto` chose in front, and in its own words where it says more."""
    told = dict(spaces)
    for first, *further in (choice.words, *choice.beside):
        for name, one in spaces.items():
            if first in one.fixed:
                told[name] = one.told(further)
    front = [name for name, one in spaces.items() if choice.words[0] in one.fixed]
    return {name: told[name] for name in [*front, *spaces]}


def _refuse_model(config: SweepConfig) -> None:
    for word in config.train:
        if key_of(word) in ("model", "experiment"):
            name = word.partition("=")[2]
            raise ConfigError(
                f"{word}: this sweep chooses the model itself; to search settings of one, name its "
                f"space, such as sweep={name} or sweep=autoencoder {word} (docs/search.md)"
            )
