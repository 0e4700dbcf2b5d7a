"""Claim: on the network of DSSTNE's own benchmark a step takes half of plain PyTorch's.

The network is 27,278 - 1,024 - 1,024 - 1,024 - 27,278 with sigmoid, 256 users, RMSProp, binary
cross entropy over all items, and rows like those of MovieLens 20M. Plain PyTorch here has a sparse
input (embedding_bag), a dense output, and torch.optim.RMSprop on everything; ours is loss=marginal
with optimizer=rmsprop, which changes only the input rows that a batch read. Both take turns, with
the same rows, the same initial weights and no dropout.

    python benchmarks/run.py dsstne
"""

import statistics
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from dense import CPU, batches
from histories import drawn, prepared
from ours import COMMON, OurSteps, arranged
from page import Measured, show
from sized import sized
from torch import Tensor, nn
from torch.nn import functional as F
from turns import (
    Taken,
    here,
    in_turns,
    left_out,
    multiplies_bfloat16,
    ratio,
    rounds,
    spelled,
)

from deeprec.data.store import Part

ITEMS, USERS, BATCH_USERS, MEAN_DRAWS = sized((27_278, 4_000, 256, 290), quick=(500, 200, 64, 20))
HIDDEN, LR, SMOOTHING = sized([1024, 1024, 1024], quick=[8, 8, 8]), 0.001, 0.9
REAL_USERS = 138_493  # of MovieLens 20M
OURS, PLAIN = "ours", "plain PyTorch, sparse input"
NARROW = ", bfloat16"
H100_BYTES, H100_LAUNCH = 3.35e12, 4e-6  # a second; seconds a kernel


class Plain(nn.Module):
    """The network as one would write it in an afternoon."""

    def __init__(self, start: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.table = nn.Parameter(start["layers.0.weight"].T.contiguous())
        self.bias = nn.Parameter(start["layers.0.bias"].clone())
        layers = [nn.Linear(a, b) for a, b in pairwise([*HIDDEN, ITEMS])]
        self.layers = nn.ModuleList(layers)
        for index, layer in enumerate(layers, start=1):
            layer.weight.data.copy_(start[f"layers.{index}.weight"])
            layer.bias.data.copy_(start[f"layers.{index}.bias"])

    def forward(self, items_N: Tensor, offsets_B1: Tensor) -> Tensor:
        hidden = F.embedding_bag(
            items_N, self.table, offsets_B1, mode="sum", include_last_offset=True
        )
        hidden = torch.sigmoid(hidden + self.bias)
        for layer in self.layers[:-1]:
            hidden = torch.sigmoid(layer(hidden))
        scores_BV: Tensor = self.layers[-1](hidden)
        return scores_BV


class PlainSteps:
    """One step after another on shuffled users; as `DenseSteps`, but for the sparse input."""

    def __init__(
        self,
        part: Part,
        start: Mapping[str, Tensor],
        *,
        narrow: bool = False,
        device: torch.device = CPU,
        prefetch: int = 0,
    ) -> None:
        self.model, self.narrow, self.device = Plain(start).to(device), narrow, device
        self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=LR, alpha=SMOOTHING)
        self.batches = batches(part, batch_users=BATCH_USERS, device=device, prefetch=prefetch)
        self.losses: list[Tensor] = []

    def step(self) -> float:
        self.advance()
        return self.loss()

    def advance(self) -> None:
        """A step whose loss is not looked at, for which a GPU would be waited for."""
        rows = next(self.batches).to(self.device)
        target_BV = rows.multi_hot(ITEMS)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.narrow):
            scores_BV = self.model(rows.items, rows.offsets)
            loss = F.binary_cross_entropy_with_logits(scores_BV, target_BV, reduction="sum")
        loss = loss / len(target_BV)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it so
        self.optimizer.step()
        self.losses.append(loss.detach())

    def loss(self) -> float:
        """The mean over the steps since it was asked for last."""
        found = torch.stack(self.losses).mean().item()
        self.losses.clear()
        return found


