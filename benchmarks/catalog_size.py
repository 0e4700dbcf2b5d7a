"""Claim: a sampled step costs about the same whether the catalog has 100,000 or 10 million items.

The step of `deeprec train` itself (trainer/module.py: input bag, layers, loss, every optimizer), on
batches of a prepared folder that its own loader made, catalogs in turns in one process, one thread.
Memory is the peak resident set over one step above what was resident before it, in a fresh process
that has made a step already.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from generated import prepared_folder
from page import show
from torch import Tensor

from deeprec.batch import Batch
from deeprec.config import compose
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.train import Work
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import state_tensors

CATALOGS = (100_000, 10_000_000)
USERS, EVENTS, WIDTH, ROUNDS = 512, 70, 64, 25
LOSS, OPTIMIZER = "sampled_softmax", "rowwise_adagrad"


class Alone(Training):
    """A training module that needs no Trainer around it."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.backward()


def work(folder: Path, num_items: int) -> Work:
    path = prepared_folder(
        folder / str(num_items),
        num_users=4 * USERS,
        num_items=num_items,
        events_per_user=EVENTS,
    )
    words = [
        f"prepared={path}",
        f"output_dir={folder / 'run'}",
        f"loss={LOSS}",
        f"optimizer={OPTIMIZER}",
        f"model.hidden_dims=[{WIDTH}]",
        f"trainer.batch_users={USERS}",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.prefetch_batches=0",
    ]
    made = Work(compose("train", words), Prepared(path))  # type: ignore[arg-type]
    made.training.__class__ = Alone
    made.training.train()
    return made


def step(made: Work, batch: Batch) -> tuple[float, float]:
    """CPU and wall milliseconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    made.training.training_step(batch, 0)
    return 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)


def peak(num_items: int) -> dict[str, float]:
    """MB over one step, in a process of its own."""
    # freed memory goes back at once; else a step reuses what making the problem left behind
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, __file__, str(num_items)]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment, text=True)
    held, grown, process = map(float, run.stdout.split())
    return {"held": held, "grown": grown, "process": process}


def grown(num_items: int) -> str:
    """MB of parameters, optimizer state and batch; MB above them in a step; MB of the process."""
    console.quiet = True
    with TemporaryDirectory() as folder:
        made = work(Path(folder), num_items)
        batches = [made.data.training.batch(0, position) for position in range(2)]
    step(made, batches[0])
    tensors = [*made.training.model.state_dict().values()]
    tensors += [*state_tensors(made.training.built).values()]
    history = batches[1].history
    held = sum(tensor.nbytes for tensor in tensors) + 3 * history.values.nbytes
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    step(made, batches[1])
    above, process = kilobytes("VmHWM") - before, kilobytes("VmHWM")
    return f"{held / 1e6} {above * 1024 / 1e6} {process * 1024 / 1e6}"


def kilobytes(kind: str) -> int:
    """Resident now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def measure() -> dict[str, Any]:
    console.quiet = True
    torch.set_num_threads(1)
    taken: dict[int, list[tuple[float, float]]] = {num_items: [] for num_items in CATALOGS}
    with TemporaryDirectory() as folder:
        made = {num_items: work(Path(folder), num_items) for num_items in CATALOGS}
        distinct = {}
        for number in range(ROUNDS + 3):
            for num_items, one in made.items():
                batch = one.data.training.batch(number // 4, number % 4)
                distinct[num_items] = len(batch.history.values.unique())
                found = step(one, batch)
                taken[num_items] += [found] * (number >= 3)  # the first three warm up
        del made
    small, large = CATALOGS
    ratios = [a[0] / b[0] for a, b in zip(taken[large], taken[small], strict=True)]
    memory = {num_items: peak(num_items) for num_items in CATALOGS}
    rows = [
        {
            "items": f"{num_items:,}",
            "CPU ms a step": statistics.median(cpu for cpu, _ in taken[num_items]),
            "wall ms a step": statistics.median(wall for _, wall in taken[num_items]),
            "rows of the input table touched": distinct[num_items],
            "MB of parameters, optimizer state and batch": memory[num_items]["held"],
            "MB more at the peak of a step": memory[num_items]["grown"],
            "MB of the process at that peak": memory[num_items]["process"],
        }
        for num_items in CATALOGS
    ]
    share = memory[large]["grown"] / memory[large]["held"]
    return {
        "claim": "A sampled step costs about the same at 100,000 and at 10 million items.",
        "conditions": {
            "users in a batch": USERS,
            "events a user, mean": EVENTS,
            "width": WIDTH,
            "loss": f"{LOSS}, 4,096 negatives",
            "optimizer": OPTIMIZER,
            "threads": 1,
            "rounds": ROUNDS,
        },
        "rows": rows,
        "goals": [
            {
                "what": "step at 10,000,000 items over step at 100,000, paired median",
                "goal": 1.5,
                "reached": statistics.median(ratios),
                "better": "lower",
                "unit": "times",
            },
            {
                "what": "peak of a step above parameters, optimizer state and batch, at 10,000,000",
                "goal": 15.0,
                "reached": 100 * share,
                "better": "lower",
                "unit": "%",
            },
            {
                "what": "resident memory of the process at 10,000,000 items",
                "goal": 8.0,
                "reached": memory[large]["process"] / 1000,
                "better": "lower",
                "unit": "GB",
            },
        ],
        "plot": {"x": "items", "y": ["CPU ms a step"], "kind": "bar", "log": False, "goal": None},
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(grown(int(sys.argv[1])))
    else:
        show(measure())
