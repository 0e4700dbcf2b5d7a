"""What systems score, in tables: metrics, tests, exposure, seeds."""

from collections.abc import Mapping
from html import escape

from deeprec.evaluation.page import drawing
from deeprec.evaluation.page.piece import Content, figure, interval, named, number, p_value, table

RELEVANCE = (
    "ndcg",
    "recall",
    "precision",
    "hit",
    "map",
    "mrr",
    "recall_capped",
    "r_precision",
    "auc",
)


def metrics(report: Content) -> str:
    """A table per cutoff, the headline's open; sampled metrics apart, under their own name."""
    k = report["headline"]
    tables = []
    for cutoff in sorted(report["protocol"]["cutoffs"], key=lambda one: (one != k, one)):
        names = {f"{name}@{cutoff}": name for name in RELEVANCE}
        opened = " open" if cutoff == k else ""
        caption = f"Means over users at k = {cutoff}, 95 % intervals below"
        shown = _systems(report, names, caption)
        tables.append(f"<details{opened}><summary>k = {cutoff}</summary>{shown}</details>")
    every = {name: None for system in report["systems"] for name in system["metrics"]}
    sampled = [name for name in every if name.startswith("sampled_")]
    if sampled:
        caption = "Against drawn items only: not comparable with the above"
        shown = _systems(report, {name: name for name in sampled}, caption)
        tables.append(f"<details><summary>sampled metrics</summary>{shown}</details>")
    note = (
        "The best of each metric is bold. ≈: tested against the best and not told apart. Tested "
        "are ndcg, recall, map, mrr and hit at the headline's k, of the first system against each "
        "other one; no sign says nothing."
    )
    return "".join(tables) + f'<p class="soft">{note}</p>'


def _systems(report: Content, metrics: Mapping[str, str], caption: str) -> str:
    """Systems as rows.

    Args:
        metrics: per metric, what stands over its column.
    """
    systems = report["systems"]
    best = {
        name: max((s["metrics"][name]["mean"] for s in systems if name in s["metrics"]), default=0)
        for name in metrics
    }
    rows = [
        (
            named(report, at),
            [
                interval(system["metrics"].get(name), best[name], _alike(report, system, name))
                for name in metrics
            ],
        )
        for at, system in enumerate(systems)
    ]
    return table(caption, ["system", *metrics.values()], rows)


def _alike(report: Content, system: Content, metric: str) -> bool:
    """Whether this system was compared with the best one on a metric, and not told apart."""
    best = max(report["systems"], key=lambda one: one["metrics"].get(metric, {"mean": -1})["mean"])
    pair = {best["name"], system["name"]}
    return any(
        one["metric"] == metric and {one["first"], one["second"]} == pair and not one["told_apart"]
        for one in report["comparisons"]
    )


def comparisons(report: Content) -> str:
    told = report["comparisons"]
    if not told:
        return ""
    headline = [one for one in told if one["metric"] == f"ndcg@{report['headline']}"]
    finding = "; ".join(one["words"] for one in headline)
    rows = [
        (
            escape(one["second"]),
            [
                f"<td>{escape(one['metric'])}</td>",
                f"<td>{one['mean']:+.4f}<small>{one['low']:+.4f} – {one['high']:+.4f}</small></td>",
                f"<td>{p_value(one['p'])}</td>",
                f"<td>{p_value(one['holm'])}</td>",
                f"<td>{one['effect']:+.2f}</td>",
                f"<td>{100 * one['better']:.0f} %</td>",
                f"<td>{100 * one['worse']:.0f} %</td>",
                "<td>–</td>" if one["detectable"] is None else f"<td>{one['detectable']:.4f}</td>",
            ],
        )
        for one in told
    ]
    first, family = report["systems"][0]["name"], told[0]["family"]
    heads = ["against", "metric", "difference", "p", f"p, Holm over {family}", "effect d"]
    caption = (
        f"{escape(first)} minus the other, user by user. p: sign-flip test; d: mean difference in "
        "its standard deviations; detectable: the true difference that would be told apart, after "
        "correction, in at least four of five holdouts of so many users"
    )
    numbers = table(caption, [*heads, "better for", "worse for", "detectable"], rows)
    caption = "Filled: told apart after correction. Open: not told apart. Lines: 95 % intervals."
    drawn = figure(drawing.differences(headline, first), finding, caption)
    return (
        f"{drawn}<details><summary>All metrics, tests and effect sizes</summary>{numbers}</details>"
    )


def exposure(report: Content) -> str:
    """What lists show, one metric a row with what it means."""
    k, first = report["headline"], report["systems"][0]
    own = [name for name in first["metrics"] if name.endswith(f"@{k}")]
    of_users = [
        name
        for name in own
        if name.partition("@")[0] not in RELEVANCE and not name.startswith("sampled_")
    ]
    names = [*(name for name in first["exposure"] if name.endswith(f"@{k}")), *of_users]
    rows = [
        (
            f"{escape(name)}<small>{escape(_meaning(report, name))}</small>",
            [_exposed(system, name) for system in report["systems"]],
        )
        for name in names
    ]
    heads = ["metric", *(named(report, at) for at in range(len(report["systems"])))]
    return table("Neither high nor low is good by itself", heads, rows)


def _meaning(report: Content, metric: str) -> str:
    name = metric.partition("@")[0]
    general = "diversity.ATTRIBUTE" if name.startswith("diversity.") else name
    definitions = report["protocol"]["metrics"]
    meaning: str = definitions.get(f"{name}@k", definitions.get(f"{general}@k", ""))
    return meaning


def _exposed(system: Content, name: str) -> str:
    if name in system["exposure"]:
        return f"<td>{number(system['exposure'][name])}</td>"
    return interval(system["metrics"].get(name), float("inf"), alike=False)


def seeds(report: Content) -> str:
    seeds = report["seeds"]
    if not seeds["groups"]:
        return ""
    names = [f"{name}@{report['headline']}" for name in ("ndcg", "recall", "map", "mrr", "hit")]
    rows = []
    for group in seeds["groups"]:
        found = [group["metrics"][name] for name in names]
        cells = [
            f"<td>{one['mean']:.4f} ± {one['deviation']:.4f}"
            f"<small>{one['low']:.4f} – {one['high']:.4f}</small></td>"
            for one in found
        ]
        rows.append((f"{escape(group['name'])}, {found[0]['seeds']} seeds", cells))
    caption = (
        "Mean ± standard deviation between seeds; below, 95 % of the mean by Student's t. "
        "Intervals over users say nothing of this spread"
    )
    told = "".join(f"<p>{_apart(one)}</p>" for one in seeds["comparisons"])
    return table(caption, ["config", *names], rows) + told


def _apart(one: Content) -> str:
    """What two configs differ by over their seeds."""
    said = (
        f"{escape(one['first'])} minus {escape(one['second'])} over seeds, {one['metric']}: "
        f"{one['mean']:+.4f}"
    )
    if one["p"] is None:
        return f"{said}; no seed changes either, so nothing can be told of a spread between seeds"
    return f"{said} (95 % {one['low']:+.4f} to {one['high']:+.4f}, Welch's p {p_value(one['p'])})"
