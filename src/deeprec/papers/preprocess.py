"""preprocess.json: what of an event log makes a history, for those who make them in production."""

import inspect
from collections.abc import Mapping
from typing import Any

from deeprec.data.store import Prepared
from deeprec.part import find

SELECTING = ("kinds", "minimum_value", "first_time", "last_time", "drop_duplicates")
NOT_RECORDED = "not recorded"


def preprocess(prepared: Prepared) -> dict[str, Any]:
    """How the histories came about that the model has learned from, as the prepared folder tells.

    Example:
        >>> events_kept({"kinds": ["purchase"], "minimum_value": None, "max_history": 50})
        {'kinds': ['purchase']}
        >>> events_kept({"minimum_value": 0})  # without it, those below are there too
        {'minimum_value': 0}
    """
    return {
        **recorded(prepared.manifest.get("config", {}).get("data", {})),
        "item_ids": "text, compared byte by byte with item_id of catalog.parquet and never "
        "normalised; whole numbers as their digits; an empty text is none",
        "events_without_item_or_time": "left out",
        "order": "oldest first; at one time by item_id, then kind, value and price"
        if prepared.has_times
        else "none was known in training",
        "repeats": "give every event; what becomes of an item that stands twice is in the model",
        "times": "seconds since 1970-01-01 UTC, fractions cut off; ages are days of 86,400 of them"
        if prepared.has_times
        else "training knew none: give none",
        "attributes": {
            name: "any text, by its hash"
            if isinstance(values, Mapping)
            else "one of those in vocabularies.json, or several, or none; another counts as none"
            for name, values in prepared.vocabularies.items()
        },
    }


def recorded(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the part `data` of a prepared folder's config says of its events."""
    if "_target_" not in data:
        names = ("read_by", "reader", "events_kept", "longest_training_history")
        return dict.fromkeys(names, NOT_RECORDED)
    filters: Mapping[str, Any] = data.get("filters", {})
    return {
        "read_by": str(data["_target_"]).rpartition(".")[2],
        "reader": reader(data["_target_"]),
        "events_kept": events_kept(filters) or "all that were read",
        "longest_training_history": filters.get("max_history") or "any",
    }


def reader(target: str) -> str:
    """What the function that read the events says of itself: which of them it leaves out.

    Example:
        >>> reader("deeprec.data.read.online_retail")[-59:]
        'most frequent description; the country is a user attribute.'
    """
    told = (inspect.getdoc(find(target)) or "").partition("\n\nArgs:")[0]
    return " ".join(told.split())


def events_kept(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Of these filters, those that decide which events a history has."""
    given = {name: filters.get(name) for name in SELECTING}
    return {name: one for name, one in given.items() if one is not None and one is not False}
