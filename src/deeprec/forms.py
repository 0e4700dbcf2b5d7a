"""The forms that a bundle holds its model in, each asked the golden requests before it is kept.

model.pt is what a serving team runs; model.pt2 and the weights without code are for those who do
without TorchScript.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit._recursive import create_script_module, infer_methods_to_compile

from deeprec import bundle
from deeprec.batch import Jagged
from deeprec.bundle import Limits
from deeprec.errors import ConfigError, IntegrityError
from deeprec.golden import (
    Answering,
    Request,
    Trained,
    attribute_row,
    golden_answer,
    one_row,
    trimmed,
)
from deeprec.model.compact import Precision
from deeprec.model.exported import UNKNOWN, Exported, quiet, to_program
from deeprec.model.in_tensors import InTensors, with_forward
from deeprec.model.served import Served
from deeprec.model.text_ids import TextIds
from deeprec.papers import triton
from deeprec.serve import same_answer

TIMED = 9  # calls
ONNX_EXTRA = "pip install 'deeprec[onnx]'"


def save(path: Path, trained: Trained) -> None:
    """Scripts the model, of operations of torch alone, without the paths of this machine."""
    write_script(path, scripted(module(trained, trained.precision, trained.scan)))


def scripted(asked: nn.Module) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # as in serve.load_model
        try:
            return torch.jit.script(asked.eval())
        except (RuntimeError, TypeError) as error:
            raise IntegrityError(
                "serving_encoder() of the model must be what TorchScript takes, and it refuses: "
                f"{_refusal(error)}. Annotate every argument of its forward as Svd in "
                "deeprec/model/svd.py does: what is not annotated counts as a Tensor"
            ) from error


def _refusal(error: Exception) -> str:
    """What TorchScript says, on one line, without the source that it shows."""
    said = str(error).strip().partition(":\n  File")[0].partition("\nInferred")[0]
    return " ".join(said.split())[:300].rstrip(".:")


def write_script(path: Path, script: torch.jit.ScriptModule) -> None:
    foreign = foreign_operations(script)
    if foreign:
        raise IntegrityError(
            f"the model holds operations that torch alone does not have: {', '.join(foreign)}; "
            "its serving_encoder() must be of plain torch"
        )
    with_sources = path.with_suffix(".sources")
    script.save(str(with_sources))
    without_sources(with_sources, path)
    with_sources.unlink()


def save_ids(draft: Path, item_ids: Iterable[str]) -> None:
    """Writes what maps these ids, in index order, for those who read no Parquet."""
    write_script(draft / bundle.IDS, scripted(TextIds(item_ids)))


def save_triton(draft: Path, name: str, trained: Trained) -> None:
    """Writes a model folder for Triton and a sample service for KServe."""
    inputs = triton.arguments(len(trained.fields), uses_times=trained.prepared.has_times)
    place = draft / "triton" / name
    (place / "1").mkdir(parents=True)
    (place / "warmup").mkdir()
    save_in_tensors(
        place / "1" / "model.pt", module(trained, trained.precision, trained.scan), inputs
    )
    (place / "warmup" / "k").write_bytes((10).to_bytes(8, "little"))
    (place / "config.pbtxt").write_text(triton.config(name, inputs), encoding="utf-8")
    (draft / "kserve.yaml").write_text(triton.kserve(name), encoding="utf-8")


def save_in_tensors(path: Path, served: nn.Module, inputs: list[str]) -> None:
    """Writes what Triton asks.

    Args:
        path: of the model.
        served: what is asked in the end, a `Served` or what a model.pt was loaded as.
        inputs: `triton.arguments`.
    """
    # a type of its own: `with_forward` defines a method of it, which a type can have once
    script = create_script_module(  # type: ignore[no-untyped-call]  # torch leaves it so
        InTensors(cast(Served, served)).eval(), infer_methods_to_compile, share_types=False
    )
    with_forward(script, inputs, sum(name.startswith("attribute_") for name in inputs))
    write_script(path, script)


def module(trained: Trained, precision: Precision, scan: bool) -> Served:
    """What model.pt is scripted from, with a catalog table of that precision."""
    ids = trained.prepared.catalog.as_numbers()
    return Served(
        trained.model,
        fields=trained.fields,
        **asdict(Limits()),
        ids_V=None if ids is None else torch.tensor(ids),
        precision=precision,
        scan=scan,
    ).eval()


@dataclass(frozen=True)
class Cost:
    """What a catalog table costs where it is served."""

    table_bytes: int
    milliseconds: float  # of CPU, for the best items of one user, the median of some


def cost(trained: Trained, precision: Precision, scan: bool) -> Cost:
    """Of a catalog table in that precision, measured in this process."""
    asked, taken = module(trained, precision, scan), []
    history, nothing = one_row(np.zeros(1, np.int64)), one_row(np.zeros(0, np.int64))
    values = [nothing.values for _ in trained.fields]
    offsets = [nothing.offsets for _ in trained.fields]
    for _ in range(TIMED):
        started = time.process_time()
        asked(*of(history), torch.zeros(0), values, offsets, 10, True, *of(nothing))
        taken.append(1000 * (time.process_time() - started))
    tables = asked.catalog.state_dict().values()
    return Cost(sum(table.nbytes for table in tables), statistics.median(taken))


def of(rows: Jagged) -> tuple[Tensor, Tensor]:
    return rows.values, rows.offsets


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


def save_weights(draft: Path, asked: Answering, architecture: Mapping[str, Any]) -> None:
    """Writes the weights without code, and asks a model built of them the golden requests.

    Raises:
        IntegrityError: it answers otherwise than the evaluated one.
    """
    from deeprec.trainer import rebuilt  # here, not above: a model needs it that a run made

    rebuilt.save(draft, asked.model, architecture)
    again = replace(asked, model=rebuilt.built(draft))
    if other := other_answer(draft, lambda request: golden_answer(again, request)):
        raise IntegrityError(
            f"a model made of {bundle.WEIGHTS} does not answer as the evaluated one, so nothing "
            f"was written: {other}"
        )


def save_program(draft: Path, asked: Answering) -> str | None:
    """Writes the model as a program of torch.export, and asks it the golden requests.

    Returns:
        Why there is none, as where it answers otherwise than the evaluated one; or None.
    """
    module = Exported(asked.model, fields=asked.fields, retired=asked.retired).eval()
    try:
        program = to_program(module)
    except RuntimeError as error:  # which every error of torch.export is
        reason = str(error).strip().partition("\n")[0]
        name = type(asked.model).__name__
        return f"absent, because torch.export cannot follow {name}: {reason}"
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        torch.export.save(program, draft / bundle.PROGRAM)
        try:
            loaded = torch.export.load(draft / bundle.PROGRAM).module()
        except Exception as error:  # an assertion inside torch
            (draft / bundle.PROGRAM).unlink()
            return f"absent, because torch.export cannot read back {type(asked.model).__name__}" + (
                f": {error}" if str(error) else ""
            )
    if other := other_answer(draft, lambda request: ask(loaded, asked, request)):
        (draft / bundle.PROGRAM).unlink()
        return f"absent, because it would not answer as the evaluated model: {other}"
    return None


def save_onnx(draft: Path, asked: Answering) -> list[str]:
    """Writes the model in ONNX, and asks it the golden requests.

    Returns:
        The rules that it checks, by number from 1.

    Raises:
        ConfigError: what writes ONNX is not installed, or cannot write this model.
        IntegrityError: it answers otherwise than the evaluated one.
    """
    if any(find_spec(one) is None for one in ("onnx", "onnxruntime", "onnxscript")):
        raise ConfigError("onnx=true needs onnx, onnxruntime and onnxscript: " + ONNX_EXTRA)
    import onnx

    from deeprec.model.in_onnx import to_onnx

    try:
        made, rules = to_onnx(asked.model, asked.fields, asked.retired)
        onnx.save(made, draft / bundle.ONNX)
    except (RuntimeError, ValueError) as error:  # too large is a ValueError
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ConfigError(
            f"onnx=true: {type(asked.model).__name__} cannot be written in ONNX, so nothing was "
            f"written ({reason}); export without, or another model"
        ) from error
    session = onnx_session(draft / bundle.ONNX)
    if other := other_answer(draft, lambda request: ask_onnx(session, asked, request)):
        raise IntegrityError(
            f"{bundle.ONNX} does not answer as the evaluated model, so nothing was written: {other}"
        )
    return rules


def onnx_session(path: Path) -> Any:
    """A model in onnxruntime, which says on the console nothing that its errors do not say."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options)


