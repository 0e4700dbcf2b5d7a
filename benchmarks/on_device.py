"""Chains of steps on a GPU, timed by the wall clock, and what is reported of them.

A GPU works asynchronously, so it is waited for before and after a chain, never between steps.
Systems take turns. Without a GPU the same code runs on the processor, to see that it does.
"""

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from page import Goal, Measured, keep
from sized import sized
from torch.profiler import ProfilerActivity, profile

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# what was made ahead is used up before the clock runs
STEPS, ROUNDS, WARM = sized((40, 2, 24), quick=(2, 1, 1))
FILLED = 0.05  # seconds in which threads that make batches ahead of the next chain have done so


class Timed(NamedTuple):
    """Of one system."""

    seconds: list[float]  # a step, of each chain
    peak: float | None  # MB on the GPU above what was kept there before
    loss: float | None

    @property
    def ms(self) -> float:
        return 1000 * statistics.median(self.seconds)


class Runner(NamedTuple):
    """A system to be timed."""

    advance: Callable[[], object]
    loss: Callable[[], float] | None = None  # mean since it was asked for last


def in_turns(runners: Mapping[str, Runner], steps: int = STEPS) -> dict[str, Timed]:
    """Chains of each, again and again; the first round is not counted."""
    found: dict[str, list[tuple[float, float | None, float | None]]] = {}
    for _ in range(ROUNDS + 1):
        for name, runner in runners.items():
            found.setdefault(name, []).append(chain(runner, steps))
    return {
        name: Timed(
            [seconds for seconds, _, _ in taken[1:]],
            None if taken[-1][1] is None else max(peak or 0.0 for _, peak, _ in taken[1:]),
            taken[-1][2],
        )
        for name, taken in found.items()
    }


def chain(runner: Runner, steps: int) -> tuple[float, float | None, float | None]:
    """Seconds a step, MB at the peak, and mean loss of some steps without a stop between them."""
    time.sleep(FILLED)
    for _ in range(WARM):
        runner.advance()
    if runner.loss is not None:
        runner.loss()
    kept = settled()
    started = time.perf_counter()
    for _ in range(steps):
        runner.advance()
    wait()
    seconds = (time.perf_counter() - started) / steps
    peak = None if kept is None else (torch.cuda.max_memory_allocated() - kept) / 1e6
    return seconds, peak, None if runner.loss is None else runner.loss()


def settled() -> int | None:
    """Bytes kept on the GPU once it has nothing left to do; the peak starts from here."""
    wait()
    if DEVICE.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def kernels(advance: Callable[[], object], steps: int = 3) -> str:
    """How many kernels and copies a step asks for, and how long they take, one after the other."""
    advance()
    wait()
    activity = ProfilerActivity.CUDA if DEVICE.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as traced:
        for _ in range(steps):
            advance()
        wait()
    ran = [event for event in traced.events() or [] if not event.is_user_annotation]
    ran = [event for event in ran if event.device_type.name.lower() == DEVICE.type]
    ms = sum(event.time_range.elapsed_us() for event in ran) / 1000 / steps
    return f"{len(ran) / steps:.0f} taking {ms:.3g} ms"


class Report:
    """What was found so far, printed and kept as it comes.

    Args:
        claim: of the script.
        conditions: of the run.
    """

    def __init__(self, claim: str, conditions: dict[str, Any]) -> None:
        self.claim, self.conditions = claim, conditions
        self.rows: list[dict[str, Any]] = []
        self.goals: list[Goal] = []
        self.failed: list[str] = []

    def rows_of(
        self, part: str, taken: Mapping[str, Timed], *, users: int, against: str | None = None
    ) -> None:
        """A row for each system, beside one of them."""
        base = taken[against].ms if against is not None else None
        for name, timed in taken.items():
            row = {
                "part": part,
                "what": name,
                "ms": timed.ms,
                "users/s": users / timed.ms * 1000,
                "of the time of": against or "",
                "times": None if base is None else timed.ms / base,
                "MB at the peak": timed.peak,
                "mean loss": timed.loss,
            }
            self.rows.append(row)
            print(" | ".join(told(value) for value in row.values()), flush=True)
        keep(self.found())

    def goal(self, what: str, goal: float, reached: float, better: str, unit: str) -> None:
        one: Goal = {
            "what": what,
            "goal": goal,
            "reached": reached,
            "better": better,
            "unit": unit,
        }
        self.goals.append(one)
        keep(self.found())

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Tells of a failure and lets the next section begin."""
        before = time.monotonic()
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed.append(name)
            self.conditions[f"failed, {name}"] = type(error).__name__
            keep(self.found())
        finally:
            gc.collect()  # systems hold themselves, by their endless batches
            torch.cuda.empty_cache()
            print(f"# {name}: {time.monotonic() - before:.1f} s", flush=True)

    def found(self, plots: Sequence[Any] = ()) -> Measured:
        return {
            "claim": self.claim,
            "conditions": self.conditions,
            "rows": self.rows,
            "goals": self.goals,
            "plots": plots,
        }


def told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
