"""The Open Inference Protocol, version 2, in JSON: tensors in, tensors out.

Item ids go in and come out as text (BYTES), or as item indices (INT64), in which the inputs are
those of signature.json. Padding is "" or -1, with the lowest float32 as its score: JSON knows no
infinity.

Reference:
    KServe, "Open Inference Protocol", HTTP/REST. Without its binary extension.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from deeprec.serve import Bundle, RequestError
from deeprec.server.batcher import Question, Ranked
from deeprec.server.opened import Opened
from deeprec.server.question import Limits, checked_k, distinct, refusal, refuse_more, values_of

NO_SCORE = -3.4028234663852886e38  # the lowest float32
ATTRIBUTE = "attribute."  # before the name of a user attribute that is an input
OF_VALUES = "attribute_offsets."  # likewise, where users have several values, or none
TYPES: dict[str, tuple[str, ...]] = {
    "item_ids": ("BYTES", "INT64"),
    "offsets": ("INT64", "INT32"),
    "ages": ("FP32", "FP64"),
    "k": ("INT64", "INT32"),
    "exclude_seen": ("BOOL",),
    "denied_items": ("BYTES", "INT64"),
    "denied_offsets": ("INT64", "INT32"),
    "allowed_items": ("BYTES", "INT64"),
    "allowed_offsets": ("INT64", "INT32"),
}
PYTHON: dict[str, type | tuple[type, ...]] = {
    "BYTES": str,
    "INT64": int,
    "INT32": int,
    "FP32": (int, float),
    "FP64": (int, float),
    "BOOL": bool,
}


class TensorIn(BaseModel):
    """An input of a request."""

    model_config = ConfigDict(strict=True)

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class TensorOut(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Inference(BaseModel):
    """The body of POST /v2/models/NAME/infer."""

    id: str | None = None
    inputs: list[TensorIn]
    outputs: list[TensorOut] = []
    parameters: dict[str, Any] = {}


def metadata(opened: Opened, loaded: Sequence[str]) -> dict[str, Any]:
    """What a model takes and gives."""

    def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": list(shape)}

    values = [tensor(ATTRIBUTE + name, "BYTES", -1) for name in opened.bundle.fields]
    offsets = [tensor(OF_VALUES + name, "INT64", -1) for name in opened.bundle.fields]
    return {
        "name": opened.name,
        "versions": list(loaded),
        "platform": "pytorch_libtorch",
        "inputs": [*(tensor(name, TYPES[name][0], -1) for name in TYPES), *values, *offsets],
        "outputs": [tensor("items", "BYTES", -1, -1), tensor("scores", "FP32", -1, -1)],
    }


def inference(body: bytes) -> Inference:
    """Reads a body.

    Raises:
        RequestError: it is not what it must be.
    """
    try:
        return Inference.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(refusal(error, body, Inference)) from None


def questions_of(bundle: Bundle, said: Inference, limits: Limits) -> list[Question]:
    """One question for each user of a request.

    Raises:
        RequestError: an input is missing, unknown or breaks its rule.
    """
    tensors = _by_name(bundle, said.inputs)
    if "item_ids" not in tensors:
        raise RequestError("the input item_ids is missing")
    events, ages = tensors["item_ids"].data, _data(tensors, "ages")
    ends = _ends(tensors, "offsets", len(events))
    num_users = len(ends) - 1
    refuse_more("users", num_users, limits.max_users)
    if ages and len(ages) != len(events):
        raise RequestError(f"ages must be as many as item_ids, {len(events)}, got {len(ages)}")
    denied = _lists_of(bundle, tensors, "denied", num_users, limits)
    allowed: Sequence[list[int] | None] = [None] * num_users
    if "allowed_items" in tensors:
        allowed = _lists_of(bundle, tensors, "allowed", num_users, limits)
    values = _attributes(tensors, num_users)
    k, seen = checked_k(bundle, _one(said, tensors, "k", 10), limits), bundle.policy["exclude_seen"]
    questions = []
    for user in range(num_users):
        own = slice(ends[user], ends[user + 1])
        refuse_more("item_ids of a user", own.stop - own.start, limits.max_events)
        indices = _indices(bundle, "item_ids", events[own])
        known = [place for place, index in enumerate(indices) if index >= 0]
        own_ages = ages[own] if ages else None
        questions.append(
            Question(
                bundle=bundle,
                items=[indices[place] for place in known],
                ages=None if own_ages is None else [_age(own_ages[place]) for place in known],
                attributes=values_of(
                    bundle, {name: row[user] for name, row in values.items()}, limits
                ),
                k=k,
                exclude_seen=_one(said, tensors, "exclude_seen", seen),
                denied=denied[user],
                allowed=allowed[user],
                num_unknown=len(indices) - len(known),
            )
        )
    return questions


def answer(opened: Opened, said: Inference, ranked: Sequence[Ranked], k: int) -> dict[str, Any]:
    """The body of a response: items as the request spelled them, and scores."""
    as_text = next(one for one in said.inputs if one.name == "item_ids").datatype == "BYTES"
    ids = opened.bundle.item_ids
    items: list[Any] = []
    scores: list[float] = []
    for one in ranked:
        missing = k - len(one.items)
        found: list[Any] = [ids[item].as_py() for item in one.items] if as_text else one.items
        items += [*found, *([""] if as_text else [-1]) * missing]
        scores += [*one.scores, *[NO_SCORE] * missing]
    shape = [len(ranked), k]
    outputs: list[dict[str, Any]] = [
        {
            "name": "items",
            "datatype": "BYTES" if as_text else "INT64",
            "shape": shape,
            "data": items,
        },
        {"name": "scores", "datatype": "FP32", "shape": shape, "data": scores},
    ]
    wanted = [one.name for one in said.outputs]
    for name in wanted:
        if name not in ("items", "scores"):
            raise RequestError(f"there is no output {name[:100]!r}; there are items and scores")
    told: dict[str, Any] = {"model_name": opened.name, "model_version": opened.version}
    if said.id is not None:
        told["id"] = said.id
    return {**told, "outputs": [one for one in outputs if not wanted or one["name"] in wanted]}


def _by_name(bundle: Bundle, inputs: Sequence[TensorIn]) -> dict[str, TensorIn]:
    tensors: dict[str, TensorIn] = {}
    attributes = {ATTRIBUTE + name: ("BYTES",) for name in bundle.fields} | {
        OF_VALUES + name: TYPES["offsets"] for name in bundle.fields
    }
    for one in inputs:
        types = TYPES.get(one.name, attributes.get(one.name))
        if types is None:
            known = ", ".join([*TYPES, *attributes])
            raise RequestError(f"there is no input {one.name[:100]!r}; there are {known}")
        if one.name in tensors:
            raise RequestError(f"the input {one.name} is given twice")
        if one.datatype not in types:
            raise RequestError(f"{one.name} must be {' or '.join(types)}, got {one.datatype[:20]}")
        if one.shape not in ([len(one.data)], [1, len(one.data)]):
            raise RequestError(
                f"{one.name}: its shape must be [{len(one.data)}], the number of its data"
            )
        kind = PYTHON[one.datatype]
        for value in one.data:
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise RequestError(f"{one.name}: its data must be {one.datatype}")
        tensors[one.name] = one
    return tensors


def _lists_of(
    bundle: Bundle,
    tensors: Mapping[str, TensorIn],
    name: str,
    num_users: int,
    limits: Limits,
) -> list[list[int]]:
    """Known item indices of each user, from the inputs NAME_items and NAME_offsets."""
    items = _data(tensors, f"{name}_items")
    ends = _ends(tensors, f"{name}_offsets", len(items), num_users)
    for start, stop in pairwise(ends):
        refuse_more(f"{name}_items of a user", stop - start, limits.max_events)
    return [
        distinct(_indices(bundle, f"{name}_items", items[start:stop]))
        for start, stop in pairwise(ends)
    ]


def _data(tensors: Mapping[str, TensorIn], name: str) -> list[Any]:
    return tensors[name].data if name in tensors else []


def _ends(
    tensors: Mapping[str, TensorIn], name: str, total: int, num_users: int | None = None
) -> list[int]:
    """Offsets that begin at 0, never fall and end at `total`; absent: one user owns everything."""
    ends = _data(tensors, name)
    if not ends:
        if not total and num_users is not None:
            return [0] * (num_users + 1)
        if num_users not in (None, 1):
            raise RequestError(f"the input {name} is missing, and there is more than one user")
        return [0, total]
    if num_users is not None and len(ends) != num_users + 1:
        raise RequestError(f"{name} must have users + 1 = {num_users + 1} entries, got {len(ends)}")
    falls = any(after < before for before, after in pairwise(ends))
    if ends[0] != 0 or ends[-1] != total or falls:
        raise RequestError(f"{name} must start at 0, never fall and end at {total}")
    return ends


def _attributes(tensors: Mapping[str, TensorIn], num_users: int) -> dict[str, list[list[str]]]:
    """Attribute -> the values of each user: one, or by offsets all; "" is not known."""
    found: dict[str, list[list[str]]] = {}
    for name, one in tensors.items():
        attribute = name.removeprefix(ATTRIBUTE)
        offsets = OF_VALUES + attribute
        if name.startswith(OF_VALUES) and ATTRIBUTE + name.removeprefix(OF_VALUES) not in tensors:
            raise RequestError(f"{name} is given, and {ATTRIBUTE}... of its values is missing")
        if not name.startswith(ATTRIBUTE):
            continue
        if offsets in tensors:
            ends = _ends(tensors, offsets, len(one.data), num_users)
            found[attribute] = [one.data[start:stop] for start, stop in pairwise(ends)]
        elif len(one.data) != num_users:
            raise RequestError(
                f"{name} needs {num_users} values, got {len(one.data)}; {offsets} says which are "
                "whose where users have several"
            )
        else:
            found[attribute] = [[value] for value in one.data]
        found[attribute] = [[value for value in row if value != ""] for row in found[attribute]]
    return found


def _one(said: Inference, tensors: Mapping[str, TensorIn], name: str, default: Any) -> Any:
    """A single value, as an input of its own or as a parameter of the request."""
    if name in tensors:
        if len(tensors[name].data) != 1:
            raise RequestError(f"{name} must have one value, got {len(tensors[name].data)}")
        return tensors[name].data[0]
    value = said.parameters.get(name, default)
    if type(value) is not type(default):
        raise RequestError(f"{name} must be {type(default).__name__}")
    return value


def _indices(bundle: Bundle, name: str, items: Sequence[Any]) -> list[int]:
    """Item indices of ids, -1 for one that is not known; or what are indices already.

    Raises:
        RequestError: an index is none of the catalog, which model.pt refuses too.
    """
    if items and isinstance(items[0], str):
        return bundle.indices_of(items)
    for item in items:
        if not 0 <= item < bundle.num_items:
            raise RequestError(
                f"{name} must lie in [0, {bundle.num_items}), got {item}; leave out what the "
                "bundle does not know"
            )
    return list(items)


def _age(value: float) -> float:
    if not 0.0 <= value < float("inf"):
        raise RequestError("ages must be finite and at least 0 days")
    return value
