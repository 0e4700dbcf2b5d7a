"""Judges runs, bundles and anybody's lists beside baselines, on what users did afterwards."""

import hashlib
import json
import platform
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

import deeprec
from deeprec import folder, versions
from deeprec.config import check, to_dict
from deeprec.console import console
from deeprec.data import protocol
from deeprec.data.dataset import drawn_users
from deeprec.data.leakage import leakage
from deeprec.data.store import PartName, Prepared
from deeprec.device import choose_device
from deeprec.errors import ConfigError
from deeprec.evaluation import entry, report, shown
from deeprec.evaluation.control import controls
from deeprec.evaluation.examples import examples, rows_up_close
from deeprec.evaluation.facts import item_facts
from deeprec.evaluation.judging import Asked, Judgement, judge, judge_together, refuse_empty
from deeprec.evaluation.naming import named_apart
from deeprec.evaluation.over_seeds import over_seeds
from deeprec.evaluation.page.whole import page
from deeprec.evaluation.question import Question
from deeprec.evaluation.reach import cutoffs_of_all, within
from deeprec.evaluation.report import Report
from deeprec.evaluation.sampled import SAMPLED, refuse_more_than_there_are, sampled_metrics
from deeprec.evaluation.slices import slices
from deeprec.evaluation.system import kind_of, open_systems, runs_in, trained_on
from deeprec.evaluation.without_targets import without_targets
from deeprec.metric.comparison import compare
from deeprec.metric.tally import DEFINITIONS, Tally
from deeprec.verb import EvaluateConfig

