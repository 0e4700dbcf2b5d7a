"""The course of a sweep: when a trial starts, whether it goes on, what becomes of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import cast

from deeprec.config import instantiate
from deeprec.errors import ConfigError, DeeprecError
from deeprec.search.crew import Crew, Message
from deeprec.search.plan import Plan, Values
from deeprec.search.shelf import Shelf
from deeprec.search.shown import Progress
from deeprec.search.study import Study
from deeprec.search.trial import State, Trial, counted
from deeprec.search.worker import Ended, Validated
from deeprec.trainer.loop import Loop as TrainingLoop
from deeprec.verb import TrainConfig

HOPELESS = 5  # trials that may fail before any has succeeded
LOOK_SECONDS = 0.5  # between looks at the clock


@dataclass(frozen=True)
class Budget:
    """How much a sweep may do, in all calls together; None: any amount."""

    seconds: float | None
    trials: int | None


@dataclass
class AtWork:
    """A trial that is being trained; times are seconds into the sweep."""

    values: Values
    max_epochs: int
    began: float
    told: float  # when its last message came
    epoch: int = 0
    scores: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)  # of these scores
    stopped: State | None = None
    why: str | None = None


class Loop:
    """Tries until the budget is used or it is asked to stop.

    Args:
        interrupted: whether somebody has asked the sweep to stop.
    """

    def __init__(
        self,
        plan: Plan,
        study: Study,
        crew: Crew,
        shelf: Shelf,
        budget: Budget,
        interrupted: Callable[[], bool],
    ) -> None:
        self.plan, self.study, self.crew, self.shelf = plan, study, crew, shelf
        self.budget, self.interrupted = budget, interrupted
        self.ended = study.trials
        self._at_work: dict[int, AtWork] = {}
        self._waits: list[float] = []  # of trials so far, from their start to a first validation
        self._before, self._began = study.seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        """Into the sweep, all calls together."""
        return self._before + time.monotonic() - self._began

    def run(self, progress: Progress) -> None:
        """Tries; everything that is known is in the study when it returns or raises.

        Raises:
            DeeprecError: none of the first trials succeeded.
        """
        self.shelf.tidy(self.ended)  # a sweep that was killed may not have come so far
        try:
            while not self._is_over():
                while self.crew.has_room and self._may_start():
                    self._start(progress)
                for number, message in self.crew.messages(LOOK_SECONDS):
                    self._hear(number, message, progress)
                progress.advance(self.ended, self.seconds)
        finally:
            self._stop_all("interrupted" if self.interrupted() else "time was up", progress)
            self.study.set_seconds(self.seconds)
        self._refuse_hopeless()

    def _is_over(self) -> bool:
        idle = not self.crew.at_work and not self._may_start()
        return idle or self.interrupted() or self._seconds_left() <= 0 or self._is_hopeless()

    def _may_start(self) -> bool:
        """Whether there is a trial left to try, and time for it to come to a validation."""
        trials = len(counted(self.ended)) + len(self._at_work)
        enough = self.budget.trials is not None and trials >= self.budget.trials
        wait = median(self._waits) if self._waits else 0.0
        return not enough and not self.interrupted() and self._seconds_left() > wait

    def _seconds_left(self) -> float:
        limit = self.budget.seconds
        return float("inf") if limit is None else limit - self.seconds

    def _start(self, progress: Progress) -> None:
        number, values = self.study.ask()
        now = self.seconds
        try:
            config = self.plan.config_of(values, self.shelf.run(number))
        except ConfigError as error:  # two values that exclude each other
            self._at_work[number] = AtWork(values, 1, now, now)
            self._hear(number, Ended(str(error)), progress)
            return
        self._at_work[number] = AtWork(values, _max_epochs(config), now, now)
        self.crew.start(number, config, self.shelf.log(number))

    def _hear(self, number: int, message: Message, progress: Progress) -> None:
        if isinstance(message, Ended):
            self._settle(number, message, progress)
        else:
            self._judge(number, message)

    def _judge(self, number: int, found: Validated) -> None:
        """Whether a trial goes on after a validation."""
        at, now = self._at_work[number], self.seconds
        if not at.scores:
            self._waits.append(now - at.began)
        at.scores.append(found.score)
        at.epochs.append(found.epoch)
        at.epoch, wait, at.told = found.epoch, now - at.told, now
        behind = self.study.is_behind(number, found.epoch, at.max_epochs, max(at.scores))
        if at.stopped is None and found.epoch < at.max_epochs:
            if behind:
                at.stopped = "behind"
            elif wait > self._seconds_left():  # the next validation would come too late
                at.stopped, at.why = "short", "time was up"
        self.crew.answer(number, at.stopped is None)

    def _settle(self, number: int, message: Ended, progress: Progress) -> None:
        at, now = self._at_work.pop(number), self.seconds
        state = _state(at, message)
        ended = Trial(
            number=number,
            state=state,
            score=None if state in ("failed", "lost") else max(at.scores),
            values=at.values,
            epochs=at.epoch,
            best_epoch=at.epochs[at.scores.index(max(at.scores))] if at.scores else 0,
            seconds=now - at.began,
            ended=now,
            reason=at.why or message.reason or (None if at.scores else "it came to no validation"),
        )
        self.study.settle(ended)
        self.study.set_seconds(now)
        self.ended.append(ended)
        self.shelf.tidy(self.ended)
        progress.told(ended, self.ended)

    def _stop_all(self, why: str, progress: Progress) -> None:
        for at in self._at_work.values():
            at.stopped, at.why = at.stopped or "short", at.why or why
        for number, message in self.crew.stop():
            self._hear(number, message, progress)

    def _is_hopeless(self) -> bool:
        tried = counted(self.ended)
        return len(tried) >= HOPELESS and all(one.score is None for one in tried)

    def _refuse_hopeless(self) -> None:
        if self._is_hopeless():
            tried = counted(self.ended)
            lines = "\n".join(f"  - {reason}" for reason in dict.fromkeys(t.reason for t in tried))
            raise DeeprecError(f"none of {len(tried)} trials has succeeded:\n{lines}")


def _state(at: AtWork, message: Ended) -> State:
    if not at.scores:
        return "failed" if at.stopped is None else "lost"
    if at.stopped is None:
        return "whole" if message.reason is None else "failed"
    return at.stopped


def _max_epochs(config: TrainConfig) -> int:
    return cast(TrainingLoop, instantiate(config.trainer)).schedule.max_epochs
