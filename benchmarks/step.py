"""Claim: a full training step takes a fraction of the time of the commonly written one.

A step is everything from shuffled users to changed weights. The dense form (dense.py), RecBole's
MultiDAE (peers/recbole_steps.py) and ours (ours.py), with the exact and the sampled softmax, take
turns, with the same histories, initial weights, input dropout .5, tanh and Adam. Beside them stands
the least that an exact step can take: its three products with the catalog table alone.

    python benchmarks/run.py --recbole PYTHON step
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from dense import DenseSteps
from histories import drawn, prepared
from ours import COMMON, OurSteps
from page import Goal, Measured, Plot, show
from recbole_side import RecBoleSteps, settings
from sized import sized
from turns import Taken, here, in_turns, left_out, multiplies_bfloat16, ratio, rounds, spelled

ITEMS, USERS, BATCH_USERS, MEAN_DRAWS = sized((27_278, 8_000, 512, 115), quick=(500, 200, 64, 20))
NETWORKS = sized(([600, 200, 600], [256]), quick=([8],))
LR, DROPOUT = 0.001, 0.5
CURVE_STEPS = sized(15, quick=2)
DENSE, RECBOLE, EXACT, SAMPLED, OWN, FLOOR = (
    "dense PyTorch",
    "RecBole MultiDAE",
    "ours, exact softmax",
    "ours, sampled softmax",
    "ours, sampled softmax, own targets",
    "three products alone",
)
NARROW, SAMPLED_NARROW, OWN_NARROW = (name + ", bfloat16" for name in (EXACT, SAMPLED, OWN))
Steps = dict[str, Callable[[int], Taken]]


@contextlib.contextmanager
def systems(hidden_dims: list[int], num_items: int) -> Iterator[tuple[Steps, float]]:
    """A step of each system from the same start, and the mean items of a user."""
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        events = drawn(USERS, num_items, MEAN_DRAWS)
        folder = prepared(Path(made) / "prepared", events, num_items)
        words = [
            *COMMON,
            f"model.hidden_dims={hidden_dims}".replace(" ", ""),
            f"trainer.batch_users={BATCH_USERS}",
            f"optimizer.lr={LR}",
        ]
        exact = OurSteps(folder, words)
        start = exact.start()
        dims = [num_items, *hidden_dims, num_items]
        dense = DenseSteps(
            folder.parts["train"], dims, start, batch_users=BATCH_USERS, lr=LR, dropout=DROPOUT
        )
        found: Steps = {DENSE: here(dense)}
        if python := os.environ.get("RECBOLE_PYTHON"):
            told = settings(hidden_dims, batch_users=BATCH_USERS, lr=LR, dropout=DROPOUT)
            recbole = RecBoleSteps(
                python, Path(made) / "recbole", events=events, start=start, settings=told
            )
            found[RECBOLE] = stack.enter_context(recbole)
        found[EXACT] = here(exact)
        sampled = [*words, "loss=sampled_softmax"]
        own = [*sampled, "loss.shared_targets=false"]
        found[SAMPLED], found[OWN] = (here(OurSteps(folder, each)) for each in (sampled, own))
        if multiplies_bfloat16():
            for name, each in ((NARROW, words), (SAMPLED_NARROW, sampled), (OWN_NARROW, own)):
                found[name] = here(OurSteps(folder, each, narrow=True))
        found[FLOOR] = three_products(num_items, hidden_dims[-1])
        yield found, float(events.lengths.mean())


def three_products(num_items: int, width: int) -> Callable[[int], Taken]:
    """Scores, gradient of hidden, gradient of the table, in blocks, in float32."""
    hidden_BD, weight_VD = torch.randn(BATCH_USERS, width), torch.randn(num_items, width)

    def step(threads: int) -> Taken:
        torch.set_num_threads(threads)
        wall, cpu = time.perf_counter(), time.process_time()
        of_hidden_BD, of_weight_CD = torch.zeros_like(hidden_BD), torch.empty(2_048, width)
        for weight_CD in torch.split(weight_VD, 2_048):
            scores_BC = hidden_BD @ weight_CD.T
            of_hidden_BD.addmm_(scores_BC, weight_CD)
            torch.mm(scores_BC.T, hidden_BD, out=of_weight_CD[: len(weight_CD)])
        return Taken(time.perf_counter() - wall, time.process_time() - cpu, 0.0)

    return step


def measured(num_items: int, goals: dict[str, float], *, curve: bool) -> Measured:
    """Of all networks.

    Args:
        goals: by system, how many times less than the others it aims to take.
        curve: whether the losses of more steps are drawn.
    """
    turns = rounds(5, 3)
    rows: list[dict[str, Any]] = []
    reached: list[Goal] = []
    plots: list[Plot] = [
        {
            "kind": "bar",
            "x": "what",
            "y": [f"CPU s, {spelled(threads)}"],
            "title": f"One training step, {num_items:,} items, {spelled(threads)}, CPU seconds",
        }
        for threads in turns
    ]
    for hidden_dims in NETWORKS:
        network = "-".join(map(str, hidden_dims))
        with systems(hidden_dims, num_items) as (steps, items_a_user):
            by_threads = {
                threads: in_turns(steps, rounds=count, threads=threads)
                for threads, count in turns.items()
            }
            if curve and len(hidden_dims) == 1:
                plots.append(losses(network, steps, turns))
        rows += [row(network, name, by_threads) for name in steps]
        reached += against(network, by_threads[1], goals)
    return {
        "claim": "A full training step takes a fraction of the time of the commonly written one, "
        "at the same loss.",
        "conditions": conditions(num_items, items_a_user, turns),
        "rows": rows,
        "goals": reached,
        "plots": plots,
    }


def row(network: str, name: str, by_threads: dict[int, dict[str, list[Taken]]]) -> dict[str, Any]:
    found: dict[str, Any] = {"what": f"{network}: {name}"}
    for threads, taken in by_threads.items():
        found[f"CPU s, {spelled(threads)}"] = statistics.median(each.cpu for each in taken[name])
        found[f"wall s, {spelled(threads)}"] = statistics.median(each.wall for each in taken[name])
    found["of the dense CPU s, 1 thread"] = ratio(by_threads[1][name], by_threads[1][DENSE])
    last = [each.loss for each in by_threads[1][name]]
    found["mean loss of these steps"] = None if name == FLOOR else statistics.mean(last)
    return found


def against(network: str, taken: dict[str, list[Taken]], goals: dict[str, float]) -> list[Goal]:
    """How many times less our steps take than those of the others, on one thread."""
    return [
        {
            "what": f"{network}: {other} over {name}",
            "goal": goal,
            "reached": ratio(taken[other], taken[name]),
            "better": "higher",
            "unit": "times",
        }
        for name, goal in goals.items()
        for other in (DENSE, RECBOLE)
        if name in taken and other in taken
    ]


def losses(network: str, steps: Steps, turns: dict[int, int]) -> Plot:
    """The curve of further steps."""
    compared = {name: step for name, step in steps.items() if name != FLOOR}
    found = in_turns(compared, rounds=CURVE_STEPS, threads=1)
    done = 1 + sum(count + 1 for count in turns.values()) + 1
    return {
        "kind": "line",
        "x": "step",
        "y": ["loss, nats a user"],
        "split": "system",
        "title": f"Loss of the same step from the same start, {network} (RecBole shuffles its own)",
        "rows": [
            {"step": done + index, "loss, nats a user": each.loss, "system": name}
            for name, taken in found.items()
            for index, each in enumerate(taken)
        ],
    }


def conditions(num_items: int, items_a_user: float, turns: dict[int, int]) -> dict[str, Any]:
    recbole = None if os.environ.get("RECBOLE_PYTHON") else "RecBole (no --recbole)"
    return {
        "items": num_items,
        "users in a batch": BATCH_USERS,
        "items a user": items_a_user,
        "input dropout": DROPOUT,
        "negatives of the sampled softmax": "the batch's targets and 4,096 draws; "
        "own targets: a target for its own users, the draws for everybody",
        "rounds": ", ".join(f"{count} on {spelled(one)}" for one, count in turns.items()),
        **left_out(turns, recbole),
    }


def measure() -> Measured:
    exact = dict.fromkeys((EXACT, NARROW), 5.0)
    sampled = dict.fromkeys((SAMPLED, SAMPLED_NARROW, OWN, OWN_NARROW), 10.0)
    return measured(ITEMS, exact | sampled, curve=True)


if __name__ == "__main__":
    show(measure())
