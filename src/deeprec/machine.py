"""What this machine has for this process, on Linux and elsewhere."""

import os
import re
import resource
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory_bytes() -> int:
    """What can be had without swapping; all that there is, where the system does not tell.

    Nor more than `ulimit -v` leaves this process.
    """
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if MEMINFO.exists():
        available = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
        if available:
            free = int(available[1]) * 1024
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY and STATM.exists():
        mapped = int(STATM.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        free = max(0, min(free, most - mapped))
    return free
