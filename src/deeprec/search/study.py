"""The memory of a sweep, and what it tries next: an Optuna study in `study.db`.

One process writes it, so a sweep can be killed at any moment and go on. What a trial tries depends
on the seed, on its number and on the trials before it, so a sweep that was stopped between two
trials goes on as if it had not been.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import URL

from deeprec.errors import ConfigError
from deeprec.search.distribution import parameter
from deeprec.search.plan import Plan, Values, rounded
from deeprec.search.space import Choices, Range
from deeprec.search.trial import Trial

FILE = "study.db"
DRAWN_FIRST = 10  # trials whose values are drawn at random before any are modelled
DRAWN_ANEW = 20  # times, where what is drawn was tried already
WHOLE_FIRST = 5  # trials that end before any is stopped for being behind
MARKS = 10  # points of a run's epochs at which it is compared with others at the same point
EARLIEST_MARK = 3  # no run is stopped before this one
COMPARED_FIRST = 3  # of these that reached the point at which a run is compared
STATES = {
    "behind": TrialState.PRUNED,
    "short": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "lost": TrialState.FAIL,
}
AGAIN = ("short", "lost")  # whose values are tried again once the sweep goes on


class Study:
    """The trials of one sweep folder.

    Args:
        folder: of the sweep.
        plan: what can be tried.
        about: what makes it this sweep and no other.
        seed: of what is tried.
        prune: whether runs that are behind are stopped.
        workers: runs at once.

    Raises:
        ConfigError: the folder holds another sweep.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        about: Mapping[str, Any],
        *,
        seed: int,
        prune: bool,
        workers: int,
    ) -> None:
        self._plan, self._seed, self._prune, self._workers = plan, seed, prune, workers
        self._running: dict[int, optuna.Trial] = {}
        self._mark: dict[int, int] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = URL.create("sqlite", database=str(folder.absolute() / FILE))
        with _quietly():
            self._study = optuna.create_study(
                study_name="sweep",
                storage=RDBStorage(url.render_as_string()),
                direction="maximize",
                load_if_exists=True,
            )
        self._adopt(folder, about)

    @property
    def seconds(self) -> float:
        """How long the sweep has run, in all calls together."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    def set_seconds(self, seconds: float) -> None:
        self._study.set_user_attr("seconds", seconds)

    @property
    def trials(self) -> list[Trial]:
        """Those that have ended, in their order."""
        told = self._study.user_attrs
        numbers = sorted(int(key[6:]) for key in told if key.startswith("ended."))
        return [Trial(**told[f"ended.{number}"]) for number in numbers]

    def ask(self) -> tuple[int, Values]:
        """A new trial: its number and what it tries.

        What was tried or is being tried would come out the same, so something else is drawn, as
        long as there seems to be any; what is refused so takes a number of the study.
        """
        known = [one.values for one in self.trials if one.state not in AGAIN]
        known += [one.user_attrs["values"] for one in self._running.values()]
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting and (fixed := self._plan.turn(len(known))):
            ranges = self._plan.ranges
            told = {key: parameter(value, ranges[key]) for key, value in fixed.items()}
            self._study.enqueue_trial(told)
        trial, values = self._drawn(self._sampler())
        for _ in range(DRAWN_ANEW):
            if values not in known:
                break
            self._study.tell(trial, state=TrialState.FAIL)
            trial, values = self._drawn(RandomSampler(self._next_seed()))
        trial.set_user_attr("values", values)
        self._running[trial.number], self._mark[trial.number] = trial, 0
        return trial.number, values

    def _drawn(self, sampler: BaseSampler) -> tuple[optuna.Trial, Values]:
        values: Values = {}
        with _quietly():
            self._study.sampler = sampler
            trial = self._study.ask()
            left_out = trial.user_attrs.get("left_out", [])
            for key, one in self._plan.ranges.items():
                if key not in left_out and self._plan.applies(key, values):
                    values[key] = rounded(_suggested(trial, key, one), one)
        return trial, values

    def is_behind(self, number: int, epoch: int, max_epochs: int, best: float) -> bool:
        """Records a validation; whether others were further at this share of their epochs.

        A run of few epochs is compared with one of many by the share that is done, because the
        learning rate falls with it.
        """
        trial, mark = self._running[number], MARKS * epoch // max_epochs
        if mark <= self._mark[number]:
            return False
        self._mark[number] = mark
        trial.report(best, mark)
        return self._prune and mark >= EARLIEST_MARK and best < self._median(trial, mark)

    def _median(self, trial: optuna.Trial, mark: int) -> float:
        """Of runs of the same space at this point; minus infinity while they are few."""
        space = self._plan.family(trial.user_attrs["values"])
        whole = [
            one.intermediate_values
            for one in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if self._plan.family(one.user_attrs["values"]) == space
        ]
        there = [found[mark] for found in whole if mark in found]
        enough = len(whole) >= WHOLE_FIRST and len(there) >= COMPARED_FIRST
        return median(there) if enough else -math.inf

    def settle(self, ended: Trial) -> None:
        """A trial has ended."""
        del self._running[ended.number]
        self._settle(ended)

    def _settle(self, ended: Trial) -> None:
        self._study.set_user_attr(f"ended.{ended.number}", asdict(ended))
        if ended.state == "lost":
            self._try_next(ended.values)
        self._tell(ended)

    def _tell(self, ended: Trial) -> None:
        state = STATES.get(ended.state, TrialState.COMPLETE)
        value = ended.score if state is TrialState.COMPLETE else None
        self._study.tell(ended.number, value, state=state)

    def _adopt(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Makes this study the one of this sweep, or goes on with it."""
        known, told = self._study.user_attrs.get("about"), json.loads(json.dumps(about))
        if known is None:
            for values in self._plan.first_tried():
                self._try_next(values, once=True)
            self._study.set_user_attr("about", told)  # last: a sweep killed before begins anew
        elif known != told:
            differ = ", ".join(key for key in told if known.get(key) != told[key])
            raise ConfigError(
                f"output_dir: {folder} holds a sweep with another {differ}; give another "
                "output_dir, or what it was begun with"
            )
        ended = {one.number: one for one in self.trials}
        for cut in (one for one in ended.values() if one.state == "short"):
            if not self._study.user_attrs.get(f"again.{cut.number}"):
                self._try_next(cut.values)
                self._study.set_user_attr(f"again.{cut.number}", True)
        for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if one.number in ended:
                self._tell(ended[one.number])
            else:
                self._settle(self._of_killed_sweep(one))

    def _of_killed_sweep(self, one: optuna.trial.FrozenTrial) -> Trial:
        """What was at work when a sweep was killed."""
        return Trial(
            number=one.number,
            state="lost",
            score=None,
            values=one.user_attrs.get("values", self._plan.first_tried()[0]),
            epochs=0,
            seconds=0.0,
            ended=self.seconds,
            reason="the sweep was killed",
        )

    def _try_next(self, values: Values, *, once: bool = False) -> None:
        """Lets the next trial try these values, without those that the ranges do not hold.

        Args:
            once: not if a trial has tried them, or is to.
        """
        ranges = self._plan.ranges
        held = {key: value for key, value in values.items() if ranges[key].holds(value)}
        params = {key: parameter(value, ranges[key]) for key, value in held.items()}
        left_out = [key for key in ranges if key not in held]
        about = {"left_out": left_out}
        self._study.enqueue_trial(params, user_attrs=about, skip_if_exists=once)

    def _sampler(self) -> TPESampler:
        """Drawn anew for each trial, so that what it tries depends on nothing else."""
        with _quietly():
            return TPESampler(
                n_startup_trials=DRAWN_FIRST,
                multivariate=True,
                group=True,
                constant_liar=self._workers > 1,
                seed=self._next_seed(),
            )

    def _next_seed(self) -> int:
        number = len(self._study.get_trials(deepcopy=False))
        digest = hashlib.sha256(f"{self._seed} {number}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _suggested(trial: optuna.Trial, key: str, one: Range) -> Any:
    if isinstance(one, Choices):
        return one.values[one.labels.index(trial.suggest_categorical(key, one.labels))]
    if one.whole:
        step = 1 if one.step is None else int(one.step)
        return trial.suggest_int(key, int(one.low), int(one.high), step=step, log=one.log)
    return trial.suggest_float(key, one.low, one.high, step=one.step, log=one.log)


@contextmanager
def _quietly() -> Iterator[None]:
    """Optuna warns of each argument that it may change; its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
