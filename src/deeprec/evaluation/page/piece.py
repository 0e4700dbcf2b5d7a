"""Pieces that several sections of a page are made of."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from deeprec.evaluation.page import drawing

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

Content = Mapping[str, Any]  # of report.json


def document(title: str, summary: str, sections: Iterable[tuple[str, str]]) -> str:
    """A whole page that needs no network and runs nothing.

    Args:
        title: HTML, as the summary below it.
        sections: title and body of each, HTML; one without a body is left out.
    """
    kept = [(head, body) for head, body in sections if body]
    links = "".join(f'<a href="#{_anchor(head)}">{head}</a>' for head, _ in kept)
    bodies = "".join(
        f'<section id="{_anchor(head)}"><h2>{head}</h2>{body}</section>' for head, body in kept
    )
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body>"
        f"<header><h1>{title}</h1>{summary}</header>"
        f"<nav>{links}</nav><main>{bodies}</main></body></html>\n"
    )


def figure(svg: str, finding: str, caption: str) -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    drawn = f'<div role="img" aria-label="{escape(finding)}">{svg}</div>'
    return f'<figure class="wide">{drawn}{below}</figure>'


def legend(report: Content, places: Iterable[int] | None = None) -> str:
    """The marks of the systems at these places; None: of all."""
    shown = range(len(report["systems"])) if places is None else places
    entries = "".join(f"<li>{named(report, at)}</li>" for at in shown)
    return f'<ul class="legend">{entries}</ul>'


def table(caption: str, heads: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """A table in a box of its own that scrolls where it is wider than the page.

    Args:
        caption: HTML.
        heads: of the columns, HTML; the first stands over the heads of rows.
        rows: per row, its head and its cells, HTML; a cell brings its own `<td>`.
    """
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>' for head, cells in rows)
    return (
        f'<div class="scroll"><table><caption>{caption}</caption><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def terms(values: Mapping[str, Any]) -> str:
    """Names and what they stand for, mappings inside included."""
    inside = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{_term(value)}</dd>" for key, value in values.items()
    )
    return f"<dl>{inside}</dl>"


def named(report: Content, at: int) -> str:
    """A system's mark and name."""
    return f"{drawing.mark(at)}{escape(report['systems'][at]['name'])}"


def interval(found: Mapping[str, float] | None, best: float, alike: bool) -> str:
    if found is None:
        return "<td>–</td>"
    bold = ' class="best"' if found["mean"] >= best else ""
    sign = "≈ " if alike else ""
    low, high = (_short(found[bound]) for bound in ("low", "high"))
    return f"<td{bold}>{sign}{number(found['mean'])}<small>{low} – {high}</small></td>"


def _short(value: float) -> str:
    """As `number`, a digit less and no zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 10 else number(value)


def number(value: float) -> str:
    """Four digits that mean something: .1234, 12.34, 1,234."""
    size = abs(value)
    return f"{value:.4f}" if size < 10 else f"{value:,.2f}" if size < 1000 else f"{value:,.0f}"


def p_value(value: float) -> str:
    return "&lt; .001" if value < 0.001 else f"{value:.3f}".replace("0.", ".", 1)


def _term(value: Any) -> str:
    if isinstance(value, Mapping):
        return terms(value)
    if isinstance(value, str):
        return escape(value)
    return escape(json.dumps(value, ensure_ascii=False))


def _anchor(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())
