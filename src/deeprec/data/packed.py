"""Things made of many arrays, with all of these in one piece of memory.

Such a thing goes to another process as one file, and to a device as one copy: to ask for thirty of
them takes a processor longer than a GPU takes to train on what they bring.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

ALIGNED = 64  # bytes; an array begins where a processor likes it


@dataclass(frozen=True)
class Column:
    """Where an array or tensor lies."""

    start: int  # bytes
    shape: tuple[int, ...]
    dtype: str
    is_tensor: bool

    def taken(self, memory: npt.NDArray[np.uint8]) -> Any:
        """It, as a view of the memory."""
        array: npt.NDArray[Any] = np.ndarray(self.shape, self.dtype, memory.data, self.start)
        return torch.from_numpy(array) if self.is_tensor else array

    def on_device(self, memory: Tensor) -> Tensor:
        """It, as a view of a copy of the memory."""
        dtype = torch.from_numpy(np.empty(0, self.dtype)).dtype
        num_bytes = int(np.prod(self.shape)) * dtype.itemsize
        return memory[self.start : self.start + num_bytes].view(dtype).view(self.shape)


class Packed(NamedTuple):
    """Something made, its arrays in one piece of memory."""

    told: Any  # it, with a `Column` in the place of each array and tensor
    memory: Tensor  # uint8

    def unpacked(self) -> Any:
        """It again; its arrays and tensors lie in `memory`."""
        memory = self.memory.numpy()
        return apply_to_collection(self.told, Column, lambda column: column.taken(memory))

    def over(self, memory: Tensor) -> Any:
        """It again; its tensors lie in this copy of `memory`, its arrays where they were."""
        on_host = self.memory.numpy()
        return apply_to_collection(
            self.told,
            Column,
            lambda column: column.on_device(memory) if column.is_tensor else column.taken(on_host),
        )


def packed(made: Any, new_memory: Callable[[int], Tensor]) -> Packed:
    """Something made, its arrays copied into one piece of memory.

    Args:
        made: dataclasses, tuples, lists and dicts of tensors and arrays on the host, and the like.
        new_memory: uint8 of so many bytes.

    Example:
        >>> packed([torch.tensor([1, 2]), "a"], shared).unpacked()
        [tensor([1, 2]), 'a']
    """
    kept: list[tuple[Column, npt.NDArray[Any]]] = []
    size = 0

    def put(one: Any) -> Column:
        nonlocal size
        array = one.numpy() if isinstance(one, Tensor) else one
        column = Column(size, array.shape, array.dtype.str, isinstance(one, Tensor))
        kept.append((column, array))
        size += -(-array.nbytes // ALIGNED) * ALIGNED
        return column

    told = apply_to_collection(made, (Tensor, np.ndarray), put)
    memory = new_memory(size + ALIGNED)  # some, if all are empty
    into = memory.numpy()
    for column, array in kept:
        np.ndarray(array.shape, array.dtype, into.data, column.start)[...] = array
    return Packed(told, memory)


def shared(num_bytes: int) -> Tensor:
    """Memory that another process can take over without a copy."""
    memory: Tensor = torch.empty(num_bytes, dtype=torch.uint8)
    memory.share_memory_()  # type: ignore[no-untyped-call]  # torch says no types
    return memory


def pinned(num_bytes: int) -> Tensor:
    """Page-locked memory, from which CUDA fetches while the program goes on."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
