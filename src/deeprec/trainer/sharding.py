"""Input tables over several processes: TorchRec's sharded tables, by a plan that can be read.

Every process looks up its own users; rows and gradients travel. The gradients of all processes are
added up, as `Group` adds up those of the layers, so they train as one process would.

    row_wise      each process holds a range of rows: large tables
    table_wise    one process holds the table: small tables
    column_wise   each process holds a range of columns: few rows, wide, read by everybody

Tables and what the optimizer remembers go out and come in whole, part by part over the host of the
process that leads, under the names that every other backend of `SparseInput` has, so that what was
trained by one plan goes on by any other. On a device no table is ever whole.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from deeprec.batch import Jagged
from deeprec.errors import ConfigError
from deeprec.model.sparse_input import SparseInput
from deeprec.model.torchrec_tables import (
    FieldsOfTables,
    bag_configs,
    fused_optimizer,
    keyed,
    obstacle_to_torchrec,
)
from deeprec.table import RowwiseAdagrad, State, TableRule
from deeprec.trainer.data_parallel import Group

Plan = Literal["row_wise", "table_wise", "column_wise"]
MANY_ROWS = 100_000  # a table of fewer is not worth the traffic of its parts


def choose_plans(rows_of: Mapping[str, int]) -> dict[str, Plan]:
    """By table, the plan for its number of rows.

    Example:
        >>> choose_plans({"history": 1_000_000, "age": 7})
        {'history': 'row_wise', 'age': 'table_wise'}
    """
    return {
        name: "row_wise" if rows >= MANY_ROWS else "table_wise" for name, rows in rows_of.items()
    }


def shard(
    inputs: SparseInput, rule: TableRule, group: Group, plans: Mapping[str, Plan] | None = None
) -> "ShardedTables":
    """Once it is joined the tables lie in parts over the processes of a group.

    Args:
        inputs: of this process, not fused.
        rule: of every table.
        group: of which every process must call it, with tables of the same shapes.
        plans: of every table; None: `choose_plans`.

    Raises:
        ConfigError: TorchRec cannot train these tables by this rule, or not by this plan.
    """
    obstacle = obstacle_to_torchrec(rule, inputs.width)
    if obstacle is not None:
        raise ConfigError(
            f"trainer.shard_inputs: {obstacle}; its tables take optimizer=rowwise_adagrad, adagrad "
            "or sgd, no limits on single rows and a width divisible by 4; use these, or "
            "trainer.shard_inputs=false"
        )
    plans = plans or choose_plans({name: len(table) for name, table in inputs.tables.items()})
    _refuse(plans, rule, inputs.width, group.size)
    sharded = ShardedTables(inputs, rule, group, plans)
    told = ", ".join(f"{name} {plan}" for name, plan in plans.items())
    inputs.take(sharded, f"over {group.size} processes: {told}")
    return sharded


class ShardedTables:
    """Tables in parts, their optimizer run in backward; `shard` makes them.

    Until `join` the parameters of `inputs` hold the tables whole, and from then on nothing, but
    between steps in the process that leads, if it asks for that.

    Args:
        inputs: whose tables they are.
        rule: of every table.
        group: the processes.
        plans: of every table.
    """

    name = "torchrec"

    def __init__(
        self, inputs: SparseInput, rule: TableRule, group: Group, plans: Mapping[str, Plan]
    ) -> None:
        self.inputs, self.group = inputs, group
        self.states: dict[str, State] = {}  # none is whole anywhere
        self._rule, self._plans = rule, plans
        self._fields = [name for names in inputs.fields_of.values() for name in names]
        self._shapes = {
            name: torch.empty_like(table, device="meta") for name, table in inputs.tables.items()
        }
        self._read: dict[str, State] = {}
        self._model: Any = None

    def join(self, device: torch.device) -> None:
        """Gives each process its parts, of what the one that leads has; every process must call it.

        Args:
            device: of the parts, and of the users that are looked up.
        """
        wholes = {name: table.data for name, table in self.inputs.tables.items()}
        self.let_go()
        fields_of = self.inputs.fields_of
        self._model = _parallel(self._shapes, fields_of, self._rule, self._plans, device)
        for name, parts in self._tables().items():
            self._hand_out(name, parts, wholes[name])
        if not self.group.numbers(len(self._read))[0][0]:
            return
        for name, shapes in self._state_shapes().items():
            for key in shapes:
                self._hand_out(name, self._states(name), self._read.get(name, {}).get(key))
        self._read = {}

    def set_learning_rate(self, lr: float) -> None:
        optimizer = self._model.fused_optimizer
        for group in optimizer.param_groups:  # none where this process holds no part
            group["lr"] = lr
        optimizer.step()  # only hands the learning rate on; backward does the updates

    def finish_step(self) -> None:
        pass

    def lookup(self, fields: Mapping[str, Jagged]) -> Tensor:
        """float32 [B, D] of this process's users; every process must call it, and go backward."""
        users = len(fields[self._fields[0]].offsets) - 1
        most = max(count for [count] in self.group.numbers(users))  # of all, TorchRec wants as many
        padded = {name: _with_empty(rows, most - users) for name, rows in fields.items()}
        bags: Tensor = self._model(keyed(padded, self._fields)).values()
        return bags.view(most, len(self._fields), -1).sum(1)[:users]

    def tables(self) -> dict[str, Tensor]:
        """Every table whole, on the host of the process that leads; the others get nothing.

        Every process must call it.
        """
        found = {
            name: self._gathered(name, parts, self._shapes[name])
            for name, parts in self._tables().items()
        }
        return {name: whole for name, whole in found.items() if whole is not None}

    def optimizer_state(self) -> dict[str, State]:
        """As `SparseInput.optimizer_state`, in the same way."""
        found: dict[str, State] = {}
        for name, shapes in self._state_shapes().items():
            for key, shape in shapes.items():
                whole = self._gathered(name, self._states(name), shape)
                if whole is not None:
                    found.setdefault(name, {})[key] = whole
        return found

    def state_to_read(self) -> dict[str, State]:
        """Memory on the host for all of it, which `join` hands out."""
        self._read = {
            name: {key: torch.zeros_like(one, device="cpu") for key, one in state.items()}
            for name, state in self._state_shapes().items()
        }
        return self._read

    def state_bytes(self) -> int:
        """What that takes."""
        return sum(one.nbytes for each in self._state_shapes().values() for one in each.values())

    @property
    def held_bytes(self) -> int:
        """What the parts of this process take, and what is remembered of them."""
        parts = [*self._tables().values(), *map(self._states, self._shapes)]
        here = [one for each in parts if each is not None for one in each.local_shards()]
        return sum(one.tensor.nbytes for one in here)

    def make_whole(self) -> None:
        """Gives the parameters of the process that leads all of it; every process must call it."""
        for name, whole in self.tables().items():
            self.inputs.tables[name].data = whole

    def let_go(self) -> None:
        """Takes from the parameters what they hold."""
        for table in self.inputs.tables.values():
            table.data = table.data.new_empty((0, self.inputs.width))

    def _state_shapes(self) -> dict[str, State]:
        return {name: self._rule.new_state(shape) for name, shape in self._shapes.items()}

    def _tables(self) -> dict[str, Any]:
        held = self._model.state_dict()
        return {name: held[f"embedding_bags.{name}.weight"] for name in self._shapes}

    def _states(self, name: str) -> Any:
        """The one thing that FBGEMM remembers of a table; None where no part of it lies here."""
        remembered = self._model.fused_optimizer.state_dict()["state"]
        return remembered.get(f"embedding_bags.{name}.weight", {}).get(f"{name}.momentum1")

    def _places(self, name: str) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Who has which part of a table, the same in every process."""
        for told in self._tables()[name].metadata().shards_metadata:
            yield told.placement.rank(), _place(told)

    def _hand_out(self, name: str, parts: Any, whole: Tensor | None) -> None:
        """Gives every process its parts; only the one that leads need have the whole."""
        for rank, place in self._places(name):
            mine = _part(parts, place) if rank == self.group.rank else None
            if self.group.leads:
                assert whole is not None
                part = whole[place[: whole.dim()]]
                if mine is None:
                    self.group.send(part.cpu().contiguous(), rank)
                else:
                    mine.copy_(part.reshape(mine.shape))
            elif mine is not None:
                mine.copy_(self.group.received(torch.empty_like(mine, device="cpu"), 0))

    def _gathered(self, name: str, parts: Any, shape: Tensor) -> Tensor | None:
        """The whole, for the process that leads."""
        whole = torch.empty_like(shape, device="cpu") if self.group.leads else None
        for rank, place in self._places(name):
            mine = _part(parts, place) if rank == self.group.rank else None
            if whole is not None:
                part = whole[place[: whole.dim()]]
                if mine is None:
                    part.copy_(self.group.received(torch.empty(part.shape), rank))
                else:
                    part.copy_(mine.reshape(part.shape))
            elif mine is not None:
                self.group.send(mine.cpu().contiguous(), 0)
        return whole


def _with_empty(rows: Jagged, count: int) -> Jagged:
    """The rows, and so many more without values."""
    if not count:
        return rows
    ends = rows.offsets[-1:].expand(count)
    return Jagged(rows.values, torch.cat([rows.offsets, ends]), rows.weights)


def _parallel(
    tables: Mapping[str, Tensor],
    fields_of: FieldsOfTables,
    rule: TableRule,
    plans: Mapping[str, Plan],
    device: torch.device,
) -> Any:
    """TorchRec's DistributedModelParallel of a collection of these tables."""
    from torch.distributed.optim import (  # type: ignore[attr-defined]
        _apply_optimizer_in_backward,
    )
    from torchrec import EmbeddingBagCollection
    from torchrec.distributed.comm_ops import set_gradient_division
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # says what is TorchRec's
    set_gradient_division(False)  # every process has made its loss a share of that of all
    configs = bag_configs(tables, fields_of)
    collection = EmbeddingBagCollection(configs, is_weighted=True, device=torch.device("meta"))
    optimizer, settings = fused_optimizer(rule)
    _apply_optimizer_in_backward(optimizer, collection.parameters(), settings)
    num_processes = distributed.get_world_size()
    sharder = EmbeddingBagCollectionSharder()
    plan = construct_module_sharding_plan(
        collection,
        _generators(tables, plans, num_processes),
        sharder=sharder,
        local_size=num_processes,
        world_size=num_processes,
        device_type=device.type,
    )
    return DistributedModelParallel(
        collection,
        env=ShardingEnv.from_process_group(distributed.group.WORLD),
        device=device,
        plan=ShardingPlan({"": plan}),
        sharders=[sharder],
        init_data_parallel=False,
    )


