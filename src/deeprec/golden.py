"""Golden requests: what a bundle is asked wherever it goes, with the evaluated answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from deeprec.batch import Batch, Jagged
from deeprec.catalog import Catalog
from deeprec.data.judge import judged_batch, spread
from deeprec.data.store import PartName, Prepared
from deeprec.data.vocabulary import Vocabulary, rows_of
from deeprec.model.base import Recommender
from deeprec.model.compact import Precision
from deeprec.model.rank import rank_without

GOLDEN_K = 20
SMALL_CATALOG = 2_000  # items; above, no golden request asks for more than there are

Request = dict[str, Any]  # a line of golden/requests.jsonl


class Named(Protocol):
    """What knows items and values of attributes by name: a prepared folder, or a bundle."""

    @property
    def catalog(self) -> Catalog: ...

    def vocabulary(self, name: str) -> Vocabulary: ...


@dataclass(frozen=True)
class Answering:
    """A model that answers golden requests."""

    model: Recommender
    fields: Mapping[str, int]  # user attribute -> number of its values, in the model's order
    named: Named
    retired: Sequence[int] = ()  # indices of items that are never answered


@dataclass(frozen=True)
class Trained:
    """A trained model, in eval mode on the CPU, with what its bundle says of it."""

    model: Recommender
    fields: Mapping[str, int]  # user attribute -> number of its values, in the model's order
    prepared: Prepared
    made_from: Mapping[str, Any]  # identities and hashes
    report: Path | None = None  # what it scored
    architecture: Mapping[str, Any] | None = None  # what it is built with again, if it can be
    precision: Precision = "float32"  # of the rows of the catalog table; the model's are rounded so
    scan: bool = False  # whether int8 codes of it are scanned first
    config: Mapping[str, Any] | None = None  # of the run
    environment: Mapping[str, Any] | None = None  # what the run was trained with and on
    texts: Mapping[str, Path] = field(default_factory=dict)  # LICENSE and NOTICE, as they are
    triton: bool = False  # whether a model folder for Triton is written too
    onnx: bool = False  # whether model.onnx is written too
    ids: bool = False  # whether ids.pt is written too
    price: Mapping[str, Any] | None = None  # what the precision costs

    @property
    def answering(self) -> Answering:
        return Answering(self.model, self.fields, self.prepared)


def compared_users(prepared: Prepared, num_users: int) -> tuple[PartName, npt.NDArray[np.int64]]:
    """Users spread over all that are judged; over all there are, where none is."""
    for part in ("holdout", "validation"):
        judged = prepared.judged_users(part)
        if len(judged):
            break
    else:
        judged = np.arange(prepared.num_users)
    return part, spread(judged, num_users)


def golden_requests(trained: Trained, num_users: int) -> Iterator[Request]:
    """What judged users would be asked with, without their ids, and the cases at the edge."""
    prepared = trained.prepared
    part, users = compared_users(prepared, num_users)
    batch = judged_batch(prepared, users, part, with_target=False)
    requests = [request_of(trained, batch, row) for row in range(batch.num_users)]
    yield from requests
    first = requests[0]
    longest = max(requests, key=lambda request: len(request["item_ids"]))
    best = golden_answer(trained.answering, first)["item_ids"][:1]
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
        indices = rows.values[rows.offsets[row] : rows.offsets[row + 1]].tolist()
        if indices:
            # of an open vocabulary not a value that somebody has: a bundle is to know none
            known = (
                [f"value {row}"] if isinstance(values, Mapping) else [values[i] for i in indices]
            )
            attributes[name] = known[0] if len(known) == 1 else known
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
    best: list[str] = golden_answer(trained.answering, request)["item_ids"]
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


def golden_answer(asked: Answering, request: Request) -> dict[str, Any]:
    """The evaluated answer to a golden request, ranked alone."""
    catalog = asked.named.catalog
    indices = catalog.indices_of(request["item_ids"])
    batch = Batch(
        torch.zeros(1, dtype=torch.int64),
        one_row(indices[indices >= 0]),
        None if request["ages"] is None else torch.tensor(request["ages"])[indices >= 0],
        {name: attribute_row(asked.named, name, request) for name in asked.fields},
    )
    left_out = torch.from_numpy(np.flatnonzero(left_out_of(asked, request)))
    ends = torch.tensor([0, len(left_out)])
    [(items, scores)] = trimmed(*rank_without(asked.model, batch, request["k"], left_out, ends))
    return {"items": items, "item_ids": catalog.ids_of(items), "scores": scores}


def left_out_of(asked: Answering, request: Request) -> npt.NDArray[np.bool_]:
    """Bool [V]: what a request must not be answered with."""
    catalog = asked.named.catalog

    def named(item_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        indices = catalog.indices_of(item_ids)
        found_V = np.zeros(len(asked.model.item_weight), np.bool_)
        found_V[indices[indices >= 0]] = True
        return found_V

    left_out_V = named(request["denied"])
    left_out_V[list(asked.retired)] = True
    if request["exclude_seen"]:
        left_out_V |= named(request["item_ids"])
    if request["allowed"] is not None:
        left_out_V |= ~named(request["allowed"])
    return left_out_V


def attribute_row(named: Named, name: str, request: Request) -> Jagged:
    said = request["attributes"].get(name, [])
    values = [said if isinstance(said, list) else [said]]
    return rows_of(pa.array(values, pa.list_(pa.string())), named.vocabulary(name))


def one_row(values: npt.NDArray[np.int64]) -> Jagged:
    return Jagged(torch.from_numpy(values), torch.tensor([0, len(values)]))


def trimmed(items_BK: Tensor, scores_BK: Tensor) -> list[tuple[list[int], list[float]]]:
    """Each user's answer without the padding."""
    lengths = (items_BK >= 0).sum(1).tolist()
    return [
        (items[:length], scores[:length])
        for items, scores, length in zip(
            items_BK.tolist(), scores_BK.tolist(), lengths, strict=True
        )
    ]
