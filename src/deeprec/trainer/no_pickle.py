"""Lightning's own road to a checkpoint, closed: what it writes and reads there is a pickle."""

from typing import Any, NoReturn

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from deeprec.errors import ConfigError


class NoPickle(CheckpointIO):
    """Refuses whatever a Trainer is asked to save, load or remove by itself.

    A run keeps its state as `trainer/checkpoint.py` says: whole or absent, verified, no pickle. A
    callback that calls `Trainer.save_checkpoint` would write another, in place, and a path handed
    to `Trainer.fit` would be unpickled.
    """

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(
            f"{path}: a Trainer would write a pickle there, which deeprec neither writes nor reads;"
            " what a run saves is in its folder `checkpoints` (trainer.save_every_minutes)"
        )

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> NoReturn:
        """Raises ConfigError; the file is not opened."""
        raise ConfigError(
            f"{path}: a Trainer would read it as a pickle, which can run what it likes; go on with "
            "a run by `deeprec train resume=RUN`"
        )

    def remove_checkpoint(self, path: Any) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"{path}: is none of the checkpoints that a Trainer may remove")
