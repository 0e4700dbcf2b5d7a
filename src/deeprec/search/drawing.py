"""The plots of a sweep, in the style of a report's page."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from deeprec.evaluation.page.drawing import COLOURS, INK, canvas, written
from deeprec.search.space import SPACE, Choices, Range, label, setting_of
from deeprec.search.trial import Trial

COLUMNS = 3  # of plots of settings
ROW_INCHES = 2.0
LOOKS = {"whole": ("o", COLOURS[0]), "behind": ("x", COLOURS[3]), "short": ("^", COLOURS[4])}


def history(scored: Sequence[Trial], metric: str) -> str:
    """Scores by trial and by minutes, and the best so far."""
    floor = lowest_shown([one.score or 0.0 for one in scored])
    with canvas(2.7, columns=2) as (figure, axes):
        for axis, name, places in (
            (axes[0], "trial", [float(one.number) for one in scored]),
            (axes[1], "minutes since the sweep began", [one.ended / 60 for one in scored]),
        ):
            _points(axis, places, scored, floor)
            order = np.argsort(places)
            highest = np.maximum.accumulate([scored[at].score or 0.0 for at in order])
            axis.step(
                np.array(places)[order], highest, where="post", color=INK, linewidth=1.0, zorder=1
            )
            axis.set_xlabel(name)
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_title(f"validation {metric}", loc="left")
        return written(figure)


def shares(found: Mapping[str, float]) -> str:
    """One bar for each setting."""
    with canvas(0.5 + 0.28 * len(found)) as (figure, (axis,)):
        for row, share in enumerate(found.values()):
            axis.barh(row, share, height=0.6, color=COLOURS[0], linewidth=0)
            axis.text(share, row, f" {100 * share:.0f} %", va="center")
        axis.set_yticks(range(len(found)), list(found))
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.set_xlim(0, max(found.values()) * 1.1)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        return written(figure)


def spaces(scored: Sequence[Trial], names: Sequence[str], metric: str) -> str:
    """The scores of the trials of each space, a line for each."""
    with canvas(0.6 + 0.24 * len(names)) as (figure, (axis,)):
        for state, (mark, colour) in LOOKS.items():
            those = [one for one in scored if one.state == state]
            rows = [names.index(one.values[SPACE]) for one in those]
            axis.plot([one.score or 0.0 for one in those], rows, mark, color=colour, markersize=3.5)
        axis.set_yticks(range(len(names)), list(names))
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlabel(f"validation {metric}")
        axis.grid(axis="both", linewidth=0.3)
        return written(figure)


def settings(scored: Sequence[Trial], ranges: Mapping[str, Range]) -> str:
    """The scores against each setting, a plot for each."""
    floor = lowest_shown([one.score or 0.0 for one in scored])
    rows = -(-len(ranges) // COLUMNS)
    with canvas(rows * ROW_INCHES, columns=COLUMNS, rows=rows) as (figure, axes):
        for axis, (key, one) in zip(axes, ranges.items(), strict=False):
            tried = [trial for trial in scored if key in trial.values]
            _points(axis, _places(tried, key, one), tried, floor)
            _scale(axis, one)
            axis.set_title(setting_of(key), loc="left")
        for axis in axes[len(ranges) :]:
            axis.set_axis_off()
        return written(figure)


def lowest_shown(scores: Sequence[float]) -> float:
    """Where the axis of scores begins: what is far below the better half stands on it.

    Example:
        >>> lowest_shown([0.30, 0.29, 0.28]), round(lowest_shown([0.30, 0.29, 0.02]), 2)
        (0.28, 0.26)
    """
    top, middle = max(scores), float(np.median(scores))
    return max(min(scores), top - 4 * (top - middle))


def _points(axis: Axes, places: Sequence[float], trials: Sequence[Trial], floor: float) -> None:
    for state, (mark, colour) in LOOKS.items():
        those = [at for at, one in enumerate(trials) if one.state == state]
        axis.plot(
            [places[at] for at in those],
            [max(floor, trials[at].score or 0.0) for at in those],
            mark,
            color=colour,
            markersize=3.5,
        )
    axis.margins(y=0.08)
    axis.grid(axis="y", linewidth=0.3)


def _places(trials: Sequence[Trial], key: str, one: Range) -> list[float]:
    if isinstance(one, Choices):
        return [float(one.labels.index(label(trial.values[key]))) for trial in trials]
    return [float(trial.values[key]) for trial in trials]


def _scale(axis: Axes, one: Range) -> None:
    if isinstance(one, Choices):
        axis.set_xticks(range(len(one.labels)), one.labels)
        if sum(map(len, one.labels)) > 24:
            axis.tick_params("x", labelrotation=20)
        axis.set_xlim(-0.5, len(one.labels) - 0.5)
    elif one.log:
        axis.set_xscale("log")
        ticks = np.unique([float(f"{tick:.1g}") for tick in np.geomspace(one.low, one.high, 4)])
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
