"""Tensors with a row for each item, of which each process holds the rows of its own.

One is whole nowhere but where the process that leads hands it out or has it put together, on the
host: part by part, so that nothing there is whole twice.
"""

import torch
from torch import Tensor

from deeprec.trainer.data_parallel import Group


class OwnRows:
    """Who has which rows, and how they go there and come back; every process must call each.

    Args:
        group: the processes.
        num_items: V.
    """

    def __init__(self, group: Group, num_items: int) -> None:
        self.group, self.num_items = group, num_items
        self.items = self._items_of(group.rank)

    def hand_out(self, whole: Tensor | None, mine: Tensor) -> None:
        """Gives each process its own.

        Args:
            whole: [V, ...] on the host, read only from the process that leads.
            mine: [own, ...] on any device, written.
        """
        if not self.group.leads:
            mine.copy_(self.group.received(torch.empty_like(mine, device="cpu"), 0))
            return
        assert whole is not None
        mine.copy_(whole[self.items])
        for rank in range(1, self.group.size):
            self.group.send(whole[self._items_of(rank)], rank)

    def gathered(self, mine: Tensor) -> Tensor | None:
        """The whole on the host, for the process that leads; the others get nothing."""
        if not self.group.leads:
            self.group.send(mine.cpu(), 0)
            return None
        whole = self.new_whole(mine)
        whole[self.items].copy_(mine)
        for rank in range(1, self.group.size):
            self.group.received(whole[self._items_of(rank)], rank)
        return whole

    def new_whole(self, mine: Tensor) -> Tensor:
        """Memory on the host for all rows, not written yet."""
        return mine.new_empty(self.num_items, *mine.shape[1:], device="cpu")

    def _items_of(self, rank: int) -> slice:
        size = self.group.size
        return slice(rank * self.num_items // size, (rank + 1) * self.num_items // size)
