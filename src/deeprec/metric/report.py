"""What a report says: each metric with its interval, systems compared user by user, in a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

from deeprec.metric.interval import bootstrap_intervals, paired_difference

FORMAT = 1

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


@dataclass
class Judged:
    """One system's metrics, users in the same order for all systems of a report."""

    name: str
    kind: str  # run, bundle, recommendations or baseline
    values: Mapping[str, npt.NDArray[np.float64]]  # per metric@k, [U]
    exposure: Mapping[str, float]
    source: Mapping[str, Any] = field(default_factory=dict)  # which run, bundle or file it was


def summary(judged: Judged, samples: int, seed: int) -> dict[str, Any]:
    """A system's entry in report.json."""
    intervals = bootstrap_intervals(np.stack(list(judged.values.values()), 1), samples, seed)
    return {
        "name": judged.name,
        "kind": judged.kind,
        "metrics": {
            name: _interval(*interval)
            for name, interval in zip(judged.values, intervals.T.tolist(), strict=True)
        },
        "exposure": dict(judged.exposure),
        **judged.source,
    }


def comparisons(
    systems: Sequence[Judged], metric: str, samples: int, seed: int
) -> list[dict[str, Any]]:
    """The first system against each other one, user by user, on one metric."""
    first, *others = systems
    return [
        _comparison(
            first,
            other,
            metric,
            paired_difference(first.values[metric], other.values[metric], samples, seed),
        )
        for other in others
    ]


def _comparison(
    first: Judged, other: Judged, metric: str, difference: tuple[float, float, float]
) -> dict[str, Any]:
    mean, low, high = difference
    interval = f"95 % interval of the difference {low:+.4f} to {high:+.4f}"
    if low > 0 or high < 0:
        relation = "higher" if low > 0 else "lower"
        words = f"{first.name} scores {relation} than {other.name} on {metric}, by {abs(mean):.4f}"
    else:
        words = f"{first.name} and {other.name} cannot be told apart on {metric}"
    return {
        "first": first.name,
        "second": other.name,
        "metric": metric,
        "difference": _interval(mean, low, high),
        "words": f"{words} ({interval})",
    }


def _interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def headline(cutoffs: Sequence[int]) -> int:
    """The cutoff of the printed table and of the comparisons: 20, or the nearest to it."""
    return min(cutoffs, key=lambda k: (abs(k - 20), k))


def show(report: Mapping[str, Any], console: Console) -> None:
    """The table, who was judged, and what may be said of the differences."""
    console.print(table(report))
    users = report["protocol"]["users"]
    reasons = [f"{count:,} with {reason}" for reason, count in users["reasons"].items() if count]
    dropped = f"; left out: {', '.join(reasons)}" if reasons else ""
    console.print(f"{users['scored']:,} users judged on the {report['part']}{dropped}")
    for system in report["systems"]:
        lists = {_fact(fact, report): n for fact, n in system.get("lists", {}).items()}
        counts = [f"{count:,} {fact}" for fact, count in lists.items() if count and fact]
        if counts:
            console.print(f"{system['name']}: {', '.join(counts)}")
    for comparison in report["comparisons"]:
        console.print(comparison["words"])


def _fact(fact: str, report: Mapping[str, Any]) -> str:
    """In words; empty where it is no news."""
    protocol = report["protocol"]
    if fact == "seen_items" and not protocol["exclude_seen"]:
        return ""
    return fact.replace("_", " ").replace("than k", f"than {max(protocol['cutoffs'])} items")


def table(report: Mapping[str, Any]) -> Table:
    """Systems as rows, the headline metrics with their intervals."""
    k = headline(report["protocol"]["cutoffs"])
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
