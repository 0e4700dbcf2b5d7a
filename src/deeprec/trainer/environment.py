"""Software and hardware that a figure depends on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from deeprec import __version__
from deeprec.trainer.checkpoint import Checkpoint

PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "lightning", "numpy", "pyarrow")


def environment() -> dict[str, Any]:
    """Software and hardware that a figure depends on."""
    return {
        "deeprec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    return {"deeprec": __version__, "torch": torch.__version__}


def other_versions(found: Checkpoint) -> str | None:
    """What to say of a checkpoint that was made with other software than this; None: it was not."""
    made, here = found.manifest.get("versions", {}), versions()
    told = [
        f"{name} {made.get(name)}, now {here[name]}"
        for name in here
        if made.get(name) != here[name]
    ]
    return f"{found.path.name} was made with {'; '.join(told)}" if told else None
