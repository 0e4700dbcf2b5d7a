"""What happens around the steps of a run: progress, validation, checkpoints, signals."""

import math
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from deeprec.batch import Arranged, Batch
from deeprec.console import RateColumn, console
from deeprec.data.datamodule import DataModule
from deeprec.errors import DeeprecError, Interrupted
from deeprec.trainer.learner import Learner
from deeprec.trainer.logger import Sink
from deeprec.trainer.module import Training
from deeprec.trainer.run import RunFolder
from deeprec.trainer.saving import OnDiskFull, Saver
from deeprec.trainer.sound import few_taught, weight_norm
from deeprec.trainer.stopping import Stopping
from deeprec.trainer.validation import validate

Watch = Callable[[int, float], bool]  # told of epoch and validation: whether to go on

LOOK_SECONDS = 0.5  # between looks at the loss on a terminal


@dataclass(frozen=True)
class Schedule:
    """When a run validates, saves and stops."""

    max_epochs: int
    validate_every_epochs: int
    save_every_epochs: int
    patience: int | None  # validations without a better score after which it stops
    save_every_minutes: float | None = None  # within epochs; 0: after every batch
    save_in_background: bool = False
    save_timeout_minutes: float | None = None
    on_disk_full: OnDiskFull = "stop"
    cutoff: int = 100  # k of the ndcg@k that a run goes by

    @property
    def metric(self) -> str:
        """What that is called."""
        return f"ndcg@{self.cutoff}"


class Keeper(Callback):
    """Validates, records and saves at the end of epochs; saves and stops when a signal asks.

    A checkpoint is written between epochs, and between two batches when it is time or after a
    signal. After the last batch of an epoch it is validated first, unless a signal came: then the
    checkpoint stands at the end of its batches, and validating is the first that a resume does.

    Args:
        watch: is told of each validation once it is saved, and may stop the run there.
    """

    def __init__(
        self,
        run: RunFolder,
        data: DataModule,
        schedule: Schedule,
        sinks: Sequence[Sink],
        watch: Watch | None = None,
    ) -> None:
        self.run, self.data, self.schedule, self.sinks = run, data, schedule, sinks
        self.watch = watch
        self.stopping = Stopping()
        self.saver = Saver(
            run.checkpoints,
            run.made_from(),
            lambda now: run.set_status("running", epoch=now.epoch, step=now.step),
            schedule.save_in_background,
            schedule.on_disk_full,
            schedule.save_timeout_minutes,
        )
        self._started: float | None = None  # None: an earlier life saw the users of this epoch
        self._users = 0
        self._saved = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopping.listen()  # Lightning's own handler would end the process with exit code 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes signals as requests; at its end nothing is on its way to the disk."""
        self.stopping.listen()
        try:
            yield
        except BaseException:
            with suppress(DeeprecError):  # the first failure is the one to tell
                self.saver.wait()
            raise
        else:
            self.saver.wait()
        finally:
            self.stopping.hear_no_more()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """From here on the users of an epoch are timed."""
        self._started, self._users = time.monotonic(), 0

    def users_done(self, num_users: int) -> None:
        """Counts users of the epoch at hand."""
        self._users += num_users

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Arranged,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Training)
        self.users_done(pl_module.step_users)
        if pl_module.progress.batch == len(self.data.training):
            return  # the end of an epoch saves it
        if self.stopping.asked is not None:
            self._save_and_stop(pl_module, None)
        minutes = self.schedule.save_every_minutes
        if minutes is not None and time.monotonic() - self._saved >= 60 * minutes:
            self._save(pl_module, None)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training)
        trainer.should_stop = self.end_epoch(pl_module) or trainer.should_stop

    def end_epoch(self, learner: Learner) -> bool:
        """Validates, records and saves what is due; says whether that is enough.

        Raises:
            Interrupted: a signal asked for it; what was learned is saved.
            NonFiniteError: the loss or the norm of the weights is not finite.
            DataError: nobody had anything to learn in the first one.
        """
        learner.check_finite()
        if isinstance(learner, Training) and learner.progress.epoch == 0:
            self._tell_few(learner)
        learner.make_whole()
        progress, schedule = learner.progress, self.schedule
        weights = weight_norm(learner.model, progress.step)
        seconds = None if self._started is None else time.monotonic() - self._started
        epoch = progress.epoch + 1
        last = epoch == schedule.max_epochs
        score = None
        if last or epoch % schedule.validate_every_epochs == 0:
            score = self._validate(learner)
        progress.epoch, progress.batch = epoch, 0
        stop = self._is_enough(learner)
        self._record(learner, score, seconds, weights)
        if self.stopping.asked is not None:
            self._save_and_stop(learner, score)
        if last or stop or score is not None or progress.epoch % schedule.save_every_epochs == 0:
            self._save(learner, score, last=last or stop)
        return self._told_to_stop(progress.epoch, score) or last or stop  # told of the last one too

    def _tell_few(self, training: Training) -> None:
        few = few_taught(training.progress.loss_users, len(self.data.training.users))
        if few is not None:
            console.print(f"[yellow]note[/yellow] {few}", soft_wrap=True)

    def _told_to_stop(self, epoch: int, score: float | None) -> bool:
        if score is None or self.watch is None:
            return False
        self.saver.wait()  # whoever watches may look for it
        return not self.watch(epoch, score)

    def _save(self, learner: Learner, score: float | None, *, last: bool = False) -> None:
        self.run.refuse_moved()
        learner.make_whole()
        self.saver.save(learner, score, last=last)
        self._saved = time.monotonic()

    def _validate(self, learner: Learner) -> float | None:
        learner.model.eval()
        score = validate(
            learner.recommender,
            self._until_asked(learner),
            cutoff=self.schedule.cutoff,
            exclude_seen=self.data.validation.exclude_seen,
            device=learner.device,
        )
        learner.model.train()
        progress = learner.progress
        progress.last_score = score
        if score is not None and (progress.best_score is None or score > progress.best_score):
            progress.best_score, progress.best_step = score, progress.step
            progress.validations_since_best = 0
        elif score is not None:
            progress.validations_since_best += 1
        return score

    def _until_asked(self, learner: Learner) -> Iterator[Batch]:
        """The batches to validate on. A run asked to stop validates once it goes on."""
        for batch in self.data.validation:
            if self.stopping.asked is not None and isinstance(learner, Training):
                self._save_and_stop(learner, None)
            yield batch

    def _is_enough(self, learner: Learner) -> bool:
        patience = self.schedule.patience
        return patience is not None and learner.progress.validations_since_best >= patience

    def _record(
        self, learner: Learner, score: float | None, seconds: float | None, weights: float
    ) -> None:
        self.run.refuse_moved()
        progress, loss = learner.progress, learner.mean_loss()
        memory = memory_bytes()
        row: dict[str, float] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "memory_bytes": memory,
            "weight_norm": weights,
            "gradient_norm": progress.gradient_norm,
        }
        told = f"epoch {progress.epoch:>3}/{self.schedule.max_epochs}"
        if not math.isnan(loss):
            row["loss"] = progress.last_loss = loss
            told += f"  loss {loss:.4f}"
        if seconds is not None:
            rate = self._users / max(seconds, 1e-9)
            row |= {"users_per_second": round(rate, 1), "seconds": round(seconds, 3)}
            told += f"  {rate:,.0f} users/s"
        judged = ""
        if score is not None:
            row[f"val/{self.schedule.metric}"] = score
            best = "  [green]best[/green]" if progress.best_step == progress.step else ""
            judged = f"  {self.schedule.metric} {score:.4f}{best}"
        console.print(f"{told}  {memory / 1e6:,.0f} MB{judged}")
        for sink in self.sinks:
            sink.write(row)

    def _save_and_stop(self, learner: Learner, score: float | None) -> None:
        assert self.stopping.asked is not None
        self._save(learner, score, last=True)
        name = signal.Signals(self.stopping.asked).name
        raise Interrupted(
            f"stopped by {name} after step {learner.progress.step}, which is saved; go on with "
            f"`deeprec train resume={self.run.path}`",
            self.stopping.asked,
        )


