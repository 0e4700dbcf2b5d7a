"""Claim: what a step, a loss, a list and a larger catalog cost on a GPU, beside plain PyTorch.

Figures are wall milliseconds per step, the median of chains of steps during which the program never
waits for the GPU; systems take turns in one process. Batches are made ahead, ours as a run makes
them, those of the dense form by a thread. Beside each step stands the same step with one batch
again and again, which the GPU has or fetches: this leaves the time of the GPU, or of the program
that launches its kernels. The dense form builds its rows on the GPU and has torch's fused Adam. If
a section fails, this is reported and the next one begins.

    python benchmarks/run.py gpu             # where a CUDA device answers
    python benchmarks/run.py --quick gpu     # anywhere: whether it runs
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from gpu_catalogs import measure_catalogs
from gpu_dsstne import measure_dsstne
from gpu_lists import measure_lists
from gpu_losses import measure_losses
from gpu_steps import measure_steps, tell_kernels
from gpu_variational import measure_variational
from on_device import DEVICE, ROUNDS, STEPS, WARM, Report, Runner
from page import Measured, Plot, show
from sized import QUICK
from step import BATCH_USERS, DROPOUT, ITEMS

CLAIM = (
    "What a training step, an exact loss, a list and a larger catalog cost on a GPU, beside plain "
    "PyTorch."
)


def measure() -> Measured:
    if DEVICE.type != "cuda" and not QUICK:
        sys.exit("gpu measures on a CUDA device, and none answers; --quick tries it without one")
    report, there = Report(CLAIM, conditions()), dict[str, Runner]()
    with TemporaryDirectory() as made:
        folder = Path(made)
        with report.section("steps"):
            there = measure_steps(report, folder / "steps")
        with report.section("variational"):
            measure_variational(report, folder / "steps")
        with report.section("dsstne"):
            measure_dsstne(report, folder / "dsstne")
        backends = ("torch", "torchrec") if find_spec("fbgemm_gpu") else ("torch",)
        for backend in backends:
            with report.section(f"catalogs, {backend}"):
                measure_catalogs(report, folder, backend)
        with report.section("lists"):
            measure_lists(report)
        with report.section("losses"):
            measure_losses(report)
        with report.section("kernels"):  # last: what traces kernels may slow what comes after it
            tell_kernels(report, there)
    if not report.rows or (QUICK and report.failed):
        raise RuntimeError(f"failed: {', '.join(report.failed)}")
    return report.found(plots(report.rows))


def conditions() -> dict[str, Any]:
    cuda = DEVICE.type == "cuda"
    return {
        "GPU": torch.cuda.get_device_name() if cuda else None,
        "CUDA": torch.version.cuda if cuda else None,
        "TorchRec": installed("torchrec"),
        "fbgemm": installed("fbgemm-gpu"),
        "float32 products": torch.get_float32_matmul_precision(),
        "items of the steps": ITEMS,
        "users in a batch": BATCH_USERS,
        "input dropout": DROPOUT,
        "steps in a chain": STEPS,
        "steps before it": WARM,
        "chains": ROUNDS,
    }


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def plots(rows: list[dict[str, Any]]) -> list[Plot]:
    """The steps of each network."""
    parts = dict.fromkeys(row["part"] for row in rows if row["part"].startswith("step "))
    return [
        {
            "kind": "bar",
            "x": "what",
            "y": ["ms"],
            "title": f"{part.removeprefix('step ')}, ms",
            "rows": [{"what": row["what"], "ms": row["ms"]} for row in rows if row["part"] == part],
        }
        for part in parts
    ]


if __name__ == "__main__":
    show(measure())
