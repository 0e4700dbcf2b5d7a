"""Claim: the linear autoencoder reaches the quality of EASE at about the cost of iALS.

Each system is fitted on the training part of a prepared folder, shown the events before the
holdout, and judged on the holdout by deeprec's metrics, on lists of 100 over the whole catalog
without seen items. One thread. Seconds are those of fitting without reading the data; those of
deeprec are of all that `deeprec train` does, with one validation and a checkpoint. Settings are
those of the grid that were best on the validation part.

    python benchmarks/gram.py             # with the settings that were chosen
    python benchmarks/gram.py --choose    # the whole grid, on the validation part

`PREPARED_ML1M`, a prepared folder, adds real data to the generated; `IRSPACK_PYTHON`, a Python with
irspack 0.5.2 and implicit 0.7.3, adds their alternating least squares.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from generated import judged_folder
from page import Goal, Measured, show
from scipy import linalg, sparse
from sized import sized
from turns import spent

from deeprec.batch import Batch
from deeprec.config import compose
from deeprec.console import console
from deeprec.data.dataset import drawn_users
from deeprec.data.judge import judged_batch, without_seen
from deeprec.data.store import PartName, Prepared
from deeprec.metric.hits import Hits
from deeprec.metric.ranking import FloatArray, ndcg, recall
from deeprec.model.rank import rank
from deeprec.train import train
from deeprec.trainer.run import open_run
from deeprec.verb import TrainConfig

CUTOFF, CHUNK, MOST_USERS = 100, 256, 10_000
ALS = Path(__file__).parent / "peers" / "als.py"
SYNTHETIC = (
    *sized(("num_users=20_000", "num_items=20_000"), quick=("num_users=300", "num_items=400")),
    "events_per_user=75",
    "num_tastes=64",
)

Settings = dict[str, Any]
Lists = Callable[[Batch], torch.Tensor]  # int64 [B, 100]
Scores = Callable[[sparse.csr_matrix], np.ndarray]  # float32 [B, V], of what users do not have


@dataclass
class Fitted:
    """A system that was fitted, and the seconds that took."""

    lists: Lists
    cpu: float
    wall: float


# --- what is fitted ---


def matrix(prepared: Prepared, users: np.ndarray, part: PartName) -> sparse.csr_matrix:
    """float32 [U, V]: 1 where a user had an item before `part`."""
    events = prepared.history(users, part)
    rows = np.repeat(np.arange(len(users)), events.lengths)
    ones = np.ones(len(rows), np.float32)
    found = sparse.csr_matrix((ones, (rows, events.items)), (len(users), prepared.num_items))
    found.data[:] = 1.0
    return found


def best(scores: np.ndarray, shown: sparse.csr_matrix) -> torch.Tensor:
    """The 100 best items of each user that it was not shown."""
    rows, columns = shown.nonzero()
    scores[rows, columns] = -np.inf
    return torch.from_numpy(scores).topk(CUTOFF).indices


def ease(prepared: Prepared, part: PartName, *, regularisation: float) -> Fitted:
    """Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019: its closed form.

    It is found from the smaller of the two Gram matrices, of items or of users.
    """
    x = matrix(prepared, prepared.training_users(), "validation")
    cpu, wall = time.process_time(), time.perf_counter()
    few_users = x.shape[0] < 0.6 * x.shape[1]  # by them there is more to do besides
    scores = (by_users if few_users else by_items)(x, regularisation)
    seconds = time.process_time() - cpu, time.perf_counter() - wall

    def lists(batch: Batch) -> torch.Tensor:
        shown = matrix(prepared, batch.user_rows.numpy(), part)
        return best(np.ascontiguousarray(scores(shown)), shown)

    return Fitted(lists, *seconds)


def by_items(x: sparse.csr_matrix, regularisation: float) -> Scores:
    inverse = inverted(x.T.tocsr(), regularisation)
    inverse /= -np.diag(inverse).copy()
    inverse[np.diag_indices_from(inverse)] = 0.0
    return lambda shown: shown @ inverse


def by_users(x: sparse.csr_matrix, regularisation: float) -> Scores:
    """The same for items that a user does not have, by the identity of Woodbury.

    With K = inverse(X X' + lambda), the inverse of X' X + lambda is (1 - X' K X) / lambda.
    """
    inverse, by_item = inverted(x, regularisation), x.T.tocsr()
    own = np.concatenate(  # x_i' K x_i of each item
        [
            by_item[start : start + 1024].multiply(by_item[start : start + 1024] @ inverse).sum(1)
            for start in range(0, x.shape[1], 1024)
        ]
    )
    without = 1.0 - np.asarray(own, np.float32).ravel()
    return lambda shown: (by_item @ ((shown @ by_item).toarray() @ inverse).T).T / without


def inverted(rows: sparse.csr_matrix, regularisation: float) -> np.ndarray:
    """float32 [N, N]: the inverse of rows @ rows.T + regularisation."""
    gram = np.empty((rows.shape[0],) * 2, np.float32, order="F")
    for start in range(0, len(gram), 1024):  # a sparse product of all would be larger than this
        gram[:, start : start + 1024] = (rows @ rows[start : start + 1024].T).toarray()
    gram[np.diag_indices_from(gram)] += regularisation
    factor, _ = linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse: np.ndarray = linalg.lapack.spotri(factor, lower=1, overwrite_c=1)[0]
    for start in range(0, len(inverse), 1024):  # only the lower half was made
        here, later = slice(start, start + 1024), slice(start + 1024, None)
        inverse[here, later] = inverse[later, here].T
        square = np.tril(inverse[here, here])
        inverse[here, here] = square + np.tril(square, -1).T
    return inverse


def als(prepared: Prepared, part: PartName, *, system: str, **settings: float) -> Fitted:
    """Alternating least squares of another library, in a process of its own."""
    users = judged_users(prepared, part)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_users = prepared.training_users()
        sparse.save_npz(folder / "train.npz", matrix(prepared, train_users, "validation"))
        sparse.save_npz(folder / "shown.npz", matrix(prepared, users, part))
        told = system, str(folder), json.dumps(settings)
        command = [os.environ["IRSPACK_PYTHON"], str(ALS), *told]
        one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=os.environ | one)
        with np.load(folder / "factors.npz") as factors:
            of_users, of_items = factors["users"], factors["items"]
        seconds = json.loads((folder / "seconds.json").read_text())

    def lists(batch: Batch) -> torch.Tensor:
        rows = batch.user_rows.numpy()
        scores = of_users[np.searchsorted(users, rows)] @ of_items.T
        return best(scores, matrix(prepared, rows, part))

    return Fitted(lists, **seconds)


def ours(prepared: Prepared, part: PartName, *, words: str) -> Fitted:
    """`deeprec train`, validated once, at the end."""
    epochs = words.split("max_epochs=")[1].split()[0]
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        told = [
            f"prepared={prepared.path}",
            f"output_dir={run}",
            *words.split(),
            "logger.wandb=off",
        ]
        once = f"trainer.validate_every_epochs={epochs}", f"trainer.save_every_epochs={epochs}"
        alone = (
            "logger.wandb=off",
            "trainer.threads=1",
            "trainer.device=cpu",
            "trainer.prefetch_batches=0",
        )
        config = cast(TrainConfig, compose("train", [*told, *once, *alone]))
        taken = spent(partial(train, config))
        model = open_run(run).model
    return Fitted(lambda batch: rank(model, batch, CUTOFF, True)[0], *taken)


SYSTEMS: dict[str, Callable[..., Fitted]] = {
    "EASE": ease,
    "irspack iALS": partial(als, system="irspack"),
    "implicit ALS": partial(als, system="implicit"),
    "deeprec implicit ALS": ours,
    "deeprec autoencoder, softmax": ours,
    "deeprec linear autoencoder": ours,
}
LINEAR = "experiment=linear"
SOFTMAX = "loss=softmax model.hidden_dims=[256]"
GRID: dict[str, list[Settings]] = {
    "EASE": [{"regularisation": n} for n in (200.0, 500.0, 1000.0, 2000.0, 4000.0)],
    "irspack iALS": [
        {"width": width, "alpha0": alpha0, "reg": reg, "epochs": 10}
        for width in (64, 128)
        for alpha0 in (0.03, 0.1, 0.3)
        for reg in (0.003, 0.01)
    ],
    "implicit ALS": [
        {"width": width, "alpha": alpha, "reg": reg, "epochs": 15}
        for width in (64, 128)
        for alpha in (1.0, 3.0, 10.0)
        for reg in (0.1, 10.0)
    ],
    "deeprec implicit ALS": [
        {
            "words": f"experiment=ials model.width={width} model.unobserved_weight={weight} "
            f"model.l2={l2} trainer.max_epochs=10"
        }
        for width in (64, 128)
        for weight in (0.03, 0.1, 0.3)
        for l2 in (0.003, 0.01)
    ],
    "deeprec autoencoder, softmax": [
        {"words": f"{SOFTMAX} optimizer.lr={lr} trainer.max_epochs={epochs} {more}"}
        for lr, epochs in ((0.003, 20), (0.003, 40), (0.01, 15))
        for more in ("", "model.input_dropout=0.7")
    ],
    "deeprec linear autoencoder": [
        {"words": f"{LINEAR} optimizer.lr={lr} trainer.max_epochs={epochs} {more}"}
        for lr, epochs in ((0.05, 4), (0.03, 8))
        for more in (
            "",
            "model.width=128",
            "model.input_power=0 model.output_power=0",
            "model.input_power=0.1 model.output_power=0.1",
            "model.input_power=0.2 model.output_power=0.4",
        )
    ],
}
# data -> system -> what was best of the grid on the validation part, and where marked, faster
CHOSEN: dict[str, list[tuple[str, Settings]]] = {
    "ml1m": [
        ("EASE", {"regularisation": 1000.0}),
        ("irspack iALS", {"width": 128, "alpha0": 0.1, "reg": 0.01, "epochs": 10}),
        ("irspack iALS", {"width": 64, "alpha0": 0.3, "reg": 0.01, "epochs": 10}),
        ("implicit ALS", {"width": 64, "alpha": 3.0, "reg": 10.0, "epochs": 15}),
        (  # as irspack's first
            "deeprec implicit ALS",
            {
                "words": "experiment=ials model.width=128 model.unobserved_weight=0.1 "
                "model.l2=0.01 trainer.max_epochs=10"
            },
        ),
        (
            "deeprec autoencoder, softmax",
            {"words": f"{SOFTMAX} optimizer.lr=0.003 trainer.max_epochs=20"},
        ),
        (
            "deeprec linear autoencoder",
            {"words": f"{LINEAR} trainer.max_epochs=8"},
        ),
        (
            "deeprec linear autoencoder",
            {"words": f"{LINEAR} optimizer.lr=0.05 trainer.max_epochs=4"},
        ),
    ],
    "synthetic, 20,000 items": [
        ("EASE", {"regularisation": 500.0}),
        ("irspack iALS", {"width": 128, "alpha0": 0.03, "reg": 0.01, "epochs": 10}),
        (
            "deeprec linear autoencoder",
            {
                "words": f"{LINEAR} optimizer.lr=0.05 trainer.max_epochs=4 model.width=128 "
                "model.input_power=0.4 model.output_power=0.4"
            },
        ),
    ],
}


# --- how they are judged ---


def judged_users(prepared: Prepared, part: PartName) -> np.ndarray:
    return drawn_users(prepared.judged_users(part), MOST_USERS, 0)


def judge(prepared: Prepared, part: PartName, lists: Lists) -> dict[str, float]:
    """Means over the judged users of a part; at most so many, always the same."""
    users = judged_users(prepared, part)
    found: dict[str, list[FloatArray]] = {"ndcg@100": [], "recall@20": []}
    for start in range(0, len(users), CHUNK):
        batch = without_seen(judged_batch(prepared, users[start : start + CHUNK], part))
        assert batch.target is not None
        hits = Hits.of(lists(batch), batch.target)
        found["ndcg@100"].append(ndcg(hits, 100))
        found["recall@20"].append(recall(hits, 20))
    return {name: round(float(np.nanmean(np.hstack(parts))), 4) for name, parts in found.items()}


def result(prepared: Prepared, part: PartName, system: str, settings: Settings) -> dict[str, Any]:
    fitted = SYSTEMS[system](prepared, part, **settings)
    seconds = {"cpu_s": round(fitted.cpu, 2), "wall_s": round(fitted.wall, 2)}
    told = {"part": part, "system": system, "settings": settings}
    return {**told, **judge(prepared, part, fitted.lists), **seconds}


def folders(place: Path) -> Iterator[tuple[str, Prepared]]:
    """What is measured on: generated events, and real ones where they are given."""
    if given := os.environ.get("PREPARED_ML1M"):
        yield "ml1m", Prepared(Path(given))
    words = [f"data.{word}" for word in SYNTHETIC]
    yield "synthetic, 20,000 items", judged_folder(place / "prepared", *words)


def known_systems() -> list[str]:
    peers = ("irspack iALS", "implicit ALS")
    return [name for name in SYSTEMS if name not in peers or "IRSPACK_PYTHON" in os.environ]


def choose(data: str, prepared: Prepared, grid: dict[str, list[Settings]]) -> None:
    """Prints every try of the grid on the validation part, best last."""
    for system in [name for name in known_systems() if name in grid]:
        tried = []
        for settings in grid[system]:
            tried.append(result(prepared, "validation", system, settings))
            print(data, json.dumps(tried[-1]), flush=True)
        top = max(tried, key=lambda each: cast(float, each["ndcg@100"]))
        print(data, "CHOSEN", json.dumps(top), flush=True)


def measure() -> Measured:
    """Every system on every folder, with its chosen settings."""
    torch.set_num_threads(1)
    console.quiet = True
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for data, prepared in folders(Path(place)):
            for system, settings in CHOSEN[data]:
                if system in known_systems():
                    on_holdout = result(prepared, "holdout", system, settings)
                    rows.append({"data": data, "items": prepared.num_items, **on_holdout})
    return told(rows, [name for name in SYSTEMS if name not in known_systems()])


def told(found: list[dict[str, Any]], left_out: list[str]) -> Measured:
    """What was found, as the page shows it."""
    rows = [
        {
            "data": row["data"],
            "system": row["system"],
            "ndcg@100": row["ndcg@100"],
            "recall@20": row["recall@20"],
            "CPU s": row["cpu_s"],
            "wall s": row["wall_s"],
            "settings": " ".join(f"{key}={value}" for key, value in row["settings"].items()),
        }
        for row in found
    ]
    return {
        "claim": "The linear autoencoder reaches the quality of EASE at about the cost of iALS.",
        "conditions": {"threads": 1, "left out": ", ".join(left_out) or "nothing"},
        "rows": rows,
        "goals": [
            goal
            for data in dict.fromkeys(row["data"] for row in rows)
            for goal in goals(data, rows)
        ],
    }


def goals(data: str, rows: list[dict[str, Any]]) -> list[Goal]:
    """Of one set of data: the quality of EASE, and the time that it takes beside that of iALS."""
    of_data = [row for row in rows if row["data"] == data]
    best: dict[str, dict[str, Any]] = {}
    for row in of_data:
        if row["ndcg@100"] > best.get(row["system"], {"ndcg@100": 0.0})["ndcg@100"]:
            best[row["system"]] = row

    def to_ease(system: str) -> dict[str, Any] | None:
        """The fastest that is as good as EASE; the best where none is."""
        as_good = [
            row
            for row in of_data
            if row["system"] == system and row["ndcg@100"] >= best["EASE"]["ndcg@100"]
        ]
        return min(as_good, key=lambda row: float(row["CPU s"])) if as_good else best.get(system)

    ours, theirs = to_ease("deeprec linear autoencoder"), to_ease("irspack iALS")
    assert ours is not None
    top = best["deeprec linear autoencoder"]
    return [
        {
            "what": f"{data}: ndcg@100 over that of EASE",
            "goal": 1.0,
            "reached": top["ndcg@100"] / best["EASE"]["ndcg@100"],
            "better": "higher",
            "unit": "times",
        },
        {
            "what": f"{data}: CPU seconds to the quality of EASE over those of iALS",
            "goal": 1.0,
            "reached": None if theirs is None else ours["CPU s"] / theirs["CPU s"],
            "better": "lower",
            "unit": "times",
        },
        *_of_als(data, best),
    ]


def _of_als(data: str, best: dict[str, dict[str, Any]]) -> list[Goal]:
    """Alternating least squares here against irspack's, where both were fitted."""
    ours, theirs = best.get("deeprec implicit ALS"), best.get("irspack iALS")
    if ours is None or theirs is None:
        return []
    what = f"{data}: CPU seconds of implicit ALS over those of irspack's iALS"
    reached = ours["CPU s"] / theirs["CPU s"]
    return [{"what": what, "goal": 2.0, "reached": reached, "better": "lower", "unit": "times"}]


def main() -> None:
    if "--choose" in sys.argv:
        torch.set_num_threads(1)
        console.quiet = True
        with tempfile.TemporaryDirectory() as place:
            for data, prepared in folders(Path(place)):
                choose(data, prepared, GRID)
        return
    show(measure())


if __name__ == "__main__":
    main()
