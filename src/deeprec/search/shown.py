"""What a sweep shows in the terminal: a line per trial, how far it is, and the table at its end."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.markup import escape
from rich.table import Table

from deeprec.console import console
from deeprec.search.trial import Trial, best, counted, differing, ranked, reached

SHOWN = 10  # trials in the table; the page has all


class Progress:
    """The bar of a sweep on a terminal, and a line for each trial that has ended.

    Args:
        seconds: the budget by the clock; None: none.
        trials: the budget in trials; None: none.
        defaults: of the searched settings.
        metric: what trials are compared by.
    """

    def __init__(
        self,
        seconds: float | None,
        trials: int | None,
        defaults: Mapping[str, object],
        metric: str,
    ) -> None:
        self.seconds, self.trials, self.defaults = seconds, trials, defaults
        self.metric = metric
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TextColumn("{task.fields[told]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("sweep", total=1.0, told="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, ended: Sequence[Trial], seconds: float) -> None:
        """Shows the share of the budget that is used, the rate and the time left."""
        done, top = len(counted(ended)), best(ended)
        used = [
            *([] if self.seconds is None else [seconds / self.seconds]),
            *([] if self.trials is None else [done / self.trials]),
        ]
        share = min(1.0, max(used))
        rate = f", {60 * done / seconds:.1f} a minute" if done else ""
        left = f", {seconds / share - seconds:,.0f} s left" if share > 0 else ""
        self._bar.update(
            self._task,
            completed=share,
            description="sweep" if top is None else f"best {top.score:.4f} (trial {top.number})",
            told=f"{done} trials{rate}{left}",
        )

    def told(self, one: Trial, ended: Sequence[Trial]) -> None:
        """A trial has ended."""
        differs = escape(differing(one, self.defaults))
        if one.score is None:
            why = (one.reason or "").partition("\n")[0]
            again = ", to be tried again" if one.state == "lost" else ""
            said = f"[red]{one.state}[/red]  {escape(why)}{again}"
        else:
            mark = "  [green]best[/green]" if best(ended) == one else ""
            said = f"{self.metric} {one.score:.4f}{mark}  {reached(one)}{_state(one)}"
        console.print(
            f"trial {one.number:>3}  {said}  {one.seconds / 60:.1f} min  {differs}", soft_wrap=True
        )


def show(trials: Sequence[Trial], defaults: Mapping[str, object], metric: str) -> None:
    """The best trials as a table."""
    table = Table(title=f"{_counted(trials)}, the best on validation first")
    for head in ("trial", metric, "epochs", "min"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("settings that differ", overflow="fold")
    for one in ranked(counted(trials))[:SHOWN]:
        score = "failed" if one.score is None else f"{one.score:.4f}"
        differs = escape(differing(one, defaults))
        minutes = f"{one.seconds / 60:.1f}"
        stopped = escape(_state(one)).lstrip(", ")
        told = f"{differs} ({stopped})" if stopped else differs
        table.add_row(str(one.number), score, str(one.epochs), minutes, told)
    console.print(table)


def _state(one: Trial) -> str:
    return {"behind": ", stopped below the median", "short": f", {one.reason}"}.get(one.state, "")


def _counted(trials: Sequence[Trial]) -> str:
    said = [f"{len(counted(trials))} trials"]
    for state, words in (("behind", "stopped below the median"), ("failed", "failed")):
        if count := sum(one.state == state for one in trials):
            said.append(f"{count} {words}")
    return ", ".join(said)
