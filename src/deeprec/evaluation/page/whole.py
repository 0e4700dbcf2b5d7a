"""report.html: a report for people, in one file that needs no network.

A function of report.json's content and of nothing else: whoever has the one can make the other.
"""

from html import escape

from deeprec.evaluation.page.drawn import curves, shelf, slices, training
from deeprec.evaluation.page.people import examples
from deeprec.evaluation.page.piece import Content, document
from deeprec.evaluation.page.rules import again, card, checks
from deeprec.evaluation.page.tables import comparisons, exposure, metrics, seeds
from deeprec.evaluation.reach import too_short

NEAREST = 3  # systems that the best one is compared with in the summary


def page(report: Content) -> str:
    """The whole page.

    Args:
        report: what report.json says.
    """
    sections = [
        ("Metrics", metrics(report)),
        ("Who is ahead", comparisons(report)),
        ("Longer lists", curves(report)),
        ("For whom, and of what", slices(report)),
        ("What is shown, and what was taken", shelf(report)),
        ("Exposure", exposure(report)),
        ("Seeds", seeds(report)),
        ("Training", training(report)),
        ("Users up close", examples(report)),
        ("Controls and leakage", checks(report)),
        ("Protocol card", card(report)),
        ("Again", again(report)),
    ]
    return document(_title(report), _summary(report), sections)


def _title(report: Content) -> str:
    first = escape(report["systems"][0]["name"])
    return f"{first} on the {escape(report['part'])}"


def _summary(report: Content) -> str:
    users = report["protocol"]["users"]
    reasons = [f"{count:,} {escape(reason)}" for reason, count in users["reasons"].items() if count]
    dropped = f" Left out: {', '.join(reasons)}." if reasons else ""
    k, systems = report["headline"], report["systems"]
    metric = f"ndcg@{k}"
    best = max(systems, key=lambda one: one["metrics"][metric]["mean"])
    mean = best["metrics"][metric]["mean"]
    lead = (
        f"<strong>{escape(best['name'])}</strong> has the highest {metric} of {len(systems)} "
        f"systems, {mean:.4f}, over {users['scored']:,} users."
        if len(systems) > 1
        else f"{metric} is <strong>{mean:.4f}</strong> over {users['scored']:,} users."
    )
    of_best = [
        one
        for one in report["comparisons"]
        if one["metric"] == metric and best["name"] in (one["first"], one["second"])
    ]
    nearest = sorted(of_best, key=lambda one: abs(one["mean"]))[:NEAREST]
    told = "".join(f"<p>{escape(one['words'])}.</p>" for one in nearest)
    return (
        f'{_alarms(report)}<p class="lead">{lead}</p>{told}<p class="soft">{users["scored"]:,} '
        f"users judged.{dropped}</p>"
    )


def _alarms(report: Content) -> str:
    """What must not be overlooked."""
    checks = [*report["controls"], *report.get("leakage", [])]
    said = [
        *(("Compared by force", line) for line in report["forced"]),
        *(("Do not believe this", one["says"]) for one in checks if one["level"] == "fail"),
        *(("Mind", one["says"]) for one in checks if one["level"] == "warn"),
        *(("Mind", line) for line in (*too_short(report), *report["warnings"])),
    ]
    return "".join(
        f'<p class="alarm" role="alert"><strong>{title}:</strong> {escape(line)}</p>'
        for title, line in said
    )
