"""The words typed after a verb, made such that no mistake in them can pass or hide another.

Hydra refuses `sead=3`, stops there, and takes `+sead=3` without a word. Here every value becomes
`++key=value`, which Hydra always takes, so that the check of the composed config sees all of them;
what that check cannot see (groups, Hydra's own settings, forgotten `-m`) is said here.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from deeprec import synonym
from deeprec.errors import ConfigError, did_you_mean, nearest

SIMPLE = re.compile(r"(?!(?:null|true|false|inf|nan)$)[a-z_][\w/-]*", re.IGNORECASE)
WORD = re.compile(r"(?P<sign>\+\+|\+|~|)(?P<key>[^=\s~+][^=\s]*)(=(?P<value>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Rules:
    """What the words are read by."""

    groups: Mapping[str, Collection[str]]  # the choices of each group that the verb has
    foreign: Collection[str]  # groups that only other verbs have
    text: Collection[str]  # keys whose values are text, even if they look like a number
    multirun: bool  # whether -m was given, so that key=1,2 means a run for each


def translate(words: Sequence[str], rules: Rules) -> tuple[list[str], list[str]]:
    """The overrides to hand to Hydra, and what is wrong with the words left out of them."""
    overrides, mistakes = [], []
    for word in words:
        try:
            overrides.append(_translate(word, rules))
        except ConfigError as error:
            mistakes.append(str(error))
    return overrides, mistakes


def key_of(override: str) -> str:
    """The key alone.

    Example:
        >>> key_of("++model.activation=relu"), key_of("~seed")
        ('model.activation', 'seed')
    """
    return override.partition("=")[0].lstrip("+~")


def word_of(key: str, value: object) -> str:
    """A value of a config as the word that would give it.

    Example:
        >>> word_of("model.hidden_dims", [64, 32]), word_of("optimizer.table_lr", None)
        ('model.hidden_dims=[64,32]', 'optimizer.table_lr=null')
        >>> word_of("logger.project", "a, b")
        'logger.project="a, b"'
    """
    return f"{key}={_typed(value)}"


def _typed(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_typed(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str) and not SIMPLE.fullmatch(value):
        return _quoted(value)
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), str(value))


def merged(*words: Sequence[str]) -> list[str]:
    """All words, of those with the same key the last one.

    Example:
        >>> merged(["loss=hinge", "seed=1"], ["loss=softmax"])
        ['seed=1', 'loss=softmax']
    """
    last: dict[str, str] = {}
    for word in (one for some in words for one in some):
        last.pop(key_of(word), None)
        last[key_of(word)] = word
    return list(last.values())


def parted(
    words: Sequence[str], own: Collection[str], others: Collection[str]
) -> tuple[list[str], list[str]]:
    """The words for a verb, and those that it hands on to another.

    A word with an unknown key goes where the nearest right one belongs.

    Args:
        own: keys of the verb; what both have is its own.
        others: keys of the other verb.

    Example:
        >>> parted(["minutes=3", "loss.scale=2", "mintes=3", "los=x"], ["minutes"], ["loss"])
        (['minutes=3', 'mintes=3'], ['loss.scale=2', 'los=x'])
    """
    mine: list[str] = []
    handed_on: list[str] = []
    for word in words:
        head = re.split(r"[./@]", key_of(word))[0]
        near: str | None = head
        if head not in own and head not in others:
            heads = (key.split(".")[0] for key in synonym.KEYS.get(synonym.plain(head), ()))
            near = next((one for one in heads if one in own or one in others), None)
            near = near or nearest(head, {*own, *others})
        (handed_on if near in others and near not in own else mine).append(word)
    return mine, handed_on


def _translate(word: str, rules: Rules) -> str:
    parts = WORD.fullmatch(word)
    if parts is None or (parts["value"] is None and parts["sign"] != "~"):
        raise ConfigError(f"{word}: expected key=value")
    sign, key, value = parts["sign"], parts["key"], parts["value"]
    override = _parse(key, value)
    if override.is_sweep_override() and not rules.multirun:
        raise ConfigError(
            f"{key}: {value} are several values; add -m to run one after the other, write "
            f"{key}=[{value}] for a list, or quote it for a text: {key}='\"{value}\"'"
        )
    if key.split(".")[0].split("/")[0] == "hydra":
        return _hydra(word, key, rules.multirun)
    if sign == "~":
        return word
    if key in rules.groups or key in rules.foreign or "/" in key or "@" in key:
        return _group(key, override, rules.groups)
    typed = override.value()
    looks_like_number = key in rules.text and isinstance(typed, int | float)
    # in quotes it is kept as it is by -m; without, Hydra's sweeper escapes it
    interpolates = isinstance(typed, str) and "${" in typed
    if looks_like_number or interpolates:
        return f"++{key}={_quoted(str(typed) if interpolates else value)}"
    return f"++{override.input_line}"


def _parse(key: str, value: str | None) -> Override:
    """As Hydra reads it; what it cannot read (`a=b`, `été`, an open bracket) is text."""
    parser = OverridesParser.create()
    if value is None:
        return parser.parse_override(f"~{key}")
    try:
        return parser.parse_override(f"{key}={value}")
    except HydraException:
        pass
    try:
        return parser.parse_override(f"{key}={_quoted(value)}")
    except HydraException as error:
        raise ConfigError(f"{key}={value}: {key!r} cannot be a key") from error


def _quoted(value: str | None) -> str:
    return str(QuotedString(text=value or "", quote=Quote.double).with_quotes())


def _group(key: str, override: Override, groups: Mapping[str, Collection[str]]) -> str:
    if key not in groups:
        raise ConfigError(f"{key}: unknown group; {did_you_mean(key, groups)}")
    for choice in _choices(override):
        if choice not in list(groups[key]):  # which need not be hashable
            near = synonym.choice_for(key, str(choice), groups[key])
            near = near or nearest(str(choice), groups[key])
            way_out = f"; did you mean {near!r}?" if near else ""
            listed = ", ".join(groups[key]) or "nothing (the group is empty)"
            raise ConfigError(f"{key}: expected one of {listed}, got {choice!r}{way_out}")
    return str(override.input_line)


def _choices(override: Override) -> list[Any]:
    value: Any = override.value()
    if not override.is_sweep_override():
        return [str(value) if isinstance(value, QuotedString) else value]
    return list(value.list) if hasattr(value, "list") else []


def _hydra(word: str, key: str, multirun: bool) -> str:
    """Hydra's own settings: its own check lets `+hydra.ouput_subdir=x` pass."""
    if key == "hydra.searchpath":
        raise ConfigError(f"{key}: give a further folder of configs as --config-dir FOLDER")
    if not multirun or key == "hydra.mode":
        raise ConfigError(f"{key}: Hydra's settings have a say in many runs only; add -m")
    known: Any = HydraConf
    for name in key.split(".")[1:]:
        if not is_dataclass(known):
            break
        names = [field.name for field in fields(known)]
        if name not in names:
            raise ConfigError(f"{key}: Hydra has no such setting; {did_you_mean(name, names)}")
        known = get_type_hints(known)[name]
    return word