def words() -> list[str]:
    return [
        *[word for word in COMMON if "betas" not in word],
        f"model.hidden_dims={HIDDEN}".replace(" ", ""),
        "model.activation=sigmoid",
        "model.normalize=false",
        "model.input_dropout=0",
        "model.init_std=0.01",
        "loss=marginal",
        "optimizer=rmsprop",
        f"optimizer.lr={LR}",
        f"optimizer.smoothing={SMOOTHING}",
        f"trainer.batch_users={BATCH_USERS}",
    ]


def h100_seconds(touched_rows: float, *, blocks: int) -> tuple[float, float]:
    """An estimate, not a measurement: an epoch's seconds of memory traffic and of launches.

    Bytes that a step of ours must move in float32, if a block of the catalog stays in the cache
    between its products and its update: of the catalog table, weights and mean squares are read and
    written once; of the input table, the touched rows are read for the bag, and read and written
    with their mean squares for the update; of the two square layers the weights are read twice,
    the gradient is written and read, weights and mean squares are read and written.
    """
    width = HIDDEN[0]
    floats = 4 * ITEMS * width + 5 * touched_rows * width + 8 * 2 * width * width
    steps = REAL_USERS / BATCH_USERS
    kernels = 60 + 14 * blocks
    return steps * 4 * floats / H100_BYTES, steps * kernels * H100_LAUNCH


def measure() -> Measured:
    with tempfile.TemporaryDirectory() as made:
        events = drawn(USERS, ITEMS, MEAN_DRAWS)
        folder = prepared(Path(made) / "prepared", events, ITEMS)
        ours = OurSteps(folder, words())
        touched = len(torch.unique(arranged(next(ours.endless())).asked[0].target.values))
        ours.work.data.training.load_state_dict({"epoch": 0, "position": 0})
        start = ours.start()
        steps = {PLAIN: here(PlainSteps(folder.parts["train"], start)), OURS: here(ours)}
        if multiplies_bfloat16():
            plain = PlainSteps(folder.parts["train"], start, narrow=True)
            steps[PLAIN + NARROW] = here(plain)
            steps[OURS + NARROW] = here(OurSteps(folder, words(), narrow=True))
        taken = {
            threads: in_turns(steps, rounds=count, threads=threads)
            for threads, count in rounds(5, 3).items()
        }
    return {
        "claim": "On the network of DSSTNE's own benchmark a step takes less than plain PyTorch's.",
        "conditions": conditions(float(events.lengths.mean()), touched) | left_out(taken),
        "rows": [row(name, taken) for name in steps],
        "goals": [
            {
                "what": f"step{ours}, CPU seconds on {spelled(threads)}",
                "goal": 0.5,
                "reached": ratio(found[OURS + ours], found[PLAIN + theirs]),
                "better": "lower",
                "unit": f"of plain PyTorch{theirs}",
            }
            for threads, found in taken.items()
            for ours, theirs in (("", ""), (NARROW, ""), (NARROW, NARROW))
            if OURS + ours in found
        ],
        "plots": [
            {
                "kind": "bar",
                "x": "what",
                "y": [f"CPU s, {spelled(threads)}" for threads in taken],
                "title": "A step of 27,278 - 3 x 1,024 - 27,278, CPU seconds",
            }
        ],
    }


def conditions(mean_items: float, touched: int) -> dict[str, Any]:
    memory, launches = h100_seconds(touched, blocks=-(-ITEMS // 2_048))
    one_block = h100_seconds(touched, blocks=1)[1]
    return {
        "users in a batch": BATCH_USERS,
        "items a user": mean_items,
        "distinct items in a batch": touched,
        "estimated, not measured, for an epoch of MovieLens 20M on an H100": f"{memory:.2f} s of "
        f"memory traffic; {launches:.2f} s of kernel launches in blocks of 2,048 items without "
        f"CUDA graphs, {one_block:.2f} s in one block",
    }


def row(name: str, taken: dict[int, dict[str, list[Taken]]]) -> dict[str, Any]:
    found: dict[str, Any] = {"what": name}
    for threads, by_name in taken.items():
        found[f"CPU s, {spelled(threads)}"] = statistics.median(each.cpu for each in by_name[name])
        found[f"wall s, {spelled(threads)}"] = statistics.median(
            each.wall for each in by_name[name]
        )
    found["mean loss"] = statistics.mean(each.loss for each in taken[1][name])
    return found


if __name__ == "__main__":
    show(measure())
