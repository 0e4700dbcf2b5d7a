"""Where a run's metrics go: a CSV file that is the record, and a tracker that may fail.

A tracker is a sink. It lives in a process of its own that reads rows from a pipe, so that one that
hangs, crashes or fills its disk costs the run nothing but that tracker.
"""

import csv
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from deeprec.errors import IntegrityError
from deeprec.folder import writing_file

log = logging.getLogger(__name__)

BEFORE = ("epoch", "step", "loss")  # columns of metrics.csv, about the validation
AFTER = ("users_per_second", "seconds", "memory_bytes", "weight_norm", "gradient_norm")
VALIDATION = re.compile(r"val/ndcg@\d+")
FINISH_SECONDS = 2  # how long a run waits for a tracker at its end


class Sink(Protocol):
    """Somewhere that metrics go."""

    def write(self, row: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...

    def abandon(self) -> None:
        """As `close`, of a run that leaves nothing behind."""


class MetricsFile:
    """metrics.csv, one row an epoch.

    Args:
        path: the file; rows after `step` of an earlier life of the run are taken out of it.
        step: where the run goes on.
        metric: of its validations.
    """

    def __init__(self, path: Path, step: int = 0, metric: str = "ndcg@100") -> None:
        self.path, self._columns = path, (*BEFORE, f"val/{metric}", *AFTER)
        rows = read_metrics(path) if path.exists() else []
        kept = [row for row in rows if int(row["step"]) <= step]
        with writing_file(path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)

    def write(self, row: Mapping[str, float]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)
            file.flush()
            os.fsync(file.fileno())  # the checkpoint that comes next rests on it

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, as text; a last one that was not written to its end is left out.

    Raises:
        IntegrityError: it is no such file, or another row is not whole.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            names, rows = tuple(reader.fieldnames or ()), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise IntegrityError(f"{path}: is damaged ({error}); put a copy of it back") from error
    if not _are_columns(names):
        told = ",".join((*BEFORE, "val/ndcg@K", *AFTER))
        raise IntegrityError(f"{path}: is damaged, its first line is not {told}")
    if rows and not _is_whole(rows[-1]):  # the disk was full, and no checkpoint came after it
        rows.pop()
    for number, row in enumerate(rows, 2):
        if not _is_whole(row):
            raise IntegrityError(f"{path}: is damaged in line {number}; put a copy of it back")
    return rows


def _is_whole(row: Mapping[str, str]) -> bool:
    given = None not in row and all(value is not None for value in row.values())
    return given and row["step"].isdecimal()


def _are_columns(names: Sequence[str]) -> bool:
    before, at, after = names[: len(BEFORE)], names[len(BEFORE) : -len(AFTER)], names[-len(AFTER) :]
    right = (tuple(before), tuple(after)) == (BEFORE, AFTER)
    return right and len(at) == 1 and VALIDATION.fullmatch(at[0]) is not None


class Tracker:
    """A child process that is handed one JSON line per row.

    Args:
        command: what to run; it reads lines from its standard input until that ends.
        first: the first line.
    """

    def __init__(self, command: Sequence[str], first: Mapping[str, Any]) -> None:
        self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to the run is none to the tracker
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self.write(first)

    def write(self, row: Mapping[str, Any]) -> None:
        """Hands a row over, or gives the tracker up if it does not take it at once."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        line = (json.dumps(row) + "\n").encode()
        try:
            if os.write(self._process.stdin.fileno(), line) == len(line):
                return
            reason = "it reads too slowly"
        except OSError as error:
            reason = str(error)
        self._give_up(reason)

    def close(self) -> None:
        """Lets the tracker finish; one that takes long does so without the run."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        process.stdin.close()
        try:
            if code := process.wait(FINISH_SECONDS):
                log.warning("the tracker failed with exit code %d; metrics.csv is complete", code)
        except subprocess.TimeoutExpired:
            log.warning("wandb (process %d) is still sending, and ends by itself", process.pid)
            threading.Thread(target=process.wait, daemon=True).start()  # so that it is no zombie

    def abandon(self) -> None:
        """Ends the tracker now."""
        if self._process is not None:
            self._end()

    def _give_up(self, reason: str) -> None:
        log.warning("tracking ended (%s); metrics.csv is complete", reason)
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process = None


class Logging:
    """The config part of the group `logger`.

    Args:
        wandb: `auto` tracks with wandb where it is installed, online if the environment holds
            WANDB_API_KEY and offline otherwise; `offline` never uses the network; `off` does not
            track.
        project: under which wandb files the run.
    """

    def __init__(
        self, *, wandb: Literal["auto", "offline", "off"] = "auto", project: str = "deeprec"
    ) -> None:
        if wandb not in ("auto", "offline", "off"):
            raise ValueError(f"wandb must be 'auto', 'offline' or 'off', got {wandb!r}")
        self.wandb, self.project = wandb, project

    def open(self, metrics: MetricsFile, run_id: str, config: Mapping[str, Any]) -> list[Sink]:
        """The sinks of a run.

        Args:
            metrics: the first of them; wandb keeps its own files in wandb/ beside it.
            run_id: the same after every resume.
            config: what the run was told.
        """
        sinks: list[Sink] = [metrics]
        if self.wandb != "off" and find_spec("wandb") is not None:
            online = self.wandb == "auto" and "WANDB_API_KEY" in os.environ
            first = {
                "project": self.project,
                "id": run_id,
                "mode": "online" if online else "offline",
                "dir": str(metrics.path.parent),
                "name": metrics.path.parent.name,
                "config": dict(config),
            }
            command = [sys.executable, "-m", "deeprec.trainer.wandb_process"]
            sinks.append(Tracker(command, first))
        return sinks
