"""The input side of a step shared out: each process holds parts of the input tables.

What of them users of this process had is asked of the others (sharding.py, by TorchRec), and what a
step finds of their gradients goes back to whoever holds the rows. So a table need not fit into a
device: between steps it is whole on the host of the process that leads, which reads it there to
validate and to save.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deeprec.batch import Task
from deeprec.model.recvae import RecVae
from deeprec.model.sparse_input import SparseInput
from deeprec.table import State, TableRule
from deeprec.trainer.data_parallel import Group
from deeprec.trainer.kinds import kinds_of
from deeprec.trainer.sharding import ShardedTables, shard


class InputShards:
    """The parts of this process, and how the one that leads has them whole.

    Args:
        group: the processes.
        device: of the parts.
    """

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group, self.device = group, device
        self.names: Mapping[nn.Parameter, str] = {}  # what checkpoints call their states
        self._all: list[ShardedTables] = []

    def add(self, inputs: SparseInput, rule: TableRule) -> None:
        """Has these tables trained in parts, by a rule.

        Raises:
            ConfigError: they cannot be.
        """
        self._all.append(shard(inputs, rule, self.group))

    @property
    def tables(self) -> list[nn.Parameter]:
        """Those that are shared out; as parameters they are empty while steps are taken."""
        return [table for one in self._all for table in one.inputs.tables.values()]

    @property
    def state_bytes(self) -> int:
        """See `Part`."""
        return sum(one.state_bytes() for one in self._all)

    @property
    def held_bytes(self) -> int:
        """What the parts of this process take, and what is remembered of them."""
        return sum(one.held_bytes for one in self._all)

    def let_go(self) -> None:
        """See `Part`."""
        for one in self._all:
            one.let_go()

    def put_together(self) -> None:
        """See `Part`."""
        for one in self._all:
            one.make_whole()

    def gathered(self) -> dict[str, Tensor]:
        """See `Part`."""
        return self._named([(one, one.optimizer_state()) for one in self._all])

    def to_read(self) -> dict[str, Tensor]:
        """See `Part`."""
        return self._named([(one, one.state_to_read()) for one in self._all])

    def hand_out(self) -> None:
        """See `Part`."""
        for one in self._all:
            one.join(self.device)

    def through(self, tasks: list[Task]) -> Tensor:
        """Float [], 0: what takes backward through the lookups of this process, whoever it has.

        All processes must go through as many of them, and one may have nothing to learn.
        """
        sums = [task.encoded.hidden_BD.sum() for task in tasks]
        return torch.stack(sums).sum() * 0.0

    def _named(self, states: list[tuple[ShardedTables, dict[str, State]]]) -> dict[str, Tensor]:
        return {
            f"{self.names[one.inputs.tables[table]]}/{key}": value
            for one, of_tables in states
            for table, state in of_tables.items()
            for key, value in state.items()
        }


def unfit_inputs(model: nn.Module, optimizer: object, *, as_dsstne: bool) -> list[str]:
    """What keeps processes from sharing input tables, each with the way out.

    Args:
        model: to be trained.
        optimizer: that builds its optimizers.
        as_dsstne: whether what is remembered of rows is forgotten at every epoch.
    """
    found, off = [], "or trainer.shard_inputs=false"
    if not kinds_of(model).inputs:
        found.append(
            "trainer.shard_inputs: must be false where the input has no table of its own; use "
            f"model=autoencoder with model.tied=false, {off}"
        )
    elif not getattr(optimizer, "known_to_torchrec", False):
        found.append(
            "trainer.shard_inputs: TorchRec trains tables by row-wise Adagrad, Adagrad or SGD, got "
            f"{type(optimizer).__name__}; use optimizer=rowwise_adagrad, {off}"
        )
    if isinstance(model, RecVae):
        found.append(
            "trainer.shard_inputs: must be false with model=recvae, which keeps its encoder as it "
            f"was, tables and all, in every process; use model=variational, {off}"
        )
    if as_dsstne:
        found.append(
            "trainer.shard_inputs: must be false with compatibility=dsstne, which forgets at every "
            f"epoch what TorchRec remembers; set compatibility=none, {off}"
        )
    return found
