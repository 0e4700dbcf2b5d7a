"""Claims: lists are judged ten times faster than by the fastest of three libraries; the catalog is
ranked at most of the rate of its matrix product; validation is a small part of training.

    python benchmarks/run.py evaluation --evaluation PYTHON

PYTHON has ranx 0.3.21, ir-measures 0.4.3, torchmetrics 1.9.0 and implicit 0.7.3. Figures are CPU
seconds on one thread, the medians of rounds in turns; what compiles itself is timed after that.
"""

import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import judged_folder
from ours import OurSteps
from page import Measured, show
from sized import sized
from turns import Spent, median, spent

from deeprec.batch import Encoded, Jagged
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import METRICS, ndcg, recall
from deeprec.model.topk import top_k
from deeprec.trainer.validation import validate

PYTHON = os.environ.get("EVALUATION_PYTHON")
USERS, ITEMS, LENGTH = sized((20_000, 20_000, 100), quick=(200, 400, 100))
ROUNDS = sized(5, quick=1)
BATCH = sized(1000, quick=20)  # users ranked at once
CATALOGS = sized((30_000, 1_000_000), quick=(300, 500))
NONE = torch.zeros(0, dtype=torch.int64)
Row = dict[str, Any]


def measure() -> Measured:
    torch.set_num_threads(1)
    rows, goals = [], []
    for part in (lists, ranking, validation):
        more, reached = part()
        rows += more
        goals += reached
    left_out = {} if PYTHON else {"left out": "other libraries: EVALUATION_PYTHON is not set"}
    return {
        "claim": "Given lists are judged ten times faster than by the fastest of three libraries; "
        "the catalog is ranked at 60 % of the machine's rate for the product alone; validation "
        "takes under a tenth of an epoch.",
        "conditions": {
            "lists": f"{USERS:,} users, {LENGTH} of {ITEMS:,} items each, about 15 relevant",
            "metrics": "recall@20, ndcg@20, ndcg@100, user by user",
            "threads": 1,
            **left_out,
        },
        "rows": rows,
        "goals": goals,
        "plots": [
            {
                "kind": "bar",
                "x": "form",
                "y": ["CPU s"],
                "log": True,
                "title": f"Metrics of {USERS:,} lists, CPU seconds, without preparing them",
                "rows": [row for row in rows if row["what"].startswith("metrics")],
            }
        ],
    }


def row(what: str, form: str, taken: Spent, note: str = "", **more: float | None) -> Row:
    return {
        "what": what,
        "form": form,
        "CPU s": taken.cpu,
        "wall s": taken.wall,
        "prepare CPU s": None,
        "note": note,
    } | more


# --- metrics of given lists ---


def lists() -> tuple[list[Row], list[Any]]:
    """Three metrics of the same lists by everybody, and all of ours at four cutoffs."""
    case = drawn_lists()
    shown = torch.from_numpy(case["lists"])
    target = Jagged(torch.from_numpy(case["values"]), torch.from_numpy(case["offsets"]))

    def three() -> dict[str, Any]:
        hits = Hits.of(shown, target)
        return {
            "recall@20": recall(hits, 20),
            "ndcg@20": ndcg(hits, 20),
            "ndcg@100": ndcg(hits, 100),
        }

    def everything() -> None:
        hits = Hits.of(shown, target, np.full(USERS, ITEMS))
        for metric in METRICS.values():
            for k in (10, 20, 50, 100):
                metric(hits, k)

    ours = median([spent(three) for _ in range(ROUNDS)])
    every = median([spent(everything) for _ in range(ROUNDS)])
    rows = [
        row("metrics", "ours", ours),
        row("metrics", "ours, 9 metrics at 4 cutoffs", every),
    ]
    if PYTHON:
        rows += peers(case, three())
    theirs = [found["CPU s"] for found in rows[2:]]
    return rows, [
        {
            "what": "metrics: the fastest other library over ours",
            "goal": 10,
            "reached": min(theirs) / ours.cpu if theirs else None,
            "better": "higher",
            "unit": "times",
        }
    ]


def peers(case: dict[str, Any], ours: dict[str, Any]) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "case.npz", **case)
        for name in ("ranx", "ir_measures", "torchmetrics"):
            seconds = asked(name, folder)
            found = np.load(Path(folder) / f"{name}.npz")
            apart = max(float(np.abs(found[one] - values).max()) for one, values in ours.items())
            first = f"; the first time {seconds['first'].cpu:.0f}" if "first" in seconds else ""
            note = f"differs from ours by {apart:.0e} at most{first}"
            prepared = {"prepare CPU s": seconds["prepare"].cpu}
            rows.append(row("metrics", name, seconds["evaluate"], note, **prepared))
    return rows


def asked(name: str, folder: str) -> dict[str, Spent]:
    """What another library took, by its own Python."""
    script = Path(__file__).parent / "peers" / "evaluators.py"
    alone = os.environ | {
        f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")
    }
    assert PYTHON is not None
    command = [PYTHON, str(script), name, folder]
    done = subprocess.run(command, env=alone, check=True, capture_output=True, text=True)
    told: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return {name: Spent(*seconds) for name, seconds in told.items()}


