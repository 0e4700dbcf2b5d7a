"""The plots of a report, as SVG that takes the colours of the page it stands in.

Text stays text, so that it can be searched, enlarged and read aloud. A system keeps its colour and
its mark in every plot; colours are those of Okabe and Ito, which the colour-blind tell apart.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

INK = "#123456"  # stands for the colour of the page's text until the SVG is written
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
MARKS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")
TICKS = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]  # of list lengths
WIDTH = 7.2  # inches; a plot is scaled to the page
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deeprec",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "legend.frameon": False,
}


def look(at: int) -> dict[str, Any]:
    """How the system at this place of the report is drawn, everywhere."""
    return {
        "color": COLOURS[at % len(COLOURS)],
        "marker": MARKS[at % len(MARKS)],
        "linestyle": LINES[at // len(COLOURS) % len(LINES)],
    }


def curves(systems: Sequence[Mapping[str, Any]]) -> str:
    """Ndcg and recall against the length of the list, for all systems."""
    with canvas(3.0, columns=2) as (figure, axes):
        for axis, metric in zip(axes, ("ndcg", "recall"), strict=True):
            for at, system in enumerate(systems):
                curve = system["curve"]
                axis.plot(curve["k"], curve[metric], markersize=3, linewidth=1.2, **look(at))
            axis.set_xscale("log")
            longest = max(system["curve"]["k"][-1] for system in systems)
            ticks = [k for k in TICKS if k <= longest]
            axis.set_xticks(ticks, [f"{k:,}" for k in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_ylim(bottom=0)
            axis.set_xlabel("k, length of the list")
            axis.set_title(f"{metric}@k", loc="left")
            axis.grid(axis="y", linewidth=0.3)
        return written(figure)


def differences(comparisons: Sequence[Mapping[str, Any]], first: str) -> str:
    """How far the first system is ahead of each other one, with intervals."""
    with canvas(0.7 + 0.28 * len(comparisons)) as (figure, (axis,)):
        axis.axvline(0, color=INK, linewidth=0.8)
        for row, one in enumerate(reversed(comparisons)):
            told = one["told_apart"]
            axis.plot([one["low"], one["high"]], [row, row], color=INK, linewidth=1.4)
            axis.plot(one["mean"], row, "o", color=INK, fillstyle="full" if told else "none")
        axis.set_yticks(range(len(comparisons)), [_cut(c["second"]) for c in reversed(comparisons)])
        axis.set_ylim(-0.6, len(comparisons) - 0.4)
        axis.set_xlabel(f"{_cut(first)} minus the other, {comparisons[0]['metric']}")
        axis.grid(axis="x", linewidth=0.3)
        return written(figure)


def bands(
    names: Sequence[str],
    systems: Sequence[Sequence[Mapping[str, Any] | None]],
    metric: str,
) -> str:
    """One metric of each band for all systems, with intervals.

    Args:
        names: of the bands.
        systems: per system and band, mean, low and high; None where nobody is in it.
    """
    step = 0.8 / max(1, len(systems))
    with canvas(0.6 + len(names) * max(0.34, 0.11 * len(systems))) as (figure, (axis,)):
        for at, of_system in enumerate(systems):
            style = look(at) | {"linestyle": "none"}
            for row, found in enumerate(of_system):
                if found is None:
                    continue
                place = row - 0.4 + step * (at + 0.5)
                axis.plot(
                    [found["low"], found["high"]], [place] * 2, color=style["color"], linewidth=1.2
                )
                axis.plot(found["mean"], place, markersize=3.5, **style)
        axis.set_yticks(range(len(names)), [_cut(name) for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(left=0)
        axis.set_xlabel(f"{metric}, 95 % interval")
        axis.grid(axis="x", linewidth=0.3)
        for row in range(1, len(names)):
            axis.axhline(row - 0.5, color=INK, linewidth=0.2)
        return written(figure)


def shares(names: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]) -> str:
    """How places, or purchases, are shared out among bands: one bar a row, parts named in it.

    Args:
        names: of the bands.
        rows: per row, its name and the share of each band.
    """
    tones = [0.85, 0.62, 0.42, 0.24, 0.1]
    with canvas(0.5 + 0.32 * len(rows)) as (figure, (axis,)):
        for row, (_, parts) in enumerate(rows):
            left = 0.0
            for band, part in enumerate(parts):
                tone = tones[min(band, len(tones) - 1)]
                axis.barh(
                    row, part, left=left, height=0.7, color="#0072B2", alpha=tone, linewidth=0
                )
                if part >= 0.06:
                    axis.text(left + part / 2, row, f"{100 * part:.0f} %", ha="center", va="center")
                left += part
        axis.set_yticks(range(len(rows)), [_cut(name) for name, _ in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlim(0, 1)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
        handles = [
            Patch(color="#0072B2", alpha=tones[min(band, len(tones) - 1)], linewidth=0)
            for band in range(len(names))
        ]
        figure.legend(handles, names, loc="outside lower left", ncols=min(3, len(names)))
        return written(figure)


def training(runs: Sequence[tuple[int, str, Sequence[Mapping[str, float]]]]) -> str:
    """Loss and validation metric of each epoch.

    Args:
        runs: place in the report, name, and one row an epoch.
    """
    told = {column for *_, epochs in runs for row in epochs for column in row}
    whats = ["loss", *sorted(one for one in told if one.startswith("val/"))]  # each by its length
    rows = (len(whats) + 1) // 2
    with canvas(2.6 * rows, columns=2, rows=rows) as (figure, axes):
        for axis in axes[len(whats) :]:
            axis.remove()
        for axis, what in zip(axes, whats, strict=False):
            for at, _, epochs in runs:
                known = [(row["epoch"], row[what]) for row in epochs if what in row]
                numbers = [epoch for epoch, _ in known], [value for _, value in known]
                axis.plot(*numbers, markersize=3, linewidth=1.2, **look(at))
            axis.set_title(what, loc="left")
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(axis="y", linewidth=0.3)
        return written(figure)


def mark(at: int) -> str:
    """The mark of a system, to stand beside its name."""
    with rc_context(STYLE):
        figure = Figure(figsize=(0.32, 0.14))
        axis = figure.add_axes((0, 0, 1, 1))
        axis.plot([0, 0.5, 1], [0.5] * 3, markevery=[1], markersize=5, linewidth=1.4, **look(at))
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.axis("off")
        return written(figure)


@contextmanager
def canvas(
    height: float, columns: int = 1, rows: int = 1
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure in the style of the page, and its axes row by row.

    Args:
        height: of all of it, in inches.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, [figure.add_subplot(rows, columns, at + 1) for at in range(rows * columns)]


def written(figure: Figure) -> str:
    """The figure alone as SVG, without what a file needs around it."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    svg = text[text.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)  # the same in every plot, and never referred to
    svg = re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    width, height = figure.get_size_inches() * 72
    return re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" aria-hidden="true">',
        svg,
        count=1,
    )


def _cut(name: str, most: int = 34) -> str:
    """A name that leaves room for what is drawn."""
    return name if len(name) <= most else name[: most - 1] + "…"
