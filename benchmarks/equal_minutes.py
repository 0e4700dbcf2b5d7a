"""Claim: after equal CPU seconds, the exact softmax gives better lists than the sampled one.

The same network is trained with the exact softmax, and with the sampled one with shared targets and
with own targets, on generated histories of 20,000 users and 20,000 items in 400 tastes. Each is
trained for the same CPU seconds on one thread; making the lists that are judged is not counted.
Nothing is tuned: all have the defaults, except for batches of 512 and a constant learning rate.

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

SECONDS = sized((10.0, 20.0, 40.0, 60.0), quick=(0.1, 0.2, 0.3, 0.4))
USERS, ITEMS, TASTES = sized((20_000, 20_000, 400), quick=(400, 5_000, 8))
EXACT = "exact softmax"
FORMS = {
    EXACT: ("loss=softmax",),
    "sampled softmax": ("loss=sampled_softmax",),
    "sampled softmax, own targets": ("loss=sampled_softmax", "loss.shared_targets=false"),
}
DATA = (
    f"data.num_users={USERS}",
    f"data.num_items={ITEMS}",
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


def curve(prepared: Prepared, words: tuple[str, ...]) -> list[float]:
    """ndcg@100 on the validation users after each of `SECONDS`."""
    ours = OurSteps(prepared, [*TRAINING, *words])
    found: list[float] = []
    taken = 0.0
    for _ in count():
        started = time.process_time()
        ours.step()
        taken += time.process_time() - started
        if taken >= SECONDS[len(found)]:
            found.append(judged(ours))
        if len(found) == len(SECONDS):
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
    with tempfile.TemporaryDirectory() as folder:
        prepared = judged_folder(Path(folder) / "prepared", *DATA)
        curves = {name: curve(prepared, words) for name, words in FORMS.items()}
    rows: list[dict[str, Any]] = [
        {"loss": name, "CPU s of training": seconds, "ndcg@100": reached}
        for name, found in curves.items()
        for seconds, reached in zip(SECONDS, found)
    ]
    return {
        "claim": "The sampled softmax is ahead in the first seconds; the exact softmax ends with "
        "better lists.",
        "conditions": {
            "users": USERS,
            "items": ITEMS,
            "tastes": TASTES,
            "threads": 1,
            "width": 256,
        },
        "rows": rows,
        "goals": [goal(name, found[-1], curves[EXACT][-1]) for name, found in curves.items()][1:],
        "plots": [
            {
                "kind": "line",
                "x": "CPU s of training",
                "y": ["ndcg@100"],
                "split": "loss",
                "title": "ndcg@100 of validation users after equal CPU seconds",
            }
        ],
    }


def goal(name: str, reached: float, exact: float) -> Goal:
    return {
        "what": f"{name}: ndcg@100 after {SECONDS[-1]:g} CPU s over that of the exact loss",
        "goal": 1.0,
        "reached": reached / exact,
        "better": "higher",
        "unit": "of the exact",
    }


if __name__ == "__main__":
    show(measure())
