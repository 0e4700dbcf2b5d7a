"""What a scheduler says of the process that it started: one of several, or one again."""

import os

from deeprec.errors import ConfigError

# how torchrun, a step of SLURM and Open MPI tell a process how many they started
NUM_PROCESSES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# how torchrun and SLURM tell it how often it was started before
RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def refuse_several(verb: str) -> None:
    """A run is begun by one process; several would each begin one of their own.

    Raises:
        ConfigError: this process is one of several.
    """
    for name in NUM_PROCESSES:
        if _number(name) > 1:
            raise ConfigError(
                f"deeprec {verb} is one process, and {name}={os.environ[name]} says that this is "
                "one of several: start one (torchrun --nproc-per-node=1, srun --ntasks=1), which "
                "begins the others of this machine itself: deeprec train trainer.processes=N"
            )


def restarted() -> bool:
    """Whether this process was started in place of one that ended."""
    return any(_number(name) > 0 for name in RESTARTS)


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0
