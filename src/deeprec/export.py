"""Run -> bundle: what was evaluated, in a form that a serving team runs with torch alone.

Nothing is written unless the exported model, saved and loaded again, answers as the evaluated one.
"""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

import deeprec
from deeprec import bundle, folder, forms, serve, versions
from deeprec.batch import Batch
from deeprec.bundle import Limits
from deeprec.console import console, progress
from deeprec.data.judge import judged_batch
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.evaluation.price import price
from deeprec.golden import Trained, compared_users, golden_answer, golden_requests, trimmed
from deeprec.model.base import Recommender
from deeprec.model.compact import Precision, narrowed
from deeprec.model.rank import rank
from deeprec.papers import card, mlflow, sbom
from deeprec.papers.preprocess import preprocess
from deeprec.serve import load_model, same_answer
from deeprec.verb import ExportConfig

COMPARE_K = 100
BATCH_USERS = 64  # few, so that progress is seen
PROGRAM_BYTES = 2**30  # of weights; above, a program is written where it is asked for


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
    folder.refuse_inside(path)
    folder.refuse_to_replace(path, bundle.KIND)
    run = open_run(Path(config.run))
    prepared = Prepared(run.prepared)
    if run.prepared_identity != prepared.identity:
        raise IntegrityError(
            f"{run.path} was trained on a folder of identity {run.prepared_identity[:12]}, but "
            f"{run.prepared} is now {prepared.identity[:12]}; prepare it as it was, or train again"
        )
    _tell_of_columns(prepared)
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
        texts={
            name: Path(one)
            for name, one in (("LICENSE", config.license), ("NOTICE", config.notice))
            if one
        },
        triton=config.triton,
        onnx=config.onnx,
        ids=config.ids,
        config=asdict(run.config),
        environment=json.loads((run.path / "environment.json").read_text(encoding="utf-8")),
    )
    trained = in_precision(trained, config)
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


def _tell_of_columns(prepared: Prepared) -> None:
    if prepared.manifest.get("columns"):
        console.print(
            "[yellow]note[/yellow] the items of this run are columns of a data set of DSSTNE, and "
            "their ids the numbers of these, not the ids of a shop's items; for a bundle of those, "
            "`deeprec dsstne export-network`, and `import-weights` with the feature index",
            soft_wrap=True,
        )


