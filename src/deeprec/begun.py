"""Processes that this one begins: they hear no request to stop, and end with it however it ends."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # to stop
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


@contextmanager
def deaf() -> Iterator[None]:
    """What is begun meanwhile hears of no request to stop; this process does, afterwards."""
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def end_with(parent: int) -> None:
    """Has this process end when the one does that began it.

    Else it would keep the lock of a run that was killed, until it looks for its parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before it could be asked for
        os._exit(1)
