"""Does a plain value, as a config holds it, fit a type annotation?

The annotations of a constructor are the schema of its config, so they are read here: numbers, text,
choices (`Literal` or a text enum), lists, mappings and unions of these, each `Annotated` with a
`Rule` where not every value of the type will do. Anything else (a tensor, a module) is what only a
running program can supply.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from inspect import Parameter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ANYTHING = (Any, object, Parameter.empty)
LISTS = (list, tuple, Sequence, Iterable, Collection)
MAPPINGS = (dict, Mapping)
PLAIN: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    None: "null",
    NoneType: "null",
}


@dataclass(frozen=True)
class Rule:
    """What a value of the right type must keep to besides: `Annotated[str, Rule(...)]`.

    Args:
        holds: whether it does.
        says: what is expected, in words.
    """

    holds: Callable[[Any], bool]
    says: str


def accepts(value: object, annotation: Any) -> bool:
    """Whether the value fits, without conversion: a bool is no number, a number is no text.

    Example:
        >>> accepts(3, float), accepts(True, int), accepts("3", int)
        (True, False, False)
        >>> accepts([128, 64], Sequence[int]), accepts("relu", Literal["relu", "tanh"])
        (True, True)
    """
    arguments = get_args(annotation)
    kind = get_origin(annotation) or annotation
    if annotation in ANYTHING:
        return True
    if annotation is float:
        return type(value) in (int, float) and value == value  # NaN is not a number
    if annotation in PLAIN:
        return value is None if annotation in (None, NoneType) else type(value) is annotation
    if kind is Annotated:
        return accepts(value, arguments[0]) and all(one.holds(value) for one in _rules(annotation))
    if kind in (Union, UnionType):
        return any(accepts(value, one) for one in arguments)
    if kind is Literal or _is_text_enum(kind):
        return any(type(value) is type(one) and value == one for one in _choices(annotation))
    if kind in LISTS:
        return isinstance(value, list | tuple) and _fits_list(value, kind, arguments)
    if kind in MAPPINGS:
        return isinstance(value, Mapping) and _fits_mapping(value, arguments)
    return False


def as_meant(value: Any, annotation: Any) -> Any:
    """The value, with whole numbers made floats where the annotation knows no others.

    Example:
        >>> as_meant(3, float | None), as_meant(3, int), as_meant([1, 2.5], Sequence[float])
        (3.0, 3, [1.0, 2.5])
    """
    arguments = get_args(annotation)
    kind = get_origin(annotation) or annotation
    if kind is Annotated:
        return as_meant(value, arguments[0])
    if kind in LISTS and isinstance(value, list | tuple) and arguments:
        return [as_meant(one, arguments[0]) for one in value]
    kinds = arguments if kind in (Union, UnionType) else (annotation,)
    return float(value) if type(value) is int and float in kinds and int not in kinds else value


def describe(annotation: Any) -> str:
    """What would fit, in words.

    Example:
        >>> describe(list[int] | None)
        'a list (each a whole number) or null'
        >>> describe(Literal["sigmoid", "relu"])
        "one of 'sigmoid', 'relu'"
    """
    arguments = get_args(annotation)
    kind = get_origin(annotation) or annotation
    if annotation in PLAIN:
        return PLAIN[annotation]
    if kind is Annotated:
        return next((one.says for one in _rules(annotation)), describe(arguments[0]))
    if kind in (Union, UnionType):
        return " or ".join(describe(one) for one in arguments)
    if kind is Literal or _is_text_enum(kind):
        return "one of " + ", ".join(repr(one) for one in _choices(annotation))
    if kind in LISTS:
        each = [one for one in arguments if one is not Ellipsis]
        return f"a list (each {describe(each[0])})" if len(each) == 1 else "a list"
    if kind in MAPPINGS:
        return "a mapping"
    return "what deeprec supplies when it runs, which no config can hold"


def _rules(annotation: Any) -> list[Rule]:
    return [one for one in annotation.__metadata__ if isinstance(one, Rule)]


def _is_text_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum) and issubclass(kind, str)


def _choices(annotation: Any) -> Sequence[object]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return [str(member.value) for member in annotation]


def _fits_list(value: Sequence[object], kind: Any, arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if kind is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(accepts, value, arguments))
    return all(accepts(one, arguments[0]) for one in value)


def _fits_mapping(value: Mapping[Any, object], arguments: tuple[Any, ...]) -> bool:
    fits: Callable[[Any], bool] = lambda pair: all(map(accepts, pair, arguments))
    return all(fits(pair) for pair in value.items())