def in_precision(trained: Trained, config: ExportConfig) -> Trained:
    """The model with a catalog table of the precision that is asked for, and its price, told.

    Raises:
        ConfigError: the model has no catalog table, or nobody is there to judge it.
        IntegrityError: more of ndcg is lost than may be.
    """
    precision: Precision = config.precision
    if precision == "float32" and not config.scan:
        return trained
    try:
        narrow = cast(Recommender, narrowed(cast(nn.Module, trained.model), precision))
    except ValueError as error:
        raise ConfigError(f"precision={precision}, scan={config.scan}: {error}") from error
    found = price(trained.model, narrow, trained.prepared, config.compare_users)
    before = forms.cost(trained, "float32", False)
    after = forms.cost(trained, precision, config.scan)
    told = {
        "price": asdict(found),
        "before": asdict(before),
        "after": asdict(after),
    }
    console.print(
        f"precision={precision}: on validation ndcg@100 {found.ndcg_before:.4f} -> "
        f"{found.ndcg_after:.4f} ({found.users:,} users), {found.kept:.2%} of the first 100 items "
        f"the same; catalog table {before.table_bytes:,} -> {after.table_bytes:,} bytes, "
        f"one user {before.milliseconds:.2f} -> {after.milliseconds:.2f} CPU ms",
        soft_wrap=True,
    )
    if found.loss > config.max_loss:
        raise IntegrityError(
            f"precision={precision} loses {found.loss:.2%} of ndcg@100 on validation, and may lose "
            f"{config.max_loss:.2%}, so nothing was written; export another precision, or allow it "
            "by max_loss"
        )
    return replace(trained, model=narrow, precision=precision, scan=config.scan, price=told)


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
    manifest: dict[str, Any] = {
        "bundle_version": bundle.VERSION,
        "versions": software(),
        "made_from": {**trained.made_from, "prepared": trained.prepared.identity},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with folder.writing(path, bundle.KIND, manifest) as draft:
        forms.save(draft / bundle.MODEL, trained)
        compare(draft / bundle.MODEL, trained, compare_users)
        requests = list(golden_requests(trained, golden_users))
        bundle.write_lines(draft / bundle.GOLDEN_REQUESTS, requests)
        asked, answers = trained.answering, []
        with progress("answering golden requests", len(requests), "requests") as advance:
            for request in requests:
                answers.append(golden_answer(asked, request))
                advance(1)
        bundle.write_lines(draft / bundle.GOLDEN_EXPECTED, answers)
        if program:  # which torch does in one piece, that tells nothing on its way
            console.print(f"writing {bundle.PROGRAM} by torch.export; program=false leaves it out")
        absent = forms.save_program(draft, asked) if program else "absent, as export was told"
        onnx_rules = forms.save_onnx(draft, asked) if trained.onnx else None
        if trained.ids:
            forms.save_ids(draft, trained.prepared.items["item_id"].to_pylist())
        name, _ = versions.name_of(path)
        describe(draft, name, trained, program=absent, onnx_rules=onnx_rules)
        persons = sum(request["name"].startswith("user ") for request in requests)
        describe_origin(draft, name, trained, manifest, persons)
        if trained.triton:
            forms.save_triton(draft, name, trained)
        if trained.architecture is not None:
            forms.save_weights(draft, asked, trained.architecture)


def wants_program(told: bool | None, model: Recommender) -> bool:
    """As told; or else, where a third copy of the weights is no burden."""
    if told is not None:
        return told
    assert isinstance(model, nn.Module)
    return sum(parameter.nbytes for parameter in model.parameters()) < PROGRAM_BYTES


def software() -> dict[str, str]:
    return {
        "deeprec": deeprec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyarrow": pa.__version__,
    }


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


Answer = tuple[list[int], list[float]]  # items and their scores, best first


def refuse_difference(
    exported: torch.jit.ScriptModule, trained: Trained, batch: Batch, exclude_seen: bool
) -> None:
    expected = trimmed(*rank(trained.model, batch, COMPARE_K, exclude_seen))
    answers = trimmed(*served(exported, trained, batch, COMPARE_K, exclude_seen))
    for row, answer, truth in zip(batch.user_rows.tolist(), answers, expected, strict=True):
        if not same_answer(*answer, *truth):
            raise IntegrityError(
                "the exported model does not answer as the evaluated one, so nothing was written: "
                f"for the user in row {row} (exclude_seen={exclude_seen}) {_other(answer, truth)}. "
                "The model's serving_encoder() must compute what its encode() computes"
            )


def _other(answer: Answer, truth: Answer) -> str:
    """The first place with another score, or else with another item, in words."""
    places = list(enumerate(zip(*answer, *truth, strict=False), 1))
    differ = [
        (place, (item, score, wanted, known))
        for place, (item, score, wanted, known) in places
        if not same_answer([item], [score], [wanted], [known])
    ]
    differ += [(place, both) for place, both in places if both[0] != both[2]]
    if not differ:
        return f"it holds {len(answer[0])} items, evaluated were {len(truth[0])}"
    place, (item, score, wanted, known) = differ[0]
    held = f"place {place} holds item {item} with {score:.8g}"
    return f"{held}, evaluated was item {wanted} with {known:.8g}"


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


def describe(
    draft: Path,
    name: str,
    trained: Trained,
    *,
    program: str | None,
    onnx_rules: Sequence[str] | None = None,
) -> None:
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
        onnx_rules=onnx_rules,
        ids=trained.ids,
    )
    bundle.write_json(draft / bundle.SIGNATURE, signature)
    policy = bundle.policy(
        exclude_seen=exclude_seen, uses_times=prepared.has_times, limits=Limits()
    )
    policy["catalog_table"] = {
        "precision": trained.precision,
        "scanned_first": trained.scan or trained.precision == "int8",
        **(trained.price or {}),
    }
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


def describe_origin(
    draft: Path, name: str, trained: Trained, manifest: Mapping[str, Any], golden_persons: int
) -> None:
    """What the bundle came from, what it holds of persons, and what it needs."""
    prepared, created, used = trained.prepared, manifest["created"], manifest["versions"]
    told = card.provenance(
        manifest["made_from"],
        used,
        created,
        config=trained.config,
        environment=trained.environment,
    )
    bundle.write_json(draft / "provenance.json", told)
    if trained.config is not None:
        text = card.train_config(trained.config)
        (draft / bundle.TRAIN_CONFIG).write_text(text, encoding="utf-8")
    for name_of_text, text_file in trained.texts.items():
        shutil.copyfile(text_file, draft / name_of_text)
    bundle.write_json(draft / bundle.PREPROCESS, preprocess(prepared))
    bundle.write_json(draft / "privacy.json", card.privacy(prepared, golden_persons))
    identity = str(trained.made_from.get("checkpoint_identity", ""))
    bundle.write_json(draft / "sbom.cdx.json", sbom.sbom(name, identity, created))
    report = None
    if (draft / bundle.EVALUATION).is_file():
        report = json.loads((draft / bundle.EVALUATION).read_text(encoding="utf-8"))
    kind = type(trained.model).__name__
    text = card.model_card(
        name, prepared, kind, report, trained.precision, licensed="LICENSE" in trained.texts
    )
    (draft / bundle.CARD).write_text(text, encoding="utf-8")
    (draft / "MLmodel").write_text(mlflow.mlmodel(created, used), encoding="utf-8")
    (draft / mlflow.REQUIREMENTS).write_text(mlflow.requirements(used), encoding="utf-8")
