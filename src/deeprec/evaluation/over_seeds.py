"""What the runs of one config say together, where they differ in nothing but their seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from deeprec.evaluation.report import Report
from deeprec.metric.seeds import apart, spread


def over_seeds(report: Report, k: int) -> dict[str, Any]:
    """What the runs of one config say together, where there are several.

    Returns:
        `groups`: per config with two seeds or more, its systems and the spread of each metric at k;
        `comparisons`: the first group against each other one.
    """
    gathered: dict[str, list[int]] = {}
    for at, system in enumerate(report.systems):
        if "trained" in system:
            gathered.setdefault(str(sorted(system["trained"].items())), []).append(at)
    members = [found for found in gathered.values() if len(found) > 1]
    metrics = [name for name in report.values[0] if name.endswith(f"@{k}")]
    means = [
        {name: [float(report.values[at][name].mean()) for at in found] for name in metrics}
        for found in members
    ]
    groups = [
        {
            "name": _group_name([report.systems[at]["name"] for at in found]),
            "systems": [report.systems[at]["name"] for at in found],
            "metrics": {name: asdict(spread(of_seeds)) for name, of_seeds in of_group.items()},
        }
        for found, of_group in zip(members, means, strict=True)
    ]
    comparisons = [
        {"first": groups[0]["name"], "second": group["name"], "metric": f"ndcg@{k}"}
        | dict(zip(("mean", "low", "high", "p"), _apart(means[0], other, k), strict=True))
        for group, other in zip(groups[1:], means[1:], strict=True)
    ]
    return {"groups": groups, "comparisons": comparisons}


def _apart(
    first: Mapping[str, list[float]], second: Mapping[str, list[float]], k: int
) -> tuple[float, float, float, float]:
    return apart(first[f"ndcg@{k}"], second[f"ndcg@{k}"])


def _group_name(names: Sequence[str]) -> str:
    """The name of runs that differ in their seed, without it."""
    return ", ".join(word for word in names[0].split(", ") if not word.startswith("seed="))
