"""Things made of many arrays, with all of these in one piece of memory.

Such a thing goes to another process as one file, and to a device as one copy: to ask for thirty of
them takes a processor longer than a GPU takes to train on what they bring. Numbers of 64 bits that
fit into 32 travel so, an array that stands in it twice travels once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

ALIGNED = 64  # bytes; an array begins where a processor likes it
NUMBERS = 16  # numbers of 32 bits that make so many bytes
INT64 = np.dtype(np.int64)


@dataclass(frozen=True)
class Column:
    """Where an array or tensor lies."""

    start: int  # among the numbers of 32 bits, or in bytes behind them
    shape: tuple[int, ...]
    dtype: str
    is_tensor: bool
    narrow: bool  # it is one of those numbers

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


class Packed(NamedTuple):
    """Something made, its arrays in one piece of memory."""

    told: Any  # it, with a `Column` in the place of each array and tensor
    memory: Tensor  # uint8
    num_narrow: int  # numbers of 32 bits, with which the memory begins

    def unpacked(self) -> Any:
        """It again; its arrays and tensors are as they were, and may be changed."""
        wide = self._narrow().astype(np.int64)
        return apply_to_collection(self.told, Column, lambda column: self._on_host(column, wide))

    def over(self, memory: Tensor) -> Any:
        """It again; its tensors lie on the device of this copy of `memory`, its arrays here."""
        wide = memory[: 4 * self.num_narrow].view(torch.int32).long()

        def taken(column: Column) -> Any:
            if not column.is_tensor:
                return self._on_host(column, self._narrow())
            if column.narrow:
                return wide[column.start : column.start + column.size].view(column.shape)
            dtype = torch.from_numpy(np.empty(0, column.dtype)).dtype
            start = 4 * self.num_narrow + column.start
            end = start + column.size * dtype.itemsize
            return memory[start:end].view(dtype).view(column.shape)

        return apply_to_collection(self.told, Column, taken)

    def _narrow(self) -> npt.NDArray[np.int32]:
        return self.memory.numpy()[: 4 * self.num_narrow].view(np.int32)

    def _on_host(self, column: Column, numbers: npt.NDArray[Any]) -> Any:
        if column.narrow:
            here = numbers[column.start : column.start + column.size]
            array: npt.NDArray[Any] = here.reshape(column.shape).astype(np.int64, copy=False)
        else:
            memory = self.memory.numpy().data
            start = 4 * self.num_narrow + column.start
            array = np.ndarray(column.shape, column.dtype, memory, start)
        return torch.from_numpy(array) if column.is_tensor else array


def packed(made: Any, new_memory: Callable[[int], Tensor]) -> Packed:
    """Something made, its arrays copied into one piece of memory.

    Args:
        made: dataclasses, tuples, lists and dicts of tensors and arrays on the host, and the like.
        new_memory: uint8 of so many bytes.

    Example:
        >>> packed([torch.tensor([1, 2]), "a"], shared).unpacked()
        [tensor([1, 2]), 'a']
    """
    kept: dict[Any, tuple[Column, npt.NDArray[Any]]] = {}
    sizes = {True: 0, False: 0}  # by whether they are narrow: numbers, and bytes

    def put(one: Any) -> Column:
        array = one.numpy() if isinstance(one, Tensor) else one
        pointer, _ = array.__array_interface__["data"]
        known = (pointer if array.size else None), array.shape, array.strides, array.dtype
        if known not in kept:
            narrow = _fits(array)
            column = Column(sizes[narrow], array.shape, array.dtype.str, True, narrow)
            kept[known] = column, array
            each, size = (NUMBERS, array.size) if narrow else (ALIGNED, array.nbytes)
            sizes[narrow] += -(-size // each) * each
        return replace(kept[known][0], is_tensor=isinstance(one, Tensor))

    told = apply_to_collection(made, (Tensor, np.ndarray), put)
    memory = new_memory(4 * sizes[True] + sizes[False] + ALIGNED)  # some, if all are empty
    into = memory.numpy()
    for column, array in kept.values():
        if column.narrow:
            start, dtype = 4 * column.start, np.dtype(np.int32)
        else:
            start, dtype = 4 * sizes[True] + column.start, array.dtype
        np.ndarray(array.shape, dtype, into.data, start)[...] = array
    return Packed(told, memory, sizes[True])


def _fits(array: npt.NDArray[Any]) -> bool:
    """Whether these are numbers of 64 bits that 32 hold."""
    if array.dtype != INT64:
        return False
    return not array.size or bool(array.min() >= -(2**31) and array.max() < 2**31)


def shared(num_bytes: int) -> Tensor:
    """Memory that another process can take over without a copy."""
    memory: Tensor = torch.empty(num_bytes, dtype=torch.uint8)
    memory.share_memory_()  # type: ignore[no-untyped-call]  # torch says no types
    return memory


def pinned(num_bytes: int) -> Tensor:
    """Page-locked memory, from which CUDA fetches while the program goes on."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
