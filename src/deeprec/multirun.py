"""Many runs of a verb from one command: `deeprec train -m seed=1,2,3 prepared=...`.

Hydra's sweeper makes the jobs and its launcher runs them. Every job is checked before the first one
starts, no two may write to one place, and the first job that fails is the last.
"""

import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from deeprec import config
from deeprec.composition import COMPOSITION_ERRORS, Composer, reason
from deeprec.console import console
from deeprec.errors import ConfigError
from deeprec.override import key_of
from deeprec.verb import VerbConfig

JOB_NUMBER = "${hydra:job.num}"
FOLDERS = {"prepare": "prepared", "train": "runs", "export": "bundles"}


class JobFailed(BaseException):
    """Carries a job's error past Hydra, which would go on with the other jobs."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def multirun(
    verb: str, words: Sequence[str], run: Callable[[VerbConfig], None], config_dir: Path | None
) -> None:
    """Runs the verb for every combination that the words ask for.

    A job without an output_dir of its own gets one that no other job of any command has.

    Raises:
        ConfigError: with the mistakes of all jobs; none was started.
        Exception: what the first job to fail raised, with a note that says which job it was.
    """
    with config.opened(verb, config_dir) as composer:
        overrides, mistakes = config.translate(composer, words, multirun=True)
        overrides += _own_folder(verb, overrides)
        jobs = _jobs(overrides)
        mistakes += _job_mistakes(composer, jobs)
        config.refuse(verb, mistakes)
        try:
            _launch(composer, overrides, run, len(jobs))
        except JobFailed as failed:
            raise failed.error from None
        except COMPOSITION_ERRORS as error:  # in Hydra's own settings; the jobs are checked
            raise ConfigError(f"these runs cannot start: {reason(error)}") from error


def unique_id() -> str:
    """Of one command; two that start in the same second differ."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _own_folder(verb: str, overrides: Sequence[str]) -> list[str]:
    keys = [key_of(one) for one in overrides]
    if verb not in FOLDERS or "output_dir" in keys or "resume" in keys:
        return []
    return [f'++output_dir="{FOLDERS[verb]}/{unique_id()}/{JOB_NUMBER}"']


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job; none if another sweeper than Hydra's own is to find them."""
    if any(one.startswith("hydra/sweeper=") for one in overrides):
        return []
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    try:
        parsed = parser.parse_overrides([one for one in overrides if not _is_hydra(one)])
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise ConfigError(f"these runs cannot be laid out: {error}") from error
    return [
        [one.replace(JOB_NUMBER, str(number)) for one in job] for number, job in enumerate(jobs)
    ]


def _is_hydra(override: str) -> bool:
    return key_of(override).startswith(("hydra.", "hydra/"))


def _job_mistakes(composer: Composer, jobs: Sequence[Sequence[str]]) -> list[str]:
    mistakes, places = [], Counter[str]()
    for job in jobs:
        one, found = config.read(composer, job)
        mistakes += found
        if one is not None:
            places[os.path.abspath(_place(one))] += 1
    mistakes += [
        f"{times} jobs of this command would write to {place}; name what differs between them, "
        "as in output_dir='runs/s${seed}'"
        for place, times in places.items()
        if times > 1
    ]
    return mistakes


def _place(one: VerbConfig) -> str:
    """What a job writes to."""
    names = ("output", "output_dir", "run", "resume")  # evaluate writes to its run by default
    return next(str(place) for name in names if (place := getattr(one, name, None)))


def _launch(
    composer: Composer, overrides: Sequence[str], run: Callable[[VerbConfig], None], total: int
) -> None:
    def job(composed: DictConfig) -> None:
        settings = HydraConfig.get()
        name = f"job {settings.job.num + 1} of {total or 'many'}: " + " ".join(
            one.lstrip("+") for one in settings.overrides.task
        )
        console.print(f"\n{name}", style="bold", markup=False, soft_wrap=True)
        try:
            run(config.of_composed(composer.name, composed))
        except Exception as error:
            error.add_note(f"This was {name}\nIt is the last to run; give the jobs after it again.")
            raise JobFailed(error) from error

    with tempfile.TemporaryDirectory() as scratch:
        quiet = [
            "hydra/job_logging=none",
            "hydra/hydra_logging=none",
            "hydra.output_subdir=null",
            "hydra.job.chdir=false",
            f'hydra.sweep.dir="{scratch}"',
        ]
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        hydra.multirun(composer.name, job, [*composer.base, *quiet, *overrides])
