"""Signals that ask a run to stop."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from deeprec.begun import REQUESTS
from deeprec.console import console


class Stopping:
    """Takes the first signal as a request; the second one ends the process at once.

    Python handles a signal between two of its own instructions only, and a step may spend minutes
    in one. So a thread of its own counts what the system hands over, and ends the process.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._handlers: dict[int, Any] = {}
        self._pipe: int | None = None

    def listen(self) -> None:
        """From here on signals are requests; again, after somebody else has taken them."""
        if threading.current_thread() is not threading.main_thread():  # elsewhere Python forbids it
            return
        for number in REQUESTS:
            before = signal.getsignal(number)
            if number == signal.SIGHUP and before == signal.SIG_IGN:
                continue  # nohup
            self._handlers.setdefault(number, before)
            signal.signal(number, self._on_signal)
        if self._pipe is not None:
            return
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        threading.Thread(target=_end_at_the_second, args=(reading,), daemon=True).start()

    def hear_no_more(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe)
            self._pipe = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = number
            console.print(f"{signal.Signals(number).name}: saving, then stopping")


def _end_at_the_second(reading: int) -> None:
    """Reads the number of each signal; the last checkpoint stays whole however a process ends."""
    heard = 0
    while came := os.read(reading, 1):
        heard += came[0] in REQUESTS
        if heard == 2:
            os._exit(128 + came[0])
    os.close(reading)
