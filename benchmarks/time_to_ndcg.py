"""Claim: good lists on MovieLens 1M take seconds, with other autoencoders up to a minute.

CPU seconds of training on one thread until ndcg@100 on the validation users reaches 99 % of the
best that the same system ever reaches. The lists of all systems are judged by deeprec's metric code
on the same users: ours as `deeprec train` validates them, those of other libraries by item indices.
Making and judging lists is not counted. The settings of all were chosen on these validation users.

    python benchmarks/run.py --ml1m FOLDER --recbole PYTHON --irspack PYTHON time_to_ndcg

FOLDER: `deeprec prepare data=table data.events=train.parquet data.user=user_id data.item=item_id
split=given split.holdout=test.parquet output_dir=FOLDER`.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ours import OurSteps
from page import Goal, Measured, show
from recbole_side import RecBoleSteps, settings
from sized import sized
from turns import spent

from deeprec.batch import Jagged
from deeprec.data.dataset import Batches
from deeprec.data.store import Events, Prepared
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import ndcg
from deeprec.trainer.module import Training
from deeprec.trainer.validation import validate

SHARE = 0.99
OURS = {
    "deeprec, linear autoencoder, cosine": (
        "experiment=linear",
        "optimizer.lr=0.05",
        "trainer.max_epochs=5",
    ),
    "deeprec, autoencoder, softmax": (
        "model.hidden_dims=[256]",
        "optimizer.lr=0.003",
        "trainer.max_epochs=20",
    ),
}
PEERS = {
    "irspack MultVAE 600-200": "irspack_multvae",
    "irspack iALS 128": "irspack_ials",
    "implicit ALS 64": "implicit_als",
    "EASE": "ease",
}
RECBOLE, RECBOLE_EPOCHS = "RecBole MultiDAE 600-128", sized(40, quick=2)
RECBOLE_HIDDEN = [600, 128, 600]
CURVES = Path(__file__).parent / "peers" / "curves.py"


class Point(NamedTuple):
    """Of a curve."""

    cpu: float  # seconds of training until then
    wall: float
    ndcg: float


def of_ours(prepared: Prepared, words: tuple[str, ...]) -> list[Point]:
    ours = OurSteps(prepared, ["trainer.prefetch_batches=0", "trainer.threads=1", *words])
    training, data = ours.training, ours.work.data
    found, cpu, wall = [], 0.0, 0.0
    for _ in range(ours.work.loop.schedule.max_epochs):
        training.train()
        epoch = spent(partial(_train, training, data.training))
        cpu, wall = cpu + epoch.cpu, wall + epoch.wall
        training.eval()
        reached = validate(
            training.recommender, data.validation, exclude_seen=True, device=torch.device("cpu")
        )
        assert reached is not None
        found.append(Point(cpu, wall, reached))
    return found


def _train(training: Training, batches: Batches) -> None:
    for index, batch in enumerate(batches):
        training.training_step(batch, index)


def of_peer(python: str, system: str, prepared: Prepared) -> Iterator[Point]:
    judged = judged_users(prepared)
    with tempfile.TemporaryDirectory() as made:
        write_rows(Path(made) / "rows.npz", prepared, judged)
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(threads, "1") | {"PYTHONPATH": ""}
        run = subprocess.Popen(
            [python, str(CURVES), system, made],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert run.stdout is not None
        for count, line in enumerate(run.stdout):
            lists = np.load(Path(made) / f"{count}.npy")
            yield Point(**json.loads(line), ndcg=judge(prepared, judged, lists))
        assert run.wait() == 0, f"{system} failed"


def of_recbole(python: str, prepared: Prepared) -> Iterator[Point]:
    """From RecBole's own initial weights, at its own batches and learning rate."""
    judged = judged_users(prepared)
    events = prepared.parts["train"].take(np.arange(prepared.num_users))
    told = settings(RECBOLE_HIDDEN, batch_users=500, lr=0.001, dropout=0.5)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "recbole"
        with RecBoleSteps(python, folder, events=events, start={}, settings=told) as recbole:
            cpu = wall = 0.0
            for _ in range(RECBOLE_EPOCHS):
                steps = [recbole(1) for _ in range(-(-prepared.num_users // 500))]
                cpu, wall = cpu + sum(one.cpu for one in steps), wall + sum(o.wall for o in steps)
                yield Point(cpu, wall, judge(prepared, judged, recbole.lists(judged)))


def judged_users(prepared: Prepared) -> npt.NDArray[np.int64]:
    """The users that ours are validated on."""
    return OurSteps(prepared, ["trainer.max_epochs=1"]).work.data.validation.users


def write_rows(path: Path, prepared: Prepared, judged: npt.NDArray[np.int64]) -> None:
    events = distinct(prepared.parts["train"].take(np.arange(prepared.num_users)))
    np.savez(
        path,
        offsets=events.offsets,
        items=events.items,
        users=judged,
        num_items=prepared.num_items,
    )


def distinct(events: Events) -> Events:
    """Each item of a user once, ascending."""
    owners = np.repeat(np.arange(events.num_users, dtype=np.int64), events.lengths)
    pairs = np.unique(owners * 2**31 + events.items)
    lengths = np.bincount(pairs >> 31, minlength=events.num_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Events(offsets, (pairs & (2**31 - 1)).astype(np.int32))


def judge(prepared: Prepared, judged: npt.NDArray[np.int64], lists: npt.NDArray[np.int32]) -> float:
    """Mean ndcg@100, by the code that judges ours."""
    relevant = distinct(prepared.parts["validation"].take(judged))
    target = Jagged(
        torch.from_numpy(relevant.items.astype(np.int64)), torch.from_numpy(relevant.offsets)
    )
    hits = Hits.of(torch.from_numpy(lists.astype(np.int64)), target)
    return float(ndcg(hits, lists.shape[1]).mean())


def curves(prepared: Prepared) -> dict[str, list[Point]]:
    found = {name: of_ours(prepared, words) for name, words in OURS.items()}
    if python := os.environ.get("RECBOLE_PYTHON"):
        found[RECBOLE] = list(of_recbole(python, prepared))
    if python := os.environ.get("IRSPACK_PYTHON"):
        found |= {name: list(of_peer(python, system, prepared)) for name, system in PEERS.items()}
    return found


def nearly(curve: list[Point]) -> Point:
    """The first at the share of the best."""
    best = max(point.ndcg for point in curve)
    return next(point for point in curve if point.ndcg >= SHARE * best)


def row(name: str, curve: list[Point]) -> dict[str, Any]:
    best = max(curve, key=lambda point: point.ndcg)
    return {
        "system": name,
        "best ndcg@100": f"{best.ndcg:.4f}",
        "CPU s to 99 % of it": nearly(curve).cpu,
        "wall s to 99 % of it": nearly(curve).wall,
        "CPU s to it": best.cpu,
        "still rising": "yes" if best is curve[-1] and len(curve) > 1 else "no",
    }


def goals(found: dict[str, list[Point]]) -> list[Goal]:
    aims = {RECBOLE: 0.1, "irspack MultVAE 600-200": 0.2, "irspack iALS 128": 1.0, "EASE": 1.0}
    return [
        {
            "what": f"{name}, CPU seconds against {other}",
            "goal": aim,
            "reached": nearly(found[name]).cpu / nearly(found[other]).cpu,
            "better": "lower",
            "unit": "of its time",
        }
        for name in OURS
        for other, aim in aims.items()
        if other in found
    ]


def measure() -> Measured:
    torch.set_num_threads(1)
    prepared = Prepared(Path(os.environ["PREPARED_ML1M"]))
    found = curves(prepared)
    return {
        "claim": "Good lists on MovieLens 1M take seconds; with other autoencoders they take half "
        "a minute to a minute.",
        "conditions": {
            "users": prepared.num_users,
            "items": prepared.num_items,
            "training events": int(prepared.parts["train"].lengths.sum()),
            "validation users": len(judged_users(prepared)),
            "threads": 1,
            "seeds": 1,
        },
        "rows": [row(name, curve) for name, curve in found.items()],
        "goals": goals(found),
        "plots": [
            {
                "kind": "line",
                "x": "CPU seconds of training",
                "y": ["ndcg@100"],
                "split": "system",
                "log": True,
                "title": "ndcg@100 on validation users of MovieLens 1M",
                "rows": [
                    {"system": name, "CPU seconds of training": point.cpu, "ndcg@100": point.ndcg}
                    for name, curve in found.items()
                    for point in curve
                ],
            }
        ],
    }


if __name__ == "__main__":
    show(measure())
