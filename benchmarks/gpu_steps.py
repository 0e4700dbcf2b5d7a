"""Whole training steps on a GPU, ours and the commonly written one, of the networks of step.py."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from dense import DenseSteps
from histories import drawn, prepared
from matrix_rate import products
from on_device import DEVICE, STEPS, Report, Runner, Timed, in_turns, kernels
from ours import COMMON, OurSteps
from sized import sized
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

AHEAD = 2  # batches of the dense form, which takes hardly any time to make one
NARROW, THERE = ", bfloat16", ", one batch again and again"
KERNELS, THREAD = ", kernel by kernel", ", batches made by a thread"
COMPARED = {EXACT: DENSE, EXACT + NARROW: DENSE + NARROW, SAMPLED: DENSE}


class Shape(NamedTuple):
    """What is trained, and on how many users at once."""

    hidden_dims: list[int]
    items: int
    batch_users: int

    @property
    def part(self) -> str:
        network = "-".join(map(str, self.hidden_dims))
        return f"step {network}, {self.items:,} items, {self.batch_users:,} users"


SHAPES = [
    Shape(NETWORKS[0], ITEMS, BATCH_USERS),
    *sized([Shape([256], ITEMS, 4_096), Shape([256], 200_000, 512)], quick=[]),
]


def measure_steps(report: Report, folder: Path) -> dict[str, Runner]:
    """Returns those whose batch lies there already, to be looked into when all is timed."""
    there: dict[str, Runner] = {}
    for shape in SHAPES:
        users = histories(folder / str(shape.items), shape.items)
        systems = our_systems(users, shape)
        runners = dense_runners(users, shape, systems[EXACT]) | our_runners(systems)
        runners |= floors(shape)
        taken = in_turns(runners)
        report.rows_of(shape.part, taken, users=shape.batch_users, against=DENSE)
        report.rows_of(shape.part, host_times(systems), users=shape.batch_users)
        for ours, compared in COMPARED.items():
            for more in ("", THERE):
                reached = taken[compared + more].ms / taken[ours + more].ms
                what = f"{shape.part}: {compared} over {ours}{more}"
                report.goal(what, 1.0, reached, "higher", "times")
        if shape == SHAPES[0]:
            there = {name: runner for name, runner in runners.items() if name.endswith(THERE)}
    return there


def histories(folder: Path, items: int) -> Prepared:
    """Five times the users of step.py: an epoch of many batches, so that its end is seldom."""
    if folder.exists():
        return Prepared(folder)
    return prepared(folder, drawn(5 * USERS, items, MEAN_DRAWS), items)


def tell_kernels(report: Report, runners: dict[str, Runner]) -> None:
    for name, runner in runners.items():
        report.conditions[f"kernels of a step: {name.removesuffix(THERE)}"] = kernels(
            runner.advance
        )


def our_systems(users: Prepared, shape: Shape) -> dict[str, OurSteps]:
    words = [
        *COMMON,
        f"model.hidden_dims={shape.hidden_dims}".replace(" ", ""),
        f"trainer.batch_users={shape.batch_users}",
        f"optimizer.lr={LR}",
    ]
    sampled = [*words, "loss=sampled_softmax"]
    ours = partial(OurSteps, users, device=DEVICE, ahead=True)
    return {
        EXACT: ours(words),
        EXACT + KERNELS: ours([*words, "trainer.cuda_graph=false"]),
        EXACT + THREAD: ours(words, makers=0),
        EXACT + NARROW: ours(words, narrow=True),
        SAMPLED: ours(sampled),
        OWN: ours([*sampled, "loss.shared_targets=false"]),
    }


def our_runners(systems: dict[str, OurSteps]) -> dict[str, Runner]:
    """Batches as they are made, and the same one again and again."""
    found = {name: Runner(one.advance, one.loss) for name, one in systems.items()}
    for name, one in systems.items():
        found[name + THERE] = Runner(partial(one.take, one.ready()))
    return found


def dense_runners(users: Prepared, shape: Shape, ours: OurSteps) -> dict[str, Runner]:
    start, found = ours.start(), {}
    for name, narrow in ((DENSE, False), (DENSE + NARROW, True)):
        dense = DenseSteps(
            users.parts["train"],
            [shape.items, *shape.hidden_dims, shape.items],
            start,
            batch_users=shape.batch_users,
            lr=LR,
            dropout=DROPOUT,
            narrow=narrow,
            device=DEVICE,
            prefetch=AHEAD,
        )
        found[name] = Runner(dense.advance, dense.loss)
        found[name + THERE] = Runner(partial(dense.take, dense.ready()), dense.loss)
    return found


def floors(shape: Shape) -> dict[str, Runner]:
    """The three products with the catalog table alone, all items at once."""
    width = shape.hidden_dims[-1]
    hidden_BD = torch.randn(shape.batch_users, width, device=DEVICE)
    weight_VD = torch.randn(shape.items, width, device=DEVICE)
    bias_V = torch.zeros(shape.items, device=DEVICE)
    return {
        FLOOR + name: Runner(products(hidden_BD, weight_VD, bias_V, dtype, block_items=shape.items))
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
