"""What a person reads in the terminal: a table, who was judged, what differences say."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from deeprec.evaluation.reach import too_short


def show(report: Mapping[str, Any], console: Console) -> None:
    """The table, who was judged, and what may be said of the differences."""
    console.print(table(report))
    users = report["protocol"]["users"]
    reasons = [f"{count:,} {reason}" for reason, count in users["reasons"].items() if count]
    dropped = f"; left out: {', '.join(reasons)}" if reasons else ""
    console.print(f"{users['scored']:,} users judged on the {report['part']}{dropped}")
    for system in report["systems"]:
        lists = {_fact(fact, report, system): n for fact, n in system.get("lists", {}).items()}
        counts = [f"{count:,} {fact}" for fact, count in lists.items() if count and fact]
        if counts:
            console.print(f"{system['name']}: {', '.join(counts)}")
    for comparison in report["comparisons"]:
        if comparison["metric"].startswith("ndcg@"):
            console.print(comparison["words"])
    for group in report["seeds"]["groups"]:
        console.print(_group(group, f"ndcg@{report['headline']}"))
    for kind, found in (("control", report["controls"]), ("leakage", report["leakage"])):
        for one in found:
            if one["level"] != "ok":
                console.print(f"{one['level']}: {kind} {one['name']}: {one['says']}")
    if sampled := [name for name in report["systems"][0]["metrics"] if name.startswith("sampled_")]:
        for system in report["systems"]:
            found = {name: system["metrics"].get(name) for name in sampled[:3]}
            figures = [f"{name} {one['mean']:.3f}" for name, one in found.items() if one]
            if figures:
                console.print(f"{system['name']}: {', '.join(figures)}")
    for line in (*too_short(report), *report["warnings"], *_forced(report)):
        console.print(f"warn: {line}")


def _fact(fact: str, report: Mapping[str, Any], system: Mapping[str, Any]) -> str:
    """In words; empty where it is no news."""
    protocol = report["protocol"]
    if fact == "seen_items" and not protocol["exclude_seen"]:
        return ""
    largest = max(k for k in protocol["cutoffs"] if k <= system.get("reach", k))
    return fact.replace("_", " ").replace("than k", f"than {largest}")


def _group(group: Mapping[str, Any], metric: str) -> str:
    """The runs of one config over their seeds."""
    found = group["metrics"][metric]
    return (
        f"{group['name']} over {found['seeds']} seeds: {metric} {found['mean']:.4f}, standard "
        f"deviation {found['deviation']:.4f} between seeds (95 % of the mean by Student's t "
        f"{found['low']:.4f} to {found['high']:.4f})"
    )


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
