"""Memory of a step, as seen by the process of a script that does nothing else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def alone(script: str, word: str) -> list[float]:
    """The numbers that a script prints when it is called with this word."""
    # freed memory goes back at once; else a step reuses what making the problem left behind
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, script, word]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment, text=True)
    return [float(number) for number in run.stdout.split()]


def grown(step: Callable[[], object]) -> tuple[float, float]:
    """MB at the peak of a step above what was resident before it, and MB resident at that peak."""
    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    step()
    peak = kilobytes("VmHWM")
    return (peak - before) * 1024 / 1e6, peak * 1024 / 1e6


def kilobytes(kind: str) -> int:
    """Resident now (VmRSS) or at its peak (VmHWM); getrusage would count the parent's peak too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])
