"""What can be judged: runs, bundles, files of lists and baselines, each as lists for a batch."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeprec import bundle as bundles
from deeprec import folder, serve
from deeprec.batch import Batch, Jagged
from deeprec.catalog import Catalog
from deeprec.config import to_dict
from deeprec.console import console
from deeprec.data.judge import distinct, known_users
from deeprec.data.lists import read_lists
from deeprec.data.translation import Translation, ask
from deeprec.errors import ConfigError
from deeprec.evaluation.naming import apart, named, trained
from deeprec.evaluation.question import Question
from deeprec.evaluation.reach import reach_of
from deeprec.halving import Lists
from deeprec.metric.hits import found as found_in
from deeprec.model.base import Recommender, Solvable
from deeprec.model.blend import Blend
from deeprec.model.item_to_item import ItemToItem
from deeprec.model.own_frequency import OwnFrequency
from deeprec.model.popularity import Popularity
from deeprec.model.rank import rank
from deeprec.part import called

ListsOf = Callable[[Batch, int], Tensor]  # a batch's k best items, int64 [B, K], -1 padded
ListsAmong = Callable[[Batch, int, Jagged], Tensor]  # the same of each user's candidates alone

BASELINES: dict[str, Callable[[int], Solvable]] = {
    "popularity": Popularity,
    "item_to_item": ItemToItem,
    "own_frequency": OwnFrequency,
}


@dataclass
class System:
    """Something that gives every user a list.

    Args:
        kind: run, bundle, recommendations, baseline or control.
        source: what it was, for the report.
        found: what was met while its lists came in, counted.
        config: what a run was told.
        training: of a run, one row an epoch.
        embedding_VD: float32 [V, D], rows that stand for the items; None: it has none.
        longest: the longest list it can give; None: as many items as there are.
        reach: of a file of lists, the longest of them where it is shorter than a cutoff.
        among: gives lists of some items alone; None: only whole ones can be asked for.
    """

    name: str
    kind: str
    lists: ListsOf
    source: dict[str, Any] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)
    config: dict[str, Any] = field(default_factory=dict)
    training: list[dict[str, float]] = field(default_factory=list)
    embedding_VD: Tensor | None = None
    longest: int | None = None
    reach: int | None = None
    among: ListsAmong | None = None

    def up_to(self, k: int) -> int:
        """The largest cutoff, of those up to k, at which its lists are judged."""
        return k if self.reach is None else min(k, self.reach)


def open_systems(
    paths: Sequence[Path], baselines: Sequence[str], question: Question, device: torch.device
) -> list[System]:
    """What lies at these places, and the baselines asked for, in this order.

    Own items are no recommendation where seen ones are excluded: `own_frequency` is left out there.

    Args:
        device: where models rank; their lists come back to the CPU.

    Raises:
        ConfigError: a path is none of what can be judged, or a run was trained on other data.
        DataError: a file of lists is not what it must be.
        IntegrityError: a run or bundle is damaged.
    """
    systems = [open_system(path, question, device) for path in paths]
    runs = [system for system in systems if system.kind == "run"]
    folders = [Path(run.source["run"]).resolve() for run in runs]
    names = named([run.name for run in runs], [run.config for run in runs], folders)
    for run, name in zip(runs, names, strict=True):
        run.name = name
    bundled = [system for system in systems if system.kind == "bundle"]
    called_so = bundle_names([Path(one.source["bundle"]) for one in bundled])
    for one, name in zip(bundled, called_so, strict=True):
        one.name = name
    return [*systems, *_baselines(baselines, question, device)]


def bundle_names(paths: Sequence[Path]) -> list[str]:
    """A version of a bundle by the folder that it is in and its number, another by its folder.

    Where this is the same for several, more of their paths tells them apart.
    """
    paths = [path.absolute() for path in paths]
    names = ["/".join(path.parts[-2 if path.name.isdigit() else -1 :]) for path in paths]
    told = []
    for path, name in zip(paths, names, strict=True):
        alike = [other for other, its in zip(paths, names, strict=True) if its == name]
        told.append(apart(alike, "")[path] if len({*alike}) > 1 else name)
    return told


def open_system(path: Path, question: Question, device: torch.device) -> System:
    """The run, the bundle or the file of lists at a path."""
    kind = kind_of(path)
    if kind == "run":
        return _run(path, question, device)
    return _bundle(path, question, device) if kind == "bundle" else _lists(path, question)


def kind_of(path: Path) -> str:
    """What lies at a path: run, bundle, recommendations, report, or several runs.

    Raises:
        ConfigError: nothing that could be judged.
    """
    if path.is_file():
        return "recommendations"
    if (path / "config.yaml").is_file() and (path / "prepared.json").is_file():
        return "run"
    if (path / "signature.json").is_file():
        return "bundle"
    if runs_in(path):  # where a report of them may lie too
        return "runs"
    if (path / "report.json").is_file():
        return "report"
    raise ConfigError(
        f"{path}: {'there is nothing to judge' if path.exists() else 'there is nothing there'}; "
        "expected a run, a bundle, a file of lists, a folder of runs or of a report"
    )


def runs_in(path: Path) -> list[Path]:
    """The runs directly inside a folder, as `train -m` writes them, in the order of their names."""
    return sorted(found.parent for found in path.glob("*/prepared.json"))


def trained_on(path: Path) -> Path:
    """The prepared folder that a run was trained on."""
    # here, not above: judging lists must not wait for Lightning to be imported
    from deeprec.trainer.run import RunFolder

    return Path(RunFolder(path).origin["path"])


def _run(path: Path, question: Question, device: torch.device) -> System:
    from deeprec.trainer.run import RunFolder, open_run  # likewise

    run, prepared = open_run(path), question.prepared
    if run.prepared_identity != prepared.identity:
        raise ConfigError(
            f"{path} was not trained on {prepared.path}: that folder's identity is "
            f"{prepared.identity[:12]}, the run's {run.prepared_identity[:12]}, and item indices "
            "would not mean the same items. Give the folder it was trained on, or export a bundle "
            "and judge that"
        )

    if not run.finished:
        console.print(
            f"[yellow]note[/yellow] {path} is not finished; its best checkpoint so far is judged",
            soft_wrap=True,
        )
    name = called(run.config.model)
    config = to_dict(run.config)
    alike = trained(config, RunFolder(run.path).members)
    source = {"run": str(run.path), "seed": run.config.seed, "trained": alike}
    embedding_VD = _embedding(run.model)
    return System(
        name,
        "run",
        _lists_of(run.model, question, device),
        source,
        config=config,
        training=_training(path),
        embedding_VD=embedding_VD,
    )


def _embedding(model: Recommender) -> Tensor | None:
    """The catalog table, where its rows stand for the items.

    A model of item pairs has none. That of a blend holds tables of several side by side, each with
    its own scale, so that the largest numbers would say what is near to what.
    """
    table_VD = model.item_weight.detach()
    return table_VD if table_VD.shape[1] > 1 and not isinstance(model, Blend) else None


def _training(path: Path) -> list[dict[str, float]]:
    """What a run kept of each epoch; empty where it kept nothing."""
    if not (path / "metrics.csv").is_file():
        return []
    with (path / "metrics.csv").open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def _bundle(path: Path, question: Question, device: torch.device) -> System:
    identity = folder.identity(bundles.verify(path))
    bundle = serve.load(path, verify=False, device=str(device))
    translation = Translation(question.prepared, bundle)

    def lists(batch: Batch, k: int, candidates: Jagged | None = None) -> Tensor:
        theirs, _ = translation(batch)
        allowed = None if candidates is None else translation.items(candidates)

        def asked(start: int, stop: int) -> Lists:
            some = theirs.some(start, stop)
            known = some.history, some.ages, some.attributes
            only = None if allowed is None else allowed.rows(start, stop)
            return ask(bundle, *known, k=k, exclude_seen=question.exclude_seen, allowed=only)

        return translation.back(question.halving(asked, theirs.num_users)[0])

    source = {"bundle": str(path), "identity": identity}
    longest = bundle.policy["limits"]["max_k"]
    return System(path.name, "bundle", lists, source, longest=longest, among=lists)


def _lists(path: Path, question: Question) -> System:
    prepared = question.prepared
    users = Catalog(prepared.users["user_id"])
    asked = np.union1d(question.users, question.up_close)
    given = read_lists(path, users, prepared.catalog, question.k, asked)
    has_list = given.lengths >= 0
    reach = reach_of(int(given.lengths.max()), question)
    judged_to = max((k for k in question.cutoffs if reach is None or k <= reach), default=0)
    found = Counter(
        users_without_list=0,  # judged, and score 0
        lists_shorter_than_k=0,  # k is the largest cutoff at which the file is judged
        unknown_items=0,  # keep their place and can only miss
        seen_items=0,  # items of the user's own history; where these are excluded, misses
        lists_of_unknown_users=given.num_unknown_users,  # ignored
        lists_not_judged=int(has_list.sum()),  # of users with nothing to be judged on
    )

    def lists(batch: Batch, k: int) -> Tensor:
        rows = batch.user_rows.numpy()
        at = given.places(rows)
        items_BK = torch.from_numpy(given.items[at])
        found["users_without_list"] += int((~has_list[rows]).sum())
        short = has_list[rows] & (given.lengths[rows] < min(k, judged_to))
        found["lists_shorter_than_k"] += int(short.sum())
        found["unknown_items"] += int(given.unknown_items[at].sum())
        found["seen_items"] += len(found_in(given.items[at], distinct(batch.history))[0])
        found["lists_not_judged"] -= int(has_list[rows].sum())
        return items_BK

    source = {"recommendations": str(path), "sha256": folder.sha256(path)}
    return System(
        path.stem, "recommendations", lists, source, found, longest=question.k, reach=reach
    )


def _baselines(names: Sequence[str], question: Question, device: torch.device) -> Iterator[System]:
    names = [name for name in names if not (question.exclude_seen and name == "own_frequency")]
    if not names:
        return
    known = known_users(question.prepared, question.part)
    for name in names:
        model = BASELINES[name](question.prepared.num_items)
        with console.status(f"fitting {name}"), torch.no_grad():
            for _ in model.solve(known, 0, torch.Generator()):
                pass
        yield System(name, "baseline", _lists_of(model, question, device))


def _lists_of(model: Recommender, question: Question, device: torch.device) -> ListsOf:
    assert isinstance(model, nn.Module)
    moved: Any = model.to(device)

    def lists(batch: Batch, k: int) -> Tensor:
        def asked(start: int, stop: int) -> Lists:
            some = batch.some(start, stop).on(device)
            items, scores = rank(moved, some, k, question.exclude_seen)
            return items.cpu(), scores.cpu()

        return question.halving(asked, batch.num_users)[0]

    return lists
