"""Run -> bundle: what was evaluated, in a form that a serving team runs with torch alone.

Nothing is written unless the exported model, saved and loaded again, answers as the evaluated one.
"""

import json
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

import deeprec
from deeprec import bundle, folder, serve
from deeprec.batch import Batch, Jagged
from deeprec.bundle import Limits
from deeprec.config import ExportConfig
from deeprec.console import console, progress
from deeprec.data.judge import judged_batch
from deeprec.data.store import PartName, Prepared
from deeprec.errors import IntegrityError
from deeprec.model.base import Recommender
from deeprec.model.exported import Exported, to_program
from deeprec.model.rank import rank
from deeprec.model.served import Served
from deeprec.serve import load_model, same_answer

COMPARE_K = 100
BATCH_USERS = 256
GOLDEN_K = 20
PROGRAM_BYTES = 2**30  # of weights; above, a program is written where it is asked for
SMALL_CATALOG = 2_000  # items; above, no golden request asks for more than there are

Request = dict[str, Any]  # a line of golden/requests.jsonl


@dataclass(frozen=True)
class Trained:
    """A trained model, in eval mode on the CPU, with what its bundle says of it."""

    model: Recommender
    fields: Mapping[str, int]  # user attribute -> number of its values, in the model's order
    prepared: Prepared
    made_from: Mapping[str, Any]  # identities and hashes
    report: Path | None = None  # what it scored
    architecture: Mapping[str, Any] | None = None  # what it is built with again, if it can be


def export(config: ExportConfig) -> Path:
    """Exports the best checkpoint of a run.

    Returns:
        The bundle.

    Raises:
        ConfigError: the run or the place for the bundle is not what it must be.
        IntegrityError: the run, or the folder it was trained on, is damaged or another one; or the
            exported model does not answer as the evaluated one.
    """
    # here, not above: writing a bundle needs no Lightning
    from deeprec.trainer.rebuilt import architecture
    from deeprec.trainer.run import open_run

    path = Path(config.output_dir)
    folder.refuse_to_replace(path, bundle.KIND)
    run = open_run(Path(config.run))
    prepared = Prepared(run.prepared)
    if run.prepared_identity != prepared.identity:
        raise IntegrityError(
            f"{run.path} was trained on a folder of identity {run.prepared_identity[:12]}, but "
            f"{run.prepared} is now {prepared.identity[:12]}; prepare it as it was, or train again"
        )
    made_from = {
        "run": run.path.name,
        "config": folder.sha256(run.path / "config.yaml"),
        "checkpoint": run.checkpoint.path.name,
        "checkpoint_identity": folder.identity(run.checkpoint.manifest),
    }
    if not run.finished:
        console.print(
            f"[yellow]note[/yellow] {run.path} is not finished; its best checkpoint so far is "
            f"exported. Go on with `deeprec train resume={run.path}`"
        )
    report = run.path / "report.json"
    trained = Trained(
        run.model,
        run.facts.fields,
        prepared,
        made_from,
        report if report.is_file() else None,
        architecture(run.config.model, run.facts),
    )
    write(
        path,
        trained,
        golden_users=config.golden_users,
        compare_users=config.compare_users,
        program=wants_program(config.program, run.model),
    )
    console.print(
        f"bundle: {path}, {prepared.num_items:,} items, "
        f"{sum(file.stat().st_size for file in path.rglob('*') if file.is_file()):,} bytes",
        soft_wrap=True,
    )
    return path


