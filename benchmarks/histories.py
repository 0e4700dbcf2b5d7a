"""Generated histories shaped like those of MovieLens 20M, as a prepared folder and as a matrix."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from deeprec.data.store import Events, Prepared, write

TASTES, OWN_SHARE, ZIPF = 32, 0.5, 1.05


def drawn(num_users: int, num_items: int, mean_items: float, seed: int = 0) -> Events:
    """Distinct items of each user, popular ones oftener, half of them of one of 32 tastes.

    Lengths are geometric. Every item occurs: what nobody drew goes to one user each.
    """
    draw = np.random.default_rng(seed)
    owners = np.repeat(np.arange(num_users), draw.geometric(1.0 / mean_items, num_users))
    taste = draw.integers(0, TASTES, num_users)[owners]
    heights = np.cumsum(np.arange(1, num_items + 1) ** -ZIPF)
    items = np.searchsorted(heights[:-1] / heights[-1], draw.random(len(owners)), side="right")
    own = draw.random(len(owners)) < OWN_SHARE
    items = np.where(own, items // TASTES * TASTES + taste, items) % num_items
    missing = np.setdiff1d(np.arange(num_items), items)
    owners = np.append(owners, draw.integers(0, num_users, len(missing)))
    pairs = np.unique(owners * num_items + np.append(items, missing))
    lengths = np.bincount(pairs // num_items, minlength=num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Events(offsets, (pairs % num_items).astype(np.int32))


def prepared(path: Path, events: Events, num_items: int) -> Prepared:
    """A prepared folder of these users; all of it is for training."""
    nothing = Events(np.zeros_like(events.offsets), events.items[:0])
    write(
        path,
        items=pa.table(
            {
                "item_id": [f"i{item}" for item in range(num_items)],
                "popularity": popularity(events, num_items),
            }
        ),
        users=pa.table(
            {
                "user_id": [f"u{user}" for user in range(events.num_users)],
                "role": ["all"] * events.num_users,
            }
        ),
        vocabularies={},
        parts={"train": [events], "validation": [nothing], "holdout": [nothing]},
        contract={},
        manifest={"repeats": False, "instants": dict.fromkeys(("train", "validation", "holdout"))},
    )
    return Prepared(path)


def popularity(events: Events, num_items: int) -> npt.NDArray[np.int64]:
    """int64 [V]: users that have each item."""
    return np.bincount(events.items, minlength=num_items).astype(np.int64)
