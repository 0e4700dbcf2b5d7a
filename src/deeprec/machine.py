"""What this machine has for this process, on Linux and elsewhere."""

import os
import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory_bytes() -> int:
    """What can be had without swapping; all that there is, where the system does not tell."""
    if MEMINFO.exists():
        available = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
        if available:
            return int(available[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
