"""Claim: the blockwise catalog losses cost less than the naive dense ones, in time and in memory.

One step of value and gradients, engine and naive form in turns in one process, single thread, CPU
seconds. Memory is the peak resident set over one step above what was resident before it, each in a
fresh process.

    python benchmarks/catalog_loss.py            # prints a Markdown table
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from deeprec.batch import Encoded, Jagged
from deeprec.loss.marginal import Marginal
from deeprec.loss.softmax import Softmax

USERS, ITEMS, WIDTH, TARGETS, ROUNDS = 512, 30_000, 256, 30, 7


def problem() -> tuple[Tensor, Tensor, Tensor, Jagged]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(USERS, WIDTH, generator=draw).requires_grad_()
    weight = (torch.randn(ITEMS, WIDTH, generator=draw) * 0.05).requires_grad_()
    bias = torch.zeros(ITEMS, requires_grad=True)
    rows = [torch.randperm(ITEMS, generator=draw)[:TARGETS].sort().values for _ in range(USERS)]
    return hidden, weight, bias, Jagged(torch.cat(rows), torch.arange(USERS + 1) * TARGETS)


def dense_target(target: Jagged) -> Tensor:
    users = torch.repeat_interleave(target.offsets.diff())
    dense = torch.zeros(USERS, ITEMS)
    dense[users, target.values] = 1
    return dense


def naive_softmax(hidden: Tensor, weight: Tensor, bias: Tensor, target: Jagged) -> Tensor:
    scores = F.linear(hidden, weight, bias)
    return -(scores.log_softmax(1) * dense_target(target)).sum() / USERS


def naive_marginal(hidden: Tensor, weight: Tensor, bias: Tensor, target: Jagged) -> Tensor:
    scores = F.linear(hidden, weight, bias)
    total = F.binary_cross_entropy_with_logits(scores, dense_target(target), reduction="sum")
    return total / USERS


def ours(loss: torch.nn.Module) -> Callable[..., Tensor]:
    none = torch.zeros(0, dtype=torch.int64), torch.zeros(USERS + 1, dtype=torch.int64)

    def value(hidden: Tensor, weight: Tensor, bias: Tensor, target: Jagged) -> Tensor:
        return loss(Encoded(hidden, *none, torch.zeros(0)), weight, bias, target)

    return value


FORMS = {
    "softmax naive": naive_softmax,
    "softmax blockwise": ours(Softmax()),
    "marginal naive": naive_marginal,
    "marginal blockwise": ours(Marginal()),
}


def step(form: Callable[..., Tensor], made: tuple) -> float:
    for leaf in made[:3]:
        leaf.grad = None
    started = time.process_time()
    form(*made).backward()
    return time.process_time() - started


def peak_megabytes(name: str) -> float:
    """Growth of the peak resident set over one step, in a process of its own."""
    command = [sys.executable, __file__, name]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def grown(name: str) -> float:
    torch.set_num_threads(1)
    made = problem()
    before = kilobytes("VmRSS")
    step(FORMS[name], made)
    return (kilobytes("VmHWM") - before) / 1024


def kilobytes(kind: str) -> int:
    """Resident now (VmRSS) or at its peak (VmHWM); getrusage would count the parent's peak too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def main() -> None:
    torch.set_num_threads(1)
    made = problem()
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    for _ in range(ROUNDS):
        for name, form in FORMS.items():
            seconds[name].append(step(form, made))
    print(
        f"{date.today()}, torch {torch.__version__}, Python {platform.python_version()}, 1 thread"
    )
    print(f"{USERS} users x {ITEMS:,} items, width {WIDTH}, {TARGETS} targets a user\n")
    print("| form | CPU ms, median | to naive, paired median | peak MB |\n|---|---|---|---|")
    for name, taken in seconds.items():
        naive = seconds[name.split()[0] + " naive"]
        ratio = statistics.median(a / b for a, b in zip(taken, naive, strict=True))
        median = 1000 * statistics.median(taken)
        print(f"| {name} | {median:.0f} | {ratio:.2f} | {peak_megabytes(name):.0f} |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(grown(sys.argv[1]))
    else:
        main()
