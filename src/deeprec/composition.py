"""From the words typed after a verb to plain values: the only place that composes with Hydra.

It knows the files under configs/ and nothing of what a key means; `config.check` does.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml  # type: ignore[import-untyped]  # ships none
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deeprec.errors import ConfigError

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
NO_KEY = (ValueError, TypeError)  # what they raise of a name where a list has numbers

Values = dict[str, Any]


class Composer:
    """Composes one primary config; made by `opened`.

    Args:
        name: of the primary config, `<name>.yaml`.
        base: overrides that come before any other.
        groups: the choices of each of its groups, and the file of each.
        foreign: groups that only other primary configs have.
    """

    def __init__(
        self,
        name: str,
        base: Sequence[str],
        groups: Mapping[str, Mapping[str, Path]],
        *,
        foreign: Collection[str],
    ) -> None:
        self.name, self.base, self.groups, self.foreign = name, list(base), groups, foreign

    def compose(self, overrides: Sequence[str]) -> tuple[Values | None, list[str]]:
        """The composed values, or what is wrong with the overrides.

        Args:
            overrides: as `override.translate` returns them.
        """
        try:
            return plain(hydra.compose(self.name, [*self.base, *overrides]))
        except (*COMPOSITION_ERRORS, *NO_KEY) as error:
            failures = {} if self._failure() else {one: self._failure(one) for one in overrides}
            failures = {one: failure for one, failure in failures.items() if failure}
            if not failures:
                return None, [reason(error)]
        values, more = self.compose([one for one in overrides if one not in failures])
        mistakes = [f"{one.lstrip('+')}: {failure}" for one, failure in failures.items()]
        return values, [*mistakes, *more]

    def choice_of(self, group: str, target: object) -> str | None:
        """The first choice of a group that makes a part of this `_target_`."""
        for choice, file in self.groups[group].items():
            content: Any = OmegaConf.to_container(OmegaConf.load(file))
            if content.get("_target_") == target:
                return choice
        return None

    def _failure(self, *override: str) -> str | None:
        """What is wrong with an override even if it is the only one, or with none at all."""
        try:
            hydra.compose(self.name, [*self.base, *override])
        except (*COMPOSITION_ERRORS, *NO_KEY) as error:
            return reason(error)
        return None


@contextmanager
def opened(
    name: str, configs: Path, defaults: Mapping[str, Values], further: Path | None
) -> Iterator[Composer]:
    """Hydra at work on a folder of configs.

    Args:
        name: of the primary config.
        configs: the folder.
        defaults: configs that primary ones name but that are no files.
        further: a second folder of choices.
    """
    if further is not None and not further.is_dir():
        raise ConfigError(f"--config-dir: {further} is not a folder")
    for key, values in defaults.items():
        ConfigStore.instance().store(name=key, node=values)
    base = [f'hydra.searchpath=["file://{further.absolute()}"]'] if further else []
    with hydra.initialize_config_dir(str(configs.absolute()), version_base="1.3"):
        folders = [configs, further] if further else [configs]
        own = group_defaults(configs / f"{name}.yaml")
        named = {one.name for folder in folders for one in folder.iterdir() if one.is_dir()}
        groups = {group: choices(group, folders) for group in own}
        yield Composer(name, base, groups, foreign=named - groups.keys())


def choices(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """The files to choose from in a group, by name; the first folder that has a name wins."""
    files = [file for folder in reversed(folders) for file in folder.glob(f"{group}/*.yaml")]
    return dict(sorted({file.stem: file for file in files}.items()))


def group_defaults(primary: Path) -> dict[str, str | None]:
    """The groups of a primary config and the choice made where none is named."""
    defaults: Any = OmegaConf.to_container(OmegaConf.load(primary))
    return {
        group: choice
        for one in defaults["defaults"]
        if isinstance(one, dict)
        for group, choice in one.items()
    }


def plain(composed: DictConfig) -> tuple[Values, list[str]]:
    """The values with every interpolation made, `???` where one cannot be, and why not."""
    mistakes = {}
    for path, text in _leaves("", OmegaConf.to_container(composed)):
        if mistake := _interpolation_mistake(composed, path, text):
            mistakes[path] = mistake
    for path in mistakes:
        OmegaConf.update(composed, path, "???")
    values: Any = OmegaConf.to_container(composed, resolve=True)
    return values, [f"{path}: {mistake}" for path, mistake in mistakes.items()]


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    """Every text that interpolates, with its path."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), one)
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _leaves(f"{path}[{index}]", one)
    elif isinstance(value, str) and "${" in value:
        yield path, value


def _interpolation_mistake(composed: DictConfig, path: str, text: str) -> str | None:
    if "oc.env" in text:  # the composed config is kept with the run, and a secret would be with it
        return (
            f"{text} would write a variable of the environment into the run folder; give the "
            "value itself, and leave a secret to the library that reads it"
        )
    try:
        OmegaConf.select(composed, path, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return f"{text} cannot be filled in: {reason(error)}"
    return None


def reason(error: BaseException) -> str:
    """What an error of Hydra or OmegaConf says, on one line."""
    if not str(error) and error.__cause__ is not None:
        return reason(error.__cause__)
    if type(error) in NO_KEY:
        return "a list has no keys by name; give it whole, as [64, 32]"
    said = str(error).partition("full_key:")[0].partition("Config search path")[0]
    return " ".join(said.split())
