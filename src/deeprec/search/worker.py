"""A process that trains one trial and tells the sweep of each validation.

Each trial has a process of its own, so one that takes all memory or crashes costs the sweep that
trial alone, and leaves nothing behind for the next.
"""

import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path

from deeprec.errors import DeeprecError, Interrupted
from deeprec.train import train
from deeprec.trainer.run import RunFolder
from deeprec.verb import TrainConfig


@dataclass(frozen=True)
class Validated:
    """A validation; the worker waits to be told whether to go on."""

    epoch: int
    score: float


@dataclass(frozen=True)
class Ended:
    """The last message of a worker; `reason`: of a failure."""

    reason: str | None


def train_trial(config: TrainConfig, log: Path, device: str | None, sweep: Connection) -> None:
    """Trains one run and leaves it sealed, if it has come to a validation.

    Args:
        config: of the run.
        log: a file for what it prints.
        device: the CUDA device that it sees; None: all.
        sweep: takes `Validated` and, last, `Ended`; answers the former with a bool.
    """
    os.setsid()  # Ctrl-C is for the sweep, which lets its trials end in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _print_into(log)
    sweep.send(Ended(_failure(config, sweep)))


def _failure(config: TrainConfig, sweep: Connection) -> str | None:
    """Why it failed; None: it did not."""
    assert config.output_dir is not None
    try:
        train(config, watch=lambda epoch, score: _asked(sweep, epoch, score))
    except Interrupted:
        RunFolder(Path(config.output_dir)).finish()  # stopped by the sweep; what is saved counts
    except DeeprecError as error:
        print(error, file=sys.stderr)
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def _asked(sweep: Connection, epoch: int, score: float) -> bool:
    sweep.send(Validated(epoch, score))
    return bool(sweep.recv())


def _print_into(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