def ask_onnx(session: Any, asked: Answering, request: Request) -> dict[str, Any]:
    """The answer of a model in ONNX to a golden request."""
    given = inputs_of(asked, request)
    values, ends = given.pop("attribute_values"), given.pop("attribute_offsets")
    for place, (rows, offsets) in enumerate(zip(values, ends)):
        given |= {f"attribute_values_{place}": rows, f"attribute_offsets_{place}": offsets}
    items, scores = session.run(None, {name: np.asarray(one) for name, one in given.items()})
    [(best, best_scores)] = trimmed(torch.from_numpy(items), torch.from_numpy(scores))
    return {"items": best, "scores": best_scores}


def ask(program: nn.Module, asked: Answering, request: Request) -> dict[str, Any]:
    """The answer of a program to a golden request."""
    items, scores = program(*inputs_of(asked, request).values())
    [(best, best_scores)] = trimmed(items, scores)
    return {"items": best, "scores": best_scores}


def inputs_of(asked: Answering, request: Request) -> dict[str, Any]:
    """What a program is given to answer a golden request, in its order."""
    catalog = asked.named.catalog
    indices = catalog.indices_of(request["item_ids"])
    history, ages = one_row(indices[indices >= 0]), request["ages"]
    known = torch.full([len(indices)], UNKNOWN) if ages is None else torch.tensor(ages)
    attributes = [attribute_row(asked.named, name, request) for name in asked.fields]
    denied = one_row(catalog.indices_of(request["denied"]))
    allowed = one_row(catalog.indices_of(request["allowed"] or []))
    return {
        "item_ids": history.values,
        "offsets": history.offsets,
        "ages": known[torch.from_numpy(indices >= 0)],
        "attribute_values": [rows.values for rows in attributes],
        "attribute_offsets": [rows.offsets for rows in attributes],
        "k": request["k"],
        "exclude_seen": torch.tensor(request["exclude_seen"]),
        "denied_items": denied.values,
        "denied_offsets": denied.offsets,
        "only_allowed": torch.tensor(request["allowed"] is not None),
        "allowed_items": allowed.values,
        "allowed_offsets": allowed.offsets,
    }


def other_answer(draft: Path, ask: Callable[[Request], dict[str, Any]]) -> str | None:
    """The first golden request that a form answers otherwise than expected; None: there is none."""
    requests, expected = (
        bundle.read_lines(draft / name) for name in (bundle.GOLDEN_REQUESTS, bundle.GOLDEN_EXPECTED)
    )
    for request, truth in zip(requests, expected, strict=True):
        found = ask(request)
        if not same_answer(found["items"], found["scores"], truth["items"], truth["scores"]):
            return (
                f"to {request['name']!r} it says {found['items'][:5]}, evaluated was "
                f"{truth['items'][:5]}, to look at the first five"
            )
    return None
