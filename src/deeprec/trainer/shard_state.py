"""What optimizers remember of rows that processes share out: each remembers its own.

It is whole nowhere but where the process that leads reads a checkpoint or writes one, on the host.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from deeprec.trainer.data_parallel import Group


class ShardState:
    """By the names that checkpoints have for it.

    Args:
        group: the processes.
        num_items: V.
        items_of: of each process, by rank.
    """

    def __init__(self, group: Group, num_items: int, items_of: Callable[[int], slice]) -> None:
        self.group, self.num_items, self.items_of = group, num_items, items_of
        self.of_rows: Mapping[str, Tensor] = {}  # of this process, float [own, ...]
        self._read: dict[str, Tensor] = {}

    @property
    def whole_bytes(self) -> int:
        """What it takes where it is whole."""
        return sum(one[:1].nbytes * self.num_items for one in self.of_rows.values())

    def to_read(self) -> dict[str, Tensor]:
        """Memory for all of it, to be filled from a checkpoint before `hand_out`."""
        self._read = {name: self._new_whole(one) for name, one in self.of_rows.items()}
        return self._read

    def hand_out(self) -> None:
        """Gives each process its own of what the one that leads has read, if it has."""
        if not self.group.numbers(len(self._read))[0][0]:
            return
        for name, mine in self.of_rows.items():
            if not self.group.leads:
                mine.copy_(self.group.received(torch.empty_like(mine, device="cpu"), 0))
                continue
            whole = self._read.pop(name)
            mine.copy_(whole[self.items_of(0)])
            for rank in range(1, self.group.size):
                self.group.send(whole[self.items_of(rank)], rank)

    def gathered(self) -> dict[str, Tensor]:
        """All of it, for the process that leads; the others, who must call it too, get nothing."""
        found = {}
        for name, mine in self.of_rows.items():
            if not self.group.leads:
                self.group.send(mine.cpu(), 0)
                continue
            whole = found[name] = self._new_whole(mine)
            whole[self.items_of(0)] = mine.cpu()
            for rank in range(1, self.group.size):
                self.group.received(whole[self.items_of(rank)], rank)
        return found

    def _new_whole(self, mine: Tensor) -> Tensor:
        return mine.new_empty(self.num_items, *mine.shape[1:], device="cpu")
