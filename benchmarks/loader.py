"""Claim: making batches never holds up a step, and one core makes 5 million interactions a second.

`Batches` on a prepared folder, one thread, CPU seconds: reading the memory-mapped histories, the
target, and the batch; and, with what is arranged for the step, against that step on the same
batches (trainer/module.py). Both in turns in one process.
"""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from catalog_size import Alone
from generated import prepared_folder
from page import show

from deeprec.config import compose
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.train import Work

USERS, EVENTS, ITEMS, FOLDER_USERS, ROUNDS = 512, 70, 27_278, 30_000, 60
STEPS = {
    "softmax, width 256": ("loss=softmax", "model.hidden_dims=[256]"),
    "sampled softmax, width 64": (
        "loss=sampled_softmax",
        "loss.shared_targets=false",
        "model.hidden_dims=[64]",
        "optimizer=rowwise_adagrad",
    ),
}


def work(path: Path, words: tuple[str, ...]) -> Work:
    common = (
        f"prepared={path}",
        "output_dir=unused",
        f"trainer.batch_users={USERS}",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.prefetch_batches=0",
    )
    made = Work(compose("train", [*common, *words]), Prepared(path))  # type: ignore[arg-type]
    made.training.__class__ = Alone
    made.training.train()
    return made


def turn(made: Work, position: int) -> tuple[int, float, float, float]:
    """Interactions, and CPU milliseconds of batch, arranged batch and step."""
    started = time.process_time()
    batch = made.data.training.batch(0, position)
    made_batch = time.process_time()
    finished = made.data.training.finished(0, position)
    arranged = time.process_time()
    made.training.training_step(finished, 0)
    stepped = time.process_time()
    times = (made_batch - started, arranged - made_batch, stepped - arranged)
    return len(batch.history.values), *(1000 * taken for taken in times)


def measure() -> dict[str, Any]:
    console.quiet = True
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as folder:
        path = prepared_folder(
            Path(folder) / "prepared",
            num_users=FOLDER_USERS,
            num_items=ITEMS,
            events_per_user=EVENTS,
        )
        for name, words in STEPS.items():
            made = work(path, words)
            for position in range(3):
                turn(made, position)
            turns = [turn(made, 3 + n % (len(made.data.training) - 4)) for n in range(ROUNDS)]
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
    shares = [row["CPU ms of a batch, arranged"] / row["CPU ms of the step"] for row in rows]
    return {
        "claim": "One core makes batches faster than any step uses them.",
        "conditions": {
            "users in a batch": USERS,
            "events a user, mean": EVENTS,
            "items": f"{ITEMS:,}",
            "users of the folder": f"{FOLDER_USERS:,}",
            "threads": 1,
            "rounds": ROUNDS,
        },
        "rows": rows,
        "goals": [
            {
                "what": "interactions of batches, on one core",
                "goal": 5.0,
                "reached": max(row["million interactions a second"] for row in rows),
                "better": "higher",
                "unit": "million a second",
            },
            *(
                {
                    "what": f"CPU of an arranged batch over that of the step: {row['step']}",
                    "goal": 1.0,
                    "reached": share,
                    "better": "lower",
                    "unit": "times",
                }
                for row, share in zip(rows, shares, strict=True)
            ),
        ],
        "plot": {
            "kind": "bar",
            "x": "step",
            "y": ["CPU ms of a batch", "CPU ms of a batch, arranged", "CPU ms of the step"],
        },
    }


if __name__ == "__main__":
    show(measure())
