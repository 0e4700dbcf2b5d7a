"""`python -m deeprec.follow`: a process that trains a run with the one that began it.

It reads from its input what to train and whom to meet, writes nothing, and is ended by the one that
leads; see trainer/data_parallel.py.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import cast

from deeprec import config as configs
from deeprec.assembly import READ
from deeprec.begun import REQUESTS, end_with
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.trainer.data_parallel import Group
from deeprec.verb import TrainConfig
from deeprec.work import Work


def main() -> None:
    """Follows until the one that leads ends this process."""
    told = json.loads(sys.stdin.read())
    for number in REQUESTS:  # they are for the one that leads
        signal.signal(number, signal.SIG_IGN)
    end_with(told["parent"])
    console.quiet = True
    config = cast(TrainConfig, configs.typed(told["config"], "train"))
    assert config.prepared is not None
    prepared = Prepared(Path(config.prepared), parts=READ)
    work = Work(config, prepared, Group(told["size"], told["rank"]))
    print("ready", flush=True)
    work.follow(Path(told["place"]))


if __name__ == "__main__":
    main()
    os._exit(0)  # at once: threads of the process group may abort an ordinary end
