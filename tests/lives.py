"""Lives of commands in processes of their own, forked from one that has imported everything.

    lives.py PREPARED [MODULE ...] < lines of JSON > lines of JSON

A line asks for one life or several at once: {"words": [...], "environment": {...}, "number": 1,
"kill_after": seconds or null, "signal": number, "fault": name of a function below or null}. Words
that begin with no verb are of `deeprec train`. The answer, of each: how it ended, as `subprocess`
says it, the steps it did, the step it began after, and what it printed. Modules are imported
besides what `train` needs.
"""

import importlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

SMALL = (
    *("model.hidden_dims=[8]", "target=after_cut", "target.window_days=20", "optimizer.lr=0.02"),
    *("trainer.batch_users=16", "trainer.max_epochs=4", "trainer.threads=1", "logger.wandb=off"),
)


_run = Path()  # of a life
SERVED = {"OMP_NUM_THREADS": "1", "COLUMNS": "1000"}  # a pool of threads would not live on


@dataclass(frozen=True)
class Life:
    """How a process ended and what it did."""

    code: int  # of its exit; negative: of the signal that killed it
    began: int | None  # the step it went on after; None: it did not get so far
    steps: list[int]  # done, in order
    said: str


class Live:
    """Lives lives, one after the other or many at once.

    Args:
        to: takes what is asked of the process that forks them.
        of: gives its answers.
    """

    def __init__(self, to: TextIO, of: TextIO) -> None:
        self._to, self._of = to, of

    def __call__(
        self,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        kill_after: float | None = None,
        fault: str | None = None,
        signal_number: int = signal.SIGKILL,
    ) -> Life:
        end = {"kill_after": kill_after, "signal": int(signal_number), "fault": fault}
        return self._asked({"words": [*words], "environment": {**(environment or {})}, **end})[0]

    def together(self, words: Sequence[str], number: int) -> list[Life]:
        """So many processes with the same command, begun in the same moment."""
        end = {"kill_after": None, "signal": 0, "fault": None}
        return self._asked({"words": [*words], "environment": {}, "number": number, **end})

    def _asked(self, asked: Mapping[str, Any]) -> list[Life]:
        self._to.write(json.dumps(asked) + "\n")
        self._to.flush()
        return [Life(**one) for one in json.loads(self._of.readline())]


@contextmanager
def server(prepared: Path, *modules: str) -> Iterator[Live]:
    """A process that has imported everything, to live lives with."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(prepared), *modules],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **SERVED},
        cwd=prepared.parent,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Live(process.stdin, process.stdout)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def full_disk() -> None:
    """No file may grow beyond 2 KiB, as on a disk with no more room."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))


def full_disk_later() -> None:
    """From the ninth step on."""
    _at_step(9, full_disk)


def nobody() -> None:
    """From the moment that a run is begun on, a user who may write nothing here."""
    from deeprec.trainer.run import RunFolder

    begun = RunFolder.begun

    def begun_by_nobody(*arguments: Any, **named: Any) -> Any:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        return begun(*arguments, **named)

    RunFolder.begun = begun_by_nobody  # type: ignore[method-assign, assignment]


def stuck() -> None:
    """The sixth step never ends, and never returns to Python; two signals come meanwhile."""
    _at_step(6, _hang)


def terminated() -> None:
    """SIGTERM comes in the sixth step."""
    _at_step(6, lambda: signal.raise_signal(signal.SIGTERM))


def terminated_at_an_end() -> None:
    """SIGTERM comes in the eighth step, the last of the second epoch of four each."""
    _at_step(7, lambda: signal.raise_signal(signal.SIGTERM))


def terminated_group() -> None:
    """SIGTERM comes in the sixth step, to this process and to all that it began."""
    os.setpgrp()
    _at_step(6, lambda: os.killpg(0, signal.SIGTERM))


def makers_killed() -> None:
    """The processes that make batches are killed in the sixth step."""
    import multiprocessing

    _at_step(6, lambda: [child.kill() for child in multiprocessing.active_children()])


def follower_killed() -> None:
    """The process that trains beside this one is killed in the ninth step."""
    from deeprec.trainer.data_parallel import Group

    begun, others = Group._begun, []

    def watched(*arguments: Any) -> Any:
        others.append(begun(*arguments))
        return others[-1]

    Group._begun = watched  # type: ignore[method-assign]
    _at_step(9, lambda: [one.kill() for one in others])


def interrupted_twice() -> None:
    """SIGINT comes twice in the sixth step."""
    _at_step(6, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(2)])


def terminated_while_validating() -> None:
    """SIGTERM comes while the second epoch is validated."""
    from deeprec.trainer import validation

    judge = validation._ndcg_of
    calls: list[int] = []

    def disturbed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:  # of four batches an epoch
            signal.raise_signal(signal.SIGTERM)
        return judge(*arguments)

    validation._ndcg_of = disturbed


def terminated_while_saving() -> None:
    """SIGTERM comes while a checkpoint is half written."""
    from deeprec.trainer import checkpoint

    write = checkpoint.write_tensors
    calls: list[int] = []

    def slow(path: Path, tensors: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.3)
        write(path, tensors)

    checkpoint.write_tensors = slow


def clock_jumps() -> None:
    """The wall clock goes back and forth by days."""
    now = time.time
    _at_step(2, lambda: setattr(time, "time", lambda: now() - 86400))
    _at_step(5, lambda: setattr(time, "time", lambda: now() + 86400))


