"""What a step makes of the blocks of a catalog and needs a second time."""

import torch
from torch import Tensor

from deeprec.loss.block_size import cuda_bytes

ROOM = {"cpu": 64 * 2**20}  # bytes; what finds none is made again


class Shelf:
    """Places for tensors of a step, on a CPU in the same memory step after step.

    The system clears new memory page by page, which took 5 % of a step (27,278 items, 512 users,
    D = 256); on CUDA, torch hands out again what it was given back.
    """

    def __init__(self) -> None:
        self._held: list[Tensor] = []  # of the last step, in the order they were placed
        self._placed = self._bytes = 0

    def __reduce__(self) -> tuple[type["Shelf"], tuple[()]]:
        """A copy has places of its own."""
        return Shelf, ()

    def clear(self) -> None:
        """Before a step."""
        self._placed = self._bytes = 0

    def place(self, like: Tensor, dtype: torch.dtype) -> Tensor | None:
        """A tensor of this form and another dtype, to be written; None: there is no room."""
        num_bytes = like.numel() * dtype.itemsize
        if self._bytes + num_bytes > _room(like.device.type):
            return None
        here, self._placed = self._placed, self._placed + 1
        self._bytes += num_bytes
        if here < len(self._held):
            held = self._held[here]
            if held.shape == like.shape and held.dtype == dtype:
                return held
        placed = torch.empty_like(like, dtype=dtype)
        if like.device.type == "cpu":
            self._held[here:] = [placed]
        return placed


def _room(device: str) -> int:
    """Bytes; on CUDA as many as the scores of a block take, so that one block is always kept."""
    return ROOM[device] if device in ROOM else cuda_bytes()
