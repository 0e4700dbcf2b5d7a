"""Names of other libraries lead to keys and choices that are there, and the page has them all."""

import re
from pathlib import Path

import pytest
import torch

from deeprec import config, part, synonym
from deeprec.composition import choices
from deeprec.errors import ConfigError
from deeprec.trainer import facts
from deeprec.trainer.facts import Facts
from deeprec.trainer.run import RunFolder
from deeprec.verb import VERBS

PAGE = Path(__file__).parents[1] / "docs/from-other-libraries.md"


def all_settings() -> set[str]:
    """Of every verb and every choice."""
    found = {name for schema in VERBS.values() for name in schema.__dataclass_fields__}
    for verb in ("prepare", "train"):
        with config.opened(verb) as composer:
            for group in composer.groups.keys() - {"experiment"}:
                for choice in composer.groups[group]:
                    values, _ = composer.compose([f"{group}={choice}"])
                    assert values is not None
                    found |= set(part.settings(group, values[group]))
    return found


def test_every_key_that_is_named_exists() -> None:
    named = {key for keys in synonym.KEYS.values() for key in keys}
    assert named - all_settings() == set()


def test_every_choice_that_is_named_exists() -> None:
    for group, names in synonym.CHOICES.items():
        assert set(names.values()) <= set(choices(group, [config.configs_dir()]))


def test_names_are_written_as_they_are_looked_up() -> None:
    for name in [*synonym.KEYS, *(one for names in synonym.CHOICES.values() for one in names)]:
        assert synonym.plain(name) == name


@pytest.mark.parametrize("choice", sorted(set(synonym.CHOICES["model"].values())))
def test_the_page_names_every_model_that_others_call_otherwise(choice: str) -> None:
    page = {synonym.plain(word) for word in re.findall(r"[\w-]+", PAGE.read_text())}
    assert synonym.plain(choice) in page


def said(verb: str, *words: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        config.compose(verb, words)
    return [line.removeprefix("  - ") for line in str(refusal.value).splitlines()[1:]]


TRAIN = ("prepared=p", "output_dir=r")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["learning_rate=0.1"], "learning_rate: unknown key; did you mean 'optimizer.lr'?"),
        (["epochs=5"], "epochs: unknown key; did you mean 'trainer.max_epochs'?"),
        (["batch_user=5"], "batch_user: unknown key; did you mean 'trainer.batch_users'?"),
        (["hidden_size=4"], "hidden_size: unknown key; did you mean 'model.hidden_dims'?"),
        (["model=svd", "factors=4"], "factors: unknown key; did you mean 'model.width'?"),
        (["n_heads=2"], "n_heads: unknown key; it is model.num_heads here, which the chosen model"),
        (["trainer.validation_metric=x"], "Loop has no such argument; did you mean 'validation_cu"),
        (["model.lr=1"], "Autoencoder has no such argument; did you mean 'optimizer.lr'?"),
        (["model=SASRec"], "got 'SASRec'; did you mean 'sequence_encoder'?"),
        (["model=EASE"], "got 'EASE'; did you mean 'ease'?"),
    ],
)
def test_what_others_call_so_is_said(words: list[str], meant: str) -> None:
    (found,) = said("train", *TRAIN, *words)
    assert meant in found


def test_a_sweep_hands_on_what_others_call_a_key_of_training() -> None:
    (found,) = said("sweep", "prepared=p", "trials=1", "learning_rate=0.1")
    assert found == "learning_rate: unknown key; did you mean 'optimizer.lr'?"


def test_the_keys_of_preparing_are_found_too() -> None:
    words = ["data=table", "data.events=e", "output_dir=o", "val_interval=1"]
    assert said("prepare", *words) == [
        "val_interval: unknown key; did you mean 'data.filters.minimum_value'?"
    ]


def test_what_only_the_data_say_is_in_no_list() -> None:
    (found,) = said("train", *TRAIN, "model.xyz=1")
    assert "choose from activation, dropout" in found
    assert not re.search(r"\b(num_items|popularity|repeats|log_odds|fields)\b", found)


def test_a_file_without_partial_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("_target_: deeprec.model.svd.Svd\n")
    with pytest.raises(ConfigError) as refusal:
        config.compose("train", [*TRAIN, "model=mine"], config_dir=tmp_path)
    assert "takes num_items, which only the data say" in str(refusal.value)
    assert "must have the line `_partial_: true`" in str(refusal.value)


def test_the_config_of_a_run_is_refused_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("sead: 3\n")
    with pytest.raises(ConfigError) as refusal:
        _ = RunFolder(tmp_path).config
    assert str(refusal.value).startswith(f"{tmp_path / 'config.yaml'} cannot be used:")
    assert "cannot start" not in str(refusal.value)


def test_what_only_the_data_say_is_what_models_and_losses_are_built_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[set[str]] = []

    def note(_: object, **known: object) -> torch.nn.Module:
        asked.append(set(known))
        return torch.nn.Identity()

    monkeypatch.setattr(facts, "instantiate_with", note)
    data = Facts(num_items=1, num_users=1, fields={}, target_share=1.0, repeats=False)
    facts.build_model({}, data, None)
    facts.build_loss({}, data, None, width=1, batch_users=1, device="cpu")
    assert asked == [set(part.KNOWN_LATER["model"]), set(part.KNOWN_LATER["loss"])]
