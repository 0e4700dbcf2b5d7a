"""Many requests as one call of the model, and never more waiting than was allowed.

Whoever comes while the model is at work waits; once it is free, all that wait are asked together,
up to `batch_users`. Nobody waits for company when the model is idle.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from deeprec.serve import Bundle, jagged


class Full(Exception):  # noqa: N818  # of the queue, which is no error of ours
    """Too many requests wait already."""


@dataclass(frozen=True)
class Question:
    """One user's history in the indices of a bundle, within all limits."""

    bundle: Bundle
    items: list[int]
    ages: list[float] | None
    attributes: dict[str, list[int]]  # name -> indices of its values; absent: unknown
    k: int
    exclude_seen: bool
    denied: list[int]
    allowed: list[int] | None = None  # the only ones that may be answered; None: all
    num_unknown: int = 0

    @property
    def kind(self) -> tuple[int, bool, bool, bool]:
        """Questions of one kind are asked together."""
        return id(self.bundle), self.exclude_seen, self.ages is None, self.allowed is None

    @property
    def num_events(self) -> int:
        """What it takes of the room in a call."""
        values = max(map(len, self.attributes.values()), default=0)
        return max(len(self.items) + len(self.denied) + len(self.allowed or []), values)


@dataclass(frozen=True)
class Ranked:
    """Item indices, best first, and their scores."""

    items: list[int]
    scores: list[float]


@dataclass
class _Waiting:
    question: Question
    answer: asyncio.Future[Ranked] = field(default_factory=asyncio.Future)


class Batcher:
    """Asks a model for many at once, in a thread of its own.

    Args:
        max_waiting: questions that may wait.
        batch_users: questions in one call.
        max_events: events in one call, so that its memory is bounded.
        told: is called with the size of each batch.
    """

    def __init__(
        self, *, max_waiting: int, batch_users: int, max_events: int, told: Callable[[int], None]
    ) -> None:
        self._max_waiting, self._batch_users = max_waiting, batch_users
        self._max_events, self._told = max_events, told
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")
        self._task: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_running(self) -> bool:
        """Whether whoever asks gets an answer."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begins to answer, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends once the batch at work is done; whoever still waits is told that it is over."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for one in self._waiting:
            one.answer.cancel()
        self._thread.shutdown(wait=True)

    async def ask(self, questions: Sequence[Question]) -> list[Ranked]:
        """The answers, in order.

        Raises:
            Full: they do not fit among those that wait.
            RequestError: one of them breaks a rule of the bundle.
            Exception: whatever else the model fails by.
        """
        if len(self._waiting) + len(questions) > self._max_waiting:
            raise Full
        here = [_Waiting(question) for question in questions]
        self._waiting.extend(here)
        self._arrived.set()
        return list(await asyncio.gather(*(one.answer for one in here)))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next()
            if not batch:
                self._arrived.clear()
                continue
            self._told(len(batch))
            questions = [one.question for one in batch]
            answers = await loop.run_in_executor(self._thread, rank_each, questions)
            for one, answer in zip(batch, answers, strict=True):
                if one.answer.done():
                    continue  # whoever asked has gone
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _next(self) -> list[_Waiting]:
        """The first that waits and others of its kind; the rest keep their order."""
        batch: list[_Waiting] = []
        others: list[_Waiting] = []
        num_events = 0
        while self._waiting and len(batch) < self._batch_users:
            one = self._waiting.popleft()
            if one.answer.done():
                continue
            fits = not batch or num_events + one.question.num_events <= self._max_events
            if fits and (not batch or one.question.kind == batch[0].question.kind):
                batch.append(one)
                num_events += one.question.num_events
            else:
                others.append(one)
        self._waiting.extendleft(reversed(others))
        return batch


def rank_each(questions: Sequence[Question]) -> list[Ranked | Exception]:
    """Answers questions of one kind together; if that fails, each alone, so that one fails."""
    try:
        return list(rank(questions))
    except Exception as error:  # told to whoever asked; the next question is answered
        if len(questions) == 1:
            return [error]
        return [answer for one in questions for answer in rank_each([one])]


def rank(questions: Sequence[Question]) -> list[Ranked]:
    """One call of the model."""
    first = questions[0]
    items, offsets = jagged([one.items for one in questions])
    ages = None
    if first.ages is not None:
        ages = torch.tensor([age for one in questions for age in one.ages or []])
    attributes = {
        name: jagged([one.attributes.get(name, []) for one in questions])
        for name in first.bundle.fields
    }
    # TorchScript's optimiser takes a third of a second for shapes that it has not seen, and makes
    # no later call faster: 2.8 and 2.6 ms for one user of 16,236 items, 17.6 and 16.7 for 64
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # is documented
        best, scores = first.bundle.rank(
            items,
            offsets,
            ages,
            attributes,
            k=max(one.k for one in questions),
            exclude_seen=first.exclude_seen,
            denied=jagged([one.denied for one in questions]),
            allowed=None
            if first.allowed is None
            else jagged([one.allowed or [] for one in questions]),
        )
    found = (best >= 0).sum(1).tolist()
    rows = zip(questions, best.tolist(), scores.tolist(), found, strict=True)
    return [
        Ranked(row[: min(one.k, number)], its_scores[: min(one.k, number)])
        for one, row, its_scores, number in rows
    ]
