"""How long, how much at once, on what: the config part of the group `trainer`."""

import logging
import shutil
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from deeprec.data.datamodule import DataModule
from deeprec.data.grouping import Grouping
from deeprec.device import DeviceName, Precision
from deeprec.machine import cores
from deeprec.trainer.callback import Following, Keeper, ProgressBar, Schedule
from deeprec.trainer.module import Training
from deeprec.trainer.no_pickle import NoPickle
from deeprec.trainer.saving import OnDiskFull

MOST_MAKERS = 8  # more make batches no faster than one process takes them over
SHARED_MEMORY = 2**30  # bytes that must be free for them unasked; docker gives 64 MB in all
LONGEST = 10_000  # items of a list that anybody asks for
ALONE = {
    "processes": 1,
    "shard_catalog": False,
    "shard_inputs": False,
}  # settings of a run that one process makes
WHAT = {"shard_catalog": "the catalog", "shard_inputs": "the input tables"}


class Loop:
    """The training loop of a run.

    Args:
        max_epochs: passes over the training users.
        last_epoch: the last of these that is gone through, while learning rates go as if all were;
            None: all.
        batch_users: users in a step, unless `batch_interactions` is given.
        batch_interactions: interactions in a step instead, about.
        bucket_lengths: users with histories of similar length share a step.
        prefetch_batches: batches made ahead; 0: each when it is needed.
        prefetch_processes: so many make batches, each `prefetch_batches` ahead; 0: a thread does;
            None: on CUDA as many as there are cores for them, up to 8, else 0.
        cuda_graph: a CUDA device is asked for all kernels of a step at once, where that can be;
            never where `deterministic`.
        device: `auto` takes CUDA where its driver answers.
        precision: of matrix products; weights are float32 always.
        threads: of the CPU, of each process; None: as torch chooses, shared out among them.
        processes: that train together, each with a batch of its own at every step; on CUDA each
            has a device of its own.
        shard_catalog: each of these holds and trains the catalog rows of a share of the items, for
            the users of all.
        shard_inputs: each of these holds a part of the input tables, by TorchRec.
        validate_every_epochs: epochs between validations; the last epoch is validated too.
        validation_users: at most so many are validated on, always the same; None: all.
        validation_cutoff: k of the ndcg@k that a run goes by: its best checkpoint, when it stops
            early, what a sweep or a blend of it prefers.
        early_stopping_patience: validations without a better one after which training stops; None:
            never.
        save_every_epochs: epochs between checkpoints; whatever is validated is saved too.
        save_every_minutes: minutes between checkpoints within an epoch; 0: after every batch; None:
            between epochs only.
        save_in_background: a copy of the state is written while training goes on.
        save_timeout_minutes: minutes that a checkpoint is waited for before the run ends; None: as
            long as it takes.
        on_disk_full: `continue` trains on without the checkpoints that find no room; the last one
            must.
        deterministic: operations that could answer otherwise the next time are refused, and on
            CUDA replaced where there is another.
    """

    def __init__(
        self,
        *,
        max_epochs: int = 30,
        last_epoch: int | None = None,
        batch_users: int | None = 256,
        batch_interactions: int | None = None,
        bucket_lengths: bool = False,
        prefetch_batches: int = 2,
        prefetch_processes: int | None = None,
        cuda_graph: bool = True,
        device: DeviceName = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
        processes: int = 1,
        shard_catalog: bool = False,
        shard_inputs: bool = False,
        validate_every_epochs: int = 1,
        validation_users: int | None = 3000,
        validation_cutoff: int = 100,
        early_stopping_patience: int | None = 10,
        save_every_epochs: int = 1,
        save_every_minutes: float | None = 10.0,
        save_in_background: bool = False,
        save_timeout_minutes: float | None = 30.0,
        on_disk_full: OnDiskFull = "stop",
        deterministic: bool = False,
    ) -> None:
        for name, value in (
            ("max_epochs", max_epochs),
            ("last_epoch", last_epoch),
            ("threads", threads),
            ("processes", processes),
            ("validate_every_epochs", validate_every_epochs),
            ("validation_users", validation_users),
            ("validation_cutoff", validation_cutoff),
            ("early_stopping_patience", early_stopping_patience),
            ("save_every_epochs", save_every_epochs),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        if last_epoch is not None and last_epoch > max_epochs:
            raise ValueError(
                f"last_epoch must be one of the max_epochs={max_epochs}, got {last_epoch}"
            )
        if validation_cutoff > LONGEST:
            raise ValueError(
                f"validation_cutoff must be at most {LONGEST:,}, got {validation_cutoff}"
            )
        _check_makers(prefetch_batches, prefetch_processes)
        _check_saving(save_every_minutes, save_timeout_minutes)
        _check_shared(processes, {"shard_catalog": shard_catalog, "shard_inputs": shard_inputs})
        by_users = batch_users if batch_interactions is None else None
        self.grouping = Grouping(by_users, batch_interactions, bucket_lengths)
        self.prefetch_batches, self.prefetch_processes = prefetch_batches, prefetch_processes
        self.why_no_graph = None if cuda_graph else "trainer.cuda_graph=false"
        if deterministic and cuda_graph:
            self.why_no_graph = "trainer.deterministic=true"
        self.device, self.precision = device, precision
        self.threads, self.validation_users = threads, validation_users
        self.processes = processes
        self.shard_catalog, self.shard_inputs = shard_catalog, shard_inputs
        self.deterministic = deterministic
        self.max_epochs = max_epochs
        self.schedule = Schedule(
            max_epochs if last_epoch is None else last_epoch,
            validate_every_epochs,
            save_every_epochs,
            early_stopping_patience,
            save_every_minutes,
            save_in_background,
            save_timeout_minutes,
            on_disk_full,
            validation_cutoff,
        )

    def makers(self, device: str) -> int:
        """How many processes make batches on a kind of device; 0: a thread does, if any."""
        if self.prefetch_processes is not None:
            return self.prefetch_processes
        if device == "cpu" or not self.prefetch_batches or _shared_memory() < SHARED_MEMORY:
            return 0
        return max(0, min(MOST_MAKERS, cores() // self.processes - 1))  # one trains

    def fit(self, training: Training, data: DataModule, keeper: Keeper | Following) -> None:
        """Trains from `training.progress` on, to the last epoch or until it stops early."""
        progress = training.progress
        if progress.batch == len(data.training):
            if keeper.end_epoch(training):
                return
            training.let_go()  # else Lightning moves all of it to the device
        data.training.load_state_dict({"epoch": progress.epoch, "position": progress.batch})
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # what it says, we say
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = self._trainer([keeper, ProgressBar(len(data.training.users))])
            _start_at(trainer, progress.epoch)
            try:
                trainer.fit(training, datamodule=data)
            finally:
                data.training.close()

    def _trainer(self, callbacks: list[Any]) -> Trainer:
        cuda = self.device != "cpu" and torch.cuda.is_available()
        return Trainer(
            accelerator="gpu" if cuda else "cpu",
            devices=1,
            deterministic=self.deterministic,
            precision="32-true" if self.precision == "float32" else "bf16-mixed",
            max_epochs=self.schedule.max_epochs,
            callbacks=callbacks,
            plugins=[NoPickle()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def _check_makers(batches: int, processes: int | None) -> None:
    if batches < 0:
        raise ValueError(f"prefetch_batches must be 0 or more, got {batches}")
    if processes is not None and processes < 0:
        raise ValueError(f"prefetch_processes must be 0 or more, got {processes}")
    if processes and not batches:
        raise ValueError(
            "prefetch_batches must be 1 or more where processes make them, got "
            f"prefetch_batches=0 and prefetch_processes={processes}"
        )


def _check_saving(minutes: float | None, timeout_minutes: float | None) -> None:
    if minutes is not None and not minutes >= 0:
        raise ValueError(f"save_every_minutes must be 0 or more, got {minutes}")
    if timeout_minutes is not None and not timeout_minutes > 0:
        raise ValueError(f"save_timeout_minutes must be more than 0, got {timeout_minutes}")


def _check_shared(processes: int, shared: Mapping[str, bool]) -> None:
    for name, is_shared in shared.items():
        if is_shared and processes == 1:
            raise ValueError(
                f"{name} shares {WHAT[name]} among processes, of which there must be 2 or more, "
                "got processes=1"
            )


def _shared_memory() -> int:
    """Bytes that are free in it."""
    with suppress(OSError):
        return shutil.disk_usage(Path("/dev/shm")).free
    return 0


def _start_at(trainer: Trainer, epoch: int) -> None:
    """Lets Lightning count epochs from here; the rest of its loop state begins anew."""
    current: Any = trainer.fit_loop.epoch_progress.current
    current.ready = current.started = current.processed = current.completed = epoch
