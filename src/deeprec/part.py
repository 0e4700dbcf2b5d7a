"""A part of a config: `_target_`, a dotted path, and the arguments of what it names.

The signature of the target is the schema of the part; there is no second list of its keys.

    _target_: deeprec.loss.marginal.Marginal
    one_target: 0.9

`_partial_: true` says that some arguments are known only when the program runs (the number of
items), so that the config may leave them out.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import Parameter
from typing import Any

from deeprec import synonym
from deeprec.annotation import accepts, as_meant, describe
from deeprec.errors import ConfigError, did_you_mean

TRUSTED = "DEEPREC_TRUSTED_PACKAGES"  # further packages that a `_target_` may name: "shop,lab"
MISSING = "???"  # as OmegaConf writes a value that must be given
RESERVED = ("_target_", "_partial_")
STAND_INS = {"num_items": 8}  # what the data say, where a part is only made to check its values
KNOWN_LATER = {  # by group: arguments that a program gives where a part has them, and no config may
    "data": ("workspace",),
    "model": (
        "num_items", "num_users", "fields", "target_share", "repeats", "popularity", "log_odds",
        "compatibility",
    ),
    "loss": (
        "num_items", "num_users", "popularity", "width", "batch_users", "device", "row_length",
        "hidden_bias", "linear", "unit_rows", "hidden_per_user",
    ),
}  # fmt: skip
DOTTED = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")


def instantiate(part: Mapping[str, Any], **runtime: Any) -> Any:
    """Calls the target with the part's arguments and those known only now.

    Args:
        part: a part that `mistakes` finds nothing wrong with; parts inside it are made first.
        runtime: what the config leaves out.

    Raises:
        ConfigError: the target refuses its values (ValueError), an argument comes from both
            sides, or the target may not be named.

    Example:
        >>> instantiate({"_target_": "deeprec.catalog.Catalog"}, item_ids=["bread"]).ids_of([0])
        ['bread']
    """
    name = part["_target_"]
    if twice := sorted(part.keys() & runtime.keys()):
        raise ConfigError(f"{name}: {', '.join(twice)} is known from the data; leave it out")
    try:
        return _make(part, runtime)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error


def instantiate_with(part: Mapping[str, Any], **known: Any) -> Any:
    """As `instantiate`, with those of the known values that the target has arguments for."""
    wanted = _parameters(find(part["_target_"])).keys() & known.keys()
    return instantiate(part, **{name: known[name] for name in wanted})


def completed(part: Mapping[str, Any], **known: Any) -> dict[str, Any]:
    """The part with those of the known values that its target has arguments for.

    Example:
        >>> completed({"_target_": "deeprec.catalog.Catalog"}, item_ids=["bread"], num_users=3)
        {'_target_': 'deeprec.catalog.Catalog', 'item_ids': ['bread']}
    """
    wanted = _parameters(find(part["_target_"])).keys() & known.keys()
    return {**part, **{name: known[name] for name in sorted(wanted)}}


def mistakes(path: str, part: object) -> list[str]:
    """Everything that is wrong with the part at `path` of a config.

    The part is made once, of those arguments whose keys and types are right, for what its
    constructor says of the values, if it can be made before there are data; a model is made of
    shapes alone.
    """
    if not isinstance(part, Mapping) or "_target_" not in part:
        return [f"{path}: expected a part (_target_ and its arguments), got {shown(part)}"]
    try:
        target = find(part["_target_"])
        parameters = _parameters(target)
    except ConfigError as error:
        return [f"{path}._target_: {error}"]
    found, right = [], dict(part)
    for name, value in part.items():
        if name not in RESERVED:
            where = f"{path}.{name}"
            if wrong := _argument_mistakes(where, name, value, parameters, part["_target_"]):
                found += wrong
                del right[name]
    partial = part.get("_partial_", False)
    if not isinstance(partial, bool):
        found.append(f"{path}._partial_: expected true or false, got {shown(partial)}")
    elif not partial:
        found += [
            f"{path}: {part['_target_']} takes {name}, which only the data say; the file that "
            f"names it must have the line `_partial_: true`"
            if name in _known_later(path)
            else f"{path}.{name}: missing; give it as {path}.{name}=..."
            for name, parameter in parameters.items()
            if parameter.default is Parameter.empty and name not in part
        ]
    refused = _refused_values(path, right, parameters)
    if found:  # what is said of several values may be due to one that was left out
        refused = [one for one in refused if one.startswith(f"{path}.")]
    return [*found, *refused]


def settings(path: str, part: object) -> Iterator[str]:
    """The paths of all that a config may say of a part and of parts in it; none of a wrong one."""
    if not isinstance(part, Mapping):
        return
    try:
        parameters = _parameters(find(part.get("_target_")))
    except ConfigError:
        return
    for name in parameters:
        if name not in _known_later(path):
            yield f"{path}.{name}"
            if _is_part(part.get(name)):
                yield from settings(f"{path}.{name}", part[name])


def called(part: Mapping[str, Any]) -> str:
    """The name of the module of a part's target, as its config file is called.

    Example:
        >>> called({"_target_": "deeprec.model.linear_autoencoder.LinearAutoencoder"})
        'linear_autoencoder'
    """
    return str(part["_target_"]).split(".")[-2]


def find(name: object) -> Callable[..., Any]:
    """The class or function of that dotted path, from a trusted package only.

    Raises:
        ConfigError: the package is not trusted (it is not imported then), or there is nothing
            of that name which the package itself defines.
    """
    if not isinstance(name, str) or not DOTTED.fullmatch(name):
        raise ConfigError(
            f"expected a dotted path such as deeprec.loss.softmax.Softmax, got {name!r}"
        )
    trusted = trusted_packages()
    if name.split(".")[0] not in trusted:
        raise ConfigError(
            f"{name} is outside {', '.join(trusted)}, and a config may run nothing else; "
            f"to trust a package of yours, name it in the environment: {TRUSTED}=PACKAGE"
        )
    module_name, _, attribute = name.rpartition(".")
    module = _import(module_name)
    # what a trusted module merely imported (os.system, shutil.rmtree) is not its own
    own: dict[str, Callable[..., Any]] = {
        key: one for key, one in vars(module).items() if _is_from(one, trusted)
    }
    if attribute not in own:
        raise ConfigError(f"{module_name} defines no {attribute!r}; {did_you_mean(attribute, own)}")
    return own[attribute]


def trusted_packages() -> list[str]:
    """The packages that a `_target_` may name."""
    return ["deeprec", *re.findall(r"\w+", os.environ.get(TRUSTED, ""))]


def mismatch(value: object, annotation: Any) -> str:
    """What is wrong with a value that the annotation does not accept, and how to mend it."""
    wrong = f"expected {describe(annotation)}, got {shown(value)}"
    if isinstance(value, int | float) and accepts(str(value), annotation):
        return f"{wrong}; a text that looks like a number needs quotes: '\"{shown(value)}\"'"
    if isinstance(value, str | int | float) and accepts([value], annotation):
        return f"{wrong}; a list of one is [{value}]"
    return wrong


def shown(value: object) -> str:
    """A value as an error shows it: short, and as a config would write it."""
    words = {"None": "null", "True": "true", "False": "false"}
    text = words.get(repr(value), repr(value))
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _is_from(value: object, packages: Sequence[str]) -> bool:
    home = str(getattr(value, "__module__", "")).split(".")[0]
    return home in packages and (inspect.isclass(value) or inspect.isfunction(value))


def _argument_mistakes(
    path: str, name: str, value: object, parameters: Mapping[str, Parameter], target: str
) -> list[str]:
    known_later = _known_later(path)
    settable = [one for one in parameters if one not in known_later]
    if not settable and name not in parameters:
        group = path.rpartition(".")[0]
        return [f"{path}: {target} takes no arguments; another is chosen by {group}=CHOICE"]
    if name not in parameters:
        meant = _meant(path, name, settable) or did_you_mean(name, settable)
        return [f"{path}: {target} has no such argument; {meant}"]
    if value == MISSING:
        return [f"{path}: missing; give it as {path}=..."]
    if inside := _parts(path, value):
        return [mistake for where, part in inside for mistake in mistakes(where, part)]
    annotation = parameters[name].annotation
    if not accepts(value, annotation):
        return [f"{path}: {mismatch(value, annotation)}"]
    return []


def _known_later(path: str) -> Sequence[str]:
    """Arguments of a part at this path, or of a part in it, that no config may give."""
    return KNOWN_LATER.get(re.split(r"[.\[]", path)[0], ())


def _meant(path: str, name: str, settable: Sequence[str]) -> str | None:
    """What others call so: an argument of this part, or else a setting of another group."""
    around = path.rpartition(".")[0]
    here = synonym.key_for(name, [f"{around}.{one}" for one in settable])
    if here is not None:
        return f"did you mean {here.rpartition('.')[2]!r}?"
    elsewhere = [
        key for key in synonym.KEYS.get(synonym.plain(name), ()) if not key.startswith(f"{around}.")
    ]
    return f"did you mean {elsewhere[0]!r}?" if elsewhere else None


def _refused_values(
    path: str, part: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> list[str]:
    """What the constructor says of values whose types are right.

    It stops at the first: an argument that it refuses by name is left to its default and the part
    is made again, so that the next is found too.
    """
    needed = [name for name, one in parameters.items() if one.default is Parameter.empty]
    known_later = [name for name in needed if name not in part]
    if any(name not in STAND_INS for name in known_later):
        return []
    try:
        with _shapes_alone() if part.get("_partial_") else nullcontext():
            _make(part, {name: STAND_INS[name] for name in known_later})
    except (ValueError, ConfigError) as error:
        name, mistake = _named(path, str(error), part)
        if name is None or name in needed:
            return [mistake]
        rest = {key: value for key, value in part.items() if key != name}
        return [mistake, *_refused_values(path, rest, parameters)]
    return []


def _named(path: str, said: str, part: Mapping[str, Any]) -> tuple[str | None, str]:
    """The one argument that a refusal is about, if it is about one; and the refusal with its path.

    Example:
        >>> _named("trainer", "max_epochs must be 1 or more, got 0", {"max_epochs": 0})
        ('max_epochs', 'trainer.max_epochs: must be 1 or more, got 0')
        >>> _named("split", "split.a=1 and split.b=2: together below 1", {"a": 1, "b": 2})
        (None, 'split.a=1 and split.b=2: together below 1')
    """
    rule = re.fullmatch(rf"(?:{re.escape(path)}\.)?(\w+):? (must be .*)", said, re.DOTALL)
    if rule is None or rule[1] not in part:
        return None, said if said.startswith(f"{path}.") else f"{path}: {said}"
    return rule[1], f"{path}.{rule[1]}: {rule[2]}"


def _shapes_alone() -> AbstractContextManager[object]:
    """Tensors made inside hold no numbers. A part that makes any has imported torch by now."""
    torch = sys.modules.get("torch")
    device: AbstractContextManager[object] = torch.device("meta") if torch else nullcontext()
    return device


def _make(part: Mapping[str, Any], further: Mapping[str, Any]) -> Any:
    target = find(part["_target_"])
    annotations = {name: one.annotation for name, one in _parameters(target).items()}
    given = {
        key: as_meant(_build(value), annotations.get(key))
        for key, value in part.items()
        if key not in RESERVED
    }
    return target(**given, **further)


def _parameters(target: Callable[..., Any]) -> dict[str, Parameter]:
    """The arguments that can be given by keyword, with their annotations evaluated."""
    try:
        parameters = inspect.signature(target, eval_str=True).parameters.values()
    except NameError as error:
        raise ConfigError(f"its annotations cannot be read: {error}") from error
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        raise ConfigError(
            f"{target.__qualname__} takes **kwargs, which would swallow a misspelt key; "
            "name its arguments"
        )
    return {
        one.name: one
        for one in parameters
        if one.kind in (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    }


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"there is no module {name}") from error
        raise ConfigError(f"{name} cannot be imported: {error}; run deeprec doctor") from error
    except ImportError as error:
        raise ConfigError(f"{name} cannot be imported: {error}; run deeprec doctor") from error


def _is_part(value: object) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _parts(path: str, value: object) -> list[tuple[str, object]]:
    """The parts that an argument is or holds, with their paths."""
    if _is_part(value):
        return [(path, value)]
    if isinstance(value, Mapping):
        return [(f"{path}.{key}", one) for key, one in value.items() if _is_part(one)]
    if isinstance(value, list | tuple):
        return [(f"{path}[{index}]", one) for index, one in enumerate(value) if _is_part(one)]
    return []


def _build(value: Any) -> Any:
    if _is_part(value):
        return instantiate(value)
    if isinstance(value, Mapping):
        return {key: _build(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_build(one) for one in value]
    return value
