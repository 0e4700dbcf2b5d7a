"""What a person sees: one console, one style of progress with rate and time left."""

from collections.abc import Iterator
from contextlib import contextmanager

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

console = Console(highlight=False)


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
    """Shows work of `total` units as it advances; a plain line where there is no terminal.

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
    """Tells a progress bar that some units are done."""

    def __init__(self, bar: Progress, task: int) -> None:
        self._bar, self._task = bar, TaskID(task)

    def __call__(self, done: int) -> None:
        self._bar.advance(self._task, done)
