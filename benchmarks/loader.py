"""Claim: making batches never holds up a step; one core makes 5 million interactions a second.

`Batches` on a prepared folder, one thread, CPU seconds: reading the memory-mapped histories, making
the target and the batch; and the same with what is arranged for the step, beside that step on the
same batches (trainer/module.py). Both take turns in one process.
"""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from generated import prepared_folder
from ours import work_of
from page import Goal, Measured, show
from sized import sized

from deeprec.data.dataset import Batches
from deeprec.data.store import Prepared
from deeprec.trainer.module import Training

USERS, EVENTS, ITEMS = sized((512, 70, 27_278), quick=(8, 10, 6_000))
FOLDER_USERS, ROUNDS = sized((30_000, 60), quick=(80, 3))
STEPS = {
    "softmax, width 256": ("loss=softmax", "model.hidden_dims=[256]"),
    "sampled softmax, width 64": (
        "loss=sampled_softmax",
        "loss.shared_targets=false",
        "model.hidden_dims=[64]",
        "optimizer=rowwise_adagrad",
    ),
}


def made(path: Path, words: tuple[str, ...]) -> tuple[Batches, Training]:
    common = (
        f"trainer.batch_users={USERS}",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.prefetch_batches=0",
    )
    work, training = work_of(Prepared(path), [*common, *words])
    return work.data.training, training


def turn(batches: Batches, training: Training, position: int) -> tuple[int, float, float, float]:
    """Interactions, and CPU milliseconds of batch, arranged batch and step."""
    started = time.process_time()
    batch = batches.batch(0, position)
    made_batch = time.process_time()
    finished = batches.finished(0, position)
    arranged = time.process_time()
    training.training_step(finished, 0)
    stepped = time.process_time()
    return (
        len(batch.history.values),
        1000 * (made_batch - started),
        1000 * (arranged - made_batch),
        1000 * (stepped - arranged),
    )


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
            batch, arranged, stepped = (statistics.median(t[i] for t in turns) for i in (1, 2, 3))
            rate, rate_arranged = (
                statistics.median(t[0] / t[i] for t in turns) / 1000 for i in (1, 2)
            )
            rows.append(
                {
                    "step": name,
                    "CPU ms of a batch": round(batch, 2),
                    "million interactions a second": round(rate, 2),
                    "CPU ms of a batch, arranged": round(arranged, 2),
                    "million a second, arranged": round(rate_arranged, 2),
                    "CPU ms of the step": round(stepped, 2),
                }
            )
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
                "y": ["CPU ms of a batch", "CPU ms of a batch, arranged", "CPU ms of the step"],
                "title": "Making a batch, and the step that takes it, CPU ms",
            }
        ],
    }


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    shares: list[Goal] = [
        {
            "what": f"CPU of an arranged batch over that of the step: {row['step']}",
            "goal": 1.0,
            "reached": row["CPU ms of a batch, arranged"] / row["CPU ms of the step"],
            "better": "lower",
            "unit": "times",
        }
        for row in rows
    ]
    return [
        {
            "what": "interactions of batches, on one core",
            "goal": 5.0,
            "reached": max(row["million interactions a second"] for row in rows),
            "better": "higher",
            "unit": "million a second",
        },
        *shares,
    ]


if __name__ == "__main__":
    show(measure())