class Following(Callback):
    """Ends the epochs of a process that follows: the one that leads does all else."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self.end_epoch(pl_module)

    def end_epoch(self, training: Training) -> bool:
        """As `Keeper.end_epoch`; one that is not to go on waits at its next step for its end."""
        training.progress.epoch, training.progress.batch = training.progress.epoch + 1, 0
        return False


class ProgressBar(Callback):
    """The epoch at hand on a terminal: users done and per second, time left, loss."""

    def __init__(self, num_users: int) -> None:
        self.num_users = num_users
        self._bar: Progress | None = None
        self._looked = 0.0  # at the loss, by the clock of this process

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Training)
        if not console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn("users"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=console,
            transient=True,
        )
        self._bar.add_task(f"epoch {pl_module.progress.epoch + 1}", total=self.num_users, loss="")
        self._bar.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: Arranged,
        batch_idx: int,
    ) -> None:
        assert isinstance(pl_module, Training)
        if self._bar is None:
            return
        self._bar.update(self._bar.task_ids[0], advance=pl_module.step_users)
        if time.monotonic() - self._looked >= LOOK_SECONDS:  # on CUDA that waits for the device
            self._looked = time.monotonic()
            loss = f"loss {pl_module.last_loss():.4f}  {memory_bytes() / 1e6:,.0f} MB"
            self._bar.update(self._bar.task_ids[0], loss=loss)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def memory_bytes() -> int:
    """The most memory that training has held so far: of the device, or of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
