"""Whole training steps on a GPU, ours and the commonly written one, of the networks of step.py."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from dense import DenseSteps
from histories import drawn, prepared
from matrix_rate import products
from on_device import DEVICE, STEPS, Report, Runner, Timed, in_turns, kernels
from ours import COMMON, OurSteps
from step import (
    BATCH_USERS,
    DENSE,
    DROPOUT,
    EXACT,
    FLOOR,
    ITEMS,
    LR,
    MEAN_DRAWS,
    NETWORKS,
    OWN,
    SAMPLED,
    USERS,
)

from deeprec.data.store import Prepared

AHEAD = 2  # batches, as a run has it
NARROW, ONE_BLOCK, THERE = ", bfloat16", ", catalog in one block", ", batch already on the GPU"
GOALS = {EXACT: 5.0, SAMPLED: 10.0, OWN: 10.0}


def measure_steps(report: Report, folder: Path) -> dict[str, Runner]:
    """Returns those whose batch lies there already, to be looked into when all is timed."""
    there: dict[str, Runner] = {}
    events = drawn(USERS, ITEMS, MEAN_DRAWS)
    users = prepared(folder / "histories", events, ITEMS)
    for hidden_dims in NETWORKS:
        part = f"step {'-'.join(map(str, hidden_dims))}"
        systems = our_systems(users, hidden_dims)
        runners = dense_runners(users, hidden_dims, systems[EXACT]) | our_runners(systems)
        runners |= floors(hidden_dims[-1])
        taken = in_turns(runners)
        report.rows_of(part, taken, users=BATCH_USERS, against=DENSE)
        report.rows_of(part, host_times(systems), users=BATCH_USERS)
        for name, goal in GOALS.items():
            for compared in (DENSE, DENSE + NARROW):
                ours = name + NARROW if compared != DENSE and name == EXACT else name
                reached = taken[compared].ms / taken[ours].ms
                report.goal(f"{part}: {compared} over {ours}", goal, reached, "higher", "times")
        there |= {f"{part}: {name}": runners[name] for name in runners if name.endswith(THERE)}
    return there


def tell_kernels(report: Report, runners: dict[str, Runner]) -> None:
    for name, runner in runners.items():
        report.conditions[f"kernels of a {name.removesuffix(THERE)}"] = kernels(runner.advance)


def our_systems(users: Prepared, hidden_dims: list[int]) -> dict[str, OurSteps]:
    words = [
        *COMMON,
        f"model.hidden_dims={hidden_dims}".replace(" ", ""),
        f"trainer.batch_users={BATCH_USERS}",
        f"optimizer.lr={LR}",
    ]
    sampled = [*words, "loss=sampled_softmax"]
    ours = partial(OurSteps, users, device=DEVICE, prefetch=AHEAD)
    in_one = [*words, f"loss.block_items={ITEMS}"]
    return {
        EXACT: ours(words),
        EXACT + ONE_BLOCK: ours(in_one),
        EXACT + NARROW: ours(words, narrow=True),
        EXACT + NARROW + ONE_BLOCK: ours(in_one, narrow=True),
        SAMPLED: ours(sampled),
        OWN: ours([*sampled, "loss.shared_targets=false"]),
    }


def our_runners(systems: dict[str, OurSteps]) -> dict[str, Runner]:
    """Batches as they are made, and the same one again and again."""
    found = {name: Runner(one.advance, one.loss) for name, one in systems.items()}
    for name, one in systems.items():
        found[name + THERE] = Runner(partial(one.take, one.ready()))
    return found


def dense_runners(users: Prepared, hidden_dims: list[int], ours: OurSteps) -> dict[str, Runner]:
    start, found = ours.start(), {}
    for name, narrow in ((DENSE, False), (DENSE + NARROW, True)):
        dense = DenseSteps(
            users.parts["train"],
            [ITEMS, *hidden_dims, ITEMS],
            start,
            batch_users=BATCH_USERS,
            lr=LR,
            dropout=DROPOUT,
            narrow=narrow,
            device=DEVICE,
            prefetch=AHEAD,
        )
        found[name] = Runner(dense.advance, dense.loss)
        found[name + THERE] = Runner(partial(dense.take, dense.ready()), dense.loss)
    return found


def floors(width: int) -> dict[str, Runner]:
    """The three products with the catalog table alone, all items at once."""
    hidden_BD = torch.randn(BATCH_USERS, width, device=DEVICE)
    weight_VD = torch.randn(ITEMS, width, device=DEVICE)
    bias_V = torch.zeros(ITEMS, device=DEVICE)
    return {
        FLOOR + name: Runner(products(hidden_BD, weight_VD, bias_V, dtype, block_items=ITEMS))
        for name, dtype in (("", torch.float32), (NARROW, torch.bfloat16))
    }


def host_times(systems: dict[str, OurSteps]) -> dict[str, Timed]:
    """What the thread that makes batches takes for one, alone, pinned where a GPU is to have it."""
    told = {EXACT: "exact softmax", SAMPLED: "sampled softmax", OWN: "own targets"}
    return {
        f"a batch made on the host, {words}": Timed(made_in(systems[name]), None, None)
        for name, words in told.items()
    }


def made_in(ours: OurSteps) -> list[float]:
    finished: Callable[[int, int], object] = ours.work.data.training.finished
    count, seconds = len(ours.work.data.training), []
    for number in range(STEPS // 2 + 1):
        started = time.perf_counter()
        finished(0, number % count)
        seconds.append(time.perf_counter() - started)
    return seconds[1:]
