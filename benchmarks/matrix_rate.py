"""Claim: an exact loss costs little more than its matrix products.

Value and gradients of each loss, and its three products alone in the same blocks and dtype:
scores, gradient of hidden, gradient of the table. Every exact loss does these three; softmax
repeats the first where its exponentials are not kept; squared error does none (it uses a Gram
matrix). They take turns, on one thread; figures are CPU seconds.

    python benchmarks/run.py matrix_rate
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from catalog_loss import TARGETS, USERS, gradients, narrow, ours, problem
from page import Goal, Measured, show
from sized import sized
from torch import Tensor
from turns import Spent, in_ms, left_out, multiplies_bfloat16, spent

from deeprec.loss.asymmetric import Asymmetric
from deeprec.loss.block_size import BLOCK_ITEMS
from deeprec.loss.hinge import Hinge
from deeprec.loss.marginal import Marginal
from deeprec.loss.softmax import Softmax
from deeprec.loss.squared import Squared

ITEMS, ROUNDS = sized((27_278, 5), quick=(200, 1))
WIDTHS = sized((256, 600), quick=(8, 16))
GOALS = {torch.float32: 0.80, torch.bfloat16: 0.65}
LOSSES: dict[str, tuple[Callable[[], Callable[..., Tensor]], str]] = {
    "softmax": (Softmax, "3"),
    "marginal": (Marginal, "3"),
    "hinge": (Hinge, "3"),
    "asymmetric": (Asymmetric, "3"),
    "squared": (lambda: Squared(ITEMS), "none: Gram"),
}


def products(
    hidden_BD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    dtype: torch.dtype,
    block_items: int = BLOCK_ITEMS,
) -> Callable[[], object]:
    """The three of them, block by block, the gradient of the table written whole."""
    hidden_BD, weight_VD, bias_V = (
        each.detach().to(dtype) for each in (hidden_BD, weight_VD, bias_V)
    )
    of_weight_VD = torch.empty_like(weight_VD)

    def run() -> None:
        of_hidden_BD = torch.zeros_like(hidden_BD)
        blocks = zip(
            *(torch.split(each, block_items) for each in (weight_VD, of_weight_VD, bias_V))
        )
        for weight_CD, into_CD, bias_C in blocks:
            scores_BC = torch.addmm(bias_C, hidden_BD, weight_CD.T)
            of_hidden_BD.addmm_(scores_BC, weight_CD)
            torch.mm(scores_BC.T, hidden_BD, out=into_CD)

    return run


def rates(width: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    made = problem(ITEMS, width)
    losses = {name: ours(build()) for name, (build, _) in LOSSES.items()}
    if dtype == torch.bfloat16:
        losses = {name: narrow(loss) for name, loss in losses.items()}
    forms: dict[str, Callable[[], object]] = {
        name: partial(gradients, loss, made) for name, loss in losses.items()
    }
    forms["three products alone"] = products(*made[:3], dtype)
    taken: dict[str, list[Spent]] = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, form in forms.items():
            taken[name].append(spent(form))
    floor = taken["three products alone"]
    flops = 3 * 2 * USERS * ITEMS * width
    return [
        {
            "what": f"D = {width}, {str(dtype)[6:]}: {name}",
            **in_ms(seconds),
            "share of the products' rate": statistics.median(
                least.cpu / each.cpu for least, each in zip(floor, seconds, strict=True)
            ),
            "GFLOP/s of the three": flops / statistics.median(each.cpu for each in seconds) / 1e9,
            "catalog products": LOSSES[name][1] if name in LOSSES else "3",
        }
        for name, seconds in taken.items()
    ]


def measure() -> Measured:
    torch.set_num_threads(1)
    dtypes = [torch.float32, *([torch.bfloat16] if multiplies_bfloat16() else [])]
    rows = [row for dtype in dtypes for width in WIDTHS for row in rates(width, dtype)]
    return {
        "claim": "An exact loss costs little more than its matrix products.",
        "conditions": {
            "users": USERS,
            "items": ITEMS,
            "targets a user": TARGETS,
            "items in a block": BLOCK_ITEMS,
            "threads": 1,
            **left_out({1: ROUNDS, 2: 0}),
        },
        "rows": rows,
        "goals": [goal(row) for row in rows if "alone" not in row["what"]],
        "plots": [
            {
                "kind": "bar",
                "x": "what",
                "y": ["share of the products' rate"],
                "goal": GOALS[torch.float32],
                "title": "Three products alone over the loss, CPU time (goal for float32)",
            }
        ],
    }


def goal(row: dict[str, Any]) -> Goal:
    dtype = torch.bfloat16 if "bfloat16" in row["what"] else torch.float32
    return {
        "what": row["what"],
        "goal": GOALS[dtype],
        "reached": row["share of the products' rate"],
        "better": "higher",
        "unit": "of the products' rate",
    }


if __name__ == "__main__":
    show(measure())
