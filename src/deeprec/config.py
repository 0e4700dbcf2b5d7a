"""Words on the command line -> the checked config of one run of a verb."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from deeprec import composition, override, part, resumed
from deeprec.annotation import accepts
from deeprec.composition import Composer
from deeprec.errors import ConfigError, did_you_mean
from deeprec.part import instantiate as instantiate
from deeprec.schema import field_mistakes, plain_defaults, plain_fields, unknown_key
from deeprec.verb import VERBS, SweepConfig, TrainConfig, VerbConfig


def configs_dir() -> Path:
    """Where the YAML files lie: in the installed package, or at the top of the checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "configs"


def compose(verb: str, words: Sequence[str] = (), *, config_dir: Path | None = None) -> VerbConfig:
    """The checked config of one run of a verb, its parts as plain dicts.

    Args:
        words: overrides as on the command line: `model=autoencoder`, `optimizer.lr=0.01`.
        config_dir: a folder with further choices, such as `experiment/mine.yaml`.

    Raises:
        ConfigError: with every mistake in it.
    """
    own, handed_on = _parted(words) if verb == "sweep" else (words, [])
    with opened(verb, config_dir) as composer:
        overrides, mistakes = translate(composer, own, multirun=False)
        config, more = read(composer, overrides)
        values, _ = composer.compose(overrides) if handed_on else (None, [])
    elsewhere = _handed_on_mistakes(values or {}, handed_on, config_dir)
    refuse(verb, [*mistakes, *more, *elsewhere])
    assert config is not None  # or there was a mistake
    if isinstance(config, SweepConfig):
        return _whole_sweep(config, own, handed_on, config_dir)
    return _knowing_words(_without_defaults(config, overrides), overrides)


def _parted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a sweep, and those of every run in it."""
    keys = {
        verb: [*(one.name for one in fields(VERBS[verb])), *group_defaults(verb)]
        for verb in ("sweep", "train")
    }
    return override.parted(words, keys["sweep"], keys["train"])


def _handed_on_mistakes(
    sweep: Mapping[str, Any], words: Sequence[str], config_dir: Path | None
) -> list[str]:
    """What is wrong with the words for every run, beside those that the space fixes."""
    if not words:
        return []
    fixed = sweep.get("sweep", {}).get("fixed", [])
    with opened("train", config_dir) as composer:
        overrides, mistakes = translate(composer, override.merged(fixed, words), multirun=False)
        _, more = read(composer, [*overrides, "++prepared=known", "++output_dir=known"])
    return [*mistakes, *more]


def _whole_sweep(
    config: SweepConfig, own: Sequence[str], handed_on: Sequence[str], config_dir: Path | None
) -> SweepConfig:
    chosen = [word for word in own if override.key_of(word) == "sweep"]
    space = chosen[-1].partition("=")[2] if chosen else group_defaults("sweep")["sweep"]
    return replace(
        config,
        output_dir=config.output_dir or f"sweeps/{Path(config.prepared).name}-{space}",
        train=[*config.train, *handed_on],
        config_dir=str(config_dir) if config_dir else config.config_dir,
    )


def check(config: Mapping[str, Any], verb: str) -> None:
    """Refuses a composed config, naming every mistake in it.

    Args:
        config: plain values, nothing left to interpolate.

    Raises:
        ConfigError: each mistake with its path, the rule, the value and the nearest right key.
    """
    refuse(verb, find_mistakes(config, verb))


def find_mistakes(config: Mapping[str, Any], verb: str) -> list[str]:
    """What `check` refuses: unknown keys, wrong or missing values, what does not fit together."""
    schema = VERBS[verb]
    names = [one.name for one in fields(schema)]
    unknown = [key for key in config if key not in names]
    groups = [name for name in names if unknown and name in config]
    inside = [path for name in groups for path in part.settings(name, config[name])]
    mistakes = [unknown_key(key, names, inside) for key in unknown]
    wrong = []
    for one in fields(schema):
        if found := field_mistakes(one, get_type_hints(schema)[one.name], config):
            wrong.append(one.name)
            mistakes += found
    right = {key: value for key, value in config.items() if key in names and key not in wrong}
    together = typed(right, verb).mistakes()
    return [*mistakes, *(one for one in together if one.partition(":")[0] not in wrong)]


def refuse(verb: str, mistakes: Sequence[str]) -> None:
    """Raises if there are mistakes."""
    if mistakes:
        lines = "\n".join(f"  - {mistake}" for mistake in dict.fromkeys(mistakes))
        raise ConfigError(f"deeprec {verb} cannot start:\n{lines}")


def typed(config: Mapping[str, Any], verb: str) -> VerbConfig:
    """A config without mistakes as the verb's dataclass."""
    return VERBS[verb](**config)