def write(
    path: Path,
    trained: Trained,
    *,
    golden_users: int = 50,
    compare_users: int = 1000,
    program: bool = False,
) -> None:
    """Writes the bundle at `path`, or nothing.

    Args:
        path: of the bundle.
        trained: what it holds.
        golden_users: whose requests and answers are kept.
        compare_users: whose lists must equal the evaluated ones.
        program: whether the model is written as a program of torch.export too.

    Raises:
        IntegrityError: the exported model does not answer as the evaluated one.
    """
    manifest = {
        "bundle_version": bundle.VERSION,
        "versions": versions(),
        "made_from": {**trained.made_from, "prepared": trained.prepared.identity},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with folder.writing(path, bundle.KIND, manifest) as draft:
        save(draft / bundle.MODEL, trained)
        compare(draft / bundle.MODEL, trained, compare_users)
        requests = list(golden_requests(trained, golden_users))
        bundle.write_lines(draft / bundle.GOLDEN_REQUESTS, requests)
        answers = [golden_answer(trained, request) for request in requests]
        bundle.write_lines(draft / bundle.GOLDEN_EXPECTED, answers)
        absent = save_program(draft, trained) if program else "absent, as export was told"
        describe(draft, path.name, trained, program=absent)
        if trained.architecture is not None:
            save_weights(draft, trained)


def wants_program(told: bool | None, model: Recommender) -> bool:
    """As told; or else, where a third copy of the weights is no burden."""
    if told is not None:
        return told
    parameters = model.parameters()  # type: ignore[attr-defined]  # every recommender is a module
    return sum(parameter.nbytes for parameter in parameters) < PROGRAM_BYTES


def versions() -> dict[str, str]:
    return {
        "deeprec": deeprec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyarrow": pa.__version__,
    }


def save(path: Path, trained: Trained) -> None:
    """Scripts the model, of operations of torch alone, without the paths of this machine."""
    served = Served(
        trained.model,
        fields=trained.fields,
        **asdict(Limits()),
        ids_V=None if (ids := trained.prepared.catalog.as_numbers()) is None else torch.tensor(ids),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as in serve.load_model
        scripted = torch.jit.script(served.eval())
    foreign = foreign_operations(scripted)
    if foreign:
        raise IntegrityError(
            f"the model holds operations that torch alone does not have: {', '.join(foreign)}; "
            "its serving_encoder() must be of plain torch"
        )
    with_sources = path.with_suffix(".sources")
    scripted.save(str(with_sources))  # type: ignore[no-untyped-call]
    without_sources(with_sources, path)
    with_sources.unlink()


def save_weights(draft: Path, trained: Trained) -> None:
    """Writes the weights without code, and asks a model built of them the golden requests.

    Raises:
        IntegrityError: it answers otherwise than the evaluated one.
    """
    from deeprec.trainer import rebuilt  # here, not above: a model needs it that a run made

    assert trained.architecture is not None
    rebuilt.save(draft, trained.model, trained.architecture)
    again = replace(trained, model=rebuilt.built(draft))
    refuse_other_answers(draft, bundle.WEIGHTS, lambda request: golden_answer(again, request))


def save_program(draft: Path, trained: Trained) -> str | None:
    """Writes the model as a program of torch.export, and asks it the golden requests.

    Returns:
        Why there is none, or None.

    Raises:
        IntegrityError: it answers otherwise than the evaluated one.
    """
    module = Exported(trained.model, fields=trained.fields).eval()
    try:
        program = to_program(module)
    except RuntimeError as error:  # which every error of torch.export is
        reason = str(error).strip().partition("\n")[0]
        name = type(trained.model).__name__
        return f"absent, because torch.export cannot follow {name}: {reason}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, draft / bundle.PROGRAM)
        loaded = torch.export.load(draft / bundle.PROGRAM).module()
    refuse_other_answers(draft, bundle.PROGRAM, lambda request: ask(loaded, trained, request))
    return None


def ask(program: nn.Module, trained: Trained, request: Request) -> dict[str, Any]:
    """The answer of a program to a golden request."""
    catalog = trained.prepared.catalog
    indices = catalog.indices_of(request["item_ids"])
    history, ages = one_row(indices[indices >= 0]), request["ages"]
    known = torch.zeros(len(indices)) if ages is None else torch.tensor(ages)
    attributes = [attribute_row(trained, name, request) for name in trained.fields]
    denied = one_row(catalog.indices_of(request["denied"]))
    allowed = one_row(catalog.indices_of(request["allowed"] or []))
    items, scores = program(
        history.values,
        history.offsets,
        known[torch.from_numpy(indices >= 0)],
        [rows.values for rows in attributes],
        [rows.offsets for rows in attributes],
        request["k"],
        torch.tensor(request["exclude_seen"]),
        denied.values,
        denied.offsets,
        torch.tensor(request["allowed"] is not None),
        allowed.values,
        allowed.offsets,
    )
    [(best, best_scores)] = trimmed(items, scores)
    return {"items": best, "scores": best_scores}


def refuse_other_answers(draft: Path, form: str, ask: Callable[[Request], dict[str, Any]]) -> None:
    """Every form of the model answers the golden requests as expected, or there is no bundle."""
    requests, expected = (
        bundle.read_lines(draft / name) for name in (bundle.GOLDEN_REQUESTS, bundle.GOLDEN_EXPECTED)
    )
    for request, truth in zip(requests, expected, strict=True):
        found = ask(request)
        if not same_answer(found["items"], found["scores"], truth["items"], truth["scores"]):
            raise IntegrityError(
                f"{form} does not answer as the evaluated model, so nothing was written: to "
                f"{request['name']!r} it says {found['items'][:5]}, evaluated was "
                f"{truth['items'][:5]}, to look at the first five"
            )


def foreign_operations(model: torch.jit.ScriptModule) -> list[str]:
    """Operations of a scripted model that torch alone does not have; should be none."""
    kinds: set[str] = set()
    graph = model.inlined_graph  # held, or its nodes are freed while they are read
    blocks: list[Any] = [graph]
    while blocks:
        for node in blocks.pop().nodes():
            kinds.add(node.kind())
            blocks.extend(node.blocks())
    return sorted(kind for kind in kinds if kind.partition("::")[0] not in ("aten", "prim"))


def without_sources(source: Path, destination: Path) -> None:
    """Copies a TorchScript file but for its debug records.

    They name the files of this machine, and a serving team's log would show them with every error.
    """
    reader = torch._C.PyTorchFileReader(str(source))
    writer = torch._C.PyTorchFileWriter(str(destination))
    made_by_writer = ("version", "byteorder", ".data/serialization_id")
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in made_by_writer:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()


def compare(model: Path, trained: Trained, num_users: int) -> None:
    """Asks the saved model and the evaluated one for the same users.

    Raises:
        IntegrityError: they answer differently.
    """
    exported = load_model(model, torch.device("cpu"))
    part, users = compared_users(trained.prepared, num_users)
    with progress("comparing exported with evaluated answers", len(users), "users") as advance:
        for rows in np.split(users, range(BATCH_USERS, len(users), BATCH_USERS)):
            batch = judged_batch(trained.prepared, rows, part, with_target=False)
            for exclude_seen in (False, True):
                refuse_difference(exported, trained, batch, exclude_seen)
            advance(len(rows))


def compared_users(prepared: Prepared, num_users: int) -> tuple[PartName, npt.NDArray[np.int64]]:
    """Users spread over all that are judged; over all there are, where none is."""
    for part in ("holdout", "validation"):
        judged = prepared.judged_users(part)
        if len(judged):
            break
    else:
        judged = np.arange(prepared.num_users)
    places = np.linspace(0, len(judged) - 1, min(num_users, len(judged))).astype(np.int64)
    return part, judged[places]


def refuse_difference(
    exported: torch.jit.ScriptModule, trained: Trained, batch: Batch, exclude_seen: bool
) -> None:
    expected = trimmed(*rank(trained.model, batch, COMPARE_K, exclude_seen))
    answers = trimmed(*served(exported, trained, batch, COMPARE_K, exclude_seen))
    for row, answer, truth in zip(batch.user_rows.tolist(), answers, expected, strict=True):
        if not same_answer(*answer, *truth):
            raise IntegrityError(
                "the exported model does not answer as the evaluated one, so nothing was written: "
                f"for the user in row {row} (exclude_seen={exclude_seen}) it says {answer[0][:5]}, "
                f"evaluated was {truth[0][:5]}, to look at the first five. The model's "
                "serving_encoder() must compute what its encode() computes"
            )


def served(
    exported: torch.jit.ScriptModule, trained: Trained, batch: Batch, k: int, exclude_seen: bool
) -> tuple[Tensor, Tensor]:
    """As the bundle ranks: int64 [B, k] items, float32 [B, k] scores."""
    history = batch.history
    answer: tuple[Tensor, Tensor] = exported(
        history.values,
        history.offsets,
        batch.known_ages,
        [batch.attributes[name].values for name in trained.fields],
        [batch.attributes[name].offsets for name in trained.fields],
        k,
        exclude_seen,
        history.values[:0],
        torch.zeros_like(history.offsets),
    )
    return answer


def trimmed(items_BK: Tensor, scores_BK: Tensor) -> list[tuple[list[int], list[float]]]:
    """Each user's answer without the padding."""
    lengths = (items_BK >= 0).sum(1).tolist()
    return [
        (items[:length], scores[:length])
        for items, scores, length in zip(
            items_BK.tolist(), scores_BK.tolist(), lengths, strict=True
        )
    ]


def golden_requests(trained: Trained, num_users: int) -> Iterator[Request]:
    """What judged users would be asked with, without their ids, and the cases at the edge."""
    prepared = trained.prepared
    part, users = compared_users(prepared, num_users)
    batch = judged_batch(prepared, users, part, with_target=False)
    requests = [request_of(trained, batch, row) for row in range(batch.num_users)]
    yield from requests
    first = requests[0]
    longest = max(requests, key=lambda request: len(request["item_ids"]))
    best = golden_answer(trained, first)["item_ids"][:1]
    yield {**longest, "name": "the longest history of these"}
    yield {**first, "name": "seen items are left out", "exclude_seen": True}
    yield {**first, "name": "seen items are kept", "exclude_seen": False}
    yield {**first, "name": "the best item is denied", "denied": best}
    yield {**first, "name": "few items are allowed", "allowed": allowed_of(trained, first)}
    yield {**first, "name": "no item is allowed", "allowed": []}
    yield {**first, "name": "times are unknown", "ages": None}
    yield {**first, "name": "attributes are unknown", "attributes": {}}
    yield {**first, "name": "an item is unknown", **with_unknown_item(trained, first)}
    yield {**first, "name": "nothing is known", "item_ids": [], "ages": None, "attributes": {}}
    if prepared.num_items <= SMALL_CATALOG:
        yield {**first, "name": "more than there are", "k": prepared.num_items + 5}


def request_of(trained: Trained, batch: Batch, row: int) -> Request:
    prepared, events = trained.prepared, slice(*batch.history.offsets[row : row + 2].tolist())
    attributes = {}
    for name in trained.fields:
        values = prepared.vocabularies[name]
        rows = batch.attributes[name]
        for index in rows.values[rows.offsets[row] : rows.offsets[row + 1]].tolist():
            # of an open vocabulary not a value that somebody has: a bundle is to know none
            attributes[name] = f"value {row}" if isinstance(values, Mapping) else values[index]
    return {
        "name": f"user {row}",
        "item_ids": prepared.catalog.ids_of(batch.history.values[events]),
        "ages": None if batch.ages is None else batch.ages[events].tolist(),
        "attributes": attributes,
        "k": GOLDEN_K,
        "exclude_seen": not prepared.repeats,
        "denied": [],
        "allowed": None,
    }


def allowed_of(trained: Trained, request: Request) -> list[str]:
    """Every other item of the answer, so that it changes."""
    best: list[str] = golden_answer(trained, request)["item_ids"]
    return best[1::2]


def with_unknown_item(trained: Trained, request: Request) -> Request:
    """The request with a newest event whose item is not in the catalog."""
    catalog = trained.prepared.catalog
    unknown = next(name for n in count() if catalog.indices_of([name := f"unknown {n}"])[0] < 0)
    ages = request["ages"]
    return {
        "item_ids": [*request["item_ids"], unknown],
        "ages": None if ages is None else [*ages, 0.0],
    }


def golden_answer(trained: Trained, request: Request) -> dict[str, Any]:
    """The evaluated answer to a golden request, ranked alone; it is cut to what may be answered."""
    catalog = trained.prepared.catalog
    indices = catalog.indices_of(request["item_ids"])
    batch = Batch(
        torch.zeros(1, dtype=torch.int64),
        one_row(indices[indices >= 0]),
        None if request["ages"] is None else torch.tensor(request["ages"])[indices >= 0],
        {name: attribute_row(trained, name, request) for name in trained.fields},
    )
    k = request["k"] + len(request["denied"])
    items, scores = trimmed(*rank(trained.model, batch, k, request["exclude_seen"]))[0]
    denied = catalog.indices_of(request["denied"]).tolist()
    kept = [n for n, item in enumerate(items) if item not in denied][: request["k"]]
    if request["allowed"] is not None:
        allowed = catalog.indices_of(request["allowed"]).tolist()
        kept = [n for n in kept if items[n] in allowed]
    items = [items[n] for n in kept]
    return {
        "items": items,
        "item_ids": catalog.ids_of(items),
        "scores": [scores[n] for n in kept],
    }


def attribute_row(trained: Trained, name: str, request: Request) -> Jagged:
    values = [request["attributes"][name]] if name in request["attributes"] else []
    return one_row(trained.prepared.vocabulary(name).indices_of(values))


def one_row(values: npt.NDArray[np.int64]) -> Jagged:
    return Jagged(torch.from_numpy(values), torch.tensor([0, len(values)]))


def without_values(report: dict[str, Any], hashed: Sequence[str]) -> dict[str, Any]:
    """The report, bands of an open vocabulary by number: a bundle knows nobody's value.

    Example:
        >>> report = {"slices": [{"name": "user.town", "bands": ["Pécs", "other"]}]}
        >>> without_values(report, ["town"])
        {'slices': [{'name': 'user.town', 'bands': ['value 1', 'value 2']}]}
    """
    private = {f"user.{name}" for name in hashed}
    slices = [
        {**one, "bands": [f"value {n}" for n in range(1, len(one["bands"]) + 1)]}
        if one["name"] in private
        else one
        for one in report.get("slices", [])
    ]
    return {**report, "slices": slices} if slices else report


def describe(draft: Path, name: str, trained: Trained, *, program: str | None) -> None:
    """Everything of the bundle that is not the model: catalog, signature, policy, README."""
    prepared, exclude_seen = trained.prepared, not trained.prepared.repeats
    bundle.write_catalog(draft, prepared.items.drop_columns(["popularity"]))
    bundle.write_json(
        draft / bundle.VOCABULARIES, {name: prepared.vocabularies[name] for name in trained.fields}
    )
    signature = bundle.signature(
        prepared.num_items,
        trained.fields,
        Limits(),
        ids_are_numbers=prepared.catalog.as_numbers() is not None,
        program=program,
    )
    bundle.write_json(draft / bundle.SIGNATURE, signature)
    policy = bundle.policy(
        exclude_seen=exclude_seen, uses_times=prepared.has_times, limits=Limits()
    )
    bundle.write_json(draft / bundle.POLICY, policy)
    hashed = [n for n, stored in prepared.vocabularies.items() if isinstance(stored, Mapping)]
    if trained.report is not None:
        report = json.loads(trained.report.read_text(encoding="utf-8"))
        bundle.write_json(draft / bundle.EVALUATION, without_values(report, hashed))
    readme = bundle.readme(
        name,
        prepared.num_items,
        list(trained.fields),
        exclude_seen=exclude_seen,
        hashed=hashed,
    )
    (draft / bundle.README).write_text(readme, encoding="utf-8")
    shutil.copyfile(serve.__file__, draft / bundle.CLIENT)
