"""Models that are trained one after the other beside the run that will be made of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from deeprec import folder
from deeprec.console import console
from deeprec.errors import ConfigError, Interrupted, NonFiniteError
from deeprec.part import called
from deeprec.trainer import replay
from deeprec.trainer.run import Run, RunFolder, open_run
from deeprec.verb import TrainConfig


class Train(Protocol):
    """`deeprec train`."""

    def __call__(self, config: TrainConfig, *, says_next: bool) -> Path: ...


class Members:
    """The runs that a blend is made of, each named for its model, until there is one.

    Args:
        output: the run folder of the blend.
    """

    def __init__(self, output: Path) -> None:
        self.output, self.place = output, output.parent / f"{output.name}.members"

    def trained(self, configs: Sequence[tuple[str, TrainConfig]], train: Train) -> list[Run]:
        """Trains each, or goes on with it where it was interrupted.

        One beside the first that refuses what the command says of all, or that comes to no finite
        loss, is left out, and it is said.

        Args:
            configs: by the names of their folders, which end in what the model is called.

        Raises:
            ConfigError: something else lies where they are trained.
        """
        names = [name for name, _ in configs]
        for name in names:
            folder.clear_abandoned(self.place.absolute() / name)
        self._refuse_foreign(names)
        runs = []
        for number, (name, config) in enumerate(configs, 1):
            console.print(f"\nmodel {number} of {len(configs)} of the blend: {name}")
            config = replace(config, output_dir=str(self.place / name), resume="auto")
            try:
                runs.append(open_run(train(config, says_next=False)))
            except (ConfigError, NonFiniteError) as error:
                run = self.place / name
                if number == 1 or (isinstance(error, ConfigError) and run.exists()):
                    raise
                console.print(f"[yellow]note[/yellow] {name} is left out: {error}", soft_wrap=True)
                for left in filter(Path.exists, (run, replay.place_of(run))):
                    folder.remove(left)
            except Interrupted as error:
                error.args = (
                    f"{error}; that is {name} alone, one model of the blend, and the interrupted "
                    "command, given again, goes on with all of them",
                )
                raise
        console.print(f"\nblending these {len(runs)} models")
        return runs

    def take_away(self) -> None:
        """Once the run holds what it needs of them."""
        run = RunFolder(self.output)
        if self.place.is_dir() and run.finished and (run.path / "prepared.json").is_file():
            made_of = run.origin["identity"]
            folder.clear_drafts(self.place)
            if all(_is_member(RunFolder(one), made_of) for one in self.place.iterdir()):
                folder.remove(self.place)
        folder.clear_abandoned(self.place.absolute())

    def _refuse_foreign(self, names: Sequence[str]) -> None:
        """The place is taken away in the end, so nothing else may be in it."""
        if not self.place.exists():
            return
        is_folder = self.place.is_dir()
        there = [one.name for one in self.place.iterdir()] if is_folder else [self.place.name]
        if foreign := sorted(name for name in there if name not in names):
            raise ConfigError(
                f"{self.place} is where the models of the blend are trained, and holds "
                f"{foreign[0]}; move it away, or give another output_dir"
            )


def _is_member(run: RunFolder, made_of: str) -> bool:
    """Whether a run is named for its model, as here, and trained on these data."""
    if not (run.path / "config.yaml").is_file() or run.origin["identity"] != made_of:
        return False
    return run.path.name.endswith(called(run.config.model))
