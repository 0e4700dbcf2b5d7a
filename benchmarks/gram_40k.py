"""Claim: at 40,000 items a linear autoencoder is as good as EASE, in a tenth of a softmax run.

As `gram.py`, on generated events of a catalog of which [V, V] floats are 6.4 GB. EASE and the
linear autoencoder had three trials each on the validation part (`--choose`); the settings of the
softmax autoencoder are those at MovieLens-1M, which have the most epochs that fit its goal.

    python benchmarks/run.py gram_40k
    python benchmarks/gram_40k.py --choose
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from generated import judged_folder
from gram import LINEAR, SOFTMAX, choose, result
from page import Goal, Measured, show
from sized import sized

from deeprec.console import console
from deeprec.data.store import Prepared

Found = dict[str, Any]
EVENTS = (
    *sized(("num_users=20_000", "num_items=40_000"), quick=("num_users=300", "num_items=400")),
    "events_per_user=75",
    "num_tastes=64",
)
EPOCHS = sized(20, quick=1)
POWERS = "optimizer.lr=0.05 model.input_power=0.4 model.output_power=0.4"
TRIED: dict[str, list[dict[str, Any]]] = {
    "EASE": [{"regularisation": n} for n in (200.0, 500.0, 1000.0)],
    "deeprec linear autoencoder": [
        {"words": f"{LINEAR} {POWERS} model.width={width} trainer.max_epochs={epochs}"}
        for width, epochs in ((128, 4), (256, 4), (256, 6))
    ],
}
SYSTEMS = {
    "deeprec linear autoencoder": TRIED["deeprec linear autoencoder"][1],
    "deeprec autoencoder, softmax": {
        "words": f"{SOFTMAX} optimizer.lr=0.003 trainer.max_epochs={EPOCHS}"
    },
    "EASE": TRIED["EASE"][1],
}


def measure() -> Measured:
    """Each system once, fitted and judged on the holdout."""
    torch.set_num_threads(1)
    console.quiet = True
    with tempfile.TemporaryDirectory() as place:
        prepared = made(place)
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


def made(place: str) -> Prepared:
    return judged_folder(Path(place) / "prepared", *(f"data.{word}" for word in EVENTS))


def _goal(what: str, goal: float, one: Found, other: Found, column: str, better: str) -> Goal:
    reached = one[column] / other[column]
    return {"what": what, "goal": goal, "reached": reached, "better": better, "unit": "times"}


def main() -> None:
    if "--choose" not in sys.argv:
        show(measure())
        return
    torch.set_num_threads(1)
    console.quiet = True
    with tempfile.TemporaryDirectory() as place:
        choose("synthetic, 40,000 items", made(place), TRIED)


if __name__ == "__main__":
    main()
