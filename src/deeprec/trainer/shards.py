"""What processes share out among them, and how the one that leads has it whole.

A process keeps its part to itself while steps are taken. Before the one that leads validates or
saves, it has the parts of all put together: it says so where a step begins, where the others listen
anyway, so nobody waits for a message that may not come.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from deeprec.trainer.catalog_shards import CatalogShards
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.input_shards import InputShards
from deeprec.trainer.kinds import kinds_of

STEP, ROWS, STATE = range(3)  # what a process has in mind when all meet


class Part(Protocol):
    """A kind of table that is shared out."""

    @property
    def tables(self) -> Sequence[nn.Parameter]:
        """They hold no more than the part of this process while steps are taken."""
        ...

    @property
    def state_bytes(self) -> int:
        """What optimizers remember of it, all processes together."""
        ...

    def put_together(self) -> None:
        """Gives the tables of the one that leads the rows of all; every process must call it."""
        ...

    def let_go(self) -> None:
        """From here on no process needs more than its own."""
        ...

    def gathered(self) -> dict[str, Tensor]:
        """What optimizers remember, by names of a checkpoint, for the process that leads; too."""
        ...

    def to_read(self) -> dict[str, Tensor]:
        """Memory for all of that, to be filled from a checkpoint before `hand_out`."""
        ...

    def hand_out(self) -> None:
        """Gives each process its own of what the one that leads has; every process must call it."""
        ...


class Shards:
    """What is shared out, of one run.

    Args:
        group: the processes.
        catalog: the catalog tables; None: every process trains all rows.
        inputs: the input tables; None: likewise.
        num_tasks: of a step.
    """

    def __init__(
        self,
        group: Group,
        catalog: CatalogShards | None = None,
        inputs: InputShards | None = None,
        *,
        num_tasks: int = 1,
    ) -> None:
        self.group, self.catalog, self.inputs = group, catalog, inputs
        self._nothing = [0] * (3 + num_tasks)  # what is told where no step begins
        self.is_asked = False  # whether there is a loss in this step, of whosever users
        self._whole = True  # whether the one that leads has all as it is now

    @property
    def _parts(self) -> Iterator[Part]:
        return (one for one in (self.catalog, self.inputs) if one is not None)

    @property
    def tables(self) -> list[nn.Parameter]:
        """All that are shared out."""
        return [table for part in self._parts for table in part.tables]

    @property
    def state_bytes(self) -> int:
        """What optimizers remember of all that is shared out."""
        return sum(part.state_bytes for part in self._parts)

    def meet(self, users: int, counts: Sequence[int], told: Tensor) -> tuple[int, list[int]]:
        """Where all begin a step; the one that leads may want to put things together first.

        Args:
            users: of this process in the step.
            counts: its rows (users, or positions of them), and over how many of them the loss of
                each task is a mean.
            told: what it is asked about them, where the catalog is shared out; see
                `asked_of_all.told`.

        Returns:
            Users and counts of all.
        """
        while True:
            numbers = self.group.numbers(STEP, users, len(told), *counts)
            wanted = max(mind for mind, *_ in numbers)
            if wanted == STEP:
                break
            if wanted == ROWS:
                self._put_together()
            else:
                self._gathered()
        self.let_go()
        _, all_users, lengths, *all_counts = zip(*numbers, strict=True)
        totals = [sum(each) for each in all_counts]
        self.is_asked = totals[0] > 0
        if self.catalog is not None and self.is_asked:
            self.catalog.ask(self.group.messages(told, lengths))
        return sum(all_users), totals

    def make_whole(self) -> None:
        """Puts tables together, where the others are at the beginning of a step or here."""
        if self._whole:
            return
        self.group.numbers(ROWS, *self._nothing)
        self._put_together()

    def let_go(self) -> None:
        """From here on no process needs more than its own."""
        for part in self._parts:
            part.let_go()
        self._whole = False

    def whole_state(self) -> dict[str, Tensor]:
        """All that optimizers remember of them, likewise; only of the process that leads."""
        self.group.numbers(STATE, *self._nothing)
        return self._gathered()

    def to_read(self) -> dict[str, Tensor]:
        """Memory for all of that, to be filled from a checkpoint before `hand_out`."""
        return {name: one for part in self._parts for name, one in part.to_read().items()}

    def hand_out(self) -> None:
        """Gives each process its own, once they have met."""
        for part in self._parts:
            part.hand_out()
        self._whole = False

    def wait(self) -> None:
        """After the last step: does what the one that leads wants, until that ends this process."""
        while True:
            self.meet(0, self._nothing[2:], torch.zeros(0, dtype=torch.int64))

    def _put_together(self) -> None:
        for part in self._parts:
            part.put_together()
        self._whole = True

    def _gathered(self) -> dict[str, Tensor]:
        return {name: one for part in self._parts for name, one in part.gathered().items()}


def to_device(model: nn.Module, device: torch.device, *, catalog: bool, inputs: bool) -> None:
    """Moves a model but for tables that are shared out, of which each process has its part there.

    Args:
        model: to be trained.
        device: of each process.
        catalog: whether they share out the catalog tables.
        inputs: whether they share out the input tables.
    """
    kinds = kinds_of(model)
    stay = [*kinds.scored] if catalog else []
    stay += [table for one in kinds.inputs for table in one.tables.values()] if inputs else []
    wholes = [table.data for table in stay]
    for table in stay:
        table.data = table.data.new_empty((0, *table.shape[1:]))
    model.to(device)
    for table, whole in zip(stay, wholes, strict=True):
        table.data = whole
