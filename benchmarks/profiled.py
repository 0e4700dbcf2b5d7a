"""Where the time of our steps goes, by torch.profiler: the own share of each operator.

Reasons beside the benchmarks (`NAME.md`) rest on this. An operator that is one of deeprec's own
Functions has the time between those that it calls.

    python benchmarks/profiled.py step | step_100k | dsstne
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import step
import step_100k
import torch
from histories import drawn, prepared
from ours import OurSteps
from sized import sized
from torch.profiler import ProfilerActivity, profile
from turns import Taken, here

import dsstne

WARM, STEPS = sized((2, 5), quick=(1, 1))
SHOWN = 12  # operators
Step = Callable[[int], Taken]  # takes the number of threads


@contextmanager
def of_dsstne() -> Iterator[dict[str, Step]]:
    with tempfile.TemporaryDirectory() as made:
        events = drawn(dsstne.USERS, dsstne.ITEMS, dsstne.MEAN_DRAWS)
        folder = prepared(Path(made) / "prepared", events, dsstne.ITEMS)
        yield {dsstne.OURS: here(OurSteps(folder, dsstne.words()))}


@contextmanager
def of_step(num_items: int) -> Iterator[dict[str, Step]]:
    with step.systems(step.NETWORKS[0], num_items) as (steps, _):
        yield {name: steps[name] for name in (step.EXACT, step.SAMPLED, step.OWN)}


def shares(one: Step) -> list[tuple[str, float]]:
    """Operators and their own share of the CPU time, the largest first."""
    for _ in range(WARM):
        one(1)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            one(1)
    rows = found.key_averages()
    whole = sum(row.self_cpu_time_total for row in rows)
    ranked = sorted(rows, key=lambda row: -row.self_cpu_time_total)[:SHOWN]
    return [(row.key, row.self_cpu_time_total / whole) for row in ranked]


def main(name: str) -> None:
    torch.set_num_threads(1)
    opened: dict[str, Callable[[], AbstractContextManager[dict[str, Step]]]] = {
        "dsstne": of_dsstne,
        "step": partial(of_step, step.ITEMS),
        "step_100k": partial(of_step, step_100k.ITEMS),
    }
    with opened[name]() as steps:
        for system, one in steps.items():
            told = ", ".join(f"{operator} {share:.0%}" for operator, share in shares(one))
            print(f"{system}: {told}")


if __name__ == "__main__":
    main(sys.argv[1])