def drawn_lists() -> dict[str, Any]:
    """Lists, and what users took: a quarter of it from the list, sooner from its top."""
    draw = np.random.default_rng(0)
    shown = np.stack([draw.choice(ITEMS, LENGTH, replace=False) for _ in range(USERS)])
    chance = 1 / np.arange(2, LENGTH + 2)
    taken = []
    for items in shown:
        size = draw.integers(1, 30)
        of_list = draw.choice(items, (size + 3) // 4, replace=False, p=chance / chance.sum())
        taken.append(np.union1d(of_list, draw.choice(ITEMS, size)))
    offsets = np.cumsum([0, *map(len, taken)])
    return {"lists": shown, "values": np.concatenate(taken), "offsets": offsets}


# --- ranking the catalog ---


def ranking() -> tuple[list[Row], list[Any]]:
    """Top 100 of the whole catalog without what users had, beside the product alone."""
    rows, goals = [], []
    for num_items, width, rounds in ((CATALOGS[0], 256, ROUNDS), (CATALOGS[1], 64, 3)):
        case = factors(num_items, width)
        what = f"top {LENGTH} of {num_items:,} items, D = {width}, {BATCH:,} users"
        product, ours = in_turns(case, rounds)
        rows += [
            row(what, "the product alone", product),
            row(what, "ours", ours, f"{product.cpu / ours.cpu:.0%} of the product's rate"),
        ]
        if num_items == CATALOGS[0]:
            theirs = implicit(case) if PYTHON else None
            if theirs is not None:
                rows.append(row(what, "implicit, recommend", theirs))
            goals += [
                {
                    "what": "ranking: the product alone over ours, 30,000 items, D = 256",
                    "goal": 0.6,
                    "reached": product.cpu / ours.cpu,
                    "better": "higher",
                    "unit": "",
                },
                {
                    "what": "ranking: implicit's recommend over ours",
                    "goal": 1,
                    "reached": theirs.cpu / ours.cpu if theirs is not None else None,
                    "better": "higher",
                    "unit": "times",
                },
            ]
    return rows, goals


def factors(num_items: int, width: int) -> dict[str, Any]:
    draw = np.random.default_rng(1)
    seen = [np.sort(draw.choice(num_items, 70, replace=False)) for _ in range(BATCH)]
    return {
        "users": draw.normal(size=(BATCH, width)).astype(np.float32),
        "items": draw.normal(size=(num_items, width)).astype(np.float32),
        "seen": np.concatenate(seen).astype(np.int64),
        "seen_offsets": np.arange(BATCH + 1) * 70,
        "k": LENGTH,
    }


def in_turns(case: dict[str, Any], rounds: int) -> tuple[Spent, Spent]:
    users, items = torch.from_numpy(case["users"]), torch.from_numpy(case["items"])
    seen = torch.from_numpy(case["seen"]), torch.from_numpy(case["seen_offsets"])
    bias = torch.zeros(len(items))

    def product() -> None:
        for start in range(0, len(items), 16_384):
            users @ items[start : start + 16_384].T

    def ours() -> None:
        none = NONE, torch.zeros(BATCH + 1, dtype=torch.int64), torch.zeros(0)
        top_k(Encoded(users, *none), items, bias, LENGTH, *seen)

    taken = [(spent(product), spent(ours)) for _ in range(rounds)]
    return median([each for each, _ in taken]), median([each for _, each in taken])


def implicit(case: dict[str, Any]) -> Spent:
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "case.npz", **case)
        return asked("implicit", folder)["evaluate"]


# --- validation while training ---


def validation() -> tuple[list[Row], list[Any]]:
    """The validation after each epoch beside the epoch: default network, exact softmax."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prepared"
        shape = [f"data.num_users={USERS}", f"data.num_items={ITEMS}", "data.events_per_user=75"]
        ours = OurSteps(judged_folder(path, *shape), ["loss=softmax"])
    ours.step()
    steps = median([spent(ours.step) for _ in range(10)])
    data = ours.work.data
    epoch = Spent(*(seconds * len(data.training) for seconds in steps))
    ours.training.eval()
    judged = spent(partial(validated, ours))
    share = judged.cpu / epoch.cpu
    what = f"an epoch of {USERS:,} users x {ITEMS:,} items"
    users = sum(batch.num_users for batch in data.validation)
    return [
        row(what, "training", epoch),
        row(what, f"validation of {users:,} users", judged, f"{share:.1%} of the epoch"),
    ], [
        {
            "what": "validation over its epoch",
            "goal": 0.1,
            "reached": share,
            "better": "lower",
            "unit": "",
        }
    ]


def validated(ours: OurSteps) -> float | None:
    batches, device = ours.work.data.validation, torch.device("cpu")
    return validate(
        ours.training.recommender, batches, exclude_seen=batches.exclude_seen, device=device
    )


if __name__ == "__main__":
    show(measure())
