"""A prepared folder of generated histories, for benchmarks: Zipf popularity, geometric lengths."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from deeprec.config import compose
from deeprec.console import console
from deeprec.data import store
from deeprec.data.store import SECONDS_PER_DAY, Events, Prepared
from deeprec.prepare import prepare
from deeprec.verb import PrepareConfig

DAYS = 365
MINIMUM_EVENTS = 5


def judged_folder(path: Path, *words: str) -> Prepared:
    """What `deeprec prepare data=synthetic` makes of these overrides."""
    console.quiet = True
    config = compose("prepare", ["data=synthetic", *words, f"output_dir={path}"])
    assert isinstance(config, PrepareConfig)
    return Prepared(prepare(config))


def prepared_folder(path: Path, *, num_users: int, num_items: int, events_per_user: int) -> Path:
    """Writes a prepared folder whose users all have a history and whose judged parts are empty."""
    draw = np.random.default_rng(0)
    more = draw.geometric(1 / (1 + events_per_user - MINIMUM_EVENTS), num_users) - 1
    offsets = np.concatenate([[0], np.cumsum(MINIMUM_EVENTS + more)])
    heights = np.cumsum(np.arange(1, num_items + 1, dtype=np.float64) ** -1.0)
    ranks = np.searchsorted(heights, draw.random(offsets[-1]) * heights[-1], side="right")
    place = draw.permutation(num_items).astype(np.int32)  # popular items lie anywhere in a table
    items = place[ranks.clip(max=num_items - 1)]
    times = draw.integers(0, DAYS * SECONDS_PER_DAY, len(items))
    times = times[np.lexsort((times, np.repeat(np.arange(num_users), np.diff(offsets))))]
    nothing = Events(np.zeros(num_users + 1, np.int64), items[:0], times[:0])
    store.write(
        path,
        items=pa.table(
            {
                "item_id": pa.array(np.arange(num_items)).cast(pa.string()),
                "popularity": np.bincount(items, minlength=num_items),
            }
        ),
        users=pa.table(
            {
                "user_id": pa.array(np.arange(num_users)).cast(pa.string()),
                "role": pa.array(["all"]).take(pa.array(np.zeros(num_users, np.int64))),
            }
        ),
        vocabularies={},
        parts={
            "train": [Events(offsets, items, times)],
            "validation": [nothing],
            "holdout": [nothing],
        },
        contract={},
        manifest={
            "repeats": False,
            "instants": dict.fromkeys(store.PARTS) | {"validation": DAYS * SECONDS_PER_DAY},
        },
    )
    return path