def _at_step(step: int, do: Callable[[], object]) -> None:
    from deeprec.trainer.module import Training

    training_step = Training.training_step

    def disturbed(self: Training, batch: Any, index: int) -> None:
        if self.progress.step == step:
            do()
        training_step(self, batch, index)

    Training.training_step = disturbed  # type: ignore[method-assign]


def _hang() -> None:
    """Waits for a lock of the C library, which no handler of Python interrupts."""
    import threading

    def send() -> None:
        for _ in range(2):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    _wait_for_ever()


def _wait_for_ever() -> None:
    import ctypes

    mutex = ctypes.create_string_buffer(128)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


def few_files() -> None:
    """From the ninth step on no file may be opened."""
    _at_step(9, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, 1024)))


def hanging_disk() -> None:
    """From the ninth step on nothing that is to be flushed ever is."""
    from deeprec import folder

    _at_step(9, lambda: setattr(folder, "_flush", lambda path: _wait_for_ever()))


def moved() -> None:
    """After the ninth step the run is elsewhere."""
    _at_step(9, lambda: _run.rename(_run.with_name("elsewhere")))


def replaced() -> None:
    """After the ninth step the run is elsewhere, and another folder in its place."""
    _at_step(9, lambda: (_run.rename(_run.with_name("elsewhere")), _run.mkdir()))


def removed() -> None:
    """After the ninth step the run is no more."""
    _at_step(9, lambda: shutil.rmtree(_run))


def starved() -> None:
    """The ninth step wants more memory than there can be."""
    import torch

    _at_step(9, lambda: torch.empty(2**60))


def tracker_killed() -> None:
    """The process of the tracker dies in the sixth step."""
    from deeprec.trainer.logger import Tracker

    begun, processes = Tracker.__init__, []

    def watched(self: Tracker, *arguments: Any) -> None:
        begun(self, *arguments)
        processes.append(self._process)

    Tracker.__init__ = watched  # type: ignore[method-assign]
    _at_step(6, lambda: [one.kill() for one in processes if one is not None])


def hung_up() -> None:
    """The terminal is closed in the sixth step."""
    unread()
    _at_step(6, lambda: signal.raise_signal(signal.SIGHUP))


def hung_up_under_nohup() -> None:
    """The same, begun by `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hung_up()


def workers_forked() -> None:
    """The workers of a sweep are forked from this process, which has imported everything.

    As those of their usual server, they hold no lock of a folder that the sweep holds.
    """
    import multiprocessing

    contexts = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: contexts("fork")  # type: ignore
    os.register_at_fork(after_in_child=_close_folders)


def _close_folders() -> None:
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # that of this listing
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                os.close(descriptor)


def small_row_groups() -> None:
    """Lists are kept by the hundred on their way into one file."""
    module = importlib.import_module("deeprec.recommend")
    module.ROW_GROUP = 100  # type: ignore[attr-defined]


def unread() -> None:
    """Nobody reads what it prints, and its input is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.close(0)


def _live(asked: dict[str, Any], prepared: str) -> list[dict[str, Any]]:
    begun = [_begin(asked, prepared) for _ in range(asked.get("number", 1))]
    return [_end(asked, *one) for one in begun]


def _begin(asked: dict[str, Any], prepared: str) -> tuple[int, int, int]:
    reading, writing = os.pipe()
    printed, printing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(printing, 1)
        os.dup2(printing, 2)
        os.close(printing)
        os.environ |= asked["environment"]
        os._exit(_command(asked, prepared, writing))
    os.close(writing)
    os.close(printing)
    return child, reading, printed


def _end(asked: dict[str, Any], child: int, reading: int, printed: int) -> dict[str, Any]:
    if asked["kill_after"] is not None:
        _end_after(child, asked["kill_after"], asked["signal"])
    told = _all_of(reading).split()
    said = _all_of(printed)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    steps = [int(one) for one in told if one.isdigit()]
    began = next((int(one[1:]) for one in told if one[0] == "b"), None)
    return {"code": code, "began": began, "steps": steps, "said": said}


def _end_after(child: int, seconds: float, number: int) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    os.kill(child, number)


def _command(asked: dict[str, Any], prepared: str, telling: int) -> int:
    """One command, telling each step of training once it is done."""
    from deeprec import cli
    from deeprec.trainer.module import Training

    training_step, start = Training.training_step, Training.on_train_start

    def told(self: Training, batch: Any, index: int) -> None:
        training_step(self, batch, index)
        os.write(telling, f"{self.progress.step}\n".encode())

    def begun(self: Training) -> None:
        os.write(telling, f"b{self.progress.step}\n".encode())
        start(self)

    Training.training_step = told  # type: ignore[method-assign]
    Training.on_train_start = begun  # type: ignore[method-assign]
    if asked["fault"]:
        globals()[asked["fault"]]()
    words = [one.replace("PREPARED", prepared) for one in asked["words"]]
    global _run
    _run = Path(next((one[11:] for one in words if one.startswith("output_dir=")), "."))
    os.register_at_fork(after_in_child=lambda: _part_from(telling))
    code = cli.main(words if words and words[0] in cli.VERBS else ["train", *words])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _part_from(telling: int) -> None:
    """In a process that a command begins: nobody waits for it, and it is not what is to die."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, telling)
    os.close(nowhere)
    os.environ.pop("DEEPREC_CRASH_AT", None)


def _all_of(descriptor: int) -> str:
    with os.fdopen(descriptor, errors="replace") as file:
        return file.read()


if __name__ == "__main__":
    for module in ("deeprec.train", *sys.argv[2:]):  # so that no life has to
        importlib.import_module(module)
    for line in sys.stdin:
        print(json.dumps(_live(json.loads(line), sys.argv[1])), flush=True)
