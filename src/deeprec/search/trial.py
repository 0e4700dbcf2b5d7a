"""What is known of one trial of a sweep."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from deeprec.search.space import label, setting_of

# whole: to its end. behind: worse than the median of others half-way. short: time was up, or
# somebody stopped the sweep; it counts as far as it got, and is tried again once the sweep goes on.
# lost: likewise, before its first validation; it is not counted. failed: for a reason that is told.
State = Literal["whole", "behind", "short", "lost", "failed"]


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Args:
        score: the best of its validations; None: it came to none, or failed.
        values: what was tried of the searched settings; the first trial tries the defaults.
        epochs: that it trained.
        best_epoch: that had the score; 0: it is not known.
        seconds: that it took.
        ended: seconds into the sweep.
        reason: of a failure, or why it was cut short.
    """

    number: int
    state: State
    score: float | None
    values: dict[str, Any]
    epochs: int
    seconds: float
    ended: float
    reason: str | None
    best_epoch: int = 0

    @property
    def name(self) -> str:
        """Of its run folder."""
        return name_of(self.number)


def name_of(number: int) -> str:
    """Of the run folder of a trial.

    Example:
        >>> name_of(7)
        '0007'
    """
    return f"{number:04d}"


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Those with a score, the best first and of equals the earlier; then the others."""
    return sorted(trials, key=lambda one: (one.score is None, -(one.score or 0.0), one.number))


def counted(trials: Iterable[Trial]) -> list[Trial]:
    """Those that say something of their values."""
    return [one for one in trials if one.state != "lost"]


def reached(trial: Trial) -> str:
    """When it had its score, in words.

    Example:
        >>> reached(Trial(7, "whole", 0.4, {}, 22, 9.0, 9.0, None, best_epoch=12))
        'epoch 12 of 22'
    """
    return f"epoch {trial.best_epoch} of {trial.epochs}"


def best(trials: Iterable[Trial]) -> Trial | None:
    """The trial of the highest score, the earlier of two; None: none has any."""
    first = next(iter(ranked(trials)), None)
    return first if first is not None and first.score is not None else None


def differing(trial: Trial, defaults: Mapping[str, object]) -> str:
    """In what a trial differs from the defaults, as words of the command line."""
    differ = _differing(trial, defaults)
    told = [f"{setting_of(key)}={label(trial.values[key])}" for key in differ]
    return " ".join(told) or "the defaults"


def is_default(trial: Trial, defaults: Mapping[str, object]) -> bool:
    """Whether it tried nothing but the defaults."""
    return not _differing(trial, defaults)


def _differing(trial: Trial, defaults: Mapping[str, object]) -> list[str]:
    return [key for key, value in trial.values.items() if label(value) != label(defaults.get(key))]
