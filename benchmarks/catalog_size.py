"""Claim: a sampled step costs about the same whether the catalog has 100,000 or 10 million items.

The step of `deeprec train` itself (trainer/module.py: input bag, layers, loss, all optimizers), on
batches of a prepared folder by its own loader. The catalogs take turns in one process, on one
thread. Memory is the peak resident set over one step above what was resident before it, in a fresh
process that has made a step already.
"""

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from generated import prepared_folder
from memory import alone, grown
from ours import work_of
from page import Goal, Measured, show
from sized import sized
from torch import Tensor
from turns import spent

from deeprec.batch import Arranged
from deeprec.data.store import Prepared
from deeprec.loss.auto import Auto
from deeprec.model.sparse_input import HISTORY
from deeprec.trainer.built import state_tensors
from deeprec.trainer.facts import build_loss
from deeprec.trainer.module import Loss, Training
from deeprec.work import Work

CATALOGS = sized((100_000, 10_000_000), quick=(6_000,))
USERS, EVENTS, WIDTH, ROUNDS = sized((512, 70, 64, 15), quick=(8, 10, 4, 2))
LOSS, OPTIMIZER = "sampled_softmax", "rowwise_adagrad"


class Made(NamedTuple):
    """What `deeprec train` puts together for a catalog."""

    work: Work
    training: Training

    def batch(self, epoch: int, position: int) -> Arranged:
        batch: Arranged = self.work.data.training.finished(epoch, position)
        return batch


def made(folder: Path, num_items: int) -> Made:
    path = prepared_folder(
        folder / str(num_items),
        num_users=4 * USERS,
        num_items=num_items,
        events_per_user=EVENTS,
    )
    words = [
        f"loss={LOSS}",
        f"optimizer={OPTIMIZER}",
        f"model.hidden_dims=[{WIDTH}]",
        f"trainer.batch_users={USERS}",
        "trainer.device=cpu",
        "trainer.threads=1",
        "trainer.prefetch_batches=0",
    ]
    return Made(*work_of(Prepared(path), words))


def step(made: Made, batch: Arranged) -> tuple[float, float]:
    """CPU and wall milliseconds."""
    taken = spent(partial(made.training.training_step, batch, 0))
    return 1000 * taken.cpu, 1000 * taken.wall


def peak(num_items: int) -> dict[str, float]:
    """MB over one step, in a process of its own."""
    return dict(zip(("held", "grown", "process"), alone(__file__, str(num_items)), strict=True))


def of_step(num_items: int) -> str:
    """MB of parameters, optimizer state and batch; MB above them in a step; MB of the process."""
    with TemporaryDirectory() as folder:
        one = made(Path(folder), num_items)
        batches = [one.batch(0, position) for position in range(2)]
    step(one, batches[0])
    tensors = [*one.training.model.state_dict().values()]
    tensors += [*state_tensors(one.training.built).values(), *tensors_of(batches[1])]
    held = sum(tensor.nbytes for tensor in tensors)
    above, process = grown(lambda: step(one, batches[1]))
    return f"{held / 1e6} {above} {process}"


def tensors_of(held: Any) -> Iterator[Tensor]:
    """Every tensor in a batch, each once."""
    if isinstance(held, Tensor):
        yield held
    elif is_dataclass(held):
        yield from tensors_of(vars(held))
    elif isinstance(held, Mapping):
        yield from tensors_of([*held.values()])
    elif isinstance(held, list | tuple):
        found = {one.data_ptr(): one for each in held for one in tensors_of(each)}
        yield from found.values()


def losses(work: Work) -> dict[str, Loss]:
    """The loss with targets that are scored for all users of a batch, and for their own alone."""
    return {
        name: loss_of(work, shared_targets=shared)
        for name, shared in (("for everybody", True), ("for their own users", False))
    }


