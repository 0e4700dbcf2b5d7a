"""Claim: with sharded tables, the bytes exchanged in a step do not grow with the tables.

Two processes of one thread each on this machine, with gloo over loopback, train an autoencoder by
exact softmax: each with the whole catalog, whose gradient is summed over both; each with the rows
of its own half (`trainer.shard_catalog`); and also with half of the input table
(`trainer.shard_inputs`; below 100,000 rows one process has all of it). The three take turns, in the
same two processes.

Bytes are those of the tensors that one process hands to the others: of an all-reduce the whole
tensor, of an all-gather its own part. What a process holds is tables, layers and their optimizer
state, of the process that has most.

    python benchmarks/run.py processes
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from inspect import signature
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
from deeprec.trainer.built import state_tensors
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.module import Training

SIZE = 2
USERS, EVENTS, WIDTH = sized((256, 50, 256), quick=(8, 10, 8))  # users of each process
ITEMS, ROUNDS = sized(((27_278, 200_000), 11), quick=((300, 400), 1))
FORMS = {
    "each has all of the catalog": (),
    "each holds its half of the catalog": ("trainer.shard_catalog=true",),
    "and its half of the input": ("trainer.shard_catalog=true", "trainer.shard_inputs=true"),
}
HANDS = {  # of each collective, which argument goes to the others
    **dict.fromkeys(("all_reduce", "broadcast", "send"), 0),
    **dict.fromkeys(("all_gather", "all_gather_into_tensor"), 1),
    **dict.fromkeys(("all_to_all", "all_to_all_single"), 1),
    **dict.fromkeys(("reduce_scatter", "reduce_scatter_tensor"), 1),
}


class Handed:
    """Counts the bytes that this process hands to the others."""

    def __init__(self) -> None:
        self.bytes = 0
        for name, place in HANDS.items():
            setattr(distributed, name, self._counting(getattr(distributed, name), place))

    def _counting(self, collective: Callable[..., Any], place: int) -> Callable[..., Any]:
        names = [*signature(collective).parameters]

        def counted(*arguments: Any, **keywords: Any) -> Any:
            handed = {**dict(zip(names, arguments)), **keywords}[names[place]]
            tensors = [handed] if isinstance(handed, Tensor) else handed
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
                    "MB a process holds": round(held(forms[name].training, group) / 1e6, 1),
                }
            )
    return rows


def held(training: Training, group: Group) -> int:
    """Bytes of what is learned and what optimizers remember, where it is most."""
    mine = [*training.model.state_dict().values(), *state_tensors(training.built).values()]
    inputs = None if training.shards is None else training.shards.inputs
    found = sum(one.nbytes for one in mine) + (0 if inputs is None else inputs.held_bytes)
    return max(of_one for [of_one] in group.numbers(found))


def words(more: tuple[str, ...]) -> list[str]:
    return [
        "loss=softmax",
        "optimizer=rowwise_adagrad",
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
        "claim": "With sharded tables, the bytes exchanged in a step do not grow with the tables.",
        "conditions": {
            "processes": SIZE,
            "threads of each": 1,
            "users of each in a step": USERS,
            "events a user, mean": EVENTS,
            "width": WIDTH,
            "optimizer": "rowwise_adagrad",
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
