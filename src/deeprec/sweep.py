"""Prepared folder -> many runs and the best of them: `deeprec sweep`, a search on validation."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from deeprec import config as configs
from deeprec import folder
from deeprec.blend import blend
from deeprec.choosing import shape_of
from deeprec.composition import Composer, choices
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.device import visible_devices
from deeprec.errors import ConfigError, DataError, DeeprecError, Interrupted, did_you_mean
from deeprec.model.auto import Auto
from deeprec.search.crew import Crew
from deeprec.search.loop import Budget, Loop
from deeprec.search.outcome import BLEND, Commands, leave
from deeprec.search.plan import Plan
from deeprec.search.portfolio import Portfolio
from deeprec.search.portfolio_plan import PortfolioPlan
from deeprec.search.shelf import Shelf
from deeprec.search.shown import Progress, show
from deeprec.search.space import SPACE, Choices, setting_of
from deeprec.search.space_plan import SpacePlan
from deeprec.search.stopping import heard
from deeprec.search.study import FILE, Study
from deeprec.search.trial import Trial, best, counted
from deeprec.trainer import launcher
from deeprec.trainer.run import open_run
from deeprec.verb import BlendConfig, SweepConfig


def sweep(config: SweepConfig) -> Path:
    """Trains many runs under a budget, keeps the best and says how it was found.

    Given again with the same folder it goes on. The holdout is never read: not by the trials, not
    by what chooses between them.

    Returns:
        The run folder of the best trial; where several models were searched, `blend` beside
        `trials` is the best run of each together, if that is better.

    Raises:
        ConfigError: a word or the space is wrong, the folder holds something else, or this process
            is one of several.
        DataError: the prepared folder has no validation users.
        Interrupted: a signal stopped it; what it found is kept and shown.
        DeeprecError: no trial succeeded.
    """
    launcher.refuse_several("sweep")
    configs.check(configs.to_dict(config), "sweep")
    prepared = Prepared(Path(config.prepared), parts=("train", "validation"))
    _refuse_without_validation(prepared)
    output = Path(config.output_dir or f"sweeps/{prepared.path.name}")
    further = Path(config.config_dir) if config.config_dir else None
    with configs.opened("train", further) as composer:
        plan = _plan(config, prepared, composer)
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
        _about(config, prepared, plan),
        seed=config.seed,
        prune=config.prune,
        workers=config.workers,
    )
    with folder.writing_file(output / "config.yaml") as draft:
        draft.write_text(configs.to_yaml(config))
    seconds = None if config.minutes is None else 60 * config.minutes
    crew = Crew(config.workers, _devices(config))
    shelf = Shelf(output, config.keep, plan.family)
    with heard() as asked:
        loop = Loop(plan, study, crew, shelf, Budget(seconds, config.trials), lambda: bool(asked))
        _introduce(config, prepared, output, loop)
        with Progress(seconds, config.trials, plan.defaults(), plan.metric) as progress:
            loop.run(progress)
    top = best(loop.ended)
    if top is not None:
        show(loop.ended, plan.defaults(), plan.metric)
        if untried := _untried(plan, loop.ended):
            console.print(
                f"[yellow]note[/yellow] not tried yet: {', '.join(untried)}; the same command with "
                "more minutes or trials goes on with them",
                soft_wrap=True,
            )
        members = [shelf.run(one.number) for one in shelf.best_of_each(loop.ended)]
        together = None if asked else _together(config, output, members)
        blended = None if together is None else open_run(together).checkpoint.score
        files = leave(
            config, prepared, output, plan, composer, loop.ended, top, loop.seconds, blended
        )
        _conclude(Commands(output, config.prepared), files, together)
    if asked:
        raise Interrupted(
            f"stopped; {len(loop.ended)} trials are kept in {output}, and the same command goes on",
            asked[0],
        )
    if top is None:
        raise DeeprecError(f"no trial came to a validation; {output}/trials has what they printed")
    return shelf.run(top.number)


def _plan(config: SweepConfig, prepared: Prepared, composer: Composer) -> Plan:
    space = configs.instantiate(config.sweep)
    if isinstance(space, Portfolio):
        _refuse_unknown(space.left_out, config)
        shape = shape_of(prepared)
        return PortfolioPlan(config, space.suited(shape), Auto().choose(shape), composer)
    return SpacePlan(config, space, composer)


def _refuse_unknown(left_out: Sequence[str], config: SweepConfig) -> None:
    further = [Path(config.config_dir)] if config.config_dir else []
    known = choices("sweep", [configs.configs_dir(), *further])
    for name in left_out:
        if name not in known:
            raise ConfigError(f"sweep: there is no space {name!r}; {did_you_mean(name, known)}")


def _together(config: SweepConfig, output: Path, members: Sequence[Path]) -> Path | None:
    """The best run of each model blended into one; None: there is one model, or it is as good."""
    place = output / BLEND
    if place.exists():  # of the trials before
        folder.remove(place)
    if len(members) < 2 or not config.blend:
        return None
    try:
        console.print(
            f"\nblending the best run of each of {len(members)} models, which comes on top of the "
            "budget (blend=false leaves it out)",
            soft_wrap=True,
        )
        runs = [str(path) for path in members]
        together = BlendConfig(runs=runs, output_dir=str(place), seed=config.seed)
        return blend(together, says_next=False)
    except (DeeprecError, KeyboardInterrupt) as error:  # what was found is told all the same
        why = str(error) or "interrupted"
        console.print(f"[yellow]note[/yellow] not blended: {why}", soft_wrap=True)
        return None


def _conclude(commands: Commands, files: Sequence[Path], together: Path | None) -> None:
    lines = [
        f"best run: {commands.output / 'best'}",
        f"its config: {files[0]}",
        f"report of the search: {files[1]}",
        f"next: {commands.evaluate if together is None else commands.compare}",
        f"to train the best run again: {commands.again}",
    ]
    if together is not None:
        lines.insert(2, f"blend of the best of each model: {together}")
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def _introduce(config: SweepConfig, prepared: Prepared, output: Path, loop: Loop) -> None:
    users = len(prepared.judged_users("validation"))
    console.print(
        f"searching {_searched(loop.plan)}\n"
        f"scored by validation {loop.plan.metric} of {users:,} users; the holdout is not read",
        soft_wrap=True,
    )
    if loop.ended:
        ended = len(loop.ended)
        used = f"{ended} trial{'s' * (ended != 1)}, {loop.seconds / 60:.1f} minutes"
        console.print(f"continuing {output} after {used}", soft_wrap=True)


def _untried(plan: Plan, ended: Sequence[Trial]) -> list[str]:
    """Spaces of which no trial has come to its end."""
    spaces = plan.ranges.get(SPACE)
    if not isinstance(spaces, Choices):
        return []
    tried = {plan.family(one.values) for one in counted(ended)}
    return [name for name in spaces.labels if name not in tried]


def _searched(plan: Plan) -> str:
    spaces = plan.ranges.get(SPACE)
    if isinstance(spaces, Choices):
        return f"{', '.join(spaces.labels)}: each once in this order, then by what is found"
    return ", ".join(map(setting_of, plan.ranges))


def _about(config: SweepConfig, prepared: Prepared, plan: Plan) -> dict[str, Any]:
    """What may not change in a sweep that goes on."""
    return {
        "prepared folder": {"content": prepared.identity, "repeats": prepared.repeats},
        "space": config.sweep,
        "setting of all runs": {"said": config.train, "meant": plan.settings()},
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
