"""The protocol card: under which rules a part of a prepared folder is judged, and for whom.

It stands beside every number; two reports compare only where their cards agree.
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprec.data.store import PartName, Prepared

SEEN = {
    True: "items of the user's own history are left out of the lists, and are not relevant",
    False: "items of the user's own history may be recommended, and are relevant if taken again",
}


def card(prepared: Prepared, part: PartName, *, exclude_seen: bool) -> dict[str, Any]:
    """What was asked, of which data. Plain values, for JSON."""
    unknown = unknown_events(prepared, part) * may_be_judged(prepared, part)
    instants = {name: moment(prepared.instant(name)) for name in ("validation", "holdout")}
    return {
        "data": prepared.identity,
        "split": prepared.manifest.get("split"),
        "instants": instants,
        "history": "train" if part == "validation" else "train and validation",
        "relevant": f"distinct items of the catalog that the user took in the {part}",
        "candidates": f"the whole catalog, {prepared.num_items} items, none sampled",
        "exclude_seen": exclude_seen,
        "seen": SEEN[exclude_seen],
        "ties": "by lower item index; a file of recommendations is judged in its own order",
        "nan": "an error, never ranked",
        "cold": {
            "rule": "an item outside the catalog (new in the holdout, or left out by prepare) "
            "cannot be recommended, and is in no denominator",
            f"events in the {part}": int(unknown.sum()),
            "users with such events": int((unknown > 0).sum()),
        },
    }


def users(
    prepared: Prepared,
    part: PartName,
    scored: npt.NDArray[np.int64],
    asked: npt.NDArray[np.int64],
    *,
    exclude_seen: bool,
) -> dict[str, Any]:
    """How many users were scored, and why others who might have been were not.

    Args:
        prepared: the prepared folder.
        part: what was judged on.
        scored: int64, rows of the users who were.
        asked: int64, rows of the users who were drawn to be judged.
        exclude_seen: whether items of the history were relevant.
    """
    empty = may_be_judged(prepared, part) & (prepared.parts[part].lengths == 0)
    unknown = unknown_events(prepared, part) > 0
    reasons = {
        f"with nothing in the {part}": int((empty & ~unknown).sum()),
        f"with only items unknown to the catalog in the {part}": int((empty & unknown).sum()),
    }
    if exclude_seen:
        seen = f"with only items in the {part} that they had before"
        reasons[seen] = len(np.setdiff1d(asked, scored))
    if not_drawn := len(prepared.judged_users(part)) - len(asked):
        reasons["not drawn (max_users)"] = not_drawn
    return {"scored": len(scored), "dropped": sum(reasons.values()), "reasons": reasons}


def may_be_judged(prepared: Prepared, part: PartName) -> npt.NDArray[np.bool_]:
    """Users whose role lets them be judged on `part`, if they have anything there: bool [U]."""
    return np.isin(prepared.roles, ["all", part])


def unknown_events(prepared: Prepared, part: PartName) -> npt.NDArray[np.int64]:
    """Events of the part on items the catalog does not hold, 0 where not counted: int64 [U]."""
    name = f"{part}_unknown"
    if name not in prepared.users.column_names:
        return np.zeros(prepared.num_users, np.int64)
    unknown: npt.NDArray[np.int64] = prepared.users[name].to_numpy()
    return unknown


def moment(instant: int | None) -> str | None:
    """The instant in words, UTC."""
    return None if instant is None else datetime.fromtimestamp(instant, UTC).isoformat()
