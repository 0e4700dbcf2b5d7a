"""Whether `torch.export` follows a model, which knows no loop of as many rounds as data says."""

import torch
from torch._jit_internal import is_scripting


def is_exporting() -> bool:
    """Scriptable; in TorchScript always False."""
    if is_scripting():
        return False
    else:  # which TorchScript does not compile
        return torch.compiler.is_exporting()
