"""Under which rules a report was made, whether it can be believed, and how to make it again."""

from html import escape

from deeprec.evaluation.page.piece import Content, table, terms


def checks(report: Content) -> str:
    rows = [
        (
            escape(one["name"].replace("_", " ")),
            [
                f'<td class="level"><span class="{escape(one["level"])}">{escape(one["level"])}'
                "</span></td>",
                f'<td class="words">{escape(one["says"])}</td>',
            ],
        )
        for one in [*report["controls"], *report.get("leakage", [])]
    ]
    caption = (
        "Scorers whose right answers are known, sent through the same code; and what of the judged "
        "part could have been known before it"
    )
    return table(caption, ["check", "", "what was found"], rows)


def card(report: Content) -> str:
    return terms({key: value for key, value in report["protocol"].items() if key != "metrics"}) + (
        "<details><summary>What each metric means</summary>"
        '<p class="soft">For one user with h &gt; 0 relevant items.</p>'
        f"{terms(report['protocol']['metrics'])}</details>"
    )


def again(report: Content) -> str:
    sources = "".join(
        f"<dt>{escape(system['name'])}</dt><dd>{_source(system)}</dd>"
        for system in report["systems"]
    )
    return f"<pre>{escape(report['command'])}</pre><dl>{sources}</dl>"


def _source(system: Content) -> str:
    told = [system["kind"]]
    for key in ("run", "bundle", "recommendations", "identity", "sha256"):
        if key in system:
            told.append(f"{key} {system[key]}" if key != system["kind"] else str(system[key]))
    for fact, count in system.get("lists", {}).items():
        if count:
            told.append(f"{count:,} {fact.replace('_', ' ')}")
    return escape("; ".join(told))
