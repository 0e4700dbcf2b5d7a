"""What the runs of one config say together, where they differ in nothing but their seed."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from deeprec.evaluation.report import Report, Values
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
    metrics = _shared([report.values[at] for found in members for at in found], k)
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
        | asdict(apart(means[0][f"ndcg@{k}"], other[f"ndcg@{k}"]))
        for group, other in zip(groups[1:], means[1:], strict=True)
    ]
    return {"groups": groups, "comparisons": comparisons}


def _shared(values: Sequence[Values], k: int) -> list[str]:
    """The metrics at k that every run has: reports may tell diversity by other attributes."""
    names = [name for name in next(iter(values), {}) if name.endswith(f"@{k}")]
    return [name for name in names if all(name in of_run for of_run in values)]


def _group_name(names: Sequence[str]) -> str:
    """The name of runs that differ in their seed, without it."""
    return ", ".join(word for word in names[0].split(", ") if not word.startswith("seed="))
