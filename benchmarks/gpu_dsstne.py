"""DSSTNE's own benchmark on a GPU: a step of the network of dsstne.py, and the epoch it makes."""

from functools import partial
from pathlib import Path

import torch
from gpu_steps import AHEAD, NARROW, THERE
from histories import drawn, prepared
from on_device import DEVICE, Report, Runner, Timed, in_turns
from ours import OurSteps, arranged

from dsstne import (
    BATCH_USERS,
    ITEMS,
    MEAN_DRAWS,
    PLAIN,
    REAL_USERS,
    USERS,
    PlainSteps,
    h100_seconds,
    words,
)

OURS, PART = "ours", "DSSTNE's network"


def measure_dsstne(report: Report, folder: Path) -> None:
    users = prepared(folder / "histories", drawn(5 * USERS, ITEMS, MEAN_DRAWS), ITEMS)
    ours = partial(OurSteps, users, device=DEVICE, ahead=True)
    systems = {OURS: ours(words()), OURS + NARROW: ours(words(), narrow=True)}
    start, part = systems[OURS].start(), users.parts["train"]
    plain = partial(PlainSteps, part, start, device=DEVICE, prefetch=AHEAD)
    plains = {PLAIN: plain(), PLAIN + NARROW: plain(narrow=True)}
    runners = {name: Runner(one.advance, one.loss) for name, one in (plains | systems).items()}
    held = {name: one.ready() for name, one in systems.items()}
    for name, one in systems.items():
        runners[name + THERE] = Runner(partial(one.take, held[name]))
    taken = in_turns(runners)
    report.rows_of(PART, taken, users=BATCH_USERS, against=PLAIN)
    for more in ("", NARROW):
        share = taken[OURS + more].ms / taken[PLAIN + more].ms
        report.goal(f"{PART}{more}: ours over plain", 0.5, share, "lower", "of plain PyTorch")
    touched = len(torch.unique(arranged(held[OURS]).asked[0].target.values))
    report.conditions[f"an epoch of MovieLens 20M, {REAL_USERS:,} users"] = epochs(taken, touched)


def epochs(taken: dict[str, Timed], touched: int) -> str:
    """What follows from the measured steps, beside what was estimated."""
    steps = REAL_USERS / BATCH_USERS
    found = [f"{name} {steps * timed.ms / 1000:.2f} s" for name, timed in taken.items()]
    memory, launches = h100_seconds(touched, blocks=-(-ITEMS // 2_048))
    in_one = h100_seconds(touched, blocks=1)[1]
    return (
        f"{', '.join(found)}; had been estimated in float32: {memory:.2f} s of memory traffic, "
        f"{launches:.2f} s of kernel launches, {in_one:.2f} s in one block"
    )
