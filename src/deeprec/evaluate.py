"""Judges a run, a bundle or anybody's lists beside baselines, on what users did afterwards."""

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

import deeprec
from deeprec import bundle as bundles
from deeprec import folder, serve
from deeprec.batch import Batch
from deeprec.catalog import Catalog
from deeprec.config import EvaluateConfig, check, to_dict
from deeprec.console import console, progress
from deeprec.data import protocol
from deeprec.data.dataset import drawn_users
from deeprec.data.judge import distinct, judged_batch, known_histories, without_seen
from deeprec.data.lists import read_lists
from deeprec.data.store import PartName, Prepared
from deeprec.data.translation import Translation, ask
from deeprec.errors import ConfigError, DataError
from deeprec.metric import report
from deeprec.metric.report import Judged
from deeprec.metric.tally import Tally, hits
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.own_frequency import OwnFrequency
from deeprec.model.popularity import Popularity
from deeprec.model.rank import rank

if TYPE_CHECKING:
    from deeprec.trainer.run import Run

Baseline = Popularity | ItemToItem | OwnFrequency
ListsOf = Callable[[Batch, int], Tensor]  # a batch's k best items, int64 [B, K], -1 padded

BASELINES: dict[str, type[Baseline]] = {
    "popularity": Popularity,
    "item_to_item": ItemToItem,
    "own_frequency": OwnFrequency,
}
PER_USER_METRICS = ("ndcg", "recall")  # kept user by user in report.parquet


@dataclass
class System:
    """Something that gives every user a list."""

    name: str
    kind: str  # run, bundle, recommendations or baseline
    lists: ListsOf
    source: dict[str, Any] = field(default_factory=dict)  # what it was, for the report


