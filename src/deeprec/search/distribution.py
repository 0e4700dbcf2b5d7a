"""Ranges and their values as Optuna knows them."""

from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from deeprec.search.space import Choices, Range, label


def distribution(one: Range) -> BaseDistribution:
    """What a range is to Optuna; any value of a list is its label there."""
    if isinstance(one, Choices):
        return CategoricalDistribution(one.labels)
    if one.whole:
        step = 1 if one.step is None else int(one.step)
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=step)
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def parameter(value: Any, one: Range) -> Any:
    """A value of a range as Optuna knows it."""
    return label(value) if isinstance(one, Choices) else value
