"""What a dataclass of a verb allows: plain fields of a type, and parts, chosen from a group."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING as FACTORY_MISSING
from dataclasses import Field, fields
from typing import Any, get_type_hints

from omegaconf import MISSING

from deeprec import part, synonym
from deeprec.annotation import accepts
from deeprec.errors import did_you_mean, nearest

Part = dict[str, Any]  # `_target_` and its constructor's arguments
OptionalPart = Part | None  # null where the model is solved, and knows no such part


def plain_fields(schema: type[Any]) -> dict[str, Any]:
    """The annotations of the fields that are no parts."""
    return {name: hint for name, hint in get_type_hints(schema).items() if not _is_part(hint)}


def default_of(one: Field[Any]) -> Any:
    """The value of a field that is not given; `???` where it must be."""
    return one.default if one.default_factory is FACTORY_MISSING else one.default_factory()


def plain_defaults(schema: type[Any]) -> dict[str, Any]:
    """The values of plain fields that are not given, by name."""
    plain = plain_fields(schema)
    return {one.name: default_of(one) for one in fields(schema) if one.name in plain}


def unknown_key(key: str, names: Sequence[str], settings: Collection[str]) -> str:
    """What to say of a key that is no field.

    Args:
        names: of the fields.
        settings: of its parts, by their whole paths.
    """
    if key == "experiment":
        return (
            "experiment: its file must begin with the line '# @package _global_', "
            "so that its keys are those of the whole config"
        )
    meant = synonym.key_for(key, [*names, *settings])
    if meant is None and nearest(key, names) is None:
        elsewhere = next(iter(synonym.KEYS.get(synonym.plain(key), ())), "")
        group = elsewhere.partition(".")[0]
        if group in names:
            return f"{key}: unknown key; it is {elsewhere} here, which the chosen {group} lacks"
        meant = _inside(key, settings)
    way_out = f"did you mean {meant!r}?" if meant else did_you_mean(key, names)
    return f"{key}: unknown key; {way_out}"


def _inside(key: str, settings: Collection[str]) -> str | None:
    """The setting of a part whose own name is the nearest."""
    own = {path.rpartition(".")[2]: path for path in settings}
    near = nearest(key, own)
    return own[near] if near else None


def field_mistakes(one: Field[Any], annotation: Any, config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the value that a config has, or lacks, for a field."""
    name, value = one.name, config.get(one.name, default_of(one))
    if _is_part(annotation):
        if value is None and annotation == OptionalPart:
            return []
        if value is None or value == MISSING:
            return [f"{name}: missing; choose it with {name}=CHOICE"]
        return part.mistakes(name, value)
    if value == MISSING or (value == "" and default_of(one) == MISSING):
        return [f"{name}: missing; give it as {name}=..."]
    if not accepts(value, annotation):
        return [f"{name}: {part.mismatch(value, annotation)}"]
    return []


def _is_part(annotation: Any) -> bool:
    return annotation in (Part, OptionalPart)
