"""Every file under configs/ composes and keeps the rules, so that a stale one cannot survive."""

from pathlib import Path

import pytest

from deeprec import config, manual
from deeprec.composition import choices
from deeprec.config import compose
from deeprec.errors import ConfigError
from deeprec.verb import VERBS, TrainConfig

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
    assert config.compose(verb, words) is not None


def test_the_configs_lie_in_the_checkout() -> None:
    assert Path(__file__).parents[1] / "configs" == CONFIGS


def refused(verb: str, *words: str) -> list[str]:
    """What is said of our own parts, without bullets."""
    with pytest.raises(ConfigError) as error:
        compose(verb, words)
    return [line.removeprefix("  - ") for line in str(error.value).splitlines()[1:]]


def test_every_value_that_training_would_refuse_is_named_before_any_data_is_read() -> None:
    found = refused(
        "train", "prepared=nope", "output_dir=o", "model.hidden_dims=[0]", "trainer.max_epochs=-1",
        "trainer.batch_users=0", "trainer.threads=0",
    )  # fmt: skip
    assert sorted(found) == [
        "model.hidden_dims: must be one or more positive numbers, got [0]",
        "trainer.batch_users: must be 1 or more, got 0",
        "trainer.max_epochs: must be 1 or more, got -1",
        "trainer.threads: must be 1 or more, got 0",
    ]
    (line,) = refused("train", "prepared=nope", "output_dir=o", "model.activation=foo")
    assert line.startswith("model.activation: expected one of 'sigmoid', 'tanh', 'relu'")


def test_every_value_that_preparing_would_refuse_is_named_with_its_key() -> None:
    events = ("data=table", "data.events=nope", "output_dir=o")
    moment = (
        "expected an ISO date (2023-03-01, not 20230301 or 2023), an ISO time or whole seconds "
        "since 1970 or null, got"
    )
    soon = ["split=time_cut", "split.holdout_from=20171201", "data.filters.first_time=soon"]
    assert refused("prepare", *events, *soon) == [
        f"data.filters.first_time: {moment} 'soon'",
        f"split.holdout_from: {moment} 20171201",
    ]
    assert refused(
        "prepare", *events, "split=random_fraction", "split.holdout=2", "data.encoding=klingon",
        "data.delimiter=", "data.time_format=soon",
    ) == [
        "data.time_format: expected letters of strptime, such as %Y%m%d or null, got 'soon'",
        "data.delimiter: expected 1 to 4 bytes that are no quote and no end of line or null, "
        "got ''",
        "data.encoding: expected one of 'utf-8', 'utf-16', 'latin-1', got 'klingon'",
        "split.holdout=2.0 and split.validation=0.1: each must lie between 0 and 1, "
        "and together below 1",
    ]  # fmt: skip
    limits = ("data.filters.max_history=0", "data.filters.min_users_per_item=0")
    assert refused("prepare", *events, *limits) == [
        "data.filters.min_users_per_item: must be 1 or more, got 0",
        "data.filters.max_history: must be 1 or more, got 0",
    ]


def test_beside_resume_only_what_changes_no_bit_of_a_run_may_be_said() -> None:
    composed = compose("train", ["resume=runs/a", "trainer.prefetch_processes=0"])
    assert isinstance(composed, TrainConfig)
    assert composed.trainer.keys() - {"_target_"} == {"prefetch_processes"}  # no default counts
    for key, value in (("trainer.threads", 2), ("trainer.batch_users", 5), ("trainer", "default")):
        assert mistakes(
            "train", "resume=runs/a", "trainer.prefetch_batches=1", f"{key}={value}"
        ) == [f"{key}: a resumed run goes on under the config it has; leave {key} out"]
