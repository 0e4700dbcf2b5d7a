"""Claim: what the sampled softmax costs in the quality of lists, after equal CPU seconds.

The same network is trained with the exact softmax, and with the sampled one with shared targets and
with own targets, on generated histories of 20,000 users in 400 tastes, of 20,000 and of 100,000
items. Each is trained for the same CPU seconds on one thread; making the lists that are judged is
not counted. Nothing is tuned: all have the defaults, except for batches of 512 and a constant
learning rate.

    python benchmarks/run.py equal_minutes
"""

import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch
from generated import judged_folder
from ours import OurSteps
from page import Goal, Measured, show
from sized import sized

from deeprec.data.store import Prepared
from deeprec.trainer.validation import validate

USERS, TASTES = sized((20_000, 400), quick=(400, 8))
Row = dict[str, Any]
SECONDS_OF: dict[int, tuple[float, ...]] = sized(  # of a catalog's items: when lists are judged
    {20_000: (10.0, 20.0, 40.0, 60.0), 100_000: (30.0, 60.0, 120.0, 240.0)},
    quick={5_000: (0.1, 0.2), 8_000: (0.1, 0.2)},
)
EXACT = "exact softmax"
FORMS = {
    EXACT: ("loss=softmax",),
    "sampled softmax": ("loss=sampled_softmax",),
    "sampled softmax, own targets": ("loss=sampled_softmax", "loss.shared_targets=false"),
}
DATA = (
    f"data.num_users={USERS}",
    "data.events_per_user=75",
    f"data.num_tastes={TASTES}",
    "data.repeat_share=0",
    "split=random_fraction",
)
TRAINING = (
    "model.hidden_dims=[256]",
    "optimizer.lr=0.003",
    "optimizer.decay=0",
    "trainer.batch_users=512",
    "trainer.validation_users=2000",
    "trainer.prefetch_batches=0",
    "trainer.threads=1",
)


def curve(prepared: Prepared, words: tuple[str, ...], marks: tuple[float, ...]) -> list[Row]:
    """Steps, wall seconds and ndcg@100 on the validation users after each of these CPU seconds."""
    ours = OurSteps(prepared, [*TRAINING, *words])
    found: list[Row] = []
    cpu_s = wall_s = 0.0
    for step in count(1):
        started = time.process_time(), time.perf_counter()
        ours.step()
        cpu_s += time.process_time() - started[0]
        wall_s += time.perf_counter() - started[1]
        if cpu_s >= marks[len(found)]:
            mark = {"CPU s of training": marks[len(found)], "wall s of training": wall_s}
            found.append({**mark, "steps": step, "ndcg@100": judged(ours)})
        if len(found) == len(marks):
            return found
    raise AssertionError("time ends")


def judged(ours: OurSteps) -> float:
    training = ours.training
    training.eval()
    batches = ours.work.data.validation
    device = torch.device("cpu")
    reached = validate(training.recommender, batches, exclude_seen=True, device=device)
    training.train()
    assert reached is not None
    return reached


def measure() -> Measured:
    found = {items: curves(items, marks) for items, marks in SECONDS_OF.items()}
    return {
        "claim": "The sampled softmax is ahead in the first seconds of a small catalog and the "
        "exact one at its end; in a larger one the sampled one stays ahead for longer.",
        "conditions": {"users": USERS, "tastes": TASTES, "threads": 1, "width": 256},
        "rows": [{"items": items, **row} for items, rows in found.items() for row in rows],
        "goals": [
            goal(items, loss, at_end)
            for items, rows in found.items()
            for at_end in [{row["loss"]: row for row in rows}]  # the last of each
            for loss in at_end
            if loss != EXACT
        ],
        "plots": [
            {
                "kind": "line",
                "x": "CPU s of training",
                "y": ["ndcg@100"],
                "split": "loss",
                "title": f"{items:,} items: ndcg@100 of validation users after equal CPU seconds",
                "rows": rows,
            }
            for items, rows in found.items()
        ],
    }


def curves(items: int, marks: tuple[float, ...]) -> list[Row]:
    """The curve of each loss on one set of histories of that many items."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = judged_folder(Path(folder) / "prepared", *DATA, f"data.num_items={items}")
        return [
            {"loss": name, **row}
            for name, words in FORMS.items()
            for row in curve(prepared, words, marks)
        ]


def goal(items: int, loss: str, at_end: dict[str, Row]) -> Goal:
    seconds = f"{at_end[loss]['CPU s of training']:g} CPU s"
    return {
        "what": f"{items:,} items, {loss}: ndcg@100 after {seconds} over that of the exact loss",
        "goal": 1.0,
        "reached": at_end[loss]["ndcg@100"] / at_end[EXACT]["ndcg@100"],
        "better": "higher",
        "unit": "of the exact",
    }


if __name__ == "__main__":
    show(measure())
