"""The plan of one space: the words for all trials, and values from the space."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, cast

from deeprec import config as configs
from deeprec.composition import Composer
from deeprec.errors import ConfigError
from deeprec.machine import cores
from deeprec.override import key_of, merged, word_of
from deeprec.resumed import FREE
from deeprec.search.plan import Values
from deeprec.search.space import Space, applies
from deeprec.trainer.asked_again import settings_of
from deeprec.trainer.loop import Loop
from deeprec.verb import SweepConfig, TrainConfig

PACE = ("trainer.threads", *FREE)  # each worker has a share of the threads


class SpacePlan:
    """A `Plan` of one space.

    Args:
        config: of the sweep.
        space: of settings.
        composer: of `train`, open.

    Raises:
        ConfigError: the command leaves nothing to search.
    """

    def __init__(self, config: SweepConfig, space: Space, composer: Composer) -> None:
        self._config, self._composer = config, composer
        self.words = merged(_beside_others(config.workers), space.fixed, config.train)
        self._said = {key_of(word): word.partition("=")[2] for word in self.words}
        asked = list(map(key_of, config.train))
        self.ranges = {key: one for key, one in space.ranges.items() if key not in asked}
        if not self.ranges:
            raise ConfigError("sweep: the command fixes every setting that this space searches")
        self._space_fixed = space.fixed

    def settings(self) -> dict[str, Any]:
        found = settings_of(self._untold)
        trainer = found["trainer"].items()
        return found | {"trainer": {k: v for k, v in trainer if f"trainer.{k}" not in PACE}}

    @property
    def metric(self) -> str:
        loop: Loop = configs.instantiate(self._untold.trainer)
        return loop.schedule.metric

    @property
    def shares_threads(self) -> bool:
        asked = [*self._space_fixed, *self._config.train]
        return self._config.workers > 1 and "trainer.threads" not in map(key_of, asked)

    def refuse_mistakes(self) -> None:
        found = [self._mistakes(values) for values in self._probes()]
        configs.refuse("sweep", list(chain(*found)))

    def defaults(self) -> Values:
        """What a run is told of the searched settings if it is told nothing."""
        found = {key: self._value(self._untold, key) for key in self.ranges}
        return {key: value for key, value in found.items() if self.applies(key, found)}

    def first_tried(self) -> list[Values]:
        return [self.defaults()]

    def turn(self, number: int) -> Values:
        return {}

    def family(self, values: Mapping[str, object]) -> str:
        return ""

    def applies(self, key: str, values: Mapping[str, object]) -> bool:
        one = self.ranges[key]
        known = {
            other: self._said.get(other) or self._value(self._untold, other)
            for other in one.when
            if other not in self.ranges
        }
        return applies(one, {**known, **values})

    def config_of(self, values: Mapping[str, object], output_dir: Path) -> TrainConfig:
        composed, mistakes = self._composed(values, output_dir)
        configs.refuse("train", mistakes)
        assert composed is not None
        return composed

    @cached_property
    def _untold(self) -> TrainConfig:
        """The config of a run that is told nothing of what is searched."""
        return self.config_of({}, Path("known"))

    def _composed(
        self, values: Mapping[str, object], output_dir: Path
    ) -> tuple[TrainConfig | None, list[str]]:
        own = {
            "prepared": self._config.prepared,
            "output_dir": str(output_dir),
            "seed": self._config.seed,
        }
        told = [word_of(key, value) for key, value in {**values, **own}.items()]
        words = merged(self.words, told)
        overrides, mistakes = configs.translate(self._composer, words, multirun=False)
        composed, more = configs.read(self._composer, overrides)
        return cast(TrainConfig | None, composed), [*mistakes, *more]

    def _mistakes(self, values: Mapping[str, object]) -> list[str]:
        _, found = self._composed(values, Path("known"))
        return found

    def _probes(self) -> Iterator[Values]:
        """Values such that every end of every range is in one of them."""
        yield {}
        free = {key: one for key, one in self.ranges.items() if not one.when}
        for at in range(max((len(one.ends) for one in free.values()), default=0)):
            yield {key: one.ends[min(at, len(one.ends) - 1)] for key, one in free.items()}
        for key, one in self.ranges.items():
            for end in one.ends if one.when else []:
                beside = {other: wanted[0] for other, wanted in one.when.items()}
                yield {**{k: v for k, v in beside.items() if k not in self._said}, key: end}

    def _value(self, composed: TrainConfig, key: str) -> Any:
        """What a config holds of a setting; of a group, the name of the choice."""
        if key in self._composer.groups:
            part = getattr(composed, key, None) or {}
            return self._composer.choice_of(key, part.get("_target_"))
        found: Any = asdict(composed)
        for name in key.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


def _beside_others(workers: int) -> list[str]:
    """What is said to a trial because it is one of many."""
    threads = max(1, cores() // workers)
    share = [f"trainer.threads={threads}"] if workers > 1 else []
    return ["logger.wandb=off", *share]
