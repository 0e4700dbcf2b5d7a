"""sweep.html: how a sweep went, in one file that needs no network and runs nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from deeprec.evaluation.page.piece import document, figure, table, terms
from deeprec.search import drawing
from deeprec.search.importance import BEST_SHARE, FEWEST, importances
from deeprec.search.space import SPACE, Range, label, of_space, setting_of
from deeprec.search.trial import Trial, best, counted, differing, is_default, ranked, reached

STATES = {
    "whole": "",
    "behind": "behind the median",
    "short": "cut short",
    "failed": "failed",
}


@dataclass(frozen=True)
class Told:
    """What a page is made of.

    Args:
        name: of the sweep.
        trials: all that have ended.
        metric: what they are compared by.
        ranges: what was searched.
        defaults: values of the searched settings in a run that is told nothing.
        protocol: under which rules, for the foot of the page.
        experiment: the best config, as a file.
        blended: what the best run of each model together have; None: they are not blended.
        evaluate: the command that judges the best run, and the blend.
        again: the command that trains it anew.
    """

    name: str
    trials: list[Trial]
    metric: str
    ranges: Mapping[str, Range]
    defaults: Mapping[str, object]
    protocol: Mapping[str, Any]
    experiment: str
    blended: float | None
    evaluate: str
    again: str


def page(told: Told) -> str:
    """The whole page, of a sweep in which a trial has a score."""
    sections = [
        ("History", _history(told)),
        ("What matters", _importance(told)),
        ("Each setting", _settings(told)),
        ("Trials", _trials(told)),
        ("The best", _best(told)),
        ("How it was found", terms(told.protocol)),
    ]
    return document(f"Sweep {escape(told.name)}", _summary(told), sections)


def _summary(told: Told) -> str:
    trials, top = counted(told.trials), best(told.trials)
    assert top is not None
    first = next((one for one in trials if is_default(one, told.defaults)), None)
    lead = (
        f"<strong>{top.score:.4f}</strong> is the best validation {told.metric} of {len(trials)} "
        f"trials, that of trial {top.number} at {reached(top)}."
    )
    if first is not None and first.score is not None and first != top:
        defaults = "What experiment=auto trains first" if SPACE in told.ranges else "The defaults"
        lead += f" {defaults} reach{'es' * (SPACE in told.ranges)} {first.score:.4f}."
    if told.blended is not None:
        lead += f" The best of the models, blended, reach <strong>{told.blended:.4f}</strong>."
    counts = {state: sum(one.state == state for one in trials) for state in STATES}
    less = [
        f"{counts[state]} {words}" for state, words in STATES.items() if words and counts[state]
    ]
    left = f" Of the trials {', '.join(less)}." if less else ""
    return (
        f'<p class="lead">{lead}</p><p>It is the highest of {len(trials)} figures and so partly '
        "luck; what it is worth the holdout says, which the sweep has not read:</p>"
        f'<pre>{escape(told.evaluate)}</pre><p class="soft">{left}</p>'
    )


def _scored(trials: list[Trial]) -> list[Trial]:
    return [one for one in trials if one.score is not None]


def _history(told: Told) -> str:
    scored = _scored(told.trials)
    finding = "; ".join(f"trial {one.number} {one.score:.4f}" for one in scored)
    note = (
        "● to its end, × stopped behind the median, ▲ cut short. The line is the best so far. What "
        "lies far below the better half stands on the axis."
    )
    return figure(drawing.history(scored, told.metric), finding, note)


def _importance(told: Told) -> str:
    space, trials, ranges = _of_the_best(told)
    found = importances(trials, ranges)
    where = f" of {space}" if space else ""
    if not found:
        ended = sum(one.state in ("whole", "short") for one in trials)
        return (
            f'<p class="soft">Which settings matter is told from {FEWEST} trials{where} on that '
            f"were not stopped for being behind and did not fail; so far there are {ended}.</p>"
        )
    shares = {setting_of(key): share for key, share in found.items()}
    finding = ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items())
    note = (
        f"How far the best {100 * BEST_SHARE:.0f} % of the trials{where} keep to a part of a "
        "setting's range, shared out over the settings (PED-ANOVA). From so few trials, a hint."
    )
    return figure(drawing.shares(shares), finding, note)


def _of_the_best(told: Told) -> tuple[str | None, list[Trial], dict[str, Range]]:
    """The space of the best trial, its trials and its ranges; all, where there is but one."""
    top = best(told.trials)
    assert top is not None
    if SPACE not in told.ranges:
        return None, told.trials, dict(told.ranges)
    space = top.values[SPACE]
    ranges = {
        key: one for key, one in told.ranges.items() if key == of_space(space, setting_of(key))
    }
    return space, [one for one in told.trials if one.values.get(SPACE) == space], ranges


def _settings(told: Told) -> str:
    space, trials, ranges = _of_the_best(told)
    scored = _scored(trials)
    where = f" of {space}" if space else ""
    finding = (
        f"{told.metric} against {', '.join(map(setting_of, ranges))}; the table has the numbers"
    )
    note = f"Validation {told.metric} against each setting{where}; marks as above."
    drawn = figure(drawing.settings(scored, ranges), finding, note)
    return drawn if space is None else _spaces(told) + (drawn if len(scored) > 1 else "")


def _spaces(told: Told) -> str:
    scored = ranked(_scored(told.trials))
    finding = "; ".join(f"{one.values[SPACE]} {one.score:.4f}" for one in scored)
    note = f"Validation {told.metric} of the trials of each space; marks as above."
    return figure(drawing.spaces(scored, told.ranges[SPACE].ends, told.metric), finding, note)


def _trials(told: Told) -> str:
    ordered = ranked(counted(told.trials))
    if SPACE in told.ranges:
        heads = ["trial", told.metric, "epochs", "minutes", "what differs from the defaults", ""]
        return table(
            "The best first",
            heads,
            [(str(one.number), _row(one, [_words(one, told)])) for one in ordered],
        )
    heads = ["trial", told.metric, "epochs", "minutes", *map(escape, told.ranges), ""]
    rows = [(str(one.number), _row(one, _cells(one, told))) for one in ordered]
    return table("The best first. In bold what differs from the defaults", heads, rows)


def _words(one: Trial, told: Told) -> str:
    return f'<td class="words">{escape(differing(one, told.defaults))}</td>'


def _cells(one: Trial, told: Told) -> list[str]:
    values = []
    for key in told.ranges:
        tried = one.values.get(key, told.defaults.get(key))
        differs = key in one.values and label(tried) != label(told.defaults.get(key))
        shown = "" if tried is None and not differs else escape(label(tried))
        values.append(f'<td class="best">{shown}</td>' if differs else f"<td>{shown}</td>")
    return values


def _row(one: Trial, values: list[str]) -> list[str]:
    said = ": ".join(filter(None, [STATES[one.state], one.reason or ""]))
    return [
        "<td></td>" if one.score is None else f"<td>{one.score:.4f}</td>",
        f"<td>{one.epochs}</td>",
        f"<td>{one.seconds / 60:.1f}</td>",
        *values,
        f'<td class="words">{escape(said)}</td>' if said else "<td></td>",
    ]


def _best(told: Told) -> str:
    return f"<pre>{escape(told.experiment)}</pre><pre>{escape(told.again)}</pre>"
