"""Claim: at 40,000 items a linear autoencoder is as good as EASE, in a tenth of a softmax run.

As `gram.py`, on generated events of a catalog of which [V, V] floats are 6.4 GB. No setting was
chosen here: those of EASE and of the linear autoencoder are the ones that validation preferred at
20,000 items, the autoencoder's those at MovieLens-1M, which has the most epochs that fit its goal.

    python benchmarks/gram_40k.py
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from generated import judged_folder
from gram import CHOSEN, SOFTMAX, result
from page import Goal, Measured, show
from sized import sized

from deeprec.console import console

Found = dict[str, Any]
EVENTS = (
    *sized(("num_users=20_000", "num_items=40_000"), quick=("num_users=300", "num_items=400")),
    "events_per_user=75",
    "num_tastes=64",
)
CHOSEN_BEFORE = dict(CHOSEN["synthetic, 20,000 items"])
EPOCHS = sized(20, quick=1)
SYSTEMS = {
    "deeprec linear autoencoder": CHOSEN_BEFORE["deeprec linear autoencoder"],
    "deeprec autoencoder, softmax": {
        "words": f"{SOFTMAX} optimizer.lr=0.003 trainer.max_epochs={EPOCHS}"
    },
    "EASE": CHOSEN_BEFORE["EASE"],
}


def measure() -> Measured:
    """Each system once, fitted and judged on the holdout."""
    torch.set_num_threads(1)
    console.quiet = True
    with tempfile.TemporaryDirectory() as place:
        prepared = judged_folder(Path(place) / "prepared", *(f"data.{word}" for word in EVENTS))
        found = {name: result(prepared, "holdout", name, told) for name, told in SYSTEMS.items()}
        items = prepared.num_items
    linear, softmax, ease = (
        found[name]
        for name in ("deeprec linear autoencoder", "deeprec autoencoder, softmax", "EASE")
    )
    return {
        "claim": "At 40,000 items the linear autoencoder is as good as EASE, in a tenth of a "
        "softmax run.",
        "conditions": {"threads": 1, "items": items},
        "rows": [
            {
                "system": name,
                "ndcg@100": row["ndcg@100"],
                "recall@20": row["recall@20"],
                "CPU s": row["cpu_s"],
                "wall s": row["wall_s"],
                "settings": " ".join(f"{key}={value}" for key, value in row["settings"].items()),
            }
            for name, row in found.items()
        ],
        "goals": [
            _goal("ndcg@100 over that of EASE", 1.0, linear, ease, "ndcg@100", "higher"),
            _goal("CPU seconds over a softmax run", 0.1, linear, softmax, "cpu_s", "lower"),
        ],
    }


def _goal(what: str, goal: float, one: Found, other: Found, column: str, better: str) -> Goal:
    reached = one[column] / other[column]
    return {"what": what, "goal": goal, "reached": reached, "better": better, "unit": "times"}


if __name__ == "__main__":
    show(measure())
