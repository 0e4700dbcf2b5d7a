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


def choose_device(wanted: DeviceName, key: str = "device") -> Device:
    """The wanted device; `auto` takes CUDA where its driver answers, and the CPU otherwise.

    Args:
        wanted: what the config says.
        key: where it says so.

    Raises:
        ConfigError: CUDA is wanted and does not answer.
    """
    if wanted != "cpu" and torch.cuda.is_available():
        return Device("cuda", f"cuda ({torch.cuda.get_device_name()})")
    if wanted == "cuda":
        raise ConfigError(
            f"{key}=cuda: no CUDA device answers this build of torch "
            f"({torch.__version__}); run deeprec doctor, or use {key}=cpu"
        )
    reason = "as configured" if wanted == "cpu" else "no CUDA device answers"
    threads = torch.get_num_threads()
    return Device("cpu", f"cpu, {threads} thread{'s' * (threads > 1)} ({reason})")


def visible_devices(environment: str | None, count: int) -> list[str]:
    """The CUDA devices to share out; none where there are fewer than two.

    Args:
        environment: CUDA_VISIBLE_DEVICES, which names them where it is set.
        count: of devices that answer.

    Example:
        >>> visible_devices("2,5", 2), visible_devices(None, 2), visible_devices(None, 1)
        (['2', '5'], ['0', '1'], [])
    """
    named = environment.split(",") if environment else [str(at) for at in range(count)]
    return named if count > 1 else []


def generator_of(device: torch.device) -> torch.Generator:
    """What the device's dropout and other draws come from."""
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def seed_all(seed: int, device: torch.device) -> None:
    """Begins the draws of the CPU and of a device anew.

    torch.manual_seed also tells devices that are not there, which takes half a millisecond.
    """
    for generator in {generator_of(torch.device("cpu")), generator_of(device)}:
        generator.manual_seed(seed)


def precision_note(device: Device, precision: Precision) -> str | None:
    """What a person should know of this precision on this device; None: nothing.

    oneDNN emulates bfloat16 where a processor lacks it: 7.5 times the CPU time of float32 products,
    512 x 600 x 2,048 on an AMD EPYC with AVX2.
    """
    if precision == "float32" or device.name != "cpu" or _multiplies_bfloat16():
        return None
    return (
        "this processor does not multiply bfloat16, which is emulated and several times slower "
        "than trainer.precision=float32"
    )


def _multiplies_bfloat16() -> bool:
    known = torch.cpu.get_capabilities()
    return any(bool(has) for name, has in known.items() if "bf16" in name)
