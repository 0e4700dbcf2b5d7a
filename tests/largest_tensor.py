"""Watches what the largest tensor is that some code ever makes."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation makes.

    What lies in the memory of an operation's input, as views and changes in place do, is not made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        held = {_memory(each) for each in tree_leaves((args, kwargs or {}))}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _memory(tensor) not in held:
                self.elements = max(
                    self.elements, tensor._nnz() if tensor.is_sparse else tensor.numel()
                )
        return out


def _memory(each: object) -> int:
    """Where a tensor's numbers lie; 0 for what has none."""
    if not isinstance(each, Tensor) or each.layout != torch.strided:
        return 0
    return each.untyped_storage().data_ptr()
