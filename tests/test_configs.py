"""Every file under configs/ composes and keeps the rules, so that a stale one cannot survive."""

from pathlib import Path

import pytest

from deeprec import config, manual
from deeprec.composition import choices
from deeprec.config import VERBS

CONFIGS = config.configs_dir()
OWN_FOLDERS = [
    (verb, group, choice)
    for verb in VERBS
    for group in config.group_defaults(verb)
    for choice in choices(group, [CONFIGS])
]


def mistakes(verb: str, *words: str) -> list[str]:
    """What is wrong, besides what only a person can give."""
    with config.opened(verb) as composer:
        overrides, wrong_words = config.translate(composer, words, multirun=False)
        _, wrong = config.read(composer, overrides)
    return [
        *wrong_words,
        *(line for line in wrong if not line.partition(": ")[2].startswith("missing")),
    ]


@pytest.mark.parametrize(("verb", "group", "choice"), OWN_FOLDERS)
def test_every_choice_composes_and_keeps_the_rules(verb: str, group: str, choice: str) -> None:
    assert mistakes(verb, f"{group}={choice}") == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_defaults_of_every_verb_keep_the_rules(verb: str) -> None:
    found = mistakes(verb)
    assert [line for line in found if not line.startswith("run: nothing to judge")] == []


def test_every_file_is_a_verb_a_choice_or_part_of_a_choice() -> None:
    folders = {group for _, group, _ in OWN_FOLDERS}
    for path in CONFIGS.rglob("*.yaml"):
        first = path.relative_to(CONFIGS).parts[0]
        assert first in folders or path.stem in VERBS, path


@pytest.mark.parametrize(("verb", "group", "choice"), OWN_FOLDERS)
def test_every_choice_says_in_its_first_line_what_it_is(verb: str, group: str, choice: str) -> None:
    assert manual.choice_comment(CONFIGS / group / f"{choice}.yaml")


@pytest.mark.parametrize(
    "line", [line for lines in manual.EXAMPLES.values() for line in lines if " -m " not in line]
)
def test_every_example_of_the_help_keeps_the_rules(line: str) -> None:
    _, verb, *words = line.split()
    config.compose(verb, words)


def test_the_configs_lie_in_the_checkout() -> None:
    assert Path(__file__).parents[1] / "configs" == CONFIGS
