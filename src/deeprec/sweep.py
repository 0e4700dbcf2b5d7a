"""Prepared folder -> many runs and the best of them: `deeprec sweep`, a search on validation."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from deeprec import config as configs
from deeprec import folder
from deeprec.composition import Composer
from deeprec.config import SweepConfig
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, DataError, DeeprecError, Interrupted
from deeprec.search.crew import Crew, visible_devices
from deeprec.search.experiment import experiment
from deeprec.search.loop import Budget, Loop
from deeprec.search.plan import Plan
from deeprec.search.shelf import Shelf
from deeprec.search.shown import Progress, show
from deeprec.search.study import FILE, Study
from deeprec.search.trial import Trial, best
from deeprec.trainer.run import RunFolder


def sweep(config: SweepConfig) -> Path:
    """Trains many runs under a budget, keeps the best and says how it was found.

    Given again with the same folder it goes on. The holdout is never read: not by the trials, not
    by what chooses between them.

    Returns:
        The run folder of the best trial.

    Raises:
        ConfigError: a word or the space is wrong, or the folder holds something else.
        DataError: the prepared folder has no validation users.
        Interrupted: a signal stopped it; what it found is kept and shown.
        DeeprecError: no trial succeeded.
    """
    configs.check(configs.to_dict(config), "sweep")
    prepared = Prepared(Path(config.prepared), parts=("train", "validation"))
    _refuse_without_validation(prepared)
    output = Path(config.output_dir or f"sweeps/{prepared.path.name}")
    further = Path(config.config_dir) if config.config_dir else None
    with configs.opened("train", further) as composer:
        plan = Plan(config, composer)
        plan.refuse_mistakes()
        _refuse_foreign_folder(output)
        output.mkdir(parents=True, exist_ok=True)
        with folder.locked(output, lambda: f"{output} is being written by another sweep"):
            return _search(config, prepared, output, plan, composer)


def _search(
    config: SweepConfig, prepared: Prepared, output: Path, plan: Plan, composer: Composer
) -> Path:
    study = Study(
        output,
        plan,
        _about(config, prepared),
        seed=config.seed,
        prune=config.prune,
        workers=config.workers,
    )
    with folder.writing_file(output / "config.yaml") as draft:
        draft.write_text(configs.to_yaml(config))
    seconds = None if config.minutes is None else 60 * config.minutes
    crew, shelf = Crew(config.workers, _devices(config)), Shelf(output, config.keep)
    with _signals() as asked:
        loop = Loop(plan, study, crew, shelf, Budget(seconds, config.trials), lambda: bool(asked))
        _introduce(config, prepared, output, loop)
        with Progress(seconds, config.trials, plan.defaults()) as progress:
            loop.run(progress)
    top = best(loop.ended)
    if top is None:
        raise DeeprecError(f"no trial came to a validation; {output}/trials has what they printed")
    _conclude(config, output, plan, composer, loop.ended, top)
    if asked:
        raise Interrupted(
            f"stopped; {len(loop.ended)} trials are kept in {output}, and the same command goes on",
            asked[0],
        )
    return shelf.run(top.number)


def _conclude(
    config: SweepConfig,
    output: Path,
    plan: Plan,
    composer: Composer,
    trials: list[Trial],
    top: Trial,
) -> None:
    show(trials, plan.defaults())
    run = RunFolder(output / "best").config
    content = experiment(run, composer, own_threads=plan.shares_threads)
    path = output / "experiment" / "best.yaml"
    with folder.writing_file(path) as draft:
        draft.write_text(_head(config, output, top) + content)
    console.print(
        f"best run: {output / 'best'}\nits config: {path}\n"
        f"next: deeprec evaluate run={output / 'best'}\n"
        f"again: {_again(config, output)}",
        soft_wrap=True,
    )


def _head(config: SweepConfig, output: Path, top: Trial) -> str:
    today = datetime.now(UTC).date().isoformat()
    return (
        "# @package _global_\n"
        f"# The best of a sweep: validation ndcg@100 {top.score:.4f} after {top.epochs} epochs, "
        f"on {config.prepared}, {today}.\n"
        f"#   {_again(config, output)}\n"
    )


def _again(config: SweepConfig, output: Path) -> str:
    """The command that trains the best config anew."""
    return (
        f"deeprec train --config-dir {output} experiment=best prepared={config.prepared} "
        "output_dir=runs/best"
    )


def _introduce(config: SweepConfig, prepared: Prepared, output: Path, loop: Loop) -> None:
    users = len(prepared.judged_users("validation"))
    console.print(
        f"searching {', '.join(loop.plan.ranges)}\n"
        f"on validation ndcg@100 of {users:,} users; the holdout is not read"
    )
    if loop.ended:
        used = f"{len(loop.ended)} trials, {loop.seconds / 60:.1f} minutes"
        console.print(f"going on with {output} after {used}", soft_wrap=True)


def _about(config: SweepConfig, prepared: Prepared) -> dict[str, Any]:
    """What may not change in a sweep that goes on."""
    return {
        "prepared folder": prepared.identity,
        "space": config.sweep,
        "setting of all runs": config.train,
        "seed": config.seed,
    }


def _refuse_without_validation(prepared: Prepared) -> None:
    if not len(prepared.judged_users("validation")):
        raise DataError(
            f"{prepared.path}: has no validation users, and a search must not see the holdout; "
            "prepare the events again with a share for validation (split.validation=0.1, or "
            "split=auto, which takes one)"
        )


def _refuse_foreign_folder(output: Path) -> None:
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not empty and not (output / FILE).is_file():
        raise ConfigError(
            f"output_dir: {output} is in the way; it must be new, empty or a sweep to go on with"
        )


def _devices(config: SweepConfig) -> list[str]:
    if config.workers == 1:
        return []
    return visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that asked the sweep to stop, as they come; the second one ends it at once."""
    asked: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked.append(number)
        console.print(f"{signal.Signals(number).name}: trials save and end, then the sweep")

    if threading.current_thread() is not threading.main_thread():  # elsewhere Python forbids it
        yield asked
        return
    before = {one: signal.signal(one, hear) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
