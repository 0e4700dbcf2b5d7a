"""Makes one page of tables and plots from stored results of benchmarks.

A script `NAME.py` here offers `measure() -> Measured`: plain JSON values, nothing printed. `run.py`
stores what it found in `results/NAME.json`, with the conditions of the run, and makes `README.md`
and `plots/` from all of these. `NAME.md` beside a script, written by a person after a profile, says
why a figure misses its goal, or what it does not say.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

FOLDER = Path(__file__).parent
UNFINISHED = "BENCHMARKS_UNFINISHED"
# as a reader goes: what a step costs, what that buys, what grows; scripts not named here follow
ORDER = (
    "step",
    "step_100k",
    "dsstne",
    "catalog_loss",
    "matrix_rate",
    "time_to_ndcg",
    "equal_minutes",
    "gram",
    "gram_40k",
    "processes",
    "gpu",
)
TITLE = """# Benchmarks

Made by `python benchmarks/run.py` from `results/`; do not edit.

- **Read the ratios.** A script measures systems side by side, in turns. Other programs may have run
  beside it; each section says how much of the machine they took.
- **"A over ours"** is the time of A divided by that of deeprec, so higher is better for deeprec.
- **CPU seconds** are those of the process, all threads together.
- **On your data:** `python benchmarks/tuned.py --help` compares systems on a prepared folder of
  yours, each after equally many trials.
- **To test the scripts:** `python benchmarks/run.py --quick` runs each with tiny sizes.
"""
Row = Mapping[str, Any]


class Goal(TypedDict):
    """A figure that was aimed at."""

    what: str
    goal: float
    reached: float | None  # None: not measured this time
    better: str  # higher or lower
    unit: str


class Plot(TypedDict):
    """What is drawn of the rows, or of rows of its own."""

    kind: str  # bar or line
    x: str  # a column
    y: Sequence[str]  # columns: each is a bar beside the others, or a line
    title: NotRequired[str]
    split: NotRequired[str]  # a column: a bar or line for each of its values, instead of many y
    log: NotRequired[bool]
    goal: NotRequired[float]  # a line is drawn here
    rows: NotRequired[Sequence[Row]]


class Measured(TypedDict):
    """What `measure()` gives; every row has the same keys, which say the unit."""

    claim: str
    conditions: Mapping[str, Any]
    rows: Sequence[Row]
    goals: Sequence[Goal]
    plots: NotRequired[Sequence[Plot]]


class Result(TypedDict):
    """What `results/NAME.json` holds."""

    name: str
    ran: Mapping[str, Any]  # command, date, machine, versions, others
    found: Measured


def keep(found: Measured) -> None:
    """What a long script has found so far, where run.py asks for it: a run cut off still tells."""
    if path := os.environ.get(UNFINISHED):
        Path(path).write_text(json.dumps(found) + "\n")


def show(found: Measured) -> None:
    """Prints what a script found, when it is run alone."""
    print(found["claim"], "\n")
    print("\n".join([conditions(found["conditions"]), "", table(found["rows"]), ""]))
    print("\n".join(verdict(goal) for goal in found["goals"]))


def results(folder: Path = FOLDER) -> list[Result]:
    """All that is stored, in the order of the page."""
    stored = [json.loads(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]
    place = {name: index for index, name in enumerate(ORDER)}
    return sorted(stored, key=lambda result: place.get(result["name"], len(ORDER)))


def page(stored: Sequence[Result], folder: Path = FOLDER) -> str:
    """The text of README.md."""
    goals = [(result["name"], goal) for result in stored for goal in result["found"]["goals"]]
    return "\n".join(
        [
            TITLE,
            "| benchmark | goal | reached | |\n|---|---|---|---|",
            *(summary(name, goal) for name, goal in goals),
            "",
            *(section(result, folder) for result in stored),
        ]
    )


def summary(name: str, goal: Goal) -> str:
    """The line of a goal in the table on top."""
    aim, reached = in_words(goal)
    return f"| [{name}](#{name}py) | {goal['what']}: {aim} | {reached} | {met(goal)} |"


def section(result: Result, folder: Path) -> str:
    """One benchmark: claim, conditions, goals, table, plots, reasons."""
    name, found, ran = result["name"], result["found"], result["ran"]
    note = folder / f"{name}.md"
    drawn = [
        f"![{plot_title(name, plot)}]({path_of(name, index)})\n" for index, plot in plots(found)
    ]
    of_run = "; ".join(ran[fact] for fact in ("machine", "versions", "date", "others"))
    return "\n".join(
        [
            f"## {name}.py\n",
            f"{found['claim']}\n",
            f"`{ran['command']}`: {of_run}.\n",
            f"{conditions(found['conditions'])}\n",
            *(f"- {verdict(goal)}" for goal in found["goals"]),
            "",
            f"{table(found['rows'])}\n",
            *drawn,
            *([note.read_text()] if note.exists() else []),
        ]
    )


def verdict(goal: Goal) -> str:
    """A goal and what came of it, in a line."""
    aim, reached = in_words(goal)
    return f"{goal['what']}: goal {aim}, reached {reached}, **{met(goal)}**"


def in_words(goal: Goal) -> tuple[str, str]:
    bound = "at least" if goal["better"] == "higher" else "at most"
    reached = "" if goal["reached"] is None else f"{cell(goal['reached'])} {goal['unit']}"
    return f"{bound} {cell(goal['goal'])} {goal['unit']}", reached


def met(goal: Goal) -> str:
    if goal["reached"] is None:
        return "not measured"
    ahead = goal["reached"] - goal["goal"]
    return "met" if (ahead if goal["better"] == "higher" else -ahead) >= 0 else "missed"


def conditions(told: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {cell(value)}" for name, value in told.items())


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    columns = list(rows[0])
    lines = [
        columns,
        ["---"] * len(columns),
        *([cell(row[name]) for name in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Three digits of a number, thousands apart; nothing for None."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plots(found: Measured) -> list[tuple[int, Plot]]:
    return list(enumerate(found.get("plots", ())))


def plot_title(name: str, plot: Plot) -> str:
    return plot.get("title", f"{name}: {', '.join(plot['y'])}")


def path_of(name: str, index: int) -> str:
    return f"plots/{name}{'' if index == 0 else f'_{index + 1}'}.svg"
