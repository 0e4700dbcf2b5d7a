"""What a sweep searches: settings of `deeprec train`, each with the values it may take."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from deeprec.errors import did_you_mean
from deeprec.override import word_of

KEYS = ("low", "high", "log", "step", "choices", "when")
SPACE = "sweep"  # where several spaces are searched together, the setting that says which
OF = "/"  # there, ease/model.l2 is model.l2 of the space ease
Condition = dict[str, list[object]]  # another setting, and the values with which this one matters


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included.

    Args:
        log: whether as much is tried between 1 and 10 as between 10 and 100.
        step: between neighbours, from `low` on; None: any number, or any whole number.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    when: Condition = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(type(one) is int for one in (self.low, self.high, self.step or 1))

    @property
    def ends(self) -> list[Any]:
        """The values that everything between is as right as."""
        return [self.low, self.high]

    def holds(self, value: object) -> bool:
        """Whether a value may be tried."""
        if type(value) not in ((int,) if self.whole else (int, float)):
            return False
        assert isinstance(value, int | float)
        steps = (value - self.low) / (self.step or 1)
        on_step = self.step is None or abs(steps - round(steps)) < 1e-9
        return self.low <= value <= self.high and on_step


@dataclass(frozen=True)
class Choices:
    """Any of some values: names, numbers, lists, null."""

    values: list[Any]
    when: Condition = field(default_factory=dict)

    @property
    def ends(self) -> list[Any]:
        return self.values

    @property
    def labels(self) -> list[str]:
        """The values as a person types them."""
        return [label(value) for value in self.values]

    def holds(self, value: object) -> bool:
        return label(value) in self.labels


Range = Interval | Choices


class Space:
    """The config part of the group `sweep`.

    Args:
        ranges: settings as `deeprec train` takes them, dotted, each with a list of values, or
            with `{low, high}` and, if wanted, `log: true` and `step`. `when: {loss: [marginal]}`
            searches a setting only where another, named before it, has one of these values. A
            command may add or replace a range, `'sweep.ranges.optimizer.lr={low:0.01,high:0.1}'`,
            or take one away, `sweep.ranges.loss=null`.
        fixed: words that every run is told, such as `experiment=linear`.

    Example:
        >>> ranges = {"loss": ["softmax", "hinge"], "model.width": {"low": 8, "high": 64}}
        >>> space = Space(ranges=ranges)
        >>> space.ranges["model.width"].whole, space.ranges["loss"].values
        (True, ['softmax', 'hinge'])
    """

    def __init__(self, *, ranges: Mapping[str, Any], fixed: Sequence[str] = ()) -> None:
        self.fixed = list(fixed)
        ranges = {key: one for key, one in _flat(ranges).items() if one is not None}
        wrong = [f"{key}: {said}" for key, one in ranges.items() for said in _wrong(one)]
        wrong += _wrong_conditions(ranges) if not wrong else []
        if not ranges:
            wrong = ["nothing to search; name a setting and its values"]
        if wrong:
            raise ValueError("\n  - ".join(f"sweep.ranges: {one}" for one in wrong))
        self.ranges: dict[str, Range] = {key: _range(one) for key, one in ranges.items()}

    def told(self, words: Sequence[str]) -> "Space":
        """The same space, of runs that are told these words too."""
        more = copy(self)
        more.fixed = [*self.fixed, *words]
        return more


def of_space(name: str, setting: str) -> str:
    """A setting of one of several spaces."""
    return f"{name}{OF}{setting}"


def setting_of(key: str) -> str:
    """As `deeprec train` calls it.

    Example:
        >>> setting_of(of_space("ease", "model.l2")), setting_of("model.l2")
        ('model.l2', 'model.l2')
    """
    return key.rpartition(OF)[2]


def applies(one: Range, values: Mapping[str, object]) -> bool:
    """Whether a setting matters beside these values of the others."""
    return all(
        key in values and label(values[key]) in map(label, wanted)
        for key, wanted in one.when.items()
    )


def label(value: object) -> str:
    """A value as a person types it.

    Example:
        >>> label([64, 32]), label(None), label(0.001)
        ('[64,32]', 'null', '0.001')
    """
    return word_of("", value).removeprefix("=").strip('"')


def _flat(ranges: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """With dotted keys; a range given twice is the one given last, in the first one's place."""
    flat: dict[str, Any] = {}
    for key, one in ranges.items():
        if isinstance(one, Mapping) and one and not one.keys() & set(KEYS):
            flat |= _flat(one, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = one
    return flat


def _range(given: Any) -> Range:
    if isinstance(given, Mapping):
        when = {key: _listed(value) for key, value in given.get("when", {}).items()}
        if "choices" in given:
            return Choices(list(given["choices"]), when)
        rest = {key: value for key, value in given.items() if key != "when"}
        return Interval(**rest, when=when)
    return Choices(list(given))


def _listed(value: Any) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _wrong(given: object) -> Iterator[str]:
    """What is wrong with the values of a setting, looked at alone."""
    if isinstance(given, list | tuple):
        yield from _wrong_choices(given)
        return
    if not isinstance(given, Mapping):
        yield f"expected a list of values, or {{low: ..., high: ...}}, got {given!r}"
        return
    unknown = [key for key in given if key not in KEYS]
    yield from (f"unknown key {key!r}; {did_you_mean(str(key), KEYS)}" for key in unknown)
    if not isinstance(given.get("when", {}), Mapping):
        yield f"when: expected another setting with its values, got {given['when']!r}"
    if "choices" in given:
        if more := [key for key in ("low", "high", "log", "step") if key in given]:
            yield f"choices and {', '.join(more)} exclude each other"
        yield from _wrong_choices(given["choices"])
    elif not unknown:
        yield from _wrong_interval(given)


def _wrong_choices(values: object) -> Iterator[str]:
    if not isinstance(values, list | tuple) or len({label(one) for one in values}) < 2:
        yield f"expected two or more different values, got {values!r}"
    elif len({label(one) for one in values}) < len(values):
        yield f"expected different values, got {values!r}"


def _wrong_interval(given: Mapping[str, Any]) -> Iterator[str]:
    numbers = {key: given.get(key) for key in ("low", "high")}
    if any(type(one) not in (int, float) for one in numbers.values()):
        yield f"low and high must be numbers, got {numbers['low']!r} and {numbers['high']!r}"
        return
    low, high, step = given["low"], given["high"], given.get("step")
    if not low < high:
        yield f"low must lie below high, got {low} and {high}"
    if not isinstance(given.get("log", False), bool):
        yield f"log must be true or false, got {given['log']!r}"
    elif given.get("log") and (low <= 0 or step is not None):
        yield "log needs a low above 0 and no step"
    if step is not None and (type(step) not in (int, float) or step <= 0):
        yield f"step must be above 0, got {step!r}"


def _wrong_conditions(ranges: Mapping[str, Any]) -> Iterator[str]:
    """A condition may look at what was decided before only."""
    for at, (key, given) in enumerate(ranges.items()):
        for other in given.get("when", {}) if isinstance(given, Mapping) else {}:
            if other in list(ranges)[at:]:
                yield f"{key}: when: {other} must stand above it"
