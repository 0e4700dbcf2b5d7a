"""Claim: making batches never holds up a step; one core makes 5 million interactions a second.

`Batches` on a prepared folder, one thread, CPU seconds: reading the memory-mapped histories, making
the target and the batch; and the same with what is arranged for the step, beside that step on the
same batches (trainer/module.py). Both take turns in one process.
"""

import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from generated import prepared_folder
from ours import work_of
from page import Goal, Measured, show
from sized import sized
from turns import Spent, in_ms, spent

from deeprec.data.dataset import Batches
from deeprec.data.store import Prepared
from deeprec.trainer.module import Training

USERS, EVENTS, ITEMS = sized((512, 70, 27_278), quick=(8, 10, 6_000))
FOLDER_USERS, ROUNDS = sized((30_000, 60), quick=(80, 3))
BATCH, ARRANGED, STEP = "a batch", "a batch, arranged", "the step"
STEPS = {
    "softmax, width 256": ("loss=softmax", "model.hidden_dims=[256]"),
    "sampled softmax, width 64": (
        "loss=sampled_softmax",
        "loss.shared_targets=false",
        "model.hidden_dims=[64]",
        "optimizer=rowwise_adagrad",
    ),
}


class Turn(NamedTuple):
    interactions: int
    batch: Spent
    arranged: Spent  # the same batch, with what is made of it for the step
    step: Spent


def made(path: Path, words: tuple[str, ...]) -> tuple[Batches, Training]:
    common = (
        f"trainer.batch_users={USERS}",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.prefetch_batches=0",
    )
    work, training = work_of(Prepared(path), [*common, *words])
    return work.data.training, training


def turn(batches: Batches, training: Training, position: int) -> Turn:
    made = spent(partial(batches.batch, 0, position))
    arranged = spent(partial(batches.finished, 0, position))
    finished = batches.finished(0, position)
    step = spent(partial(training.training_step, finished, 0))
    return Turn(len(batches.batch(0, position).history.values), made, arranged, step)


def measure() -> Measured:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        path = prepared_folder(
            Path(folder) / "prepared",
            num_users=FOLDER_USERS,
            num_items=ITEMS,
            events_per_user=EVENTS,
        )
        for name, words in STEPS.items():
            batches, training = made(path, words)
            for position in range(3):
                turn(batches, training, position)
            turns = [turn(batches, training, 3 + n % (len(batches) - 4)) for n in range(ROUNDS)]
            rows += rows_of(name, turns)
    return {
        "claim": "One core makes batches faster than any training step uses them.",
        "conditions": {
            "users in a batch": USERS,
            "events a user, mean": EVENTS,
            "items": f"{ITEMS:,}",
            "users of the folder": f"{FOLDER_USERS:,}",
            "threads": 1,
            "rounds": ROUNDS,
        },
        "rows": rows,
        "goals": goals(rows),
        "plots": [
            {
                "kind": "bar",
                "x": "step",
                "y": ["CPU ms"],
                "split": "what",
                "title": "Making a batch, and the step that takes it, CPU ms",
            }
        ],
    }


def rows_of(name: str, turns: list[Turn]) -> list[dict[str, Any]]:
    """The batch, the arranged batch, and the step that takes it."""
    taken = {
        BATCH: [each.batch for each in turns],
        ARRANGED: [each.arranged for each in turns],
        STEP: [each.step for each in turns],
    }
    return [
        {
            "step": name,
            "what": what,
            **in_ms(seconds),
            "million interactions a CPU second": statistics.median(
                turn.interactions / each.cpu / 1e6 for turn, each in zip(turns, seconds)
            ),
        }
        for what, seconds in taken.items()
    ]


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    found = {(row["step"], row["what"]): row for row in rows}
    shares: list[Goal] = [
        {
            "what": f"CPU of an arranged batch over that of the step: {name}",
            "goal": 1.0,
            "reached": found[name, ARRANGED]["CPU ms"] / found[name, STEP]["CPU ms"],
            "better": "lower",
            "unit": "times",
        }
        for name in STEPS
    ]
    return [
        {
            "what": "interactions of batches, on one core",
            "goal": 5.0,
            "reached": max(
                found[name, BATCH]["million interactions a CPU second"] for name in STEPS
            ),
            "better": "higher",
            "unit": "million a second",
        },
        *shares,
    ]


if __name__ == "__main__":
    show(measure())
