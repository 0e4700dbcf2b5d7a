"""Steps of several systems in turns, and what they took."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from sized import QUICK

BUSY = 0.7  # of a core, on average over a minute


class Taken(NamedTuple):
    """Of one step."""

    wall: float  # seconds
    cpu: float  # seconds of the process, all threads
    loss: float


class System(Protocol):
    """Something that can be stepped through."""

    def step(self) -> float:
        """Returns the loss."""
        ...


class Spent(NamedTuple):
    """Seconds of a piece of work."""

    cpu: float  # of the process, all threads
    wall: float


def timed(step: Callable[[], float]) -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    loss = step()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu, loss)


def spent(work: Callable[[], object]) -> Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def median(taken: Sequence[Spent]) -> Spent:
    return Spent(*(statistics.median(column) for column in zip(*taken)))


def in_ms(taken: Sequence[Spent]) -> dict[str, float]:
    """The medians, as columns of a table."""
    each = median(taken)
    return {"CPU ms": 1000 * each.cpu, "wall ms": 1000 * each.wall}


def in_turns(
    steps: Mapping[str, Callable[[int], Taken]], *, rounds: int, threads: int
) -> dict[str, list[Taken]]:
    """A step of each, again and again; the first round is not counted.

    Args:
        steps: by system, takes the number of threads.
    """
    found: dict[str, list[Taken]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            found[name].append(step(threads))
    return {name: taken[1:] for name, taken in found.items()}


def here(system: System) -> Callable[[int], Taken]:
    """Steps of a system in this process."""

    def step(threads: int) -> Taken:
        torch.set_num_threads(threads)
        return timed(system.step)

    return step


def spelled(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def ratio(of: list[Taken], to: list[Taken]) -> float:
    """Of the CPU seconds, the median over rounds."""
    return statistics.median(a.cpu / b.cpu for a, b in zip(of, to, strict=True))


def rounds(one_thread: int, two_threads: int) -> dict[int, int]:
    """By number of threads; on a busy machine two wait for each other, and tell of that only."""
    if QUICK:
        return {1: 1, 2: 1}
    alone = os.getloadavg()[0] < BUSY
    return {1: one_thread, **({2: two_threads} if alone else {})}


def left_out(threads: Mapping[int, object], *more: str | None) -> dict[str, str]:
    """The condition of a result that says what could not be measured, if anything."""
    busy = None if 2 in threads else "two threads (the machine was busy)"
    narrow = None if multiplies_bfloat16() else "bfloat16 (this processor has no instructions)"
    found = [reason for reason in (busy, narrow, *more) if reason is not None]
    return {"left out": ", ".join(found)} if found else {}


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; without, products take many times longer."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags
