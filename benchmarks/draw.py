"""The plots of the page, in colours that colour-blind people can tell apart."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from page import Plot, Result, Row, cell, path_of, plot_title, plots

# Okabe and Ito, Color Universal Design, 2008
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^vPX*"
MOST_INSIDE = 5  # lines whose names find room among them
BAR_HEIGHT = 0.3  # inches


def draw_all(stored: Sequence[Result], folder: Path) -> None:
    """Writes every plot; the same results give the same files."""
    (folder / "plots").mkdir(exist_ok=True)
    for result in stored:
        for index, plot in plots(result["found"]):
            rows = plot.get("rows", result["found"]["rows"])
            draw(
                plot_title(result["name"], plot),
                plot,
                rows,
                folder / path_of(result["name"], index),
            )


def draw(title: str, plot: Plot, rows: Sequence[Row], path: Path) -> None:
    told = series(plot, rows)
    bars = plot["kind"] == "bar"
    height = 1.2 + BAR_HEIGHT * sum(map(len, told.values())) if bars else 4.0
    # fixed salt and no date: the same file each time
    with mpl.rc_context({"svg.hashsalt": "deeprec", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(8.0, height), layout="constrained")
        (draw_bars if bars else draw_lines)(axes, plot, told)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if len(told) > MOST_INSIDE:
            figure.legend(frameon=False, fontsize=8, loc="outside right upper")
        elif len(told) > 1 or "goal" in plot:
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def series(plot: Plot, rows: Sequence[Row]) -> dict[str, list[tuple[object, float]]]:
    """Label -> what stands on the x axis and its number."""
    split = plot.get("split")
    found: dict[str, list[tuple[object, float]]] = {}
    for row in rows:
        for column in plot["y"]:
            if row[column] is not None:
                label = str(row[split]) if split else column
                found.setdefault(label, []).append((row[plot["x"]], row[column]))
    return found


def draw_bars(axes: Axes, plot: Plot, told: dict[str, list[tuple[object, float]]]) -> None:
    """Bars lie, so that their names can be read."""
    names = list(dict.fromkeys(str(x) for points in told.values() for x, _ in points))
    width = 0.8 / len(told)
    for index, (label, points) in enumerate(told.items()):
        places = [names.index(str(x)) + index * width for x, _ in points]
        values = [value for _, value in points]
        bars = axes.barh(places, values, width * 0.9, label=label, color=COLOURS[index])
        axes.bar_label(bars, [cell(float(value)) for value in values], padding=3, fontsize=8)
    middle = (len(told) - 1) * width / 2
    axes.set_yticks([place + middle for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(", ".join(plot["y"]))
    if plot.get("log"):
        axes.set_xscale("log")
    if "goal" in plot:
        axes.axvline(plot["goal"], color="black", linestyle="--", linewidth=1, label="goal")


def draw_lines(axes: Axes, plot: Plot, told: dict[str, list[tuple[object, float]]]) -> None:
    for index, (label, points) in enumerate(told.items()):
        x, y = zip(*points, strict=True)
        colour, marker = COLOURS[index], MARKERS[index]
        axes.plot(x, y, label=label, linewidth=1.3, color=colour, marker=marker, markersize=4)
    axes.set_xlabel(plot["x"])
    axes.set_ylabel(", ".join(plot["y"]))
    if plot.get("log"):
        axes.set_xscale("log")
    if "goal" in plot:
        axes.axhline(plot["goal"], color="black", linestyle="--", linewidth=1, label="goal")
