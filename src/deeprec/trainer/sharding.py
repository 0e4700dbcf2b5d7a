"""Input tables over several processes: TorchRec's sharded tables, by a plan that can be read.

Every process looks up its own users; rows and gradients travel. The gradients of all processes are
averaged, as DistributedDataParallel averages those of the layers, so processes with equally many
users train as one process with all of them.

    row_wise      each process holds a range of rows: large tables
    table_wise    one process holds the table: small tables
    column_wise   each process holds a range of columns: few rows, wide, read by everybody

Tables and what the optimizer remembers go out and come in whole, under the names that every other
backend of `SparseInput` has, so that what was trained by one plan goes on by any other.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from deeprec.errors import ConfigError
from deeprec.model.sparse_input import (
    FieldsOfTables,
    SparseInput,
    bag_configs,
    fused_optimizer,
    keyed,
)
from deeprec.table import RowwiseAdagrad, State, TableRule

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
    inputs: SparseInput, rule: TableRule, plans: Mapping[str, Plan] | None = None
) -> "ShardedTables":
    """From now on the tables lie in parts over all processes of the default group.

    The parameters of `inputs` become empty; they must hold the same values in every process before.

    Args:
        inputs: of this process, not fused.
        rule: of every table.
        plans: of every table; None: `choose_plans`.

    Raises:
        ConfigError: TorchRec cannot train these tables by this rule, or not by this plan.
    """
    obstacle = inputs.obstacle_to_torchrec(rule)
    if obstacle is not None:
        raise ConfigError(f"tables over several processes: {obstacle}")
    tables = {name: table.data for name, table in inputs.tables.items()}
    plans = plans or choose_plans({name: len(table) for name, table in tables.items()})
    _refuse(plans, rule, inputs.width, distributed.get_world_size())
    sharded = ShardedTables(tables, inputs.fields_of, rule, plans)
    sharded.load(tables, {})
    for table in inputs.tables.values():
        table.data = table.data.new_empty((0, inputs.width))
    told = ", ".join(f"{name} {plan}" for name, plan in plans.items())
    inputs.take(sharded, f"over {distributed.get_world_size()} processes: {told}")
    return sharded


class ShardedTables:
    """Tables in parts, their optimizer run in backward; `shard` makes them.

    Args:
        tables: [rows, D] each, read for their shapes and device only.
        fields_of: table -> the fields that read it.
        rule: of every table.
        plans: of every table.
    """

    name = "torchrec over processes"
    holds_tables = True

    def __init__(
        self,
        tables: Mapping[str, Tensor],
        fields_of: FieldsOfTables,
        rule: TableRule,
        plans: Mapping[str, Plan],
    ) -> None:
        self.states: dict[str, State] = {name: {} for name in tables}  # none is whole anywhere
        self._fields = [field for name in tables for field in fields_of[name]]
        self._device = next(iter(tables.values())).device
        self._model = _parallel(tables, fields_of, rule, plans, self._device)
        shapes = {name: torch.empty_like(table, device="meta") for name, table in tables.items()}
        self._shapes = {name: rule.new_state(shape) for name, shape in shapes.items()}

    def set_learning_rate(self, lr: float) -> None:
        optimizer = self._model.fused_optimizer
        for group in optimizer.param_groups:  # none where this process holds no part
            group["lr"] = lr
        optimizer.step()  # only hands the learning rate on; backward does the updates

    def finish_step(self) -> None:
        pass

    def lookup(self, fields: Mapping[str, Any]) -> Tensor:
        """float32 [B, D] of this process's users; every process must call it, and go backward."""
        bags: Tensor = self._model(keyed(fields, self._fields)).values()
        return bags.view(len(bags), len(self._fields), -1).sum(1)

    def tables(self) -> dict[str, Tensor]:
        """Every table whole, by name; every process must call it, and each gets them."""
        return {name: _whole(parts, self._device) for name, parts in self._tables().items()}

    def optimizer_state(self) -> dict[str, State]:
        """As `SparseInput.optimizer_state`, in copies; every process must call it."""
        return {
            name: {
                key: _gathered(self._states(name), shape.shape, self._device)
                for key, shape in state.items()
            }
            for name, state in self._shapes.items()
        }

    def load(self, tables: Mapping[str, Tensor], states: Mapping[str, State]) -> None:
        """Takes over whole tables, and what an optimizer remembers of them; every process its part.

        Args:
            tables: by name; those that are absent stay.
            states: by table; likewise.
        """
        for name, parts in self._tables().items():
            if name in tables:
                _take_part(parts, tables[name])
        for name, state in states.items():
            for value in state.values():
                if (parts := self._states(name)) is not None:
                    _take_part(parts, value)

    def _tables(self) -> dict[str, Any]:
        held = self._model.state_dict()
        return {name: held[f"embedding_bags.{name}.weight"] for name in self._shapes}

    def _states(self, name: str) -> Any:
        """The one thing that FBGEMM remembers of a table; None where no part of it lies here."""
        remembered = self._model.fused_optimizer.state_dict()["state"]
        return remembered.get(f"embedding_bags.{name}.weight", {}).get(f"{name}.momentum1")


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
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan
    from torchrec.distributed.types import ShardingEnv, ShardingPlan

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


def _whole(parts: Any, device: torch.device) -> Tensor:
    return _gathered(parts, parts.size(), device)


def _gathered(parts: Any, shape: torch.Size, device: torch.device) -> Tensor:
    """A tensor whose parts lie in several processes; None: no part of it lies here."""
    whole = torch.zeros(shape, device=device)
    for part in parts.local_shards() if parts is not None else []:
        whole[_place(part)] = part.tensor.view_as(whole[_place(part)])
    distributed.all_reduce(whole)  # everywhere else it is 0, so the sum is exact
    return whole


def _take_part(parts: Any, whole: Tensor) -> None:
    for part in parts.local_shards():
        part.tensor.copy_(whole[_place(part)].view_as(part.tensor))


def _place(part: Any) -> tuple[slice, ...]:
    """Where in the whole tensor a part lies."""
    told = part.metadata
    return tuple(
        slice(first, first + size)
        for first, size in zip(told.shard_offsets, told.shard_sizes, strict=True)
    )