NOW = "what is judged now"
COMPARED = ("ndcg", "recall", "map", "mrr", "hit")  # on which systems are told apart; first: said


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Ranks for every judged user, writes the report, prints its table.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: the config is wrong, names what does not fit together, or compares reports
            whose protocol cards differ.
        DataError: nobody can be judged, or a file of lists is not what it must be.
        IntegrityError: the prepared folder, run, bundle or report is damaged.
    """
    check(to_dict(config), "evaluate")
    output_dir = _output_dir(config)
    whole = _together(config)
    whole.content["comparisons"] = _comparisons(whole, config)
    whole.content["seeds"] = over_seeds(whole, whole.content["headline"])
    report.write(whole, output_dir)
    with folder.writing_file(output_dir / "report.html") as draft:
        draft.write_text(page(whole.content), encoding="utf-8")
    shown.show(whole.content, console)
    console.print(f"report: {output_dir / 'report.html'}", soft_wrap=True)
    return whole.content


# --- what is judged ---


def _output_dir(config: EvaluateConfig) -> Path:
    """Where the report goes: not into another finished folder, whose manifest does not name it."""
    output_dir = Path(config.output_dir or cast(str, config.run))
    if str(output_dir) != config.run and (output_dir / folder.MANIFEST).exists():
        raise ConfigError(
            f"output_dir: {output_dir} is a finished folder, in which a report would be a foreign "
            "file; give a folder of its own"
        )
    return output_dir


def _paths(config: EvaluateConfig) -> list[Path]:
    """Every place the config names, in order; a folder of runs stands for each of them."""
    named = [config.run, config.bundle, config.recommendations, *config.compare]
    found: list[Path] = []
    for path in (_served(Path(one)) for one in named if one):
        found += runs_in(path) if kind_of(path) == "runs" else [path]
    return found


def _served(path: Path) -> Path:
    """The path, or the current one where it is a folder of versions of a bundle."""
    numbers = versions.numbers(path)
    is_versions = numbers and kind_of(path / str(numbers[-1])) == "bundle"
    return versions.current(path) if is_versions else path


def _together(config: EvaluateConfig) -> Report:
    """What is judged now, and the reports that are compared with it, as one."""
    kinds = {path: kind_of(path) for path in _paths(config)}
    stored = [(str(path), report.read(path)) for path, kind in kinds.items() if kind == "report"]
    if len(stored) == len(kinds) and stored and not config.prepared:
        return report.together(stored, config.force, config.bootstrap_samples, config.seed)
    asked = _asked(config)
    rules = _rules(asked.question, config)
    for where, other in stored:  # before any ranking; who was judged is compared after it
        card = {key: value for key, value in other.card.items() if key in rules}
        report.agreed(rules, card, NOW, where, config.force)
    cutoffs = [(where, other.cutoffs) for where, other in stored]
    report.shared_cutoffs([(NOW, asked.cutoffs), *cutoffs])
    fresh = NOW, _judged(config, asked)
    stored_first = next(iter(kinds.values()), "") == "report"
    reports = [*stored, fresh] if stored_first else [fresh, *stored]
    return report.together(reports, config.force, config.bootstrap_samples, config.seed)


def _asked(config: EvaluateConfig) -> Asked:
    """Everything that is needed to judge; each process calls it."""
    paths = [path for path in _paths(config) if kind_of(path) != "report"]
    runs = [path for path in paths if kind_of(path) == "run"]
    prepared = Prepared(Path(config.prepared) if config.prepared else _trained_on(runs, config))
    refuse_more_than_there_are(config.sampled_negatives or 0, prepared.num_items)
    part = cast(PartName, config.part)
    question = Question(
        prepared,
        part,
        not prepared.repeats if config.exclude_seen is None else config.exclude_seen,
        sorted(set(config.cutoffs)),
        config.batch_users,
        drawn_users(prepared.judged_users(part), config.max_users, config.seed),
        rows_up_close(prepared, [*map(str, config.users_up_close)]),
    )
    systems = open_systems(paths, config.baselines, question, choose_device(config.device).torch)
    embeddings = [one.embedding_VD for one in systems if one.embedding_VD is not None]
    facts = item_facts(prepared, config.diversity, next(iter(embeddings), None))
    reaches = {one.source["recommendations"]: one.reach for one in systems if one.reach is not None}
    return Asked(
        question,
        systems,
        slices(config.slices, prepared, part),
        cutoffs_of_all(question.cutoffs, reaches),
        partial(Tally, question.cutoffs, facts),
    )


def _trained_on(runs: Sequence[Path], config: EvaluateConfig) -> Path:
    if not runs:
        raise ConfigError("prepared: missing; give prepared=FOLDER, which says what users did")
    return trained_on(runs[0])


# --- judging ---


def _judged(config: EvaluateConfig, asked: Asked) -> Report:
    """The report on what is judged now."""
    starts = [Counter(system.found) for system in asked.systems]
    if config.processes > 1:
        found = judge_together(_asked, config, config.processes)
    else:
        found = judge(asked)
    refuse_empty(found, asked.question)
    for system, start, answers in zip(asked.systems, starts, found.answers, strict=True):
        system.found = start
        system.found.update(answers.found)
    return _report(config, asked, found)


def _report(config: EvaluateConfig, asked: Asked, found: Judgement) -> Report:
    question, systems = asked.question, asked.systems
    names = named_apart([one.name for one in systems], [one.kind for one in systems])
    values, sampled_warnings = _values(config, asked, found)
    entries = [
        entry.entry(
            system,
            name,
            of_users,
            answers,
            found,
            asked.slices,
            asked.headline,
            system.up_to(question.k),
            config.bootstrap_samples,
            config.seed,
        )
        for system, name, of_users, answers in zip(
            systems, names, values, found.answers, strict=True
        )
    ]
    rows = np.concatenate(found.user_rows)[found.order]
    known = controls(question, asked.headline, config.seed)
    content = {
        "format": report.FORMAT,
        "part": config.part,
        "headline": asked.headline,
        "systems": entries,
        "slices": entry.bands(asked.slices, found),
        "controls": known,
        "leakage": _leakage(question),
        "examples": examples(question, systems, names, config.examples, config.seed),
        "warnings": [*sampled_warnings, *without_targets(entries, known, asked.headline)],
        "forced": [],
        "protocol": _card(question, rows, config),
        "command": _command(config),
    }
    return Report(content, question.prepared.users["user_id"].take(pa.array(rows)), values)


def _values(
    config: EvaluateConfig, asked: Asked, found: Judgement
) -> tuple[list[dict[str, npt.NDArray[np.float64]]], list[str]]:
    """Per system, every metric of each user, in the order of their rows; what to be warned of."""
    order = found.order
    values = [
        {name: values_U[order] for name, values_U in answers.tally.values().items()}
        for answers in found.answers
    ]
    warnings: list[str] = []
    if negatives := config.sampled_negatives:
        more = sampled_metrics(asked.question, asked.systems, negatives, config.seed)
        values = [{**ours, **sampled} for ours, sampled in zip(values, more.values, strict=True)]
        warnings = more.warnings(negatives)
    reached = [one.up_to(asked.question.k) for one in asked.systems]
    return [within(ours, k) for ours, k in zip(values, reached, strict=True)], warnings


def _leakage(question: Question) -> list[dict[str, Any]]:
    """What could have been known of what is judged."""
    found = leakage(question.prepared, question.part, exclude_seen=question.exclude_seen)
    return [asdict(one) for one in found]


# --- the report ---


def _card(
    question: Question, rows: npt.NDArray[np.int64], config: EvaluateConfig
) -> dict[str, Any]:
    """The protocol card: what a figure of this report means."""
    prepared, part, exclude_seen = question.prepared, question.part, question.exclude_seen
    users = protocol.users(prepared, part, rows, question.users, exclude_seen=exclude_seen)
    return {
        **_rules(question, config),
        "users": users,
        "judged_users": _fingerprint(prepared.users["user_id"].take(pa.array(rows))),
        "interval": "95 %, bootstrap over users, bias-corrected and accelerated (BCa), the same "
        f"draws for every system; {config.bootstrap_samples} samples, seed {config.seed}",
        "versions": _versions(),
    }


def _rules(question: Question, config: EvaluateConfig) -> dict[str, Any]:
    """The card, as far as it is known before anybody is judged."""
    card = protocol.card(question.prepared, question.part, exclude_seen=question.exclude_seen)
    negatives = config.sampled_negatives
    sampled = {"sampled_negatives": negatives, "seed": config.seed} if negatives else {}
    return {
        "part": question.part,
        **card,
        **sampled,
        "cutoffs": question.cutoffs,
        "metrics": DEFINITIONS | (SAMPLED if negatives else {}),
    }


def _fingerprint(user_ids: pa.ChunkedArray) -> str:
    """Tells whether two reports judged the same users, and not who they are."""
    text = json.dumps(sorted(user_ids.to_pylist()))
    return hashlib.sha256(text.encode()).hexdigest()


def _versions() -> dict[str, str]:
    return {
        "deeprec": deeprec.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "pyarrow": pa.__version__,
    }


def _command(config: EvaluateConfig) -> str:
    """What makes this report again, with as many users at once and processes as one likes.

    Whom it shows up close is left out: a report holds no id.
    """
    default = EvaluateConfig()
    free = ("batch_users", "processes", "users_up_close")
    words = [
        f"{one.name}={_word(getattr(config, one.name))}"
        for one in fields(EvaluateConfig)
        if one.name not in free and getattr(config, one.name) != getattr(default, one.name)
    ]
    return shlex.join(["deeprec", "evaluate", *words])


def _word(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _comparisons(whole: Report, config: EvaluateConfig) -> list[dict[str, Any]]:
    """The first system against each other one, user by user, on metrics of relevance."""
    k = whole.content["headline"]
    metrics = [f"{name}@{k}" for name in COMPARED]
    first, *others = [{name: values[name] for name in metrics} for values in whole.values]
    compared = compare(first, others, config.bootstrap_samples, config.seed)
    names = [system["name"] for system in whole.systems]
    family = len(others) * len(metrics)
    return [
        {
            "first": names[0],
            "second": second,
            **asdict(one),
            "told_apart": one.told_apart,
            "family": family,
            "words": one.words(names[0], second, family),
        }
        for second, of_other in zip(names[1:], compared, strict=True)
        for one in of_other
    ]
