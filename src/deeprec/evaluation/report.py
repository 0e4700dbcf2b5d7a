"""A report: what each system scored, user by user, and the card under which it did.

    report.json      everything but the users
    report.parquet   one row per system and user: every metric
    report.html      the same, drawn

Reports are put together only where their cards agree, because a figure is worth its definition.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deeprec import folder
from deeprec.errors import ConfigError, IntegrityError
from deeprec.evaluation.naming import named_apart
from deeprec.metric.interval import bootstrap_intervals

FORMAT = 2
NO_RULE = ("versions", "interval")  # of a card: what may differ without making figures others

FloatArray = npt.NDArray[np.float64]
Values = Mapping[str, FloatArray]  # per metric@k, float64 [U]


@dataclass
class Report:
    """What was found; users in the same order everywhere.

    Args:
        content: what report.json says; `systems` in the order of `values`.
        user_ids: string [U].
        values: per system, its metrics.
    """

    content: dict[str, Any]
    user_ids: pa.Array
    values: Sequence[Values]

    @property
    def card(self) -> dict[str, Any]:
        card: dict[str, Any] = self.content["protocol"]
        return card

    @property
    def systems(self) -> list[dict[str, Any]]:
        systems: list[dict[str, Any]] = self.content["systems"]
        return systems

    @property
    def cutoffs(self) -> list[int]:
        """At which all its systems have figures."""
        reach = min(one.get("reach", inf) for one in self.systems)
        return [k for k in self.card["cutoffs"] if k <= reach]


def headline(cutoffs: Sequence[int]) -> int:
    """The cutoff of the printed table and of the comparisons: 20, or the nearest to it.

    Example:
        >>> headline([10, 50, 100])
        10
    """
    return min(cutoffs, key=lambda k: (abs(k - 20), k))


def write(report: Report, output_dir: Path) -> None:
    """report.parquet, and then report.json, which holds the hash of both."""
    tables = [
        pa.table(
            {
                "system": pa.array([system["name"]] * len(report.user_ids), pa.string()),
                "user_id": report.user_ids,
                **values,
            }
        )
        for system, values in zip(report.systems, report.values, strict=True)
    ]
    with folder.writing_file(output_dir / "report.parquet") as draft:
        table = pa.concat_tables(tables, promote_options="default")
        pq.write_table(table, draft, write_page_checksum=True)
    report.content["users_sha256"] = folder.sha256(output_dir / "report.parquet")
    report.content["seal"] = _seal(report.content)
    with folder.writing_file(output_dir / "report.json") as draft:
        draft.write_text(_text(report.content), encoding="utf-8")


def read(path: Path) -> Report:
    """The report in a folder.

    Raises:
        IntegrityError: a file is missing or damaged, or another deeprec wrote it.
    """
    try:
        content = json.loads((path / "report.json").read_text(encoding="utf-8"))
        sha256 = folder.sha256(path / "report.parquet")
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path}: its report cannot be read ({error}); evaluate again"
        ) from error
    if content.get("format") != FORMAT:
        raise IntegrityError(
            f"{path / 'report.json'}: format {content.get('format')} was written by another "
            f"deeprec; this one reads {FORMAT}; evaluate again"
        )
    if content.get("seal") != _seal(content):
        raise IntegrityError(
            f"{path / 'report.json'}: was changed after it was written; evaluate again"
        )
    if content["users_sha256"] != sha256:
        raise IntegrityError(
            f"{path / 'report.parquet'}: is damaged, or not of this report; evaluate again"
        )
    table = pq.read_table(path / "report.parquet")
    names = [system["name"] for system in content["systems"]]
    parts = [table.filter(pc.equal(table["system"], name)) for name in names]
    values = [
        {
            name: part[name].to_numpy()
            for name in part.column_names
            if name not in ("system", "user_id") and part[name].null_count == 0
        }
        for part in parts
    ]
    return Report(content, parts[0]["user_id"].combine_chunks(), values)


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of the text with the seal left empty."""
    return hashlib.sha256(_text({**content, "seal": ""}).encode()).hexdigest()


def intervals(values: Values, samples: int, seed: int) -> dict[str, dict[str, float]]:
    """The mean over users of each metric, and its interval; the same draws for all."""
    found = bootstrap_intervals(np.stack(list(values.values()), 1), samples, seed)
    return {
        name: dict(zip(("mean", "low", "high"), numbers, strict=True))
        for name, numbers in zip(values, found.T.tolist(), strict=True)
    }


