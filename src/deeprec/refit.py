"""A run -> the same trained again on other data: on all there is, or on what has come since."""

from pathlib import Path
from typing import Any, cast

from deeprec.assembly import READ
from deeprec.beside import Members
from deeprec.blend import lasting, written
from deeprec.config import RefitConfig, TrainConfig, check, typed
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.model.blend import Blend
from deeprec.part import called, find
from deeprec.train import train
from deeprec.trainer.run import (
    Run,
    RunFolder,
    open_run,
    refuse_to_overwrite,
    take_away_unmade,
)


def refit(config: RefitConfig) -> Path:
    """Trains a run's model from the start, with all its settings, on another prepared folder.

    It trains for as many epochs as were best of the run, where that was validated. A blend has each
    of its members trained again, and keeps their weights. A command that was interrupted goes on
    when it is given again.

    Raises:
        ConfigError: the run has weights from elsewhere, an earlier version blended it, or
            output_dir holds something else.
        DataError: the folder does not have what the settings need.
    """
    run, prepared = open_run(config.run), Prepared(Path(config.prepared), parts=READ)
    if not run.finished:
        console.print(f"[yellow]note[/yellow] {run.path} is not finished")
    if find(run.config.model["_target_"]) is Blend:
        return _blended(run, prepared, config)
    if not RunFolder(run.path).status.get("from_data", True):
        raise ConfigError(
            f"run: {run.path} holds weights that were trained elsewhere, so it knows of no "
            "training to be done again; use deeprec train"
        )
    told = _config(lasting(run), run, config, Path(config.output_dir))
    _say(run, told)
    return train(told)


def _blended(run: Run, prepared: Prepared, config: RefitConfig) -> Path:
    output, model = Path(config.output_dir), run.config.model
    trained = RunFolder(run.path).members
    if trained is None:
        raise ConfigError(
            f"run: {run.path} was blended by an earlier version, which did not keep how its "
            "members were trained; blend them again"
        )
    members = Members(output)
    take_away_unmade(output)
    refuse_to_overwrite(output)
    configs = []
    for number, settings in enumerate(trained, 1):
        told = _config(settings, run, config, output)
        configs.append((f"{number}-{called(told.model)}", told))
    runs = members.trained(configs, train)
    written(output, runs, model["weights"], prepared, config.seed or run.config.seed)
    members.take_away()
    return output


def _config(settings: dict[str, Any], run: Run, config: RefitConfig, output: Path) -> TrainConfig:
    seed = settings["seed"] if config.seed is None else config.seed
    place = {"prepared": config.prepared, "output_dir": str(output), "resume": "auto"}
    values = {**settings, "seed": seed, **place, "logger": run.config.logger}
    check(values, "train")
    return cast(TrainConfig, typed(values, "train"))


def _say(run: Run, told: TrainConfig) -> None:
    if run.checkpoint.score is not None:
        epochs = told.trainer["max_epochs"]
        console.print(f"as {run.path} was trained, for the {epochs} epochs that were best of it")
