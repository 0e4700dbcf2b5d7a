"""Claim: what the sampled softmax costs in the quality of lists, after equal CPU seconds.

The same network is trained with the exact softmax, and with the sampled one with shared targets and
with own targets, on generated histories of 20,000 users in 400 tastes, of 20,000 and of 100,000
items. Each is trained for the same CPU seconds on one thread; making the lists that are judged is
not counted. Nothing is tuned: all have the defaults, except for batches of 512. The learning rate
is constant along the curves; one more run of each has a rate that falls as it does by default, over
as many whole epochs as fit the last of these CPU seconds.

    python benchmarks/run.py equal_minutes
"""

import statistics
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import torch
from generated import judged_folder
from ours import OurSteps
from page import Goal, Measured, show
from sized import sized
from turns import spent

from deeprec.data.store import Prepared
from deeprec.trainer.validation import validate

USERS, TASTES = sized((20_000, 400), quick=(400, 8))
Row = dict[str, Any]
SECONDS_OF: dict[int, tuple[float, ...]] = sized(  # of a catalog's items: when lists are judged
    {20_000: (10.0, 20.0, 40.0, 60.0), 100_000: (30.0, 60.0, 120.0, 240.0)},
    quick={5_000: (0.1, 0.2), 8_000: (0.1, 0.2)},
)
EXACT = "exact softmax"
CONSTANT, FALLING = "constant rate", "falling rate"
FIRST = sized(8, quick=1)  # steps whose time says how many epochs fit
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
    "trainer.batch_users=512",
    "trainer.validation_users=2000",
    "trainer.prefetch_batches=0",
    "trainer.threads=1",
)


def curve(prepared: Prepared, words: tuple[str, ...], marks: tuple[float, ...]) -> list[Row]:
    """Steps, wall seconds and ndcg@100 on the validation users after each of these CPU seconds."""
    ours = OurSteps(prepared, [*TRAINING, *words, "optimizer.decay=0"])
    found: list[Row] = []
    cpu_s = wall_s = 0.0
    for step in count(1):
        taken = spent(ours.step)
        cpu_s, wall_s = cpu_s + taken.cpu, wall_s + taken.wall
        if cpu_s >= marks[len(found)]:
            found.append(row(ours, CONSTANT, marks[len(found)], wall_s, step))
        if len(found) == len(marks):
            return found
    raise AssertionError("time ends")


def at_end(prepared: Prepared, words: tuple[str, ...], cpu_s: float) -> Row:
    """The same at the end of a whole run of about so many CPU seconds, whose rate falls."""
    first = OurSteps(prepared, [*TRAINING, *words])
    first.step()  # slower than those after it
    step_s = statistics.median(spent(first.step).cpu for _ in range(FIRST))
    epochs = max(1, round(cpu_s / step_s / len(first.work.data.training)))
    ours = OurSteps(prepared, [*TRAINING, *words, f"trainer.max_epochs={epochs}"])
    steps = epochs * len(first.work.data.training)
    taken = [spent(ours.step) for _ in range(steps)]
    cpu_s, wall_s = (sum(column) for column in zip(*taken))
    return row(ours, FALLING, cpu_s, wall_s, steps)


def row(ours: OurSteps, rate: str, cpu_s: float, wall_s: float, steps: int) -> Row:
    seconds = {"CPU s of training": cpu_s, "wall s of training": wall_s}
    return {"rate": rate, **seconds, "steps": steps, "ndcg@100": judged(ours)}


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
        "rows": [{"items": items, **each} for items, rows in found.items() for each in rows],
        "goals": [goal for items, rows in found.items() for goal in goals(items, rows)],
        "plots": [
            {
                "kind": "line",
                "x": "CPU s of training",
                "y": ["ndcg@100"],
                "split": "loss",
                "title": f"{items:,} items: ndcg@100 of validation users after equal CPU seconds",
                "rows": [each for each in rows if each["rate"] == CONSTANT],
            }
            for items, rows in found.items()
        ],
    }


def curves(items: int, marks: tuple[float, ...]) -> list[Row]:
    """The curve of each loss on one set of histories of that many items."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = judged_folder(Path(folder) / "prepared", *DATA, f"data.num_items={items}")
        return [
            {"loss": name, **found}
            for name, words in FORMS.items()
            for found in (*curve(prepared, words, marks), at_end(prepared, words, marks[-1]))
        ]


def goals(items: int, rows: list[Row]) -> list[Goal]:
    """The sampled losses beside the exact one, at the end of both kinds of runs."""
    found = []
    for rate in (CONSTANT, FALLING):
        at_end = {each["loss"]: each for each in rows if each["rate"] == rate}  # the last of each
        what = (
            f"ndcg@100 after {SECONDS_OF[items][-1]:g} CPU s, {rate}, over that of the exact loss"
        )
        found += [
            Goal(
                what=f"{items:,} items, {loss}: {what}",
                goal=1.0,
                reached=at_end[loss]["ndcg@100"] / at_end[EXACT]["ndcg@100"],
                better="higher",
                unit="of the exact",
            )
            for loss in at_end
            if loss != EXACT
        ]
    return found


if __name__ == "__main__":
    show(measure())
