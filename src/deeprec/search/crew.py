"""The worker processes of a sweep, seen from the sweep."""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from deeprec.search.worker import Ended, Validated, train_trial
from deeprec.verb import TrainConfig

GRACE_SECONDS = 30  # that a worker has to save and seal its run when it is told to stop

Message = Validated | Ended


@dataclass
class Worker:
    """One process and the line to it."""

    process: BaseProcess
    line: Connection
    slot: int
    ends: bool = False  # it was told to, and seals its run


class Crew:
    """Trains trials, at most `size` at once.

    Workers are forked from a server that has imported what they need, so one starts at once.

    Args:
        size: processes.
        devices: CUDA devices that they share; none: each sees what there is.
    """

    def __init__(self, size: int, devices: list[str]) -> None:
        self.size, self._devices = size, devices
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["deeprec.search.worker"])
        self._workers: dict[int, Worker] = {}

    @property
    def has_room(self) -> bool:
        return len(self._workers) < self.size

    @property
    def at_work(self) -> list[int]:
        """Numbers of the trials being trained."""
        return list(self._workers)

    def start(self, number: int, config: TrainConfig, log: Path) -> None:
        """Begins to train a trial."""
        taken = {worker.slot for worker in self._workers.values()}
        slot = next(at for at in range(self.size) if at not in taken)
        device = self._devices[slot % len(self._devices)] if self._devices else None
        line, theirs = self._context.Pipe()
        process = self._context.Process(target=train_trial, args=(config, log, device, theirs))
        process.start()
        theirs.close()
        self._workers[number] = Worker(process, line, slot)

    def messages(self, timeout: float) -> Iterator[tuple[int, Message]]:
        """What workers have to say, waiting at most so many seconds for the first."""
        lines = {worker.line: number for number, worker in self._workers.items()}
        for line in wait(list(lines), timeout):
            assert isinstance(line, Connection)
            number = lines[line]
            message = _received(self._workers[number])
            if isinstance(message, Ended):
                self._dismiss(number)
            yield number, message

    def answer(self, number: int, go_on: bool) -> None:
        """To a trial that has validated."""
        self._workers[number].ends |= not go_on
        with suppress(OSError):  # it died meanwhile; its end is the next message
            self._workers[number].line.send(go_on)

    def stop(self) -> Iterator[tuple[int, Message]]:
        """Lets every trial save where it is and end; one that takes long is killed.

        Validations that come meanwhile are to be answered.
        """
        for worker in self._workers.values():
            if not worker.ends:  # a signal would meet it while it seals
                worker.process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        while self._workers:
            left = until - time.monotonic()
            yield from self.messages(max(0.0, left))
            if left <= 0:
                for worker in self._workers.values():
                    worker.process.kill()
                until = time.monotonic() + GRACE_SECONDS

    def _dismiss(self, number: int) -> None:
        worker = self._workers.pop(number)
        worker.process.join()
        worker.line.close()
        worker.process.close()


def _received(worker: Worker) -> Message:
    try:
        message: Message = worker.line.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        return Ended(_death(worker.process.exitcode))
    return message


def _death(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return "its process was killed, as the system does where memory runs out"
    if exitcode is not None and exitcode < 0:
        return f"its process died of {signal.Signals(-exitcode).name}"
    return f"its process ended with exit code {exitcode}"
