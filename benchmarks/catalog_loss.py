"""Claim: the blockwise catalog losses cost less than the naive dense ones, in time and in memory.

One step of value and gradients; the blockwise and the naive form take turns in one process, on one
thread; figures are CPU seconds. Below them stands the least that is possible: the three matrix
products of a step alone, in the same blocks. Memory is the peak resident set over one step above
what was resident before it, each in a fresh process; it holds the gradient of the catalog table.

    python benchmarks/run.py catalog_loss
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from memory import alone, grown
from page import Goal, Measured, show
from sized import QUICK, sized
from torch import Tensor
from torch.nn import functional as F
from turns import Spent, in_ms, left_out, multiplies_bfloat16, spent

from deeprec.batch import Encoded, Jagged
from deeprec.loss.block_size import BLOCK_ITEMS
from deeprec.loss.marginal import Marginal
from deeprec.loss.softmax import Softmax

USERS, ITEMS, WIDTH, TARGETS, ROUNDS = sized((512, 30_000, 256, 30, 7), quick=(8, 200, 8, 5, 1))
CPU = torch.device("cpu")

Problem = tuple[Tensor, Tensor, Tensor, Jagged]  # hidden, weight, bias, target
Form = Callable[[Tensor, Tensor, Tensor, Jagged], Tensor]


def problem(
    items: int = ITEMS, width: int = WIDTH, users: int = USERS, device: torch.device = CPU
) -> Problem:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(users, width, generator=draw)
    weight = torch.randn(items, width, generator=draw) * 0.05
    rows = [torch.randperm(items, generator=draw)[:TARGETS].sort().values for _ in range(users)]
    target = Jagged(torch.cat(rows), torch.arange(users + 1) * TARGETS)
    hidden, weight, bias = (each.to(device) for each in (hidden, weight, torch.zeros(items)))
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), target


def dense_target(target: Jagged, num_items: int) -> Tensor:
    users = torch.repeat_interleave(target.offsets.diff())
    dense = torch.zeros(USERS, num_items)
    dense[users, target.values] = 1
    return dense


def naive_softmax(hidden: Tensor, weight: Tensor, bias: Tensor, target: Jagged) -> Tensor:
    scores = F.linear(hidden, weight, bias)
    return -(scores.log_softmax(1) * dense_target(target, len(bias))).sum() / USERS


def naive_marginal(hidden: Tensor, weight: Tensor, bias: Tensor, target: Jagged) -> Tensor:
    scores = F.linear(hidden, weight, bias)
    total = F.binary_cross_entropy_with_logits(
        scores, dense_target(target, len(bias)), reduction="sum"
    )
    return total / USERS


def ours(loss: Callable[..., Tensor]) -> Form:
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64)

    def value(hidden: Tensor, weight: Tensor, bias: Tensor, target: Jagged) -> Tensor:
        encoded = Encoded(hidden, *none, torch.zeros(0))
        of_all: Tensor = loss(encoded, weight, bias, target)
        return of_all

    return value


def narrow(form: Form) -> Form:
    def value(hidden: Tensor, weight: Tensor, bias: Tensor, target: Jagged) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return form(hidden, weight, bias, target)

    return value


ALL_FORMS = {
    "softmax naive": naive_softmax,
    "softmax blockwise": ours(Softmax()),
    "softmax blockwise bfloat16": narrow(ours(Softmax())),
    "marginal naive": naive_marginal,
    "marginal blockwise": ours(Marginal()),
    "marginal blockwise bfloat16": narrow(ours(Marginal())),
}
FORMS = {
    name: form
    for name, form in ALL_FORMS.items()
    if multiplies_bfloat16() or "bfloat16" not in name  # emulated it takes 19 times as long
    if name.startswith("softmax") or not QUICK
}


def three_products(hidden: Tensor, weight: Tensor, bias: Tensor, _: Jagged) -> None:
    with torch.no_grad():
        of_hidden, of_weight = torch.zeros_like(hidden), torch.empty_like(weight)
        blocks = zip(*(torch.split(rows, BLOCK_ITEMS) for rows in (weight, of_weight, bias)))
        for of_block, into, bias_of_block in blocks:
            scores = torch.addmm(bias_of_block, hidden, of_block.T)
            of_hidden.addmm_(scores, of_block)
            torch.mm(scores.T, hidden, out=into)


def step(form: Form, made: Problem) -> Spent:
    drop_gradients(made)
    return spent(partial(gradients, form, made))


def gradients(form: Form, made: Problem) -> None:
    """Value and gradients, in the place of those of before."""
    drop_gradients(made)
    form(*made).backward()  # type: ignore[no-untyped-call]  # torch leaves it so


def drop_gradients(made: Problem) -> None:
    for leaf in made[:3]:
        leaf.grad = None


def peak_megabytes(name: str) -> float:
    """Growth of the peak resident set over one step, in a process of its own."""
    return alone(__file__, name)[0]


def of_step(name: str) -> float:
    torch.set_num_threads(1)
    step(FORMS[name], problem(items=100))  # libraries load their code at the first call
    made = problem()
    return grown(lambda: step(FORMS[name], made))[0]


def measure() -> Measured:
    torch.set_num_threads(1)
    made = problem()
    seconds: dict[str, list[Spent]] = {name: [] for name in FORMS}
    floor = []
    for _ in range(ROUNDS):
        floor.append(spent(partial(three_products, *made)))
        for name, form in FORMS.items():
            seconds[name].append(step(form, made))
    rows = [row(name, taken, seconds) for name, taken in seconds.items()]
    rows.append(
        {"form": "three float32 products", **in_ms(floor), "of naive": None, "peak MB": None}
    )
    return {
        "claim": "The blockwise catalog losses cost less than the naive dense ones, in time and in "
        "memory.",
        "conditions": {
            "users": USERS,
            "items": ITEMS,
            "width": WIDTH,
            "targets a user": TARGETS,
            "threads": 1,
            "peak MB": "growth of the resident set over one step, gradient of the table included",
            **left_out({1: ROUNDS, 2: 0}),
        },
        "rows": rows,
        "goals": goals(rows),
        "plots": [
            {"kind": "bar", "x": "form", "y": ["CPU ms"], "title": "Value and gradients, CPU ms"},
            {"kind": "bar", "x": "form", "y": ["peak MB"], "title": "Peak memory of a step, MB"},
        ],
    }


def row(name: str, taken: list[Spent], seconds: dict[str, list[Spent]]) -> dict[str, Any]:
    naive = seconds[name.split()[0] + " naive"]
    return {
        "form": name,
        **in_ms(taken),
        "of naive": statistics.median(a.cpu / b.cpu for a, b in zip(taken, naive, strict=True)),
        "peak MB": peak_megabytes(name),
    }


def goals(rows: list[dict[str, Any]]) -> list[Goal]:
    """Less than the naive form, whatever by."""
    return [
        {
            "what": f"{found['form']}, time",
            "goal": 1.0,
            "reached": found["of naive"],
            "better": "lower",
            "unit": "of naive",
        }
        for found in rows
        if "blockwise" in found["form"]
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(of_step(sys.argv[1]))
    else:
        show(measure())