@dataclass(frozen=True)
class Question:
    """What every system of a report is asked."""

    prepared: Prepared
    part: PartName
    exclude_seen: bool
    cutoffs: list[int]
    batch_users: int
    users: npt.NDArray[np.int64]  # rows of those who are asked about

    @property
    def k(self) -> int:
        return max(self.cutoffs)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Ranks for every judged user, writes report.json and report.parquet, prints the table.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: the config is wrong, or names what does not fit together.
        DataError: nobody can be judged, or a file of lists is not what it must be.
        IntegrityError: the prepared folder, run or bundle is damaged.
    """
    check(to_dict(config), "evaluate")
    output_dir = _output_dir(config)
    run = _open_run(Path(config.run)) if config.run else None
    question = _question(config, run)
    systems = [*_given(config, run, question), *_baselines(config.baselines, question)]
    tallies, user_rows = _judge(_named_apart(systems), question)
    judged = [
        Judged(system.name, system.kind, tally.values(), tally.coverage(), system.source)
        for system, tally in zip(systems, tallies, strict=True)
    ]
    content = _report(judged, question, user_rows, config.bootstrap_samples, config.seed)
    _write(output_dir, content, judged, question, user_rows)
    return content


# --- what is asked ---


def _output_dir(config: EvaluateConfig) -> Path:
    """Where the report goes: not into another finished folder, whose manifest does not name it."""
    output_dir = Path(config.output_dir or cast(str, config.run))
    if str(output_dir) != config.run and (output_dir / folder.MANIFEST).exists():
        raise ConfigError(
            f"output_dir: {output_dir} is a finished folder, in which a report would be a foreign "
            "file; give a folder of its own"
        )
    return output_dir


def _open_run(path: Path) -> "Run":
    # here, not above: judging lists must not wait for Lightning to be imported
    from deeprec.trainer.run import open_run

    return open_run(path)


def _question(config: EvaluateConfig, run: "Run | None") -> Question:
    prepared = Prepared(Path(config.prepared) if config.prepared else cast("Run", run).prepared)
    if run and run.prepared_identity != prepared.identity:
        raise ConfigError(
            f"{config.run} was not trained on {prepared.path}: that folder's identity is "
            f"{prepared.identity[:12]}, the run's {run.prepared_identity[:12]}, and item indices "
            "would not mean the same items. Give the folder it was trained on, or export a bundle "
            "and judge that"
        )
    part = cast(PartName, config.part)
    return Question(
        prepared,
        part,
        not prepared.repeats if config.exclude_seen is None else config.exclude_seen,
        sorted(set(config.cutoffs)),
        config.batch_users,
        drawn_users(prepared.judged_users(part), config.max_users, config.seed),
    )


# --- systems ---


def _given(config: EvaluateConfig, run: "Run | None", question: Question) -> Iterator[System]:
    if run:
        yield _run_system(run, question)
    if config.bundle:
        yield _bundle_system(Path(config.bundle), question)
    if config.recommendations:
        yield _lists_system(Path(config.recommendations), question)


def _run_system(run: "Run", question: Question) -> System:
    def lists(batch: Batch, k: int) -> Tensor:
        return rank(run.model, batch, k, question.exclude_seen)[0]

    name = str(run.config.model["_target_"]).rpartition(".")[2].lower()
    return System(name, "run", lists, {"run": str(run.path)})


def _bundle_system(path: Path, question: Question) -> System:
    prepared = question.prepared
    identity = folder.identity(bundles.verify(path))
    bundle = serve.load(path, verify=False)
    translation = Translation(prepared, bundle)

    def lists(batch: Batch, k: int) -> Tensor:
        theirs, _ = translation(batch)
        known = theirs.history, theirs.ages, theirs.attributes
        items, _ = ask(bundle, *known, k=k, exclude_seen=question.exclude_seen)
        return translation.back(items)

    source = {"bundle": str(path), "identity": identity}
    return System(path.name, "bundle", lists, source)


def _lists_system(path: Path, question: Question) -> System:
    prepared = question.prepared
    users = Catalog(prepared.users["user_id"])
    given = read_lists(path, users, prepared.catalog, question.k)
    has_list = given.lengths >= 0
    found = {
        "users_without_list": 0,  # judged, and score 0
        "lists_shorter_than_k": 0,  # k is the largest cutoff
        "unknown_items": 0,  # keep their place and can only miss
        "seen_items": 0,  # items of the user's own history; where these are excluded, misses
        "lists_of_unknown_users": given.num_unknown_users,  # ignored
        "lists_not_judged": int(has_list.sum()),  # of users with nothing to be judged on
    }

    def lists(batch: Batch, k: int) -> Tensor:
        rows = batch.user_rows.numpy()
        items_BK = torch.from_numpy(given.items[rows])
        found["users_without_list"] += int((~has_list[rows]).sum())
        found["lists_shorter_than_k"] += int((has_list[rows] & (given.lengths[rows] < k)).sum())
        found["unknown_items"] += int(given.unknown_items[rows].sum())
        found["seen_items"] += int(hits(items_BK, distinct(batch.history)).sum())
        found["lists_not_judged"] -= int(has_list[rows].sum())
        return items_BK

    source = {"recommendations": str(path), "sha256": folder.sha256(path), "lists": found}
    return System(path.stem, "recommendations", lists, source)


def _baselines(names: Sequence[str], question: Question) -> Iterator[System]:
    """The baselines asked for; own items are no recommendation where seen ones are excluded."""
    names = [name for name in names if not (question.exclude_seen and name == "own_frequency")]
    if not names:
        return
    histories = known_histories(question.prepared, question.part)
    for name in names:
        with console.status(f"fitting {name}"):
            fitted = BASELINES[name].fit(histories, question.prepared.num_items)
        yield System(name, "baseline", _lists_of(fitted, question.exclude_seen))


def _lists_of(fitted: Baseline, exclude_seen: bool) -> ListsOf:
    return lambda batch, k: fitted.recommend(batch, k, exclude_seen)[0]


def _named_apart(systems: list[System]) -> list[System]:
    """The systems, a later one of a name already taken called `name (kind)`."""
    taken: set[str] = set()
    for system in systems:
        if system.name in taken:
            system.name = f"{system.name} ({system.kind})"
        taken.add(system.name)
    return systems


# --- judging ---


def _judge(
    systems: Sequence[System], question: Question
) -> tuple[list[Tally], npt.NDArray[np.int64]]:
    """Every system's lists for every judged user, and who these users are."""
    tallies = [Tally(question.cutoffs, question.prepared.num_items) for _ in systems]
    user_rows = []
    for batch in _batches(question):
        assert batch.target is not None
        for system, tally in zip(systems, tallies, strict=True):
            tally.add(system.lists(batch, question.k), batch.target)
        user_rows.append(batch.user_rows.numpy())
    if not user_rows:
        raise DataError(
            f"{question.prepared.path}: no user has anything in the {question.part} part to be "
            "judged on; prepare the events with a split that leaves something there"
        )
    return tallies, np.concatenate(user_rows)


