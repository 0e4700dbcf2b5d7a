"""What a sweep leaves: the best config as an experiment file, and the page."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna import __version__ as optuna_version

from deeprec import folder
from deeprec.composition import Composer
from deeprec.data.store import Prepared
from deeprec.search import study
from deeprec.search.experiment import experiment
from deeprec.search.page import Told, page
from deeprec.search.plan import Plan
from deeprec.search.space import Choices, Range
from deeprec.search.trial import Trial, reached
from deeprec.trainer.environment import environment
from deeprec.trainer.run import RunFolder
from deeprec.verb import SweepConfig

BLEND = "blend"  # the run folder, in that of a sweep, of the best run of each model together


@dataclass(frozen=True)
class Commands:
    """What to type next.

    Args:
        output: the folder of the sweep.
        prepared: what it searched on.
    """

    output: Path
    prepared: str

    @property
    def evaluate(self) -> str:
        """Judges the best run on the holdout."""
        return _typed("deeprec", "evaluate", f"run={self.output / 'best'}")

    @property
    def compare(self) -> str:
        """Judges the blend on the holdout, and the best run beside it."""
        runs = f"run={self.output / BLEND}", f"compare=[{self.output / 'best'}]"
        return _typed("deeprec", "evaluate", *runs)

    @property
    def again(self) -> str:
        """Trains the best config anew."""
        words = ("experiment=best", f"prepared={self.prepared}", "output_dir=runs/best")
        return _typed("deeprec", "train", "--config-dir", str(self.output), *words)


def leave(
    config: SweepConfig,
    prepared: Prepared,
    output: Path,
    plan: Plan,
    composer: Composer,
    trials: Sequence[Trial],
    top: Trial,
    seconds: float,
    blended: float | None,
) -> list[Path]:
    """Writes `experiment/best.yaml` and `sweep.html` into the folder of a sweep.

    Args:
        output: the folder; its `best` leads to the run of `top`.
        trials: all that have ended.
        seconds: that the sweep has taken.
        blended: the score of its blend; None: there is none.

    Returns:
        The two files.
    """
    commands = Commands(output, config.prepared)
    run = RunFolder(output / "best").config
    content = experiment(run, composer, own_threads=plan.shares_threads)
    files = [output / "experiment" / "best.yaml", output / "sweep.html"]
    told = Told(
        name=output.name,
        trials=list(trials),
        metric=plan.metric,
        ranges=plan.ranges,
        defaults=plan.defaults(),
        protocol=_protocol(config, prepared, plan, seconds),
        experiment=_head(config, plan.metric, top, commands) + content,
        blended=blended,
        evaluate=commands.evaluate if blended is None else commands.compare,
        again=commands.again,
    )
    for path, text in zip(files, (told.experiment, page(told)), strict=True):
        with folder.writing_file(path) as draft:
            draft.write_text(text, encoding="utf-8")
    return files


def _head(config: SweepConfig, metric: str, top: Trial, commands: Commands) -> str:
    """What an experiment file begins with: how to run it, and what it scored, when, on what."""
    today = datetime.now(UTC).date().isoformat()
    return (
        "# @package _global_\n"
        f"# The best of a sweep: validation {metric} {top.score:.4f} on {config.prepared}, trial "
        f"{top.number} at {reached(top)}, {today}.\n"
        f"#   {commands.again}\n"
    )


def _protocol(
    config: SweepConfig, prepared: Prepared, plan: Plan, seconds: float
) -> dict[str, Any]:
    """Under which rules the best was found."""
    first = study.EARLIEST_MARK * 100 // study.MARKS
    machine = environment()
    return {
        "prepared folder": {"path": config.prepared, "identity": prepared.identity},
        "chosen by": f"the best {plan.metric} among the validations of a run, on the validation "
        f"part ({len(prepared.judged_users('validation')):,} users, of which a run judges at most "
        "its trainer.validation_users); the holdout was not read",
        "search": f"TPE of Optuna {optuna_version}, seed {config.seed}; defaults first, then drawn "
        f"at random until {study.DRAWN_FIRST} trials have ended",
        "runs stopped": "where the best validation so far lies below the median of runs of the "
        f"same model that went to their end, at the same share of their epochs, from {first} % on"
        if config.prune
        else "none for being behind",
        "budget": {"minutes": config.minutes, "trials": config.trials, "workers": config.workers},
        "minutes used": round(seconds / 60, 1),
        "every run is told": plan.words,
        "space": {key: _shown(one) for key, one in plan.ranges.items()},
        "machine": {key: machine[key] for key in ("processor", "cuda", "deeprec", "packages")},
    }


def _shown(one: Range) -> Any:
    """A range as a file would say it."""
    if isinstance(one, Choices) and not one.when:
        return one.values
    said = asdict(one).items()
    return {
        k: value for k, value in said if value is not None and value is not False and value != {}
    }


def _typed(*words: str) -> str:
    return " ".join(map(shlex.quote, words))
