"""What a person sees: one console, one style of progress with rate and time left."""

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_A_LINE, FIRST_SECONDS = 60.0, 10.0  # of a log, while work goes on; before its first line


class Output(io.TextIOBase):
    """Standard output for as long as somebody reads it: work does not end where its reader does.

    A terminal that is closed or a pipe into `head` costs what would be shown, and nothing else.
    """

    @property
    def _stream(self) -> TextIO:
        # Rich puts a proxy there while a bar is shown, which would write to this again
        stream: TextIO = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
        return stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # asked for, and never set
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._read_no_more()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._read_no_more()

    def _read_no_more(self) -> None:
        """What is buffered still, and what comes, goes nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


console = Console(file=cast(TextIO, Output()), highlight=False)


class RateColumn(ProgressColumn):
    """Units done per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text("" if rate is None else f"{rate:,.0f} {self.unit}/s")


@contextmanager
def progress(description: str, total: int, unit: str) -> Iterator["Advance"]:
    """Shows work of `total` units as it advances.

    Where there is no terminal, a line says rate and time left after ten seconds, and every minute.

    Example:
        >>> with progress("ranking", total=2, unit="users") as advance:
        ...     advance(2)  # doctest: +SKIP
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        yield Advance(bar, task)
    if not console.is_terminal:
        console.print(f"{description}: {total:,} {unit}")


class Advance:
    """Tells a progress bar that some units are done; in a log, now and then, how far it is."""

    def __init__(self, bar: Progress, task: int) -> None:
        self._bar, self._task = bar, TaskID(task)
        self._start = time.monotonic()
        self._next = self._start + FIRST_SECONDS

    def __call__(self, done: int) -> None:
        self._bar.advance(self._task, done)
        now = time.monotonic()
        if not console.is_terminal and now >= self._next:
            self._next = now + SECONDS_A_LINE
            console.print(told(self._bar.tasks[self._task], now - self._start))


def told(task: Task, seconds: float) -> str:
    """How far a task is, as a line of a log.

    Example:
        >>> told(Task(TaskID(0), "ranking", total=300, completed=100, _get_time=time.time), 20.0)
        'ranking: 100 of 300, 5.0 a second, 40 seconds left'
    """
    rate = task.completed / seconds
    left = 0.0 if rate == 0 or task.total is None else (task.total - task.completed) / rate
    return (
        f"{task.description}: {task.completed:,.0f} of {task.total or 0:,.0f}, {rate:,.1f} a "
        f"second, {left:,.0f} seconds left"
    )
