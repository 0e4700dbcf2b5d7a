"""What a person meets: help, one message for a mistake, an exit code that says what happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import shop
from deeprec import cli, config, manual, run, schema
from deeprec.cli import main
from deeprec.errors import (
    ConfigError,
    DataError,
    DeeprecError,
    IntegrityError,
    NonFiniteError,
    ResourceError,
)
from deeprec.verb import VERBS, EvaluateConfig, RecommendConfig, VerbConfig

RECOMMEND = ["recommend", "bundle=b", "histories=h", "output=o"]


def deeprec(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    source = str(Path(cli.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "deeprec", *words],
        env={**os.environ, "PYTHONPATH": source},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, VerbConfig]]:
    """What the verbs were called with, instead of calling them."""
    calls: list[tuple[str, VerbConfig]] = []
    monkeypatch.setattr(cli, "call", lambda verb, config: calls.append((verb, config)))
    return calls


def test_a_verb_is_run_from_python_by_keys_and_values(
    called: list[tuple[str, VerbConfig]], tmp_path: Path
) -> None:
    place = tmp_path / "a run, of mine"
    run("evaluate", "seed=7", run=place, cutoffs=[5, 10], exclude_seen=True, examples=0)
    run("evaluate", f"run='{place}'", "seed=7", "cutoffs=[5,10]", "exclude_seen=true", "examples=0")
    assert called[0] == called[1]
    assert isinstance(called[0][1], EvaluateConfig)
    assert (called[0][1].run, called[0][1].cutoffs) == (str(place), [5, 10])
    with pytest.raises(ConfigError, match="cutofs: unknown key; did you mean 'cutoffs'"):
        run("evaluate", run=place, cutofs=[5])


# help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"], ["--help", "nonsense"]])
def test_help_names_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {verb} " in said for verb in (*VERBS, "doctor"))


def test_the_help_of_a_verb_tells_every_field_choice_and_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shop.write_configs(tmp_path)
    monkeypatch.setattr(manual, "configs_dir", lambda: folder)
    monkeypatch.setattr(config, "configs_dir", lambda: folder)
    said = [" ".join(line.split()) for line in manual.page("train").splitlines()]
    assert "seed=1 of initial weights, order of users, dropout and cuts" in said
    assert "* model=autoencoder History -> hidden layers -> catalog." in said
    assert "model=popularity What everybody buys." in said
    assert "experiment=quick A run of seconds." in said


@pytest.mark.parametrize("verb", VERBS)
def test_every_field_has_a_meaning(verb: str) -> None:
    comments = manual.field_comments(VERBS[verb])
    assert all(comments[name] for name in schema.plain_fields(VERBS[verb]))


@pytest.mark.parametrize("words", [["evaluate", "--help"], ["help", "evaluate"]])
def test_the_help_of_a_verb_says_how_to_type_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "part=holdout " in said
    assert "one of 'holdout', 'validation'" in said
    assert "deeprec evaluate run=runs/first\n" in said


def test_help_tells_the_settings_of_the_only_choice_and_of_one_that_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["train", "--help"])
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "trainer.max_epochs=30 passes over the training users" in said
    assert not any(line.startswith(("brake.", "model.l2=")) for line in said)
    main(["train", "model=ease", "prepared=p", "-h", "loss=hinge"])
    printed = capsys.readouterr().out
    assert printed.startswith("model=ease: ")
    assert "\n  model.l2=null           users that say nothing, " in printed
    assert "loss=hinge: " in printed
    assert "loss.margin=" in printed
    assert "model=svd" not in printed  # nothing but what was asked for
    assert "trainer.max_epochs" not in printed
    assert printed.endswith("deeprec train --help\n\n")


def test_help_on_a_choice_that_is_not_there_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "--help", "loss=hing"]) == ConfigError.exit_code
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "loss=hing: there is no such loss; did you mean 'hinge'?\n")
    assert main(["train", "--help", "--config-dir", "mine", "loss=mine"]) == 0  # may be there
    assert main(["train", "--help", "brake=null"]) == 0


def test_what_must_be_given_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "--help"])
    assert "  run=...                 a run folder (must be given)" in (capsys.readouterr().out)


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from deeprec.cli import main; main(['train', '--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_version() -> None:
    done = deeprec("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("deeprec 0.")


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from deeprec.cli import main; sys.exit(main(['--help']))"
    script = f'"{sys.executable}" -c "{code}" | true; echo "${{PIPESTATUS[0]}}"'
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")  # 0 if all was written before the reader left


def test_a_closed_output_is_no_error() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    for closed in (">&-", ">&- 2>&-"):
        words = ["sh", "-c", f"exec {sys.executable} -m deeprec --version {closed}"]
        assert subprocess.run(words, env=env, check=False).returncode == 0


# calling


def test_a_verb_is_called_with_its_typed_config(called: list[tuple[str, VerbConfig]]) -> None:
    assert main([*RECOMMEND, "k=20", "exclude_seen=true"]) == 0
    ((verb, composed),) = called
    assert verb == "recommend"
    assert composed == RecommendConfig("b", "h", "o", k=20, exclude_seen=True)


def test_the_whole_config_can_be_seen_without_running(
    called: list[tuple[str, VerbConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "run=r", "--cfg", "job", "output_dir=o"]) == 0
    assert capsys.readouterr().out == (
        "run: r\noutput_dir: o\ngolden_users: 50\ncompare_users: 1000\nprecision: float32\n"
        "scan: false\nmax_loss: 0.01\nlicense: null\nnotice: null\ntriton: false\n"
        "onnx: false\nids: false\nprogram: null\n"
    )
    assert called == []


# mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "deeprec has no verb 'trian'; did you mean 'train'?\n"),
        (["run=r"], "deeprec has no verb 'run=r'; choose from"),
        (["export", "--multirum"], "--multirum: unknown option; did you mean '--multirun'?\n"),
        (["export", "--cfg", "all"], "invalid choice: 'all'"),
        (["export", "--config-dir"], "expected one argument"),
        (["doctor", "seed=1"], "deeprec doctor takes no seed=1\n"),
        (["export", "outputdir=o"], "  - outputdir: unknown key; did you mean 'output_dir'?"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str],
    said: str,
    called: list[tuple[str, VerbConfig]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words) == 2
    output = capsys.readouterr()
    assert said in output.err
    assert output.out == ""
    assert called == []


def test_a_mistake_leaves_no_traceback_and_no_file(tmp_path: Path) -> None:
    done = deeprec("recommend", "bundel=b", "+k=three", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "deeprec recommend cannot start:",
        "  - bundel: unknown key; did you mean 'bundle'?",
        "  - bundle: missing; give it as bundle=...",
        "  - histories: missing; give it as histories=...",
        "  - output: missing; give it as output=...",
        "  - k: expected a whole number, got 'three'",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 3),
        (IntegrityError("x"), 4),
        (ResourceError("x"), 5),
        (NonFiniteError("x"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_the_exit_code_says_what_happened(
    error: BaseException,
    code: int,
    multirun: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(verb: str, config: VerbConfig) -> None:
        raise error

    monkeypatch.setattr(cli, "call", fail)
    assert main([*RECOMMEND, *multirun]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_verb_may_choose_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As training does after SIGTERM."""

    def stop(verb: str, config: VerbConfig) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(cli, "call", stop)
    for words in (RECOMMEND, [*RECOMMEND, "-m"]):
        with pytest.raises(SystemExit, match="143"):
            main(words)


