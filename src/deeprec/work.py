"""A run at work: its parts are trained to the end, and its folder is kept true."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import torch

from deeprec import disk
from deeprec.assembly import Assembly
from deeprec.batch import Batch
from deeprec.config import to_dict
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.data.target import Reconstruct
from deeprec.device import precision_note
from deeprec.errors import DeeprecError, NonFiniteError, ResourceError
from deeprec.model.blend import Blend
from deeprec.model.sparse_input import SparseInput
from deeprec.part import instantiate
from deeprec.trainer import replay, sound
from deeprec.trainer.callback import Following, Keeper, Watch
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.facts import reads_attributes
from deeprec.trainer.learner import Progress
from deeprec.trainer.logger import MetricsFile
from deeprec.trainer.loop import WHAT
from deeprec.trainer.module import Training
from deeprec.trainer.run import RunFolder
from deeprec.trainer.solving import Solving
from deeprec.trainer.unread import unread


class Work(Assembly):
    """A run that is trained, and told of; see `Assembly`."""

    def finish(self, run: RunFolder, watch: Watch | None = None, *, says_next: bool = True) -> None:
        """Trains to the end, keeping the run folder true, and seals it."""
        logger = instantiate(self.config.logger)
        progress = self.learner.progress
        told = to_dict(self.config)
        metrics = MetricsFile(run.path / "metrics.csv", progress.step, self.schedule.metric)
        sinks = logger.open(metrics, run.status["id"], told)
        run.set_status("running", reason=None)
        self._introduce()
        try:
            with disk.written(run.path), self.telling_of_memory():
                if not self._is_over(progress):
                    self._fit(Keeper(run, self.data, self.schedule, sinks, watch))
                run.finish(self._warning())  # before the sinks, which may take their time
        except disk.DiskHangsError as error:
            error.add_note(_way_on(run))
            for sink in sinks:
                sink.abandon()
            raise
        except BaseException as error:
            self._tell_failure(run, error)
            if isinstance(error, ResourceError) and run.has_checkpoint:
                error.add_note(_way_on(run))
            for sink in sinks:
                if run.has_checkpoint:
                    sink.close()
                else:
                    sink.abandon()
            with suppress(OSError):
                run.refuse_moved()  # then that is why
            raise
        self._conclude(run, says_next)
        if says_next:
            console.print(f"next: {next_of(run.path, self.prepared)}", soft_wrap=True)
        for sink in sinks:
            sink.close()

    def _fit(self, keeper: Keeper) -> None:
        between_epochs = self.solved or self.schedule.save_every_minutes is None
        saves = self.schedule.max_epochs if between_epochs else None
        keeper.saver.refuse_without_room(self.learner, saves)
        with keeper.listening():
            if isinstance(self.learner, Training):
                self._begin(self.learner)
                with self._joined(self.learner):
                    self.learner.to(self.device.torch)  # moves nothing: tells it where it is
                    self.loop.fit(self.learner, self.data, keeper)
            else:
                self.learner.fit(self.histories(), keeper)

    def _begin(self, training: Training) -> None:
        """Lets the model see all histories before its first step, if it wants to."""
        begin: Callable[[Batch, torch.Generator], None] | None
        begin = getattr(training.model, "begin", None)
        if begin is not None and training.progress.step == 0 and self.started is None:
            draw = torch.Generator().manual_seed(self.config.seed)
            with console.status("warm start from all histories"):
                begin(self.histories(), draw)

    def follow(self, place: Path) -> None:
        """Trains along, in a process that another one began, until that one ends it.

        Args:
            place: where they meet.
        """
        assert self.group is not None
        assert isinstance(self.learner, Training)
        self.group.join(place, self.device.torch)
        self._share(self.learner, self.group)
        self.loop.fit(self.learner, self.data, Following())
        if self.learner.shards is not None:
            self.learner.shards.wait()

    @contextmanager
    def _joined(self, training: Training) -> Iterator[None]:
        """The other processes, if there are any, begin where this one is."""
        if self.group is None:
            yield
            return
        with self.group.led(to_dict(self.config), self.device.torch):
            self._share(training, self.group)
            yield

    def _share(self, training: Training, group: Group) -> None:
        told = asdict(training.told_progress())
        training.go_on_from(group.share(training.shared(), told))
        if training.shards is not None:
            training.shards.hand_out()

    def _tell_failure(self, run: RunFolder, error: BaseException) -> None:
        if run.finished:  # stopped just after it was sealed
            return
        kept: Path | None = None
        if isinstance(error, NonFiniteError) and isinstance(self.learner, Training):
            kept = self._keep_for_replay(run, self.learner, error)
        told_why = str(error) if isinstance(error, DeeprecError) else type(error).__name__
        interrupted = getattr(error, "exit_code", 1) > 128
        where = run.moved_to()
        with suppress(OSError, DeeprecError):  # the disk may be what failed
            if where is None:
                run.refuse_moved()
            there = run if where is None else RunFolder(where)
            state = "interrupted" if interrupted else "failed"
            there.set_status(state, look_into=kept, reason=told_why)

    def _keep_for_replay(
        self, run: RunFolder, training: Training, error: NonFiniteError
    ) -> Path | None:
        try:
            place = replay.keep(run, training, self.data.training, str(error))
        except DeeprecError as further:
            error.add_note(f"the step could not be kept for a replay: {further}")
            return None
        error.add_note(f"look into it with `deeprec train replay={place}`")
        return place

    def _warning(self) -> str | None:
        progress = self.learner.progress
        return sound.warning(
            first_loss=progress.first_loss,
            last_loss=progress.last_loss,
            best_score=progress.best_score,
            last_score=progress.last_score,
            judged=len(self.data.validation.users),
            metric=self.schedule.metric,
        )

    def _conclude(self, run: RunFolder, says_next: bool) -> None:
        progress, schedule = self.learner.progress, self.schedule
        takes = "evaluate and export use" if self.prepared.has_holdout else "export uses"
        early = progress.epoch < schedule.max_epochs and self._is_over(progress)
        why = f": {schedule.patience} validations without a better one" if early else ""
        console.print(f"finished after epoch {progress.epoch}{why}")
        if progress.best_score is not None and progress.best_step is not None:
            console.print(
                f"{self._what_is_best(progress.best_step)}, validation {schedule.metric} "
                f"{progress.best_score:.4f} on {len(self.data.validation.users):,} users"
                f"{f'; {takes} it' if says_next else ''}",
                soft_wrap=True,
            )
        if warning := self._warning():
            self._note(warning)
        console.print(f"run: {run.path}", soft_wrap=True)

    def _what_is_best(self, best_step: int) -> str:
        model = self.learner.model
        if isinstance(model, Blend):  # whose weights may be best by another figure than runs are
            how = "as given" if model.cutoff is None else f"best by ndcg@{model.cutoff}"
            return f"blend: weights {how}"
        steps = 1 if self.solved else max(1, len(self.data.training))
        return f"best: epoch {best_step // steps}"

    def _introduce(self) -> None:
        users, judged = len(self.data.training.users), len(self.data.validation.users)
        weights = sum(parameter.numel() for parameter in self.learner.model.parameters())
        together = "" if self.group is None else f", {self.group.size} processes"
        sharded = [what for name, what in WHAT.items() if getattr(self.loop, name)]
        if sharded:
            together += f" that share {' and '.join(sharded)}"
        device = f"{self.device.description}, {self.loop.precision}{together}"
        console.print(f"device: {device}", soft_wrap=True)
        note = precision_note(self.device, self.loop.precision)
        if note and isinstance(self.learner, Training):
            self._note(note)
        for module in self.learner.model.modules():
            if isinstance(module, SparseInput) and isinstance(self.learner, Training):
                console.print(f"input tables: {module.backend_in_use} ({module.reason})")
        if self.device.name == "cuda" and isinstance(self.learner, Training):
            why, batches = self.why_no_graph, self.data.training
            how = "a CUDA graph" if why is None else f"kernel by kernel ({why})"
            makers = "a thread" if batches.prefetch else "the process that trains"
            if batches.processes:
                makers = f"{batches.processes} process{'es' if batches.processes > 1 else ''}"
            console.print(f"steps: {how}; batches made by {makers}", soft_wrap=True)
        console.print(
            f"{users:,} users to train on, {judged:,} to validate on, {self.facts.num_items:,} "
            f"items, {weights:,} parameters"
        )
        if self.config.model.get("history_weighting") == "decayed" and not self.prepared.has_times:
            self._note(
                "these data have no times, so nothing fades: "
                "model.history_weighting=decayed counts events, as log_count does"
            )
        for line in [] if self.started is None else self.started.lines:
            console.print(line, soft_wrap=True)
        if self.more is not None:
            console.print(
                self.more.told(1 if self.solved else len(self.data.training)), soft_wrap=True
            )
        for said in unread(self.config, self.facts):
            self._note(said)
        if isinstance(self.learner, Solving):
            blended = isinstance(self.learner.model, Blend)
            why = "the members are trained already" if blended else "this model is solved"
            console.print(f"{why}: loss, optimizer and target are not used")
            if self.loop.precision != "float32":
                self._note(f"nor is trainer.precision={self.loop.precision}")
            return
        if self.why_loss is not None:
            console.print(f"loss=auto: {self.why_loss}", soft_wrap=True)
        for part in (self.learner.model, self.learner.loss):
            if note := getattr(part, "note", None):
                self._note(note)
        self._tell_of_target()
        if self.facts.fields and not reads_attributes(self.config.model):
            self._note(
                f"{type(self.learner.model).__name__} reads no user attributes; these data have "
                f"{', '.join(self.facts.fields)}"
            )

    @staticmethod
    def _note(said: str) -> None:
        console.print(f"[yellow]note[/yellow] {said}", soft_wrap=True)

    def _tell_of_target(self) -> None:
        target = self.data.training.target
        rebuilds = getattr(self.learner.model, "learns_shown", False)
        if rebuilds and not isinstance(target, Reconstruct):
            self._note(
                f"{type(self.learner.model).__name__} learns to rebuild histories: of target= it "
                "reads the histories, not what they are asked for"
            )
        if self.prepared.repeats and (rebuilds or target.shows_target) and not self.learns_next:
            model = "model=autoencoder " if rebuilds else ""
            self._note(
                "in these data items may be taken again, and a history that is its own target does "
                f"not teach when; {model}target=after_cut does, as in experiment=complete_journey"
            )

    def _is_over(self, progress: Progress) -> bool:
        """Whether a run that stopped while it was being sealed has nothing left to train."""
        schedule = self.schedule
        enough = schedule.patience is not None and (
            progress.validations_since_best >= schedule.patience
        )
        return enough or progress.epoch >= schedule.max_epochs


def _way_on(run: RunFolder) -> str:
    command = shlex.join(["deeprec", "train", f"resume={run.path}"])
    return f"what is saved is whole; then go on with `{command}`"


def next_of(run: Path, prepared: Prepared) -> str:
    """What can be done with a run, in words and a command."""
    if prepared.has_holdout:
        return shlex.join(["deeprec", "evaluate", f"run={run}"])
    if prepared.manifest.get("columns"):
        files = ["-n", str(run.with_suffix(".nc")), "-f", str(run.with_suffix(".columns"))]
        return shlex.join(["deeprec", "dsstne", "export-network", "-r", str(run), *files])
    return f"{shlex.join(['deeprec', 'export', f'run={run}'])} (there is no holdout to judge on)"
