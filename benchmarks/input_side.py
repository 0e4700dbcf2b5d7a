"""Claim: the cost of a step's input side depends on what the batch reads, not on the catalog.

A bag of embeddings for each user, a gradient from outside, and the update of the table: ours
(plain torch and TorchRec's fused tables behind the same `SparseInput`) beside torch's own
EmbeddingBag with dense and with sparse gradients. They take turns, on one thread; figures are CPU
milliseconds. The sort of the batch by item, which the loader's thread does in training, has a
column of its own. Dense gradients are left out where one of their steps takes seconds.

    python benchmarks/run.py input_side
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from page import Goal, Measured, show
from sized import sized
from torch import Tensor, nn
from turns import Spent, in_ms, spent

from deeprec.batch import Jagged, with_transposition
from deeprec.model.sparse_input import Backend, SparseInput
from deeprec.table import LazyAdam, RowwiseAdagrad, TableRule

USERS, EVENTS, ZIPF, ROUNDS = sized((512, 71, 1.0, 7), quick=(8, 5, 1.0, 1))
SIZES = sized(  # rows, width
    ((30_000, 256), (1_000_000, 256), (10_000_000, 64)), quick=((300, 8), (400, 8), (500, 4))
)
MOST_DENSE, MOST_BESIDE = sized((100_000, 1_000_000), quick=(300, 400))  # rows; above, ours alone
FIELD = "history"
# what a bare function of 15 lines took at 1 M rows on one thread of a Zen 4 core with AVX-512
BARE_MS = 15.0
OURS = "ours, row-wise Adagrad"


def batch(rows: int, draw: np.random.Generator) -> Jagged:
    heights = np.cumsum(np.arange(1, rows + 1) ** -ZIPF)
    values = np.searchsorted(heights, draw.random(USERS * EVENTS) * heights[-1])
    values = draw.permutation(rows)[values.clip(max=rows - 1)]  # popular rows lie anywhere
    return Jagged(torch.from_numpy(values), torch.arange(USERS + 1) * EVENTS)


def ours(table: nn.Parameter, rule: TableRule, backend: Backend) -> Callable[..., None]:
    inputs = SparseInput({FIELD: 1}, table.shape[1], backend=backend)
    inputs.tables[FIELD].data = table.data.clone()
    inputs.fuse(rule)
    inputs.train()

    def step(rows: Jagged, gradient_BD: Tensor) -> None:
        inputs({FIELD: rows}).backward(gradient_BD)
        inputs.finish_step()

    return step


def torchs(table: nn.Parameter, *, sparse: bool) -> Callable[..., None]:
    bag = nn.EmbeddingBag(
        len(table), table.shape[1], mode="sum", sparse=sparse, include_last_offset=True
    )
    bag.weight.data = table.data.clone()
    optimizer = torch.optim.Adagrad(bag.parameters(), lr=0.05)

    def step(rows: Jagged, gradient_BD: Tensor) -> None:
        optimizer.zero_grad()
        bag(rows.values, rows.offsets).backward(gradient_BD)
        optimizer.step()

    return step


def systems(rows: int, width: int) -> dict[str, Callable[..., None]]:
    table = nn.Parameter(torch.randn(rows, width) * 0.1)
    found = {OURS: ours(table, RowwiseAdagrad(0.05), "torch")}
    if rows > MOST_BESIDE:
        return found
    if find_spec("torchrec"):
        found["ours by TorchRec, row-wise Adagrad"] = ours(table, RowwiseAdagrad(0.05), "torchrec")
    found["ours, lazy Adam"] = ours(table, LazyAdam(0.003), "torch")
    found["EmbeddingBag(sparse=True), Adagrad"] = torchs(table, sparse=True)
    if rows <= MOST_DENSE:
        found["EmbeddingBag, dense gradient, Adagrad"] = torchs(table, sparse=False)
    return found


def of_size(rows: int, width: int) -> list[dict[str, Any]]:
    steps, draw = systems(rows, width), np.random.default_rng(0)
    taken: dict[str, list[Spent]] = {name: [] for name in steps}
    arranged, distinct = [], []
    for _ in range(ROUNDS + 1):
        plain, gradient_BD = batch(rows, draw), torch.randn(USERS, width)
        started = time.process_time()
        made = with_transposition(plain)
        arranged.append(time.process_time() - started)
        assert made.by_item is not None
        distinct.append(len(made.by_item.distinct))
        for name, step in steps.items():
            taken[name].append(spent(partial(step, made, gradient_BD)))
    return [
        {
            "table": f"{rows:,} x {width}",
            "system": name,
            **in_ms(seconds[1:]),
            "rows a batch reads": int(statistics.median(distinct)),
            "CPU ms, sort of the batch": (
                1000 * statistics.median(arranged[1:]) if name.startswith("ours") else None
            ),
        }
        for name, seconds in taken.items()
    ]


def measure() -> Measured:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [row for size in SIZES for row in of_size(*size)]
    return {
        "claim": "The cost of a step's input side depends on what the batch reads, not on the size "
        "of the catalog.",
        "conditions": {"users": USERS, "events a user": EVENTS, "threads": 1, "Zipf": ZIPF},
        "rows": rows,
        "goals": goals(rows),
        "plots": [
            {
                "kind": "bar",
                "x": "system",
                "y": ["CPU ms"],
                "split": "table",
                "log": True,
                "title": "Lookup, gradient and update of a step's embeddings, CPU ms",
            }
        ],
    }


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    small, large, _ = (row for row in rows if row["system"] == OURS)
    per_row = [row["CPU ms"] / row["rows a batch reads"] for row in (small, large)]
    return [
        {
            "what": f"{OURS}, {large['table']}, beside {BARE_MS:g} ms of a bare function on a "
            "faster core",
            "goal": 2.0 * BARE_MS,
            "reached": large["CPU ms"],
            "better": "lower",
            "unit": "CPU ms",
        },
        {
            "what": f"{OURS}, time a row read, {large['table']} to {small['table']}",
            "goal": 2.0,
            "reached": per_row[1] / per_row[0],
            "better": "lower",
            "unit": "times",
        },
    ]


if __name__ == "__main__":
    show(measure())