def together(
    reports: Sequence[tuple[str, Report]], force: bool, samples: int = 1000, seed: int = 0
) -> Report:
    """One report of the systems of several, in this order; a baseline that is there already, once.

    Where reports are forced together that judged different users, metrics are those of the users of
    all of them; where they have other cutoffs, systems are compared at one that all have, and what
    a report says at another headline alone is left out.

    Args:
        reports: each with where it came from, for messages.
        force: put them together although their cards differ; the differences are then said.
        samples, seed: of the intervals where these are made anew.

    Raises:
        ConfigError: the cards differ; each line that does is named. Or no user or no cutoff is in
            all reports.
    """
    (where, first), *others = reports
    forced: list[str] = []
    for other_where, other in others:
        forced += agreed(first.card, other.card, where, other_where, force)
    k = headline(shared_cutoffs([(where, report.cutoffs) for where, report in reports]))
    user_ids = _common([report.user_ids for _, report in reports])
    if not len(user_ids):
        raise ConfigError(
            f"{' and '.join(where for where, _ in reports)} have no user in common, so there is "
            "nothing to compare; judge the same users"
        )
    kept: list[tuple[Report, dict[str, Any], Values]] = []
    for _, report in reports:
        known = {system["name"] for _, system, _ in kept if system["kind"] == "baseline"}
        for system, values in zip(report.systems, report.values, strict=True):
            if forced or system["kind"] != "baseline" or system["name"] not in known:
                kept.append((report, system, values))
    names = named_apart([one["name"] for _, one, _ in kept], [one["kind"] for _, one, _ in kept])
    systems = [{**system, "name": name} for (_, system, _), name in zip(kept, names, strict=True)]
    found = [_of_users(user_ids, report.user_ids, values) for report, _, values in kept]
    card = {**first.card, "cutoffs": _in_all([report.card["cutoffs"] for _, report in reports])}
    warnings = [*first.content["warnings"]]
    left = _without_other_headlines([report for report, _, _ in kept], systems, k)
    (forced if forced else warnings).extend(left)
    if any(len(report.user_ids) != len(user_ids) for _, report in reports):
        forced.append(
            f"metrics are those of the {len(user_ids):,} users that every report judged; curves, "
            "slices and exposure are of each report's own users"
        )
        card["users"] = {"scored": len(user_ids), "dropped": 0, "reasons": {}}
        for system, values in zip(systems, found, strict=True):
            system["metrics"] = intervals(values, samples, seed)
    content = {
        **first.content,
        "headline": k,
        "systems": systems,
        "examples": _examples(kept, names),
        "warnings": warnings,
        "forced": forced,
        "protocol": card,
    }
    return Report(content, user_ids, found)


def agreed(
    first: Mapping[str, Any], second: Mapping[str, Any], one: str, other: str, force: bool
) -> list[str]:
    """The differences of two cards that are forced; raises ConfigError where they are not."""
    differing = list(differences(first, second, one, other))
    if differing and not force:
        lines = "".join(f"\n  - {line}" for line in differing)
        raise ConfigError(
            f"{one} and {other} were not judged under the same rules, so their figures do not "
            f"compare:{lines}\nJudge both anew under the same rules, or give force=true"
        )
    return differing


def shared_cutoffs(reports: Sequence[tuple[str, Sequence[int]]]) -> list[int]:
    """The cutoffs of all reports; raises ConfigError where there is none.

    Args:
        reports: each by where it came from, with the cutoffs at which all its systems have figures.
    """
    shared = _in_all([cutoffs for _, cutoffs in reports])
    if not shared:
        told = ", ".join(f"{list(cutoffs)} ({where})" for where, cutoffs in reports)
        raise ConfigError(
            f"cutoffs: reports are compared at a cutoff that all have, and these share none: {told}"
            f"; judge one anew with cutoffs of another, such as {reports[0][1][0]}"
        )
    return shared


def _in_all(cutoffs: Sequence[Sequence[int]]) -> list[int]:
    first, *others = map(set, cutoffs)
    return sorted(first.intersection(*others))


def _without_other_headlines(
    reports: Sequence[Report], systems: Sequence[dict[str, Any]], k: int
) -> list[str]:
    """Takes out what was judged at another cutoff than these are compared at, and says so.

    Args:
        reports: the one that each system is of.
        k: the cutoff at which they are compared.
    """
    left = []
    for report, system in zip(reports, systems, strict=True):
        if report.content["headline"] != k:
            left.append(system["name"])
            system |= {"slices": {}, "recommended": {}}
    if not left:
        return []
    return [f"compared at {k}, which all have; without the slices of {', '.join(left)}"]


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], one: str, other: str
) -> Iterator[str]:
    """The lines in which two cards differ, as words."""
    ours, theirs = dict(_lines(first)), dict(_lines(second))
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield f"{key}: {ours.get(key)} ({one}), {theirs.get(key)} ({other})"


def _lines(card: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in card.items():
        if key in NO_RULE:
            continue
        if isinstance(value, Mapping):
            yield from _lines(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", json.dumps(value, ensure_ascii=False)


def _common(user_ids: Sequence[pa.Array]) -> pa.Array:
    """The users of all reports, in the order of the first one."""
    first, *others = user_ids
    for other in others:
        first = first.filter(pc.is_in(first, value_set=other))
    return first


def _of_users(wanted: pa.Array, known: pa.Array, values: Values) -> Values:
    rows = pc.index_in(wanted, value_set=known).to_numpy()
    return {name: values_U[rows] for name, values_U in values.items()}


def _examples(
    kept: Sequence[tuple[Report, dict[str, Any], Values]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The first report's users, with the lists of every report that shows the same ones."""
    first = kept[0][0].content["examples"]
    seen = [{key: user[key] for key in ("history", "taken")} for user in first]
    merged = [{**user, "lists": {}} for user in first]
    for (report, system, _), name in zip(kept, names, strict=True):
        theirs = report.content["examples"]
        if [{key: user[key] for key in ("history", "taken")} for user in theirs] == seen:
            for user, other in zip(merged, theirs, strict=True):
                user["lists"][name] = other["lists"].get(system["name"], [])
    return merged
