"""RecBole's MultiDAE in a process of its own, stepped through from here."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from turns import Taken

from deeprec.data.store import Events

Settings = Mapping[str, int | float | list[int]]
SCRIPT = Path(__file__).parent / "peers" / "recbole_steps.py"


class RecBoleSteps:
    """See peers/recbole_steps.py; give it a folder that holds nothing yet."""

    def __init__(
        self,
        python: str,
        folder: Path,
        *,
        events: Events,
        start: Mapping[str, Tensor],
        settings: Settings,
    ) -> None:
        folder.mkdir()
        self.folder = folder
        np.savez(folder / "rows.npz", offsets=events.offsets, items=events.items)
        torch.save(dict(start), folder / "start.pt")
        (folder / "settings.json").write_text(json.dumps(dict(settings)))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [python, str(SCRIPT), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "told.txt").open("w"),
            text=True,
            cwd=folder,
            env=environment,
        )

    def __call__(self, threads: int) -> Taken:
        """A step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(threads, file=self.process.stdin, flush=True)
        return Taken(**json.loads(self.process.stdout.readline()))

    def lists(self, users: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 [U, 100]: items of these users, best first, none of their history."""
        np.save(self.folder / "users.npy", users)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("lists", file=self.process.stdin, flush=True)
        self.process.stdout.readline()
        lists: npt.NDArray[np.int32] = np.load(self.folder / "lists.npy")
        return lists

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def settings(hidden_dims: list[int], *, batch_users: int, lr: float, dropout: float) -> Settings:
    return {
        "hidden_dims": hidden_dims,
        "batch_users": batch_users,
        "lr": lr,
        "dropout": dropout,
    }