def _generators(
    tables: Mapping[str, Tensor], plans: Mapping[str, Plan], num_processes: int
) -> dict[str, Any]:
    """TorchRec's words for the plans; whole tables go where the fewest floats are so far."""
    from torchrec.distributed.sharding_plan import column_wise, row_wise, table_wise

    found: dict[str, Any] = {}
    load = [0] * num_processes
    for name in sorted(tables, key=lambda one: -tables[one].numel()):
        if plans[name] == "row_wise":
            found[name] = row_wise()
        elif plans[name] == "column_wise":
            found[name] = column_wise(ranks=list(range(num_processes)))
        else:
            process = load.index(min(load))
            load[process] += tables[name].numel()
            found[name] = table_wise(rank=process)
    return found


def _refuse(plans: Mapping[str, Plan], rule: TableRule, width: int, num_processes: int) -> None:
    for name, plan in plans.items():
        if plan != "column_wise":
            continue
        if isinstance(rule, RowwiseAdagrad):
            raise ConfigError(
                f"table {name}: with column_wise each part of a row would have a row-wise Adagrad "
                "of its own, and train otherwise than the whole; use row_wise or table_wise, or "
                "optimizer=adagrad"
            )
        if width % (4 * num_processes) != 0:
            raise ConfigError(
                f"table {name}: column_wise over {num_processes} processes needs a width divisible "
                f"by {4 * num_processes}, got {width}; use row_wise or table_wise"
            )


def _part(parts: Any, place: tuple[slice, ...]) -> Tensor:
    """What this process has at a place of a table; of a number a row, what it has of these rows."""
    for one in parts.local_shards():
        found = _place(one.metadata)
        if found == place[: len(found)]:
            part: Tensor = one.tensor
            return part
    raise AssertionError(f"no part of it lies at {place}")


def _place(told: Any) -> tuple[slice, ...]:
    """Where in the whole tensor a part lies."""
    return tuple(
        slice(first, first + size)
        for first, size in zip(told.shard_offsets, told.shard_sizes, strict=True)
    )
