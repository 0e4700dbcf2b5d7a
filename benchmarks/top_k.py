"""Claim: exact top-k in blocks costs about what torch.topk on all scores costs, ties or not.

The ranker stands beside the naive form (all scores at once, seen items masked, torch.topk, ties in
any order) and beside the product that gives the scores alone. They take turns in one process, on
one thread; figures are CPU seconds.

    python benchmarks/run.py top_k
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from page import Measured, show
from sized import sized
from torch import Tensor
from turns import Spent, in_ms, spent

from deeprec.batch import Encoded
from deeprec.model.topk import top_k

USERS, WIDTH, SEEN, ROUNDS = sized((256, 128, 70, 7), quick=(8, 8, 5, 1))
CATALOGS = sized((20_000, 100_000), quick=(300, 500))
CPU = torch.device("cpu")


def problem(
    num_items: int,
    ties: bool,
    *,
    users: int = USERS,
    width: int = WIDTH,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        numbers = torch.randn(shape, generator=draw, device=device)
        return numbers.round() if ties else numbers  # whole scores

    hidden, weight, bias = drawn(users, width), drawn(num_items, width), drawn(num_items)
    seen = torch.randint(num_items, (users * SEEN,), generator=draw, device=device)
    return hidden, weight, bias, seen, torch.arange(users + 1, device=device) * SEEN


def product(hidden: Tensor, weight: Tensor, bias: Tensor, *_: object) -> None:
    torch.addmm(bias, hidden, weight.T)


def naive(
    hidden: Tensor, weight: Tensor, bias: Tensor, seen: Tensor, offsets: Tensor, k: int
) -> None:
    scores = torch.addmm(bias, hidden, weight.T)
    scores[torch.repeat_interleave(offsets.diff()), seen] = -torch.inf
    scores.topk(k)


def ours(
    hidden: Tensor, weight: Tensor, bias: Tensor, seen: Tensor, offsets: Tensor, k: int
) -> None:
    none = seen[:0], torch.zeros_like(offsets)
    top_k(Encoded(hidden, *none, hidden.new_zeros(0)), weight, bias, k, seen, offsets)


FORMS: dict[str, Callable[..., None]] = {"product": product, "naive": naive, "ours": ours}


def medians(num_items: int, k: int, ties: bool) -> dict[str, float]:
    """Columns of a row: CPU and wall milliseconds of each form."""
    made = problem(num_items, ties)
    taken: dict[str, list[Spent]] = {name: [] for name in FORMS}
    for _ in range(ROUNDS):
        for name, form in FORMS.items():
            taken[name].append(spent(partial(form, *made, k)))
    return {
        f"{name}, {column}": value
        for name, each in taken.items()
        for column, value in in_ms(each).items()
    }


def measure() -> Measured:
    torch.set_num_threads(1)
    rows = [
        row(num_items, k, ties)
        for num_items in CATALOGS
        for k in (20, 100)
        for ties in (False, True)
    ]
    worst = max(found["ours, CPU ms"] / found["naive, CPU ms"] for found in rows)
    return {
        "claim": "Exact top-k in blocks costs about what torch.topk on all scores costs, ties or "
        "not.",
        "conditions": {"users": USERS, "width": WIDTH, "seen items a user": SEEN, "threads": 1},
        "rows": rows,
        "goals": [
            {
                "what": "ours, at worst",
                "goal": 1.25,
                "reached": worst,
                "better": "lower",
                "unit": "of naive",
            }
        ],
        "plots": [
            {
                "kind": "bar",
                "x": "what",
                "y": ["product, CPU ms", "naive, CPU ms", "ours, CPU ms"],
                "title": "Top-k of 256 users, CPU ms",
            }
        ],
    }


def row(num_items: int, k: int, ties: bool) -> dict[str, Any]:
    found = medians(num_items, k, ties)
    scores = "whole scores" if ties else "real scores"
    return {
        "what": f"{num_items:,} items, k = {k}, {scores}",
        **found,
        "ours, users a CPU second": 1000 * USERS / found["ours, CPU ms"],
    }


if __name__ == "__main__":
    show(measure())
