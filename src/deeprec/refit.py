"""A run -> the same trained again on other data: on all there is, or on what has come since."""

from pathlib import Path
from typing import Any, cast

from deeprec.assembly import READ
from deeprec.beside import Members
from deeprec.blend import lasting, written
from deeprec.config import check, typed
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.model.blend import Blend
from deeprec.part import called, find
from deeprec.train import go_on, train
from deeprec.trainer.asked_again import settings_of
from deeprec.trainer.run import (
    Run,
    RunFolder,
    open_run,
    refuse_to_overwrite,
    take_away_unmade,
)
from deeprec.verb import RefitConfig, TrainConfig


def refit(config: RefitConfig) -> Path:
    """Trains a run's model from the start, with all its settings, on another prepared folder.

    It trains to the epoch that was best of the run, where that was validated, with learning rates
    as they were, or for `epochs`, over which learning rates then fall. With `keep_weights` it
    begins with the weights of the run. A blend has each of its members trained again, and keeps
    their weights. A command that was interrupted goes on when it is given again.

    Raises:
        ConfigError: the run or a member of it has weights from elsewhere, an earlier version
            blended it, or output_dir holds something else.
        DataError: the folder does not have what the settings need.
    """
    run, prepared = open_run(config.run), Prepared(Path(config.prepared), parts=READ)
    if not run.finished:
        console.print(f"[yellow]note[/yellow] {run.path} is not finished")
    _tell_attributes({*RunFolder(run.path).origin["fields"]}, prepared)
    if find(run.config.model["_target_"]) is Blend:
        _refuse_for_blend(run, config)
        return _blended(run, prepared, config)
    settings = lasting(run)
    if settings is None:
        raise ConfigError(
            f"run: {run.path} holds weights that were trained elsewhere, so it knows of no "
            "training to be done again; use deeprec train"
        )
    told = _config(settings, run, config, Path(config.output_dir))
    how = "from its weights on" if config.keep_weights else "anew"
    console.print(f"training {run.path} {how} {_epochs(told)}", soft_wrap=True)
    return train(told)


def _tell_attributes(read: set[str], prepared: Prepared) -> None:
    """Says which user attributes the new model reads that the run did not, or the other way."""
    has = {*prepared.vocabularies}
    for names, what in (
        (read - has, "were read by the run, and the new one learns without them"),
        (has - read, "were unknown to the run, and the new one reads them"),
    ):
        if names:
            told = (
                f"user attributes of {prepared.path} are others: {', '.join(sorted(names))} {what}"
            )
            console.print(f"[yellow]note[/yellow] {told}", soft_wrap=True)


def _refuse_for_blend(run: Run, config: RefitConfig) -> None:
    told = [name for name in ("keep_weights", "epochs") if getattr(config, name)]
    if told:
        raise ConfigError(
            f"{told[0]}: {run.path} is a blend, each of whose members is trained in its own way; "
            f"leave {told[0]} out, or refit runs of single models with it and blend these"
        )


def _blended(run: Run, prepared: Prepared, config: RefitConfig) -> Path:
    output, weights = Path(config.output_dir), run.config.model["weights"]
    configs = _members_of(run, config)
    members, there = Members(output), RunFolder(output)
    take_away_unmade(output)
    if _is_same(there, [told for _, told in configs], weights, prepared):
        return go_on(there)
    refuse_to_overwrite(output)
    console.print(f"training the blend {run.path} anew:")
    for (name, told), weight in zip(configs, weights, strict=True):
        console.print(f"  {name} {_epochs(told)}, weight {weight:.2f}", soft_wrap=True)
    runs = members.trained(configs, train)
    seed = run.config.seed if config.seed is None else config.seed
    written(output, runs, weights, prepared, seed)
    members.take_away()
    return output


def _members_of(run: Run, config: RefitConfig) -> list[tuple[str, TrainConfig]]:
    """By the names of their folders, what trains the members of a blend again."""
    kept = RunFolder(run.path).members
    if kept is None:
        raise ConfigError(
            f"run: {run.path} was blended by an earlier version, which did not keep how its "
            "members were trained; blend them again"
        )
    found = []
    for number, settings in enumerate(kept, 1):
        if settings is None:
            raise ConfigError(
                f"run: member {number} of {run.path} is a blend itself or holds weights that were "
                "trained elsewhere, so it knows of no training to be done again; blend runs that "
                "were trained here"
            )
        told = _config(settings, run, config, Path(config.output_dir))
        found.append((f"{number}-{called(told.model)}", told))
    return found


def _is_same(
    there: RunFolder, configs: list[TrainConfig], weights: list[float], prepared: Prepared
) -> bool:
    """Whether a run is the blend that this command makes, killed before it was finished or not."""
    if not (there.path / "config.yaml").is_file() or there.members is None:
        return False
    same_members = there.members == [settings_of(one) for one in configs]
    same_weights = there.config.model["weights"] == weights
    return same_members and same_weights and there.origin["identity"] == prepared.identity


def _config(settings: dict[str, Any], run: Run, config: RefitConfig, output: Path) -> TrainConfig:
    seed = settings["seed"] if config.seed is None else config.seed
    place = {"prepared": config.prepared, "output_dir": str(output), "resume": "auto"}
    values = {**settings, "seed": seed, **place, "logger": run.config.logger}
    if config.keep_weights:
        values["start_from"] = str(run.path)
    if config.epochs is not None:
        values["trainer"] = {**settings["trainer"], "max_epochs": config.epochs, "last_epoch": None}
    check(values, "train")
    return cast(TrainConfig, typed(values, "train"))


def _epochs(told: TrainConfig) -> str:
    last = told.trainer.get("last_epoch")
    if last is not None:
        return f"to epoch {last}, its best"
    count = told.trainer["max_epochs"]
    return f"for {count} epoch{'s' * (count != 1)}"