def _batches(question: Question) -> Iterator[Batch]:
    """The users with anything relevant, some at a time."""
    users = question.users
    ends = range(question.batch_users, len(users), question.batch_users)
    with progress(f"ranking for the {question.part}", len(users), "users") as advance:
        for rows in np.split(users, ends):
            batch = _with_relevant(rows, question)
            if batch.num_users:
                yield batch
            advance(len(rows))


def _with_relevant(rows: npt.NDArray[np.int64], question: Question) -> Batch:
    """Those of the users whose part holds anything that a list could hold too."""
    batch = judged_batch(question.prepared, rows, question.part)
    if not question.exclude_seen:
        return batch
    unseen = without_seen(batch).target
    assert unseen is not None
    findable = rows[unseen.offsets.diff().numpy() > 0]
    return without_seen(judged_batch(question.prepared, findable, question.part))


# --- the report ---


def _report(
    judged: Sequence[Judged],
    question: Question,
    user_rows: npt.NDArray[np.int64],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    prepared, part, exclude_seen = question.prepared, question.part, question.exclude_seen
    users = protocol.users(prepared, part, user_rows, question.users, exclude_seen=exclude_seen)
    metric = f"ndcg@{report.headline(question.cutoffs)}"
    return {
        "format": report.FORMAT,
        "part": part,
        "systems": [{**report.summary(system, samples, seed), "users": users} for system in judged],
        "comparisons": report.comparisons(judged, metric, samples, seed),
        "protocol": {
            "part": part,
            **protocol.card(prepared, part, exclude_seen=exclude_seen),
            "users": users,
            "cutoffs": question.cutoffs,
            "metrics": report.DEFINITIONS,
            "interval": "95 %, percentile bootstrap over users, the same draws for every system; "
            f"{samples} samples, seed {seed}",
            "versions": _versions(),
        },
    }


def _versions() -> dict[str, str]:
    return {
        "deeprec": deeprec.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "pyarrow": pa.__version__,
    }


def _write(
    output_dir: Path,
    content: dict[str, Any],
    judged: Sequence[Judged],
    question: Question,
    user_rows: npt.NDArray[np.int64],
) -> None:
    """report.parquet (user by user) and then report.json, and says so."""
    user_ids = question.prepared.users["user_id"].take(pa.array(user_rows))
    with folder.writing_file(output_dir / "report.parquet") as draft:
        pq.write_table(_user_by_user(judged, user_ids), draft, write_page_checksum=True)
    with folder.writing_file(output_dir / "report.json") as draft:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
    report.show(content, console)
    console.print(f"report: {output_dir / 'report.json'}")


def _user_by_user(judged: Sequence[Judged], user_ids: pa.ChunkedArray) -> pa.Table:
    """One row per system and user."""
    kept = [name for name in judged[0].values if name.partition("@")[0] in PER_USER_METRICS]
    tables = [
        pa.table(
            {
                "system": pa.array([system.name] * len(user_ids), pa.string()),
                "user_id": user_ids,
                **{name: system.values[name] for name in kept},
            }
        )
        for system in judged
    ]
    return pa.concat_tables(tables)
