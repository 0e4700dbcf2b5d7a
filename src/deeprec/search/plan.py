"""What each trial of a sweep is told: of one space, or of several that are searched together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from deeprec.search.space import Interval, Range
from deeprec.verb import TrainConfig

Values = dict[str, Any]  # setting -> what a trial tries of it


class Plan(Protocol):
    """From values of the searched settings to the config of a run."""

    @property
    def ranges(self) -> Mapping[str, Range]:
        """What is searched."""
        ...

    @property
    def words(self) -> Sequence[str]:
        """What every run is told."""
        ...

    def settings(self) -> dict[str, Any]:
        """What trains runs that are told nothing of what is searched, and what may not change."""
        ...

    @property
    def metric(self) -> str:
        """What trials are compared by, on validation."""
        ...

    @property
    def shares_threads(self) -> bool:
        """Whether a trial's threads are its share of the machine, and nobody's wish."""
        ...

    def refuse_mistakes(self) -> None:
        """Composes configs in which every end of every range occurs.

        Raises:
            ConfigError: with every mistake in them.
        """
        ...

    def defaults(self) -> Values:
        """What a run has of the searched settings if it is told nothing of them."""
        ...

    def first_tried(self) -> list[Values]:
        """What is tried before anything is drawn, in this order."""
        ...

    def turn(self, number: int) -> Values:
        """What is not drawn in the trial that comes after so many: whose turn it is."""
        ...

    def family(self, values: Mapping[str, object]) -> str:
        """The name of the space that these values are of; of one space there is but one."""
        ...

    def applies(self, key: str, values: Mapping[str, object]) -> bool:
        """Whether a setting is searched beside these values of those before it."""
        ...

    def config_of(self, values: Mapping[str, object], output_dir: Path) -> TrainConfig:
        """The whole config of a trial.

        Raises:
            ConfigError: these values cannot be together.
        """
        ...


def rounded(value: Any, one: Range) -> Any:
    """A number short enough to be read and typed: four digits that mean something."""
    if not isinstance(one, Interval) or one.whole:
        return value
    return min(max(float(f"{value:.4g}"), one.low), one.high)
