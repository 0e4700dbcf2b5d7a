"""What a person reads in the terminal: a table, who was judged, what differences say."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

from deeprec.metric.interval import paired_difference

# one user with h > 0 relevant items; `relevant` is defined in the same protocol
DEFINITIONS = {
    "precision@k": "hits / k",
    "recall@k": "hits / h",
    "recall_capped@k": "hits / min(k, h)",
    "hit@k": "1 if any hit, else 0",
    "ndcg@k": "sum over hits of 1 / log2(position + 1), divided by the same sum of the best list "
    "possible for this user, min(k, h) hits at the top",
    "map@k": "sum over hits of the precision at their position, divided by min(k, h)",
    "mrr@k": "1 / position of the first hit, 0 without one",
    "coverage@k": "share of the catalog that is in at least one judged user's list",
}


def comparisons(
    names: Sequence[str],
    values: Sequence[npt.NDArray[np.float64]],
    metric: str,
    samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The first system against each other one, user by user, on one metric."""
    found = []
    for name, values_U in zip(names[1:], values[1:], strict=True):
        mean, low, high = paired_difference(values[0], values_U, samples, seed)
        interval = f"95 % interval of the difference {low:+.4f} to {high:+.4f}"
        if low > 0 or high < 0:
            relation = "higher" if low > 0 else "lower"
            words = f"{names[0]} scores {relation} than {name} on {metric}, by {abs(mean):.4f}"
        else:
            words = f"{names[0]} and {name} cannot be told apart on {metric}"
        difference = {"mean": mean, "low": low, "high": high}
        told = {"first": names[0], "second": name, "metric": metric, "difference": difference}
        found.append({**told, "words": f"{words} ({interval})"})
    return found


def show(report: Mapping[str, Any], console: Console) -> None:
    """The table, who was judged, and what may be said of the differences."""
    console.print(table(report))
    users = report["protocol"]["users"]
    reasons = [f"{count:,} {reason}" for reason, count in users["reasons"].items() if count]
    dropped = f"; left out: {', '.join(reasons)}" if reasons else ""
    console.print(f"{users['scored']:,} users judged on the {report['part']}{dropped}")
    for system in report["systems"]:
        lists = {_fact(fact, report): n for fact, n in system.get("lists", {}).items()}
        counts = [f"{count:,} {fact}" for fact, count in lists.items() if count and fact]
        if counts:
            console.print(f"{system['name']}: {', '.join(counts)}")
    for comparison in report["comparisons"]:
        console.print(comparison["words"])
    for kind, found in (("control", report["controls"]), ("leakage", report["leakage"])):
        for one in found:
            if one["level"] != "ok":
                console.print(f"{one['level']}: {kind}: {one['name']}: {one['says']}")
    for line in (*report["warnings"], *_forced(report)):
        console.print(f"warn: {line}")


def _fact(fact: str, report: Mapping[str, Any]) -> str:
    """In words; empty where it is no news."""
    protocol = report["protocol"]
    if fact == "seen_items" and not protocol["exclude_seen"]:
        return ""
    return fact.replace("_", " ").replace("than k", f"than {max(protocol['cutoffs'])} items")


def _forced(report: Mapping[str, Any]) -> list[str]:
    return [f"compared by force although cards differ: {line}" for line in report["forced"]]


def table(report: Mapping[str, Any]) -> Table:
    """Systems as rows, the headline metrics with their intervals."""
    k = report["headline"]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown.add_column("system")
    for name in (f"ndcg@{k}", f"recall@{k}"):
        shown.add_column(f"{name} (95 %)", justify="right")
    for name in (f"hit@{k}", f"coverage@{k}"):
        shown.add_column(name, justify="right")
    for system in report["systems"]:
        metrics = system["metrics"]
        shown.add_row(
            system["name"],
            *(_cell(**metrics[name]) for name in (f"ndcg@{k}", f"recall@{k}")),
            f"{metrics[f'hit@{k}']['mean']:.3f}",
            f"{system['exposure'][f'coverage@{k}']:.3f}",
        )
    return shown


def _cell(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} {low:.3f}–{high:.3f}"
