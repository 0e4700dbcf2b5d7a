"""Runs -> one run that says what they say together, by weights chosen on validation.

Models that err in different ways gain by each other. The blend is a run as any other: it is
evaluated, exported and served as one model, and the runs it was made of may be deleted.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.table import Table
from torch import nn

from deeprec import part
from deeprec.assembly import READ
from deeprec.console import console
from deeprec.data.store import Prepared
from deeprec.errors import ConfigError
from deeprec.model.blend import Blend
from deeprec.trainer.asked_again import settings_of
from deeprec.trainer.callback import Watch
from deeprec.trainer.logger import read_metrics
from deeprec.trainer.loop import ALONE, Loop
from deeprec.trainer.run import Run, RunFolder, open_run, refuse_to_overwrite, take_away_unmade
from deeprec.trainer.weighing import Weights, climbed, only, tried
from deeprec.verb import BlendConfig, TrainConfig
from deeprec.work import Work


def blend(config: BlendConfig, *, says_next: bool = True) -> Path:
    """Weighs the runs against each other on validation, and writes what they are together.

    Raises:
        ConfigError: the runs were not trained on the same folder, there is only one, something
            stands in output_dir, or one of them alone is as good as any blend.
        DataError: nobody is left to validate on.
    """
    output = Path(config.output_dir)
    take_away_unmade(output)
    refuse_to_overwrite(output)
    refuse_twice(config.runs)
    runs = [open_run(path) for path in config.runs]
    for run in runs:
        if not run.finished:
            console.print(
                f"[yellow]note[/yellow] {run.path} is not finished; its best checkpoint so far "
                "is blended"
            )
    prepared = _shared_folder(runs)
    if config.weights is not None:
        return written(output, runs, config.weights, prepared, config.seed, says_next=says_next)
    cutoff = config.cutoff or _shared_cutoff(runs)
    weights = weighed(runs, prepared, config.validation_users, cutoff)
    if (best := the_only(weights)) is not None:
        raise ConfigError(
            f"{runs[best].path} alone is as good on validation as any blend of these; use it"
        )
    seed = config.seed
    return written(output, runs, weights, prepared, seed, cutoff=cutoff, says_next=says_next)


def refuse_twice(paths: Sequence[str]) -> None:
    """A run beside itself would be weighed against itself."""
    for place, path in enumerate(paths):
        if any(Path(path).resolve() == Path(other).resolve() for other in paths[:place]):
            raise ConfigError(f"runs: {path} stands there twice; name each run once")


def cutoff_of(config: TrainConfig) -> int:
    """K of the ndcg@k that such a run is judged by on validation."""
    loop: Loop = part.instantiate(config.trainer)
    return loop.schedule.cutoff


def weighed(runs: Sequence[Run], prepared: Prepared, validation_users: int, cutoff: int) -> Weights:
    """The weights that are best on validation; of one run alone, where that is as good.

    Args:
        validation_users: so many at most.
        cutoff: k of the ndcg@k that they are best by.

    Raises:
        NobodyJudgedError: nobody is left to validate on.
    """
    together = Blend(
        prepared.num_items, members=[run.model for run in runs], weights=[1.0] * len(runs)
    )
    together.join()
    score = cache(tried(together, prepared, validation_users, cutoff))
    weights = climbed(score, len(runs))
    alone = [score(only(index, len(runs))) for index in range(len(runs))]
    _show(runs, weights, alone, score(weights), cutoff)
    if max(alone) >= score(weights):
        return only(int(np.argmax(alone)), len(runs))
    return weights


def the_only(weights: Sequence[float]) -> int | None:
    """The place of the only weight above 0; None: there are several.

    Example:
        >>> the_only([0.0, 1.0]), the_only([0.5, 0.5])
        (1, None)
    """
    places = [place for place, weight in enumerate(weights) if weight > 0.0]
    return places[0] if len(places) == 1 else None


def _shared_cutoff(runs: Sequence[Run]) -> int:
    cutoffs = [cutoff_of(run.config) for run in runs]
    if len(set(cutoffs)) > 1:
        told = ", ".join(f"{run.path} by ndcg@{k}" for run, k in zip(runs, cutoffs, strict=True))
        raise ConfigError(
            f"the runs were judged by lists of different length, {told}; say how long those are "
            f"that weights are to be best by, such as cutoff={cutoffs[0]}"
        )
    return cutoffs[0]


def _shared_folder(runs: Sequence[Run]) -> Prepared:
    first = runs[0]
    for run in runs[1:]:
        if run.prepared_identity != first.prepared_identity:
            raise ConfigError(
                f"{first.path} and {run.path} were trained on different prepared folders, "
                f"{first.prepared} and {run.prepared}; blend runs of one"
            )
    prepared = Prepared(first.prepared, parts=READ)
    if prepared.identity != first.prepared_identity:
        raise ConfigError(
            f"{first.prepared} was prepared anew since {first.path} was trained on it; train again"
        )
    return prepared


def _show(
    runs: Sequence[Run], weights: Weights, alone: Sequence[float], together: float, cutoff: int
) -> None:
    table = Table(title="Blend weights, chosen on validation")
    table.add_column("run", overflow="fold")
    table.add_column("weight", justify="right")
    table.add_column(f"ndcg@{cutoff}", justify="right")
    for run, weight, score in zip(runs, weights, alone, strict=True):
        table.add_row(_named(run), f"{weight:.2f}", f"{score:.4f}")
    table.add_row("blend", "", f"{together:.4f}", style="bold")
    console.print(table)


def _named(run: Run) -> str:
    """Where a run is, and its model where the name of the folder does not say it."""
    model = part.called(run.config.model)
    return str(run.path) if run.path.name.endswith(model) else f"{run.path} ({model})"


def written(
    output: Path,
    runs: Sequence[Run],
    weights: Sequence[float],
    prepared: Prepared,
    seed: int,
    *,
    watch: Watch | None = None,
    cutoff: int | None = None,
    told: Sequence[str] | None = None,
    says_next: bool = True,
) -> Path:
    """Writes the run folder of a blend; those of the runs that weigh anything are in it whole.

    Args:
        watch: is told of its validation.
        cutoff: k of the ndcg@k that weights are best by; None: they were given.
        told: what `experiment=auto` was told, of which the runs came.
        says_next: whether to say what can be done with the run.
    """
    kept = [(run, weight) for run, weight in zip(runs, weights, strict=True) if weight > 0.0]
    first = kept[0][0].config
    config = TrainConfig(
        prepared=str(prepared.path),
        output_dir=str(output),
        seed=seed,
        model={
            "_target_": f"{Blend.__module__}.{Blend.__qualname__}",
            "_partial_": True,
            "members": [_whole(run) for run, _ in kept],
            "weights": [weight for _, weight in kept],
            "cutoff": cutoff,
            "told": told,
        },
        loss=None,
        optimizer=None,
        target=None,
        user_weights=False,  # its members have learned from them, or not
        trainer={**first.trainer, **ALONE},  # nothing is trained here
        logger=first.logger,
    )
    work = Work(config, prepared)
    model = work.learner.model
    assert isinstance(model, Blend)
    model.members = nn.ModuleList(cast(nn.Module, run.model) for run, _ in kept).to(
        work.device.torch
    )
    trained = [lasting(run) for run, _ in kept]
    with RunFolder.begun(
        output, work.config, prepared, work.facts, from_data=False, members=trained
    ) as run:
        work.finish(run, watch, says_next=says_next)
    return output


def lasting(run: Run) -> dict[str, Any] | None:
    """What trains such a run again, to the epoch that was best of it.

    None: it has weights from elsewhere.
    """
    if not RunFolder(run.path).status.get("from_data", True):
        return None
    settings = settings_of(run.config)
    if run.checkpoint.score is not None:
        of_step = {row["step"]: row["epoch"] for row in read_metrics(run.path / "metrics.csv")}
        best = of_step.get(str(run.checkpoint.step), settings["trainer"]["max_epochs"])
        settings["trainer"] |= {"last_epoch": int(best), "early_stopping_patience": None}
    return settings


def _whole(run: Run) -> dict[str, Any]:
    """The model of a run with all that was known when it was made: nothing is left to be known."""
    return part.completed(run.config.model, **vars(run.facts))