def test_a_name_that_no_file_may_have_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    name = 300 * "a"
    assert main(["evaluate", f"run={name}", "output_dir=report"]) == 2
    assert f"too long; shorten it: {name}" in capsys.readouterr().err


def test_what_only_we_can_mend_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(verb: str, config: VerbConfig) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "call", fail)
    for words in (RECOMMEND, [*RECOMMEND, "-m"]):
        with pytest.raises(ZeroDivisionError):
            main(words)


# many runs


def test_many_runs_are_every_combination(
    called: list[tuple[str, VerbConfig]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-m", "bundle=b", "histories=h", "output='${k}-${batch_users}'"]
    assert main(["recommend", *words, "k=range(1,3)", "batch_users=5,6"]) == 0
    assert [(one.k, one.output) for _, one in called] == [
        (1, "1-5"),
        (1, "1-6"),
        (2, "2-5"),
        (2, "2-6"),
    ]
    assert list(tmp_path.iterdir()) == []  # Hydra leaves nothing of its own


@pytest.mark.slow
def test_every_job_has_a_folder_of_its_own(called: list[tuple[str, VerbConfig]]) -> None:
    for _ in range(20):  # in the same second or two
        assert main(["export", "-m", "run=r", "golden_users=1,2"]) == 0
    folders = [Path(one.output_dir) for _, one in called]
    assert len(set(folders)) == 40
    assert {folder.name for folder in folders} == {"0", "1"}
    assert {folder.parts[0] for folder in folders} == {"bundles"}


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_job_may_be_named_by_its_number(quote: str, called: list[tuple[str, VerbConfig]]) -> None:
    place = f"{quote}b/${{hydra:job.num}}{quote}"
    assert main(["export", "-m", "run=r1,r2", f"output_dir={place}"]) == 0
    assert [(one.run, one.output_dir) for _, one in called] == [("r1", "b/0"), ("r2", "b/1")]


def test_jobs_that_would_write_to_one_place_are_refused(
    called: list[tuple[str, VerbConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "-m", "run=r", "output_dir=b", "golden_users=1,2"]) == 2
    assert "2 jobs of this command would write to" in capsys.readouterr().err
    assert main(["evaluate", "-m", "run=r", "seed=1,2"]) == 2
    assert called == []


def test_the_mistakes_of_all_jobs_are_named_before_the_first_starts(
    called: list[tuple[str, VerbConfig]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "-m", "bundle=b", "histories=h", "output=o${k}", "k=1,0,two"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "deeprec recommend cannot start:",
        "  - k: expected 1 or more, got 0",
        "  - k: expected a whole number, got 'two'",
    ]
    assert called == []


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.ouput_subdir=x", "no such setting; did you mean 'output_subdir'?"),
        ("+hydra.job.chdri=true", "no such setting; did you mean 'chdir'?"),
        ("hydra.mode=RUN", "hydra.mode"),
        ("k=interval(1,2)", "INTERVAL"),
        ("hydra/launcher=bsic", "bsic"),
    ],
)
def test_a_mistake_in_how_to_run_many_is_refused(
    word: str,
    said: str,
    called: list[tuple[str, VerbConfig]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*RECOMMEND, "-m", word]) == 2
    assert said in capsys.readouterr().err
    assert called == []


def test_the_first_job_that_fails_is_the_last_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def fail_at_two(verb: str, config: VerbConfig) -> None:
        ran.append(config.golden_users)
        if config.golden_users == 2:
            raise DeeprecError("no room")

    monkeypatch.setattr(cli, "call", fail_at_two)
    words = ["-m", "run=r", "output_dir='b${golden_users}'", "golden_users=1,2,3"]
    assert main(["export", *words]) == 1
    assert ran == [1, 2]
    said = capsys.readouterr().err
    assert said.startswith("no room\n")
    assert 'job 2 of 3: run=r output_dir="b2" golden_users=2' in said
