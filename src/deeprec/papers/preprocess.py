"""preprocess.json: what of an event log makes a history, for those who make them in production."""

from collections.abc import Mapping
from typing import Any

from deeprec.data.store import Prepared

SELECTING = ("kinds", "minimum_value", "first_time", "last_time", "drop_duplicates")


def preprocess(prepared: Prepared) -> dict[str, Any]:
    """How the histories came about that the model has learned from, as the prepared folder tells.

    Example:
        >>> events_kept({"kinds": ["purchase"], "minimum_value": None, "max_history": 50})
        {'kinds': ['purchase']}
    """
    data: Mapping[str, Any] = prepared.manifest.get("config", {}).get("data", {})
    filters: Mapping[str, Any] = data.get("filters", {})
    return {
        "read_by": str(data["_target_"]).rpartition(".")[2] if "_target_" in data else None,
        "events_kept": events_kept(filters),
        "longest_training_history": filters.get("max_history"),
        "item_ids": "text, compared byte by byte with item_id of catalog.parquet and never "
        "normalised; whole numbers as their digits; an empty text is none",
        "events_without_item_or_time": "left out",
        "order": "oldest first; at one time by item_id, then kind, value and price",
        "repeats": "every event counts; what becomes of an item that stands twice is in the model",
        "times": "seconds since 1970-01-01 UTC, fractions cut off; ages are days of 86,400 of them",
        "unknown": "null: nothing of it was recorded with the prepared folder",
    }


def events_kept(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Of these filters, those that decide which events a history has."""
    return {name: filters[name] for name in SELECTING if filters.get(name) not in (None, False)}
