"""When a checkpoint counts: once it was read back, whether it is written at once or meanwhile."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deeprec import disk
from deeprec.console import console
from deeprec.errors import ResourceError
from deeprec.trainer import checkpoint
from deeprec.trainer.checkpoint import State
from deeprec.trainer.learner import Learner, Progress

OnDiskFull = Literal["stop", "continue"]


@dataclass
class Saver:
    """Saves a run; at most one checkpoint is on its way to the disk, written by a thread.

    Args:
        checkpoints: the folder of them.
        made_from: what each says of its origin.
        saved: is told the progress of each checkpoint that counts.
        in_background: a copy of the state is written while training goes on.
        on_disk_full: whether a checkpoint that finds no room ends the run.
        timeout_minutes: how long a checkpoint is waited for; None: as long as it takes.
    """

    checkpoints: Path
    made_from: Mapping[str, Any]
    saved: Callable[[Progress], None]
    in_background: bool = False
    on_disk_full: OnDiskFull = "stop"
    timeout_minutes: float | None = None
    _thread: threading.Thread | None = field(default=None, init=False)
    _failed: Exception | None = field(default=None, init=False)

    def save(self, learner: Learner, score: float | None, *, last: bool = False) -> None:
        """Saves the run as it is; a background save is begun and waited for later.

        Args:
            learner: whose state it is.
            score: of the validation just before; None: there was none.
            last: nothing comes after this one, so it must be on the disk.

        Raises:
            NonFiniteError: a weight is not finite; nothing is written.
            ResourceError: it cannot be written, or the one before it could not.
        """
        self.wait()
        state = checkpoint.state_of(learner, score, copied=self.in_background and not last)
        # a daemon: a disk that hangs must not keep the process
        self._thread = threading.Thread(target=self._commit_apart, args=(state, last), daemon=True)
        self._thread.start()
        if not self.in_background or last:
            self.wait()

    def refuse_without_room(self, learner: Learner, saves: int | None = None) -> None:
        """Says what checkpoints will take, before the first step: one, at least, must find room.

        Args:
            learner: whose state they hold.
            saves: how many the run writes; None: as many as its time makes.

        Raises:
            ResourceError: it would not.
        """
        size, most = checkpoint.size_of(learner), checkpoint.KEPT + 2  # the best, and a new one
        most = min(most, saves or most)
        with disk.written(self.checkpoints, size):
            free = disk.free_bytes(self.checkpoints)
        if checkpoint.grows(learner):
            return
        what = "one checkpoint" if most == 1 else f"up to {most} checkpoints"
        each = "" if most == 1 else " each"
        console.print(
            f"disk: {what} of {size / 1e6:,.1f} MB{each}, and {free / 1e6:,.1f} MB are free"
        )
        there = sum(1 for _ in self.checkpoints.glob("step-*"))
        if (most - there) * size > free:
            console.print(f"[yellow]note[/yellow] {self._on_little_room(learner)}", soft_wrap=True)

    def _on_little_room(self, learner: Learner) -> str:
        """What becomes of a run whose checkpoints do not all find room, and the ways out."""
        ways = ["make room", "give an output_dir on another disk"]
        if 3 * learner.state_bytes() > checkpoint.size_of(learner):
            ways.append("use optimizer=rowwise_adagrad, which remembers one number a row")
        becomes = "some may be left out"
        if self.on_disk_full == "stop":
            becomes = "the run may end there"
            ways.append("use trainer.on_disk_full=continue, which goes on without some of them")
        return f"there is no room for all of these, and {becomes}; {', or '.join(ways)}"

    def wait(self) -> None:
        """Until nothing is on its way to the disk.

        Raises:
            ResourceError: what was could not be written, or is not written in time.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            minutes = self.timeout_minutes
            thread.join(None if minutes is None else 60 * minutes)
            if thread.is_alive():
                raise disk.DiskHangsError(
                    f"{self.checkpoints}: a checkpoint is not written after "
                    f"trainer.save_timeout_minutes={minutes}, so this disk is too slow or hangs; "
                    "those before it are whole"
                )
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _commit_apart(self, state: State, must: bool) -> None:
        try:
            self._commit(state, must=must)
        except Exception as error:  # told to the thread that trains, by `wait`
            self._failed = error

    def _commit(self, state: State, *, must: bool) -> None:
        try:
            with disk.written(self.checkpoints, state.num_bytes):
                checkpoint.write(self.checkpoints, state, self.made_from)
        except ResourceError as error:
            if must or self.on_disk_full == "stop":
                raise
            console.print(f"[yellow]not saved[/yellow] step {state.progress.step}: {error}")
            return
        self.saved(state.progress)
