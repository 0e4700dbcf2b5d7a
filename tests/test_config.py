"""A config either keeps its rules or is refused with everything that is wrong with it."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import shop
from deeprec import config
from deeprec.errors import ConfigError
from deeprec.verb import EvaluateConfig, RecommendConfig, TrainConfig

PLACES = ["prepared=p", "output_dir=o"]


@pytest.fixture(autouse=True)
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shop.write_configs(tmp_path / "configs")
    monkeypatch.setattr(config, "configs_dir", lambda: folder)
    monkeypatch.setenv("DEEPREC_TRUSTED_PACKAGES", "lab, shop")
    return folder


def mistakes(verb: str, *words: str) -> list[str]:
    """The lines of the refusal, each without its bullet."""
    with pytest.raises(ConfigError) as refused:
        config.compose(verb, words)
    head, *lines = str(refused.value).splitlines()
    assert head == f"deeprec {verb} cannot start:"
    return [line.removeprefix("  - ") for line in lines]


def train(*words: str) -> TrainConfig:
    composed = config.compose("train", [*PLACES, *words])
    assert isinstance(composed, TrainConfig)
    return composed


def test_what_is_not_said_has_its_default() -> None:
    composed = train()
    assert (composed.prepared, composed.output_dir, composed.seed) == ("p", "o", 1)
    assert composed.model["_target_"] == "shop.Autoencoder"
    assert composed.loss == {"_target_": "shop.Loss", "scale": 1.0}


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_a_right_key_is_taken_however_it_is_written(sign: str) -> None:
    composed = train(f"{sign}seed=3", f"{sign}model.activation=relu", f"{sign}loss=marginal")
    assert composed.seed == 3
    assert composed.model["activation"] == "relu"
    assert composed.loss["scale"] == 2


def test_an_argument_that_the_file_leaves_out_may_be_given() -> None:
    assert train("model.input_dropout=0").model["input_dropout"] == 0


def test_an_experiment_is_a_whole_run_and_the_command_line_comes_after_it() -> None:
    composed = train("experiment=quick", "seed=9")
    assert composed.model == {"_target_": "shop.Popularity"}
    assert composed.loss["scale"] == 2
    assert (composed.seed, composed.trainer["max_epochs"]) == (9, 1)


def test_a_deleted_key_falls_back_to_its_default() -> None:
    composed = train("~seed", "~model.activation")
    assert composed.seed == 1
    assert "activation" not in composed.model


def test_a_value_may_refer_to_another() -> None:
    composed = config.compose("train", ["prepared=p", "output_dir=runs/s${seed}", "seed=4"])
    assert isinstance(composed, TrainConfig)
    assert composed.output_dir == "runs/s4"


@pytest.mark.parametrize("path", ["a=b/year=2020", "été", "~/x", "my runs/#1", "a\\b", 'x"y', "[1"])
def test_a_path_that_hydra_cannot_read_is_kept_as_typed(path: str) -> None:
    assert train(f"output_dir={path}").output_dir == path


@pytest.mark.parametrize("text", ["20240101", "007", "1e3", "1_000", "true", "2024-01-01"])
def test_text_stays_as_typed_where_text_is_asked_for(text: str) -> None:
    composed = config.compose("recommend", ["bundle=b", "histories=h", "output=o", f"now={text}"])
    assert isinstance(composed, RecommendConfig)
    assert composed.now == text


def test_the_three_typos_that_plain_hydra_takes_are_refused(configs: Path) -> None:
    assert mistakes("train", *PLACES, "+trainer.max_epoch=5") == [
        "trainer.max_epoch: shop.Trainer has no such argument; did you mean 'max_epochs'?"
    ]
    assert mistakes("train", *PLACES, "trainer.max_epochs=three") == [
        "trainer.max_epochs: expected a whole number, got 'three'"
    ]
    (configs / "experiment/stray.yaml").write_text("# @package _global_\nsead: 3\n")
    assert mistakes("train", *PLACES, "experiment=stray") == [
        "sead: unknown key; did you mean 'seed'?"
    ]


def test_every_mistake_is_named_at_once() -> None:
    found = mistakes(
        "train",
        "prepard=p",
        "sead=3",
        "modle=autoencoder",
        "model=autoencodr",
        "model.activation=gelu",
        "+trainer.max_epoch=5",
        "loss.scale=true",
        "seed=one",
        "~sede",
        "lonely",
        "trainer=slow",
        "data=table",
    )
    assert found == [
        "model: expected one of autoencoder, popularity, got 'autoencodr'; "
        "did you mean 'autoencoder'?",
        "lonely: expected key=value",
        "trainer: expected one of default, got 'slow'",
        "data: unknown group; choose from brake, experiment, logger, loss, model, optimizer, rate, "
        "target, trainer, weighting",
        "~sede: Could not delete from config. 'sede' does not exist.",
        "prepard: unknown key; did you mean 'prepared'?",
        "sead: unknown key; did you mean 'seed'?",
        "modle: unknown key; did you mean 'model'?",
        "seed: expected a whole number, got 'one'",
        "model.activation: expected one of 'sigmoid', 'relu', 'tanh', got 'gelu'",
        "loss.scale: expected a number, got true",
        "trainer.max_epoch: shop.Trainer has no such argument; did you mean 'max_epochs'?",
        "prepared: missing; give prepared=FOLDER, or resume=RUN to go on with a run",
        "output_dir: missing; give output_dir=FOLDER, or resume=RUN to go on with a run",
    ]


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("seed=1.5", "seed: expected a whole number, got 1.5"),
        ("seed=true", "seed: expected a whole number, got true"),
        ("seed=null", "seed: expected a whole number, got null"),
        ("seed.x=1", "seed: expected a whole number, got {'x': 1}"),
        ("loss.scale=nan", "loss.scale: expected a number, got nan"),
        ("loss.scale=big", "loss.scale: expected a number, got 'big'"),
        ("trainer.deterministic=1", "trainer.deterministic: expected true or false, got 1"),
        (
            "model.hidden_dims=8",
            "model.hidden_dims: expected a list (each a whole number), got 8; a list of one is [8]",
        ),
        ("model.hidden_dims=[8,x]", "expected a list (each a whole number), got [8, 'x']"),
        ("model.hidden_dims=ab", "expected a list (each a whole number), got 'ab'"),
        ("trainer.limits={a:b}", "trainer.limits: expected a mapping or null, got {'a': 'b'}"),
        ("trainer.on_step=print", "which no config can hold or null, got 'print'"),
        ("trainer.name=7", "a text that looks like a number needs quotes: '\"7\"'"),
        ("trainer.callbacks.0.smothing=1", "trainer.callbacks"),
        ("model=null", "model: expected one of autoencoder, popularity, got None"),
        ("~model", "model: missing; choose it with model=CHOICE"),
        ("trainer._partal_=true", "trainer._partal_: shop.Trainer has no such argument"),
        ("trainer._partial_=1", "trainer._partial_: expected true or false, got 1"),
        ("seed=1,2", "seed: 1,2 are several values; add -m"),
        ("hydra.job.chdir=true", "hydra.job.chdir: Hydra's settings have a say in many runs only"),
        ("hydra.searchpath=[x]", "--config-dir"),
        ("modle/x=y", "modle/x: unknown group"),
        ("model@loss=autoencoder", "model@loss: unknown group; did you mean 'model'?"),
        ("model={hidden_dims:[1]}", "model: expected one of autoencoder, popularity, got {"),
        ("experiment=../../secrets", "experiment: expected one of quick, got '../../secrets'"),
        ("=3", "=3: expected key=value"),
        ("output_dir=${sead}", "output_dir: ${sead} cannot be filled in: Interpolation key 'sead'"),
        ("output_dir=", "output_dir: missing"),
    ],
)
def test_one_mistake_gives_one_line(word: str, wrong: str) -> None:
    (found,) = mistakes("train", *PLACES, word)
    assert wrong in found


def test_parts_inside_a_part_are_checked_too(configs: Path) -> None:
    file = configs / "trainer/default.yaml"
    file.write_text(file.read_text().replace("smoothing", "smothing"))
    assert mistakes("train", *PLACES) == [
        "trainer.callbacks[0].smothing: shop.Popularity has no such argument; "
        "did you mean 'smoothing'?"
    ]


def test_what_must_be_given_is_asked_for(configs: Path) -> None:
    (configs / "trainer/default.yaml").write_text("_target_: shop.Trainer\n")
    assert mistakes("train", *PLACES) == [
        "trainer.max_epochs: missing; give it as trainer.max_epochs=..."
    ]
    assert mistakes("prepare") == [
        "data.events: missing; give it as data.events=...",
        "output_dir: missing; give it as output_dir=...",
    ]


def test_a_partial_part_may_leave_out_what_is_known_at_run_time_only() -> None:
    assert train().model["_partial_"] is True
    assert mistakes("train", *PLACES, "model._partial_=false") == [
        "model: shop.Autoencoder takes num_items, which only the data say; the file that names it "
        "must have the line `_partial_: true`"
    ]


def test_a_resumed_run_has_its_own_folders() -> None:
    composed = config.compose("train", ["resume=runs/a"])
    assert isinstance(composed, TrainConfig)
    assert composed.resume == "runs/a"


def test_nothing_said_beside_resume_is_silently_ignored() -> None:
    assert mistakes("train", "resume=runs/a", "seed=5", "loss=marginal") == [
        "seed: a resumed run goes on under the config it has; leave seed out",
        "loss: a resumed run goes on under the config it has; leave loss out",
    ]
    asked = "resume=runs/a", "trainer.max_epochs=60", "prepared=p"
    assert [one.partition("out, or ")[2] for one in mistakes("train", *asked)] == [
        "train longer as a new run, with an output_dir of its own",
        "train its model anew on other data with deeprec refit run=... prepared=...",
    ]
    assert mistakes("train", "replay=a.replay", "trainer.max_epochs=1") == [
        "trainer.max_epochs: a replay takes the step again under the config that is kept with it; "
        "leave trainer.max_epochs out"
    ]
    for no_run in ("resume=NULL", "resume=Null", "replay=null"):
        assert config.compose("train", [*PLACES, no_run, "seed=5"]).seed == 5
    assert mistakes("train", *PLACES, "resume=") == [
        "resume: names nothing; give resume=FOLDER, or leave resume out"
    ]


def test_evaluate_needs_something_to_judge_and_a_place_to_judge_it() -> None:
    assert isinstance(config.compose("evaluate", ["run=r"]), EvaluateConfig)
    assert isinstance(config.compose("evaluate", ["prepared=p", "output_dir=o"]), EvaluateConfig)
    found = mistakes("evaluate", "baselines=[]", "part=test", "cutoffs=[5,5]", "batch_users=0")
    assert [line.partition(":")[0] for line in found] == [
        "part",
        "run",
        "prepared",
        "output_dir",
        "batch_users",
        "cutoffs",
    ]


@pytest.mark.parametrize("word", ["k=0", "batch_users=-1"])
def test_a_count_starts_at_one(word: str) -> None:
    (found,) = mistakes("recommend", "bundle=b", "histories=h", "output=o", word)
    assert "expected 1 or more" in found


def test_an_unknown_verb_has_a_neighbour() -> None:
    with pytest.raises(ConfigError, match="no verb 'trian'; did you mean 'train'"):
        config.compose("trian")


def test_a_file_that_is_no_yaml_is_named(configs: Path) -> None:
    (configs / "experiment/broken.yaml").write_text("# @package _global_\nseed: [1\n")
    (found,) = mistakes("train", *PLACES, "experiment=broken")
    assert "broken.yaml" in found


def test_an_experiment_that_does_not_say_it_is_global_is_told_to(configs: Path) -> None:
    (configs / "experiment/local.yaml").write_text("seed: 3\n")
    (found,) = mistakes("train", *PLACES, "experiment=local")
    assert "# @package _global_" in found


def test_an_experiment_that_overrides_a_missing_choice_is_refused(configs: Path) -> None:
    text = "# @package _global_\ndefaults:\n  - override /model: autoencodr\n"
    (configs / "experiment/stale.yaml").write_text(text)
    (found,) = mistakes("train", *PLACES, "experiment=stale")
    assert "autoencodr" in found
    assert "autoencoder" in found


def test_further_choices_come_from_a_folder_of_the_user(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "experiment" / "ours.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\nseed: 11\n")
    composed = config.compose("train", [*PLACES, "experiment=ours"], config_dir=tmp_path / "mine")
    assert composed.seed == 11
    with pytest.raises(ConfigError, match="is not a folder"):
        config.compose("train", PLACES, config_dir=tmp_path / "nowhere")


# what a config may run


def test_a_target_outside_the_trusted_packages_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = mistakes("train", *PLACES, "loss._target_=evil.Loss")
    assert "evil.Loss is outside deeprec, lab, shop" in found
    assert "DEEPREC_TRUSTED_PACKAGES" in found


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("os.system", "outside"),
        ("shop.system", "shop defines no 'system'"),
        ("shop.run_anything", "shop defines no 'run_anything'"),
        ("deeprec.folder.shutil.rmtree", "no module deeprec.folder.shutil"),
        ("deeprec.folder.os", "defines no 'os'"),
        ("shop.FILES", "shop defines no 'FILES'"),
        ("deeprec.catalogue.Catalog", "no module deeprec.catalogue"),
        ("deeprec.catalog.Catalogue", "did you mean 'Catalog'?"),
        ("deeprec.folder._flush", "expected a dotted path"),
        ("shop", "expected a dotted path"),
        ("'shop.Loss()'", "expected a dotted path"),
        ("7", "expected a dotted path"),
        ("shop.Swallower", "takes **kwargs"),
    ],
)
def test_a_target_is_a_class_or_function_that_a_trusted_package_defines(
    target: str, wrong: str
) -> None:
    (found,) = mistakes("train", *PLACES, f"optimizer._target_={target}")
    assert found.startswith("optimizer._target_: ")
    assert wrong in found


def test_a_trusted_module_that_cannot_be_imported_sends_to_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab.py").write_text("import a_package_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = mistakes("train", *PLACES, "loss._target_=lab.Loss")
    assert "a_package_nobody_has" in found
    assert "deeprec doctor" in found


def test_a_variable_of_the_environment_never_reaches_the_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "canary-7f3a")
    for word in ("trainer.name=${oc.env:TOKEN}", "output_dir=x-${oc.decode:${oc.env:TOKEN}}"):
        (found,) = mistakes("train", *PLACES, word)
        assert "variable of the environment" in found
        assert "canary" not in found


# making parts


def test_a_part_is_made_of_its_config_and_what_is_known_now() -> None:
    model = config.instantiate(train("model.hidden_dims=[8]").model, num_items=5)
    assert (model.num_items, list(model.hidden_dims), model.activation) == (5, [8], "sigmoid")
    trainer = config.instantiate(train().trainer)
    assert [callback.smoothing for callback in trainer.callbacks] == [3]


def test_a_function_is_a_part_too() -> None:
    assert config.instantiate({"_target_": "shop.table", "events": "e"}) == "e by user_id"


def test_a_value_that_the_part_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"shop\.Loss: scale must be positive, got -1"):
        config.instantiate({**train().loss, "scale": -1})


def test_what_the_data_says_cannot_be_said_by_the_config() -> None:
    with pytest.raises(ConfigError, match="num_items is known from the data"):
        config.instantiate(train("model.num_items=3").model, num_items=5)


def test_making_a_part_trusts_no_more_than_the_check() -> None:
    with pytest.raises(ConfigError, match=r"os\.system is outside"):
        config.instantiate({"_target_": "os.system", "command": "true"})


# the composed config


def test_a_composed_config_survives_yaml() -> None:
    from omegaconf import OmegaConf

    composed = train("experiment=quick", "output_dir=007")
    again: Any = OmegaConf.to_container(OmegaConf.create(config.to_yaml(composed)))
    assert again == config.to_dict(composed)
    config.check(again, "train")


def test_composing_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train("experiment=quick")
    assert list(Path().iterdir()) == []


def test_importing_the_config_brings_no_torch() -> None:
    code = "import sys, deeprec.config; sys.exit('torch' in sys.modules)"
    source = str(Path(config.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env={**os.environ, "PYTHONPATH": source}
    )
    assert done.returncode == 0


# misspelling (G5)

KEYS = ["seed", "prepared", "resume", "model.activation", "model.hidden_dims", "loss.scale"]
KEYS += ["trainer.max_epochs", "trainer.deterministic", "trainer.callbacks"]
RIGHT = {*KEYS, *(one.name for one in fields(TrainConfig))}

SLIPS: list[Callable[[str, int], str]] = [
    lambda key, at: key[:at] + key[at + 1 :],  # dropped
    lambda key, at: key[:at] + key[at] + key[at:],  # doubled
    lambda key, at: key[:at] + key[at + 1 : at + 2] + key[at] + key[at + 2 :],  # swapped
    lambda key, at: key[:at] + "x" + key[at + 1 :],  # another letter
]

slips = st.tuples(st.sampled_from(KEYS), st.sampled_from(SLIPS), st.integers(0, 30)).map(
    lambda slip: (slip[0], slip[1](slip[0], slip[2] % len(slip[0])))
)
misspelt_keys = slips.filter(lambda pair: pair[1] not in RIGHT)

SETTINGS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "derandomize": True,  # the same slips in every run
}


def whole(**changes: object) -> dict[str, Any]:
    """A config of train that passes the check, with its keys at any depth."""
    part = {"_target_": "shop.Loss", "scale": 1.0}
    model = {"_target_": "shop.Autoencoder", "_partial_": True, "activation": "relu"}
    trainer = {"_target_": "shop.Trainer", "max_epochs": 1}
    places = {"prepared": "p", "output_dir": "o"}
    parts = dict.fromkeys(["loss", "optimizer", "target", "logger"], part)
    return {**places, **copy.deepcopy(parts), "model": model, "trainer": trainer, **changes}


def put(values: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value


def test_the_whole_config_passes() -> None:
    config.check(whole(), "train")
    config.check(whole(seed=3), "train")


@settings(max_examples=200, **SETTINGS)
@given(misspelt_keys)
def test_a_misspelt_key_in_a_config_never_passes(pair: tuple[str, str]) -> None:
    _, misspelt = pair
    composed = whole()
    put(composed, misspelt, None)
    with pytest.raises(ConfigError, match=r"unknown key|no such argument"):
        config.check(composed, "train")


@settings(max_examples=20, **SETTINGS)
@given(misspelt_keys, st.sampled_from(["", "+", "++"]))
@example(("trainer.max_epochs", "trainer.max_epoch"), "+")
def test_a_misspelt_key_on_the_command_line_never_passes(pair: tuple[str, str], sign: str) -> None:
    _, misspelt = pair
    assert mistakes("train", *PLACES, f"{sign}{misspelt}=1")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("prepare", ["data=table", "data.events=e", "output_dir=o"]),
        ("train", PLACES),
        ("evaluate", PLACES),
    ],
)
@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_is_a_number_that_every_generator_takes(
    verb: str, words: list[str], seed: int
) -> None:
    assert mistakes(verb, *words, f"seed={seed}") == [
        f"seed: expected a number from 0 to 2**63 - 1, got {seed}"
    ]
    assert config.compose(verb, [*words, f"seed={2**63 - 1}"])


def test_what_a_constructor_says_of_its_values_is_said_with_the_rest() -> None:
    assert mistakes("train", "output_dir=o", "loss.scale=-1", "logger=default", "sead=3") == [
        "sead: unknown key; did you mean 'seed'?",
        "loss.scale: must be positive, got -1.0",
        "prepared: missing; give prepared=FOLDER, or resume=RUN to go on with a run",
    ]
