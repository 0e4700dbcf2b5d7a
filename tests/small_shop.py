"""A prepared folder small enough to train on in a second, and configs that train on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from deeprec import config
from deeprec.data import store
from deeprec.data.store import SECONDS_PER_DAY, Events
from deeprec.prepare import prepare
from deeprec.verb import PrepareConfig, TrainConfig

NUM_USERS, NUM_ITEMS, DAYS = 60, 24, 200


def _part(first_day: int, days: int, events_a_user: int, seed: int) -> Events:
    """Two tastes: a user of even number takes items of the lower half, mostly."""
    draw = np.random.default_rng(seed)
    offsets = np.arange(NUM_USERS + 1) * events_a_user
    users = np.repeat(np.arange(NUM_USERS), events_a_user)
    low = (users % 2 == 0) ^ (draw.random(len(users)) < 0.1)
    items = draw.integers(0, NUM_ITEMS // 2, len(users)) + np.where(low, 0, NUM_ITEMS // 2)
    days_of = np.sort(draw.integers(first_day, first_day + days, (NUM_USERS, events_a_user)))
    return Events(offsets, items.astype(np.int32), times=days_of.ravel() * SECONDS_PER_DAY)


def make(
    path: Path,
    *,
    repeats: bool = True,
    validated: bool = True,
    attributes: bool = True,
    counts: Mapping[str, int] | None = None,
) -> Path:
    train = _part(0, DAYS, 40, 0)
    owned = [np.unique(train.items[a:b]) for a, b in zip(train.offsets, train.offsets[1:])]
    bands = ["old" if i % 3 else None for i in range(NUM_USERS)]
    store.write(
        path,
        items=pa.table(
            {
                "item_id": [f"i{i:02}" for i in range(NUM_ITEMS)],
                "popularity": np.bincount(np.concatenate(owned), minlength=NUM_ITEMS),
            }
        ),
        users=pa.table(
            {
                "user_id": [f"u{i:02}" for i in range(NUM_USERS)],
                "role": ["all"] * NUM_USERS,
                **({"age.band": bands} if attributes else {}),
            }
        ),
        vocabularies={"age.band": ["old"]} if attributes else {},
        parts={
            "train": [train],
            "validation": [_part(DAYS, 20, 5 if validated else 0, 1)],
            "holdout": [_part(DAYS + 20, 20, 5, 2)],
        },
        contract={},
        manifest={
            "repeats": repeats,
            "counts": counts or {},
            "instants": {
                "train": None,
                "validation": DAYS * SECONDS_PER_DAY,
                "holdout": (DAYS + 20) * SECONDS_PER_DAY,
            },
        },
    )
    return path


def events_csv(path: Path) -> Path:
    """The training events of the shop as text: user, item, time."""
    part = _part(0, DAYS, 10, 0)
    users = np.repeat(np.arange(NUM_USERS), part.lengths)
    assert part.times is not None
    rows = zip(users, part.items, part.times, strict=True)
    lines = [f"u{user:02},i{item:02},{1_600_000_000 + time}" for user, item, time in rows]
    path.write_text("\n".join(["user,item,time", *lines]) + "\n")
    return path


def of_tastes(path: Path) -> Path:
    """Generated events of people of four tastes, enough of them to stand out from popularity."""
    shop = "num_users=300", "num_items=80", "num_tastes=4", "events_per_user=10", "zipf=0.3"
    words = ["data=synthetic", f"output_dir={path}", *(f"data.{word}" for word in shop)]
    return prepare(cast(PrepareConfig, config.compose("prepare", words)))


def settings(prepared: Path, run: Path, *words: str) -> TrainConfig:
    """The ordinary config of `deeprec train`, small."""
    own_model = any(word.startswith("model=") for word in words)
    small = (
        *([] if own_model else ["model.hidden_dims=[8]"]),
        "target=after_cut",
        "target.window_days=20",
        "optimizer.lr=0.02",
        "trainer.batch_users=16",
        "trainer.max_epochs=4",
        "logger.wandb=off",
    )
    return composed(prepared, run, *small, *words)


def composed(prepared: Path, run: Path, *words: str) -> TrainConfig:
    """A config of `deeprec train` of these words alone."""
    given = (f"prepared={prepared}", f"output_dir={run}", *words)
    return cast(TrainConfig, config.compose("train", given))
