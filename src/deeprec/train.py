"""Prepared folder -> run folder: trains a model, or goes on with a run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.fabric.utilities.apply_func import move_data_to_device

from deeprec import disk, folder
from deeprec.assembly import READ
from deeprec.beside import Members
from deeprec.blend import cutoff_of, the_only, weighed, written
from deeprec.choosing import chosen
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError, IntegrityError
from deeprec.model.auto import Auto
from deeprec.model.blend import Blend
from deeprec.part import called, find
from deeprec.resumed import freed
from deeprec.schema import Part
from deeprec.trainer import checkpoint, launcher, replay
from deeprec.trainer.asked_again import of_training, refuse_another
from deeprec.trainer.callback import Watch
from deeprec.trainer.environment import other_versions
from deeprec.trainer.module import Training
from deeprec.trainer.run import (
    RunFolder,
    refuse_foreign,
    refuse_to_overwrite,
    take_away_unmade,
)
from deeprec.trainer.solving import Solving
from deeprec.trainer.weighing import NobodyJudgedError
from deeprec.verb import BlendConfig, TrainConfig
from deeprec.work import Work, next_of

GOING_ON = ("auto", "must")  # with the run in output_dir, if there is one, or in any case


def train(config: TrainConfig, *, watch: Watch | None = None, says_next: bool = True) -> Path:
    """Trains, and returns the run folder. Of the prepared folder the holdout is not read.

    A new run that ends before its first checkpoint leaves no folder behind, so that the corrected
    command can be given again. With `resume=RUN` the run goes on under the config that it has; of
    `config` only those settings count that change nothing of what is learned (`resumed.FREE`).
    `resume=auto` goes on with the run in output_dir where there is one, and `resume=must` wants
    one; then `config` must ask for that run, but for these settings. A process that torchrun or
    SLURM started in place of one that ended is as one with `resume=auto`. With `replay` the step at
    which a loss stopped being finite is looked into again.

    Args:
        watch: is told of each validation of a new run, and may stop it.
        says_next: whether to say what can be done with the run.

    Raises:
        ConfigError: output_dir holds something, another process trains this run, or this process
            is one of several.
        DataError: there is nothing to train on.
        IntegrityError: no checkpoint of the run is whole.
        ResourceError: it would not fit into memory or onto the disk.
        NonFiniteError: the loss became infinite or NaN.
        Interrupted: a signal stopped it; what it did is saved.
    """
    launcher.refuse_several("train")
    if config.replay is not None:
        return _replay(Path(config.replay))
    resume = config.resume or ("auto" if launcher.restarted() else None)
    if resume is not None and resume not in GOING_ON:
        return _resume(RunFolder(Path(resume)), config.trainer)
    assert config.prepared is not None
    assert config.output_dir is not None
    output = Path(config.output_dir)
    members = Members(output)
    members_wait = _holds_something(members.place)  # of an interrupted experiment=auto
    if _holds_something(output):
        if members_wait:
            take_away_unmade(output)
        members.take_away()
    if (_holds_something(output) and resume) or (resume == "must" and not members_wait):
        return _resume(RunFolder(output), config.trainer, config, says_next=says_next)
    with disk.written(output):
        refuse_to_overwrite(output)
    prepared = Prepared(Path(config.prepared), parts=READ)
    told = of_training(config.model.get("told") or ())
    config, *beside = chosen(replace(config, resume=None), prepared)
    if beside:
        return _together([config, *beside], prepared, output, watch, told)
    work = Work(config, prepared)
    origin = None if work.started is None else work.started.origin
    with RunFolder.begun(
        output, work.config, work.prepared, work.facts, started_from=origin
    ) as run:
        work.finish(run, watch, says_next=says_next)
    return output


def _together(
    configs: Sequence[TrainConfig],
    prepared: Prepared,
    output: Path,
    watch: Watch | None,
    told: Sequence[str],
) -> Path:
    """Trains each model into a folder beside the run, and makes one run of them.

    What is there of a command that was interrupted is gone on with.

    Args:
        told: what the command said of all of them.
    """
    members = Members(output)
    runs = members.trained([*zip(_folders(configs), configs, strict=True)], train)
    cutoff: int | None = None  # weights are chosen by none
    try:
        by = cutoff_of(configs[0])
        weights: Sequence[float] = weighed(runs, prepared, BlendConfig.validation_users, by)
        cutoff = by
    except NobodyJudgedError:
        weights = [1.0 / len(runs)] * len(runs)
        _tell_equal(len(runs), prepared)
    if (best := the_only(weights)) is not None:
        console.print(f"{runs[best].path.name} alone is as good as any blend of these")
        folder.place(runs[best].path, output)
        console.print(f"run: {output}\nnext: {next_of(output, prepared)}", soft_wrap=True)
    else:
        seed = configs[0].seed
        written(output, runs, weights, prepared, seed, watch=watch, cutoff=cutoff, told=told)
    members.take_away()
    return output


def _folders(configs: Sequence[TrainConfig]) -> list[str]:
    """What each is called: its model, and a second one of that model `2-model`."""
    names = [called(one.model) for one in configs]
    counts = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [
        name if count == 1 else f"{count}-{name}" for name, count in zip(names, counts, strict=True)
    ]


def _tell_equal(num_models: int, prepared: Prepared) -> None:
    """Says that weights were not chosen, and how they can be."""
    if num_models == 1:
        return
    users = len(prepared.judged_users("validation"))
    why = "has no validation part"
    if users:
        why = (
            f"has {users:,} validation user{'s' * (users != 1)}, of whom none took an item there "
            "that was new to them"
        )
    console.print(
        f"[yellow]note[/yellow] {prepared.path} {why}, so weights cannot be chosen: each of the "
        f"{num_models} models weighs {1 / num_models:.2f}. To choose them, give experiment=auto a "
        "folder prepared with a validation part that judges somebody, and then `deeprec refit "
        f"run=RUN prepared={prepared.path} output_dir=ANOTHER` trains that run on this one",
        soft_wrap=True,
    )


def _holds_something(output: Path) -> bool:
    return output.exists() and (not output.is_dir() or any(output.iterdir()))


def go_on(run: RunFolder) -> Path:
    """Goes on with a run under the config that it has, where it is not finished."""
    return _resume(run, run.config.trainer)


def _resume(
    run: RunFolder, trainer: Part, asked: TrainConfig | None = None, *, says_next: bool = True
) -> Path:
    """Goes on with a run; with `asked`, if that is what is asked for.

    Args:
        trainer: the part as the command says it, of which the free settings count.
    """
    config = run.config
    if asked is not None:
        refuse_another(_as_chosen(asked, config), config, run.path)
    with run.locked():
        if run.finished:
            if asked is not None and asked.prepared:
                _same_prepared(run, Path(asked.prepared))
            console.print(f"{run.path} is finished already; there is nothing to resume")
        else:
            run.take_over()
            place = asked.prepared if asked and asked.prepared else run.origin["path"]
            settings, changed = freed(config.trainer, trainer)
            if changed:
                told = f"with {'; '.join(changed)}, which changes nothing that is learned"
                console.print(told, soft_wrap=True)
            begun = replace(config, trainer=settings)
            if run.has_checkpoint:  # it has weights of its own
                begun = replace(begun, start_from=None)
            work = Work(begun, _same_prepared(run, Path(place)))
            _load_newest(run, work.learner)
            console.print(f"resuming after step {work.learner.progress.step}")
            work.finish(run, says_next=says_next)
        Members(run.path).take_away()
    return run.path


def _as_chosen(asked: TrainConfig, kept: TrainConfig) -> TrainConfig:
    """Where the data are asked to choose the model: what they choose, of several that of the run.

    A blend keeps none of the settings that its members were trained with.
    """
    if find(asked.model["_target_"]) is not Auto or find(kept.model["_target_"]) is Blend:
        return asked
    assert asked.prepared is not None
    choices = chosen(asked, Prepared(Path(asked.prepared), parts=READ))
    same = [one for one in choices if one.model["_target_"] == kept.model["_target_"]]
    return (same or choices)[0]


def _load_newest(run: RunFolder, learner: Training | Solving) -> None:
    """Gives a run the state of its newest whole checkpoint; without any it begins anew."""
    found, rejected = checkpoint.newest_valid(run.checkpoints)
    for reason in rejected:
        console.print(f"[yellow]rejected[/yellow] {reason}", soft_wrap=True)
    if found is None:
        if rejected:
            run.set_status("failed", goes_on=False, reason="no checkpoint is whole")
            raise IntegrityError(
                f"{run.path}: no checkpoint is whole, so there is nothing to go on with. If a copy "
                f"of one is kept elsewhere, put it into {run.checkpoints} and give `deeprec train "
                f"resume={run.path}` again. Else train it anew: `mv {run.path} {run.path}.damaged`,"
                " and the command that it was begun with; its config.yaml holds every setting"
            )
        if not run.status.get("from_data", True):
            run.set_status("failed", goes_on=False, reason="stopped before it was whole")
            raise ConfigError(
                f"{run.path}: was made of weights from elsewhere (a blend, an import) and stopped "
                "before they were in it, so it cannot be gone on with. Give the command again that "
                "it was begun with, which takes it away"
            )
        return
    refuse_foreign(found, run)
    if told := other_versions(found):
        console.print(
            f"[yellow]note[/yellow] {told}: the run is resumed, and may end with other weights",
            soft_wrap=True,
        )
    checkpoint.load(found, learner)
    checkpoint.set_newer_aside(run.checkpoints, found)


def _replay(place: Path) -> Path:
    """Looks into the step that a run failed at."""
    folder.verify(place, replay.KIND)
    kept = RunFolder(place / "run")
    config = replace(kept.config, start_from=None)
    work = Work(config, _same_prepared(kept, Path(kept.origin["path"])))
    assert isinstance(work.learner, Training)
    replay.restore(place, work.learner)
    progress, batches = work.learner.progress, work.data.training
    batches.receive = work.learner.padding = None  # it is looked into as it was arranged
    epoch, position = progress.epoch, min(progress.batch, len(batches) - 1)
    for rank in range(batches.world):  # of each process that trained it
        batches.rank = rank
        if work.group is not None:
            work.group.rank = rank
            console.print(f"process {rank + 1} of {batches.world}")
        batch = batches.finished(epoch, position)
        replay.look_into(work.learner, move_data_to_device(batch, work.device.torch))
    console.print(f"step {progress.step} is finite here; what failed was a step before it")
    return place


def _same_prepared(run: RunFolder, path: Path) -> Prepared:
    """The prepared folder of a run at this place; it must hold what it held."""
    prepared = Prepared(path, parts=READ)
    if prepared.identity != run.origin["identity"]:
        raise ConfigError(
            f"{path} holds other data than {run.path} was begun with, so the run cannot go on with "
            "it; give another output_dir for a new run"
        )
    return prepared
