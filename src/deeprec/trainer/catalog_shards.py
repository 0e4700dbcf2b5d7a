"""The catalog side of a step shared out: each process holds and trains the rows of its own items.

Hidden vectors and scores of own-history items of all users go to every process, which makes the
loss of its own items alone, for all users; what it finds of their gradients goes back to whose
users they are. So nothing of the size of the catalog travels in a step, a row has its whole
gradient where it is changed, and no other process changes it.

So no device ever holds a whole table, nor what an optimizer remembers of one. The process that
leads has the tables whole on its host until they are handed out, and again where it validates or
saves (shards.py), until the next step.

Reference:
    DSSTNE shards its output layer over GPUs in the same way, and gathers what is before it.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor, nn

from deeprec.batch import Task
from deeprec.table import OwnItems
from deeprec.trainer.asked_of_all import AskedOfAll, of_all
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.kinds import input_reads_catalog, kinds_of
from deeprec.trainer.own_rows import OwnRows


class CatalogShards:
    """The items of this process, and what goes to the others and comes from them.

    Args:
        group: the processes.
        num_items: V, at least as many as they are.
        device: of the rows of each.
    """

    def __init__(self, group: Group, num_items: int, device: torch.device) -> None:
        self.group, self.device = group, device
        self._rows = OwnRows(group, num_items)
        self.own = OwnItems(self._rows.items, self._stacked)
        self.tables: list[nn.Parameter] = []  # those with a row for each item
        self.state: Mapping[str, Tensor] = {}  # float [own, ...], by the names of a checkpoint
        self._parts: dict[nn.Parameter, Tensor] = {}  # of the tables, float [own, ...]
        self._read: dict[str, Tensor] = {}
        self._asked: list[AskedOfAll] = []

    @property
    def state_bytes(self) -> int:
        """See `Part`."""
        return sum(one[:1].nbytes * self._rows.num_items for one in self.state.values())

    def let_go(self) -> None:
        """See `Part`."""
        for table, part in self._parts.items():
            table.data = part

    def ask(self, messages: Sequence[Tensor]) -> None:
        """Takes up what all processes are asked about their users; see `asked_of_all.told`."""
        self._asked = of_all(messages)

    def put_together(self) -> None:
        """See `Part`."""
        for table, part in self._parts.items():
            whole = self._rows.gathered(part)
            if whole is not None:
                table.data = whole

    def gathered(self) -> dict[str, Tensor]:
        """See `Part`."""
        found = {name: self._rows.gathered(mine) for name, mine in self.state.items()}
        return {name: whole for name, whole in found.items() if whole is not None}

    def to_read(self) -> dict[str, Tensor]:
        """See `Part`."""
        self._read = {name: self._rows.new_whole(mine) for name, mine in self.state.items()}
        return self._read

    def hand_out(self) -> None:
        """See `Part`."""
        for table in self.tables:
            part = self._parts[table] = self.new_part(table.data)
            self._rows.hand_out(table.data, part)
            table.data = part  # lets go of the whole before the next one
        if not self.group.numbers(len(self._read))[0][0]:
            return
        for name, mine in self.state.items():
            self._rows.hand_out(self._read.pop(name, None), mine)

    def new_part(self, whole: Tensor) -> Tensor:
        """Memory on the device for the rows of this process, not written yet."""
        items = self.own.items
        return whole.new_empty(items.stop - items.start, *whole.shape[1:], device=self.device)

    def of_all(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks of the step over the users of all processes, differentiable in those here."""
        counts = [count for one in self._asked for count in (one.users, one.repeats)]
        mine = [
            tensor
            for task in tasks
            for tensor in (task.encoded.hidden_BD, task.encoded.repeat_scores_M)
        ]
        found = _OfAll.apply(self.group, counts, *mine)  # type: ignore[no-untyped-call]  # torch's
        pairs = zip(found[::2], found[1::2], strict=True)
        joined = []
        for task, one, (hidden_BD, scores_M) in zip(tasks, self._asked, pairs, strict=True):
            asked = move_data_to_device(one.asked, self.device)
            encoded = task.encoded._replace(
                hidden_BD=hidden_BD,
                repeat_items_M=asked.repeats.values,
                repeat_offsets_B1=asked.repeats.offsets,
                repeat_scores_M=scores_M,
            )
            joined.append(task._replace(encoded=encoded, asked=asked))
        return joined

    def _stacked(self, values_B: Tensor) -> Tensor:
        return torch.stack(self.group.gather(values_B, [len(values_B)] * self.group.size))


def unfit_shards(model: nn.Module, loss: object, num_items: int, processes: int) -> list[str]:
    """What keeps processes from sharing the catalog, each with the way out.

    Args:
        model: to be trained.
        loss: of it.
        num_items: V.
        processes: that train together.
    """
    found, off = [], "or trainer.shard_catalog=false"
    if not getattr(loss, "on_engine", False):
        found.append(
            f"trainer.shard_catalog: must be false with {type(loss).__name__}, which does not go "
            f"over the catalog item by item; use loss=softmax or loss=marginal, {off}"
        )
    if input_reads_catalog(model, tied=kinds_of(model).tied):
        way = "set model.tied=false" if getattr(model, "tied", False) else "use model=autoencoder"
        found.append(
            "trainer.shard_catalog: must be false where the input reads the catalog table, of which"
            f" a process holds its own rows alone; {way}, {off}"
        )
    if num_items < processes:
        found.append(
            f"trainer.shard_catalog: each process needs an item, got {num_items} of them for "
            f"{processes}; use fewer trainer.processes, {off}"
        )
    return found


class _OfAll(torch.autograd.Function):
    """Tensors of this process to those of all; each gets back the sum of what all find of it.

    All at once, so that it does not matter in which order a backward goes over tasks.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]  # ctx has no public type
        ctx, group: Group, counts: list[list[int]], *mine: Tensor
    ) -> tuple[Tensor, ...]:
        sizes = [
            [count * one.shape[1:].numel() for count in each]
            for one, each in zip(mine, counts, strict=True)
        ]
        flat = torch.cat([one.reshape(-1).float() for one in mine])
        of_process = [*zip(*sizes, strict=True)]
        flats = group.gather(flat, [sum(each) for each in of_process])
        parts = [torch.split(one, [*each]) for one, each in zip(flats, of_process, strict=True)]
        found = [
            torch.cat(each).view(-1, *one.shape[1:])
            for one, each in zip(mine, zip(*parts, strict=True), strict=True)
        ]
        ctx.needed = ctx.needs_input_grad[2:]
        ctx.mark_non_differentiable(*(one for one, needed in zip(found, ctx.needed) if not needed))
        ctx.group, ctx.counts, ctx.dtypes = group, counts, [one.dtype for one in mine]
        return tuple(found)

    @staticmethod
    def backward(ctx, *given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]  # as above
        wanted = [one for one, needed in zip(given, ctx.needed, strict=True) if needed]
        total = ctx.group.add(torch.cat([one.reshape(-1) for one in wanted]))
        sums = iter(torch.split(total, [one.numel() for one in wanted]))
        found: list[Tensor | None] = []
        for one, needed, counts, dtype in zip(given, ctx.needed, ctx.counts, ctx.dtypes):
            starts = [0, *accumulate(counts)]
            here = slice(starts[ctx.group.rank], starts[ctx.group.rank + 1])
            found.append(next(sums).view_as(one)[here].to(dtype) if needed else None)
        return None, None, *found
