"""Claim: where processes share the catalog, what travels in a step does not grow with it.

Two processes of one thread each on this machine, by gloo over loopback, train an autoencoder by
exact softmax: each with all of the catalog, whose gradient is added up over both, and each with the
rows of its own half (`trainer.shard_catalog`). Steps in turns, in the same two processes.

Bytes are those of the tensors that one process hands to the others: of an addition all of it, of
a gathering its own part.

    python benchmarks/run.py processes
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from generated import prepared_folder
from ours import CPU, OurSteps
from page import Measured, show
from sized import sized
from torch import Tensor, distributed

from deeprec.data.store import Prepared
from deeprec.trainer.data_parallel import Group

SIZE = 2
USERS, EVENTS, WIDTH = sized((256, 50, 256), quick=(8, 10, 8))  # users of each process
ITEMS, ROUNDS = sized(((27_278, 200_000), 11), quick=((300, 400), 1))
FORMS = {
    "each has all of the catalog": (),
    "each has its own half": ("trainer.shard_catalog=true",),
}


class Handed:
    """Counts the bytes that this process hands to the others."""

    def __init__(self) -> None:
        self.bytes = 0
        for name in ("all_reduce", "all_gather", "broadcast", "send"):
            setattr(distributed, name, self._counting(getattr(distributed, name)))

    def _counting(self, collective: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            tensors = [one for one in arguments if isinstance(one, Tensor)]
            self.bytes += sum(one.nbytes for one in tensors)
            return collective(*arguments, **keywords)

        return counted


def member(rank: int, folder: Path) -> list[dict[str, Any]]:
    """What one of the processes does; all of them find the same but for noise."""
    torch.set_num_threads(1)
    group, handed = Group(SIZE, rank), Handed()
    group.join(folder, CPU)
    rows = []
    for items in ITEMS:
        prepared = Prepared(folder / str(items))
        forms = {name: OurSteps(prepared, words(more), group=group) for name, more in FORMS.items()}
        taken: dict[str, list[tuple[int, float, float]]] = {name: [] for name in FORMS}
        for _ in range(ROUNDS + 2):
            for name, steps in forms.items():
                batch = steps.ready()
                group.totals(0)  # both begin at once
                before, wall, cpu = handed.bytes, time.perf_counter(), time.process_time()
                steps.take(batch)
                seconds = time.perf_counter() - wall, time.process_time() - cpu
                taken[name].append((handed.bytes - before, *seconds))
        for name, found in taken.items():
            sent, wall, cpu = (statistics.median(each) for each in zip(*found[2:], strict=True))
            rows.append(
                {
                    "items": f"{items:,}",
                    "of two processes": name,
                    "MB handed over in a step": round(sent / 1e6, 2),
                    "users a second, both": round(SIZE * USERS / wall),
                    "CPU ms of a step, one": round(1000 * cpu),
                }
            )
    return rows


def words(more: tuple[str, ...]) -> list[str]:
    return [
        "loss=softmax",
        f"model.hidden_dims=[{WIDTH}]",
        f"trainer.batch_users={USERS}",
        f"trainer.processes={SIZE}",
        "trainer.threads=1",
        "trainer.prefetch_batches=0",
        *more,
    ]


def measure() -> Measured:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for items in ITEMS:
            prepared_folder(
                folder / str(items), num_users=20 * USERS, num_items=items, events_per_user=EVENTS
            )
        members = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), name], stdout=subprocess.PIPE, text=True
            )
            for rank in range(SIZE)
        ]
        told = [one.communicate()[0] for one in members]
    if any(one.returncode for one in members):
        raise RuntimeError("one of the processes ended; what it said stands above")
    return {
        "claim": "Where processes share the catalog, what travels does not grow with it.",
        "conditions": {
            "processes": SIZE,
            "threads of each": 1,
            "users of each in a step": USERS,
            "events a user, mean": EVENTS,
            "width": WIDTH,
            "optimizer": "adam",
            "rounds": ROUNDS,
        },
        "rows": json.loads(told[0]),
        "goals": [],
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(member(int(sys.argv[1]), Path(sys.argv[2]))), flush=True)
        os._exit(0)  # at once: threads of the process group may abort an ordinary end
    show(measure())
