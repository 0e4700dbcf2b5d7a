"""The whole road on real purchases: prepare, train, evaluate, export, recommend.

Runs the commands that a user would type, prints each before it runs, and ends with what came out.
`./scripts/demo` sets the environment up and calls this file.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from deeprec.data.store import Prepared

console = Console(highlight=False)
NUM_RECOMMENDATIONS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="where everything goes")
    output: Path = parser.parse_args().output
    started = time.monotonic()
    walk(output)
    console.print(Rule("What came out"))
    report = json.loads((output / "run" / "report.json").read_text())
    console.print(comparison(report))
    console.print(verdict(report))
    console.print(one_household(output))
    for name, place in places(output).items():
        console.print(f"{name:16} {place}")
    if shutil.which("deeprec") is None or "VIRTUAL_ENV" not in os.environ:
        console.print("next: source .venv/bin/activate, then deeprec --help")
    console.print(f"[dim]All of it took {time.monotonic() - started:,.0f} seconds.[/dim]")


def places(output: Path) -> dict[str, Path]:
    return {
        "run": output / "run",
        "report": output / "run" / "report.html",
        "bundle": output / "bundle",
        "recommendations": output / "recommendations.parquet",
    }


def walk(output: Path) -> None:
    """Each verb reads the folder that the one before it wrote."""
    prepared, run, bundle = output / "prepared", output / "run", output / "bundle"
    if (prepared / "manifest.json").exists():
        console.print(f"keeping {prepared} from before")
    else:
        deeprec("prepare", "data=complete_journey", f"output_dir={prepared}")
    if (run / "manifest.json").exists():
        console.print(f"keeping {run} from before")
    elif run.exists():
        deeprec("train", f"resume={run}")
    else:
        deeprec("train", f"prepared={prepared}", f"output_dir={run}", "experiment=complete_journey")
    deeprec("evaluate", f"run={run}")
    deeprec("export", f"run={run}", f"output_dir={bundle}")
    lists = output / "recommendations.parquet"
    deeprec("recommend", f"bundle={bundle}", f"histories={prepared}", f"output={lists}", "k=20")


def deeprec(*words: str) -> None:
    console.print(f"\n[bold]$ deeprec {' '.join(words)}[/bold]")
    done = subprocess.run([sys.executable, "-m", "deeprec", *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def comparison(report: dict[str, Any]) -> Table:
    shown = ["ndcg@20", "recall@20", "hit@20"]
    table = Table(title="Judged on what each household bought in December, 95 % intervals")
    table.add_column("system", no_wrap=True)
    for metric in shown:
        table.add_column(metric, justify="right", no_wrap=True)
    for system in report["systems"]:
        cells = [interval(system["metrics"][metric]) for metric in shown]
        table.add_row(system["name"], *cells)
    return table


def interval(metric: dict[str, float]) -> str:
    return f"{metric['mean']:.3f} [dim]{metric['low']:.3f}–{metric['high']:.3f}[/dim]"


def verdict(report: dict[str, Any]) -> str:
    """Where the trained model does not stand at or above a baseline, that is said."""
    beaten_by = [
        other["second"]
        for other in report["comparisons"]
        if other["metric"] == "ndcg@20" and other["mean"] < 0
    ]
    if beaten_by:
        return f"[bold]The trained model stands below {', '.join(beaten_by)}.[/bold]"
    return "The trained model stands above every baseline. Its data are called simulated."


def one_household(output: Path) -> Table:
    """Ten recommendations for one household, beside what it bought most before and bought next."""
    prepared = Prepared(output / "prepared")
    lists = pq.read_table(output / "recommendations.parquet")
    row = int(prepared.judged_users("holdout")[0])
    household = prepared.users["user_id"][row].as_py()
    place = lists["user_id"].to_pylist().index(household)
    names = dict(
        zip(prepared.catalog.item_ids.to_pylist(), prepared.items["name"].to_pylist(), strict=True)
    )
    history = prepared.history(np.array([row]), "holdout").items
    bought, times = np.unique(history, return_counts=True)
    often = prepared.catalog.ids_of(bought[np.argsort(-times, kind="stable")][:NUM_RECOMMENDATIONS])
    december = prepared.parts["holdout"].take(np.array([row])).items
    then_bought = set(prepared.catalog.ids_of(december))

    table = Table(title=f"Household {household}")
    for column in ("bought most until November", "recommended for December", "bought?"):
        table.add_column(column, no_wrap=True)
    recommended = lists["item_ids"][place].as_py()[:NUM_RECOMMENDATIONS]
    for before, item in zip(often, recommended, strict=False):
        table.add_row(
            short(names[before]), short(names[item]), "yes" if item in then_bought else ""
        )
    return table


def short(name: str) -> str:
    return name if len(name) <= 31 else f"{name[:30]}…"


if __name__ == "__main__":
    main()