def loss_of(work: Work, *, shared_targets: bool) -> Loss:
    assert work.config.loss is not None
    loss = build_loss(
        {**work.config.loss, "shared_targets": shared_targets},
        work.facts,
        torch.from_numpy(work.prepared.popularity.copy()),
        width=WIDTH,
        batch_users=USERS,
        device="cpu",
    )
    assert not isinstance(loss, Auto)
    return loss


class Turns(NamedTuple):
    """What steps took, round after round."""

    milliseconds: dict[tuple[str, int], list[tuple[float, float]]]  # by form and items; CPU, wall
    touched: dict[int, int]  # rows of the input table, by items

    def ratio(self, form: str) -> float:
        """CPU of the large catalog over that of the small one, median over rounds."""
        large, small = (self.milliseconds[form, CATALOGS[place]] for place in (-1, 0))
        return statistics.median(a[0] / b[0] for a, b in zip(large, small, strict=True))


def in_turns() -> Turns:
    turns = Turns(defaultdict(list), {})
    with TemporaryDirectory() as folder:
        by_items = {num_items: made(Path(folder), num_items) for num_items in CATALOGS}
        forms = {num_items: losses(one.work) for num_items, one in by_items.items()}
        for number in range(ROUNDS + 3):
            for form in forms[CATALOGS[0]]:
                for num_items, one in by_items.items():
                    one.training.loss = forms[num_items][form]
                    batch = one.batch(number // 4, number % 4)
                    turns.touched[num_items] = len(torch.unique(batch.fields[HISTORY].values))
                    found = step(one, batch)
                    turns.milliseconds[form, num_items] += [found] * (number >= 3)  # warm by then
    return turns


def measure() -> Measured:
    torch.set_num_threads(1)
    turns = in_turns()
    memory = {num_items: peak(num_items) for num_items in CATALOGS}
    rows = [
        {
            "targets are scored": form,
            "items": f"{num_items:,}",
            "CPU ms a step": round(statistics.median(cpu for cpu, _ in taken), 1),
            "wall ms a step": round(statistics.median(wall for _, wall in taken), 1),
            "input rows touched": turns.touched[num_items],
            "MB of parameters, optimizer state and batch": round(memory[num_items]["held"]),
            "MB more at the peak of a step": round(memory[num_items]["grown"]),
            "MB of the process at that peak": round(memory[num_items]["process"]),
        }
        for (form, num_items), taken in turns.milliseconds.items()
    ]
    large = memory[CATALOGS[-1]]
    times: list[Goal] = [
        {
            "what": f"a step at 10,000,000 items over 100,000, targets scored {form}",
            "goal": 1.5,
            "reached": turns.ratio(form),
            "better": "lower",
            "unit": "times",
        }
        for form in ("for everybody", "for their own users")
    ]
    return {
        "claim": "A sampled step costs about the same at 100,000 and at 10 million items.",
        "conditions": {
            "users in a batch": USERS,
            "events a user, mean": EVENTS,
            "width": WIDTH,
            "loss": f"{LOSS}, 4,096 draws; memory is that of targets scored for everybody",
            "optimizer": OPTIMIZER,
            "threads": 1,
            "rounds": ROUNDS,
        },
        "rows": rows,
        "goals": [
            *times,
            {
                "what": "peak of a step above parameters, optimizer state and batch, at 10,000,000",
                "goal": 15.0,
                "reached": 100 * large["grown"] / large["held"],
                "better": "lower",
                "unit": "%",
            },
            {
                "what": "resident memory of the process at 10,000,000 items",
                "goal": 8.0,
                "reached": large["process"] / 1000,
                "better": "lower",
                "unit": "GB",
            },
        ],
        "plots": [
            {
                "kind": "bar",
                "x": "items",
                "y": ["CPU ms a step"],
                "split": "targets are scored",
                "title": "A sampled step, CPU ms",
            }
        ],
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(of_step(int(sys.argv[1])))
    else:
        show(measure())
