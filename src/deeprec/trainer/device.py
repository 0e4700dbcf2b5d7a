"""Where a run computes, and in which precision."""

from dataclasses import dataclass
from typing import Literal

import torch

from deeprec.errors import ConfigError

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Device:
    """A device and why it was taken."""

    name: Literal["cpu", "cuda"]
    description: str

    @property
    def torch(self) -> torch.device:
        return torch.device(self.name)


def choose_device(wanted: DeviceName) -> Device:
    """The wanted device; `auto` takes CUDA where its driver answers, and the CPU otherwise.

    Raises:
        ConfigError: CUDA is wanted and does not answer.
    """
    if wanted != "cpu" and torch.cuda.is_available():
        return Device("cuda", f"cuda ({torch.cuda.get_device_name()})")
    if wanted == "cuda":
        raise ConfigError(
            "trainer.device=cuda: no CUDA device answers this build of torch "
            f"({torch.__version__}); run deeprec doctor, or use trainer.device=cpu"
        )
    reason = "as configured" if wanted == "cpu" else "no CUDA device answers"
    return Device("cpu", f"cpu, {torch.get_num_threads()} threads ({reason})")