def to_dict(config: VerbConfig) -> dict[str, Any]:
    """Plain values, as they would stand in a YAML file."""
    return asdict(config)


def to_yaml(config: VerbConfig) -> str:
    """As it would stand in a YAML file."""
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


@contextmanager
def opened(verb: str, config_dir: Path | None = None) -> Iterator[Composer]:
    """Hydra at work on the configs of a verb."""
    if verb not in VERBS:
        raise ConfigError(f"there is no verb {verb!r}; {did_you_mean(verb, VERBS)}")
    defaults = {schema.__name__: plain_defaults(schema) for schema in VERBS.values()}
    with composition.opened(verb, configs_dir(), defaults, config_dir) as composer:
        yield composer


def translate(
    composer: Composer, words: Sequence[str], *, multirun: bool
) -> tuple[list[str], list[str]]:
    """Overrides that Hydra takes, and the mistakes in the words left out of them."""
    hints = plain_fields(VERBS[composer.name])
    text = [name for name, hint in hints.items() if accepts("", hint)]
    rules = override.Rules(composer.groups, composer.foreign, text, multirun)
    overrides, mistakes = override.translate(words, rules)
    if composer.name == "train":
        mistakes += resumed.mistakes(overrides, multirun=multirun)
    return overrides, mistakes


def read(composer: Composer, overrides: Sequence[str]) -> tuple[VerbConfig | None, list[str]]:
    """The config of these overrides, or every mistake in it."""
    values, mistakes = composer.compose(overrides)
    if values is None:
        return None, mistakes
    known = [f"{mistake.partition(':')[0]}: missing" for mistake in mistakes]
    found = find_mistakes(values, composer.name)
    mistakes += [one for one in found if not one.startswith(tuple(known))]
    return (None, mistakes) if mistakes else (typed(values, composer.name), [])


def of_composed(verb: str, composed: DictConfig) -> VerbConfig:
    """The checked config of what Hydra composed for one job of many."""
    values, mistakes = composition.plain(composed)
    refuse(verb, [*mistakes, *find_mistakes(values, verb)])
    return _without_defaults(typed(values, verb), [])


def _without_defaults(config: VerbConfig, overrides: Sequence[str]) -> VerbConfig:
    """A run that is gone on with by its name is told only what the command itself says."""
    if not isinstance(config, TrainConfig) or not resumed.goes_on(config.resume):
        return config
    return replace(config, trainer=resumed.told(config.trainer, overrides))


def _knowing_words(config: VerbConfig, overrides: Sequence[str]) -> VerbConfig:
    """A model that the data choose is told what the command itself says."""
    if isinstance(config, TrainConfig) and hasattr(part.find(config.model["_target_"]), "told"):
        told = [one.lstrip("+") for one in overrides]
        return replace(config, model={**config.model, "told": told})
    return config


def group_defaults(verb: str) -> dict[str, str | None]:
    """The groups of a verb and the choice made where none is named."""
    return composition.group_defaults(configs_dir() / f"{verb}.yaml")
