"""Signals that ask a sweep to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from deeprec.console import console


@contextmanager
def heard() -> Iterator[list[int]]:
    """The signals that came, as they come; the second one ends the process at once."""
    asked: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked.append(number)
        console.print(f"{signal.Signals(number).name}: trials save and end, then the sweep")

    if threading.current_thread() is not threading.main_thread():  # elsewhere Python forbids it
        yield asked
        return
    before = {one: signal.signal(one, hear) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
