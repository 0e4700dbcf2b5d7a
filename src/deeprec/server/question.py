"""What a request may say, checked before it can cost anything, as a question to a bundle."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from deeprec.errors import did_you_mean
from deeprec.serve import SECONDS_PER_DAY, Bundle, RequestError, indices_of_values
from deeprec.server.batcher import Question

Event = tuple[str, FiniteFloat]  # item id, seconds since 1970


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; a bundle's own limits hold besides."""

    max_events: int  # of one history, and denied items
    max_users: int
    max_k: int


class Asked(BaseModel):
    """The body of POST /recommend."""

    model_config = ConfigDict(extra="forbid", strict=True)

    items: list[str] | list[Event]  # oldest first; with times in any order
    k: int = 10
    exclude_seen: bool | None = None  # None: as the bundle's policy says
    denied: list[str] = []
    allowed: list[str] | None = None  # the only ones that may be answered; None: all
    attributes: dict[str, str | list[str] | None] = {}
    now: FiniteFloat | None = None  # seconds since 1970; None: the present


def asked(body: bytes) -> Asked:
    """Reads a body.

    Raises:
        RequestError: it is not what it must be; the place and the rule are named.
    """
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        said = refusal(error, body, Asked)
        if said.startswith("items."):
            raise RequestError(
                "items must be item ids (text), oldest first, or pairs [item id, seconds since "
                "1970] throughout"
            ) from None
        raise RequestError(said) from None


def refusal(error: ValidationError, body: bytes, kind: type[BaseModel]) -> str:
    """The place of the first mistake of a body and its rule, or the key that should be another."""
    first = error.errors(include_url=False, include_input=False)[0]
    if len(first["loc"]) == 1 and first["type"] in ("missing", "extra_forbidden"):
        for key in json.loads(body):
            if key not in kind.model_fields:
                near = did_you_mean(key[:100], kind.model_fields)
                return f"there is no key {key[:100]!r}; {near}"
    place = ".".join(str(one) for one in first["loc"]) or "the body"
    return f"{place}: {first['msg']}"


def question_of(bundle: Bundle, said: Asked, limits: Limits) -> Question:
    """The question in the indices of a bundle; unknown items are left out and counted.

    Raises:
        RequestError: it asks for more than may be, or of what the bundle does not know.
    """
    refuse_more("items", len(said.items), limits.max_events)
    refuse_more("denied", len(said.denied), limits.max_events)
    refuse_more("allowed", len(said.allowed or []), limits.max_events)
    ids, times = _in_order(said.items)
    indices = bundle.indices_of(ids)
    known = [place for place, index in enumerate(indices) if index >= 0]
    ages = None
    if times is not None:
        now = time.time() if said.now is None else said.now
        ages = [max(now - times[place], 0.0) / SECONDS_PER_DAY for place in known]
    return Question(
        bundle=bundle,
        items=[indices[place] for place in known],
        ages=ages,
        attributes=values_of(bundle, said.attributes, limits),
        k=checked_k(bundle, said.k, limits),
        exclude_seen=bundle.policy["exclude_seen"]
        if said.exclude_seen is None
        else said.exclude_seen,
        denied=distinct(bundle.indices_of(said.denied)),
        allowed=None if said.allowed is None else distinct(bundle.indices_of(said.allowed)),
        num_unknown=len(ids) - len(known),
    )


def distinct(indices: Sequence[int]) -> list[int]:
    """Known item indices, each once.

    Example:
        >>> distinct([5, -1, 2, 5])
        [2, 5]
    """
    return sorted({*indices} - {-1})


def _in_order(items: Sequence[str] | Sequence[Event]) -> tuple[list[str], list[float] | None]:
    """Item ids, oldest first, and their times, if there are any."""
    if not items or isinstance(items[0], str):
        return [str(one) for one in items], None
    events = sorted(items, key=lambda event: event[1])
    return [str(one[0]) for one in events], [float(one[1]) for one in events]


def values_of(
    bundle: Bundle, said: Mapping[str, str | list[str] | None], limits: Limits
) -> dict[str, list[int]]:
    """Attribute -> indices of its values; a value that is not known is left out."""
    found = {}
    for name, value in said.items():
        if name not in bundle.vocabularies:
            raise RequestError(
                f"attribute {name[:100]!r} is not known; this bundle takes "
                f"{', '.join(bundle.fields) or 'none'}"
            )
        if isinstance(value, list):
            refuse_more(f"attributes.{name[:100]}", len(value), limits.max_events)
        found[name] = indices_of_values(bundle.vocabularies[name], value)
    return found


def checked_k(bundle: Bundle, k: int, limits: Limits) -> int:
    """The number of recommendations, if so many may be asked for."""
    most = min(limits.max_k, bundle.policy["limits"]["max_k"])
    if not 1 <= k <= most:
        raise RequestError(f"k must lie in [1, {most}], got {k}")
    return k


def refuse_more(name: str, number: int, most: int) -> None:
    """Raises where there are more than may be."""
    if number > most:
        raise RequestError(f"{name}: at most {most} in one request, got {number}")
