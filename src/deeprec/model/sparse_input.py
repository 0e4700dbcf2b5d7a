"""Named sparse fields to one summed embedding per user: a history and any user attributes.

Until `fuse` is called the tables are ordinary parameters. Afterwards their optimizer runs inside
backward, on the rows that the batch touched and no others, so a step costs what the batch holds
and not what the catalog holds. Two backends do this with equal results: TorchRec's fused tables,
and plain torch; trainer/sharding.py has a third, for tables over several processes. Values,
optimizer state and state dict are the same whichever ran.

Shapes: B users, N values, R touched rows, D width, F fields that read one table.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Jagged, transposed
from deeprec.errors import ConfigError
from deeprec.model.torchrec_tables import FieldsOfTables, TorchRecTables, obstacle_to_torchrec
from deeprec.table import State, TableRule, update_rows

HISTORY = "history"  # the sparse field of the items
Backend = Literal["auto", "torchrec", "torch"]
Pooling = Literal["sum", "mean"]
POOLINGS = get_args(Pooling)
NONE_BORROWED: Mapping[str, Tensor] = {}


class FusedTables(Protocol):
    """What runs the tables and their optimizer once they are fused."""

    name: str
    states: dict[str, State]  # by table; changing a tensor in place changes what is remembered

    def set_learning_rate(self, lr: float) -> None: ...

    def finish_step(self) -> None: ...

    def lookup(self, fields: Mapping[str, Jagged]) -> Tensor:
        """float32 [B, D]: the sum over all fields; backward changes the tables."""
        ...


class SparseInput(nn.Module):
    """The sum, over fields, of the pooled embeddings of each user's values.

    Args:
        fields: name, without dots -> number of rows of its table.
        width: D, floats in a row.
        shared: further field -> the field of `fields` whose table it reads too.
        borrowed: further fields, each of a table that another module owns and trains; `forward` is
            given it. Backward gives that table a sparse gradient of the rows that were read.
        pooling: field -> how its rows become one: `sum` of weight times row, where absent; or
            `mean`, that sum over the sum of the weights.
        backend: what runs the tables' optimizer in backward. `auto` takes TorchRec on CUDA where it
            is installed and can fuse the optimizer, and plain torch otherwise: on a CPU that takes
            no longer and half the memory while tables are made.
        init_std: standard deviation of the initial rows.

    Example:
        >>> tables = SparseInput({"history": 3}, width=2)
        >>> _ = tables.tables["history"].data.copy_(torch.tensor([[1., 0.], [0., 1.], [5., 5.]]))
        >>> tables({"history": Jagged(torch.tensor([0, 1, 0]), torch.tensor([0, 3, 3]))}).tolist()
        [[2.0, 1.0], [0.0, 0.0]]
    """

    def __init__(
        self,
        fields: Mapping[str, int],
        width: int,
        *,
        shared: Mapping[str, str] | None = None,
        borrowed: Collection[str] = (),
        pooling: Mapping[str, Pooling] | None = None,
        backend: Backend = "auto",
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        if backend not in ("auto", "torchrec", "torch"):
            raise ValueError(
                f"table_backend must be 'auto', 'torchrec' or 'torch', got {backend!r}"
            )
        self.width, self.backend = width, backend
        self.tables = nn.ParameterDict(
            {
                name: nn.Parameter(torch.randn(rows, width).mul_(init_std))
                for name, rows in fields.items()
            }
        )
        self.fields_of = {name: [name] for name in fields}  # table -> the fields that read it
        for name, table in (shared or {}).items():
            self.fields_of[table].append(name)
        self.borrowed, self.pooling = tuple(borrowed), dict(pooling or {})
        _check(self.pooling, [*chain(*self.fields_of.values()), *self.borrowed])
        # why the backend in use was taken, for a log line
        self.reason = "not fused" if fields else "tied to the catalog table"
        self._fused: FusedTables | None = None

    def fuse(self, rule: TableRule) -> None:
        """From now on backward updates the tables by `rule`; they get no gradient any more."""
        backend, self.reason = self._choose_backend(rule)
        make = TorchRecTables if backend == "torchrec" else _TorchTables
        self._fused = make(dict(self.tables.items()), self.fields_of, rule)

    def take(self, fused: FusedTables, reason: str) -> None:
        """As `fuse`, by a backend that was made elsewhere."""
        self._fused, self.reason = fused, reason

    @property
    def backend_in_use(self) -> str:
        """`autograd` before `fuse`, then `torchrec`, `torch`, or the name of what was taken."""
        return "autograd" if self._fused is None else self._fused.name

    @property
    def optimizer_state(self) -> dict[str, State]:
        """By table, what the fused optimizer remembers; changing a tensor in place changes it."""
        assert self._fused is not None, "call fuse first"
        return self._fused.states

    def set_learning_rate(self, lr: float) -> None:
        assert self._fused is not None, "call fuse first"
        self._fused.set_learning_rate(lr)

    def finish_step(self) -> None:
        """To be called once a step, after backward."""
        assert self._fused is not None, "call fuse first"
        self._fused.finish_step()

    def forward(
        self, fields: Mapping[str, Jagged], borrowed: Mapping[str, Tensor] = NONE_BORROWED
    ) -> Tensor:
        """float32 [B, D].

        Args:
            fields: every field, with the same B, and the same number of spare rows after them.
            borrowed: by field, the tables [rows, D] of other owners.
        """
        training = self.training and torch.is_grad_enabled()
        pooled = {name: self._pooled(name, rows) for name, rows in fields.items()}
        bags = [
            (sparse_gradient_bag if training else weighted_bag)(borrowed[name], pooled[name])
            for name in self.borrowed
        ]
        if self._fused is not None and training:
            bags.append(self._fused.lookup(pooled))
        else:
            bags += [
                weighted_bag(table, pooled[field])
                if table.device == pooled[field].values.device
                else _bag_elsewhere(table, pooled[field])
                for name, table in self.tables.items()
                for field in self.fields_of[name]
            ]
        sum_BD = torch.stack(bags).sum(0) if len(bags) > 1 else bags[0]
        spare = next(iter(fields.values())).spare
        return sum_BD[:-spare] if spare else sum_BD

    def _pooled(self, name: str, rows: Jagged) -> Jagged:
        """The values with such weights that their weighted sum is the pooled one."""
        if self.pooling.get(name, "sum") == "sum":
            return rows
        users_N = _users_of(rows.offsets, len(rows.values))
        weights_N = mean_weights(rows.all_weights(), users_N, len(rows.offsets) - 1)
        return replace(rows, weights=weights_N)

    def _choose_backend(self, rule: TableRule) -> tuple[str, str]:
        if self.backend == "torch":
            return "torch", "as configured"
        obstacle = obstacle_to_torchrec(rule, self.width)
        if obstacle is None and self.backend == "auto" and self._on_cpu():
            return "torch", "as fast as TorchRec on a CPU"
        if obstacle is None:
            return "torchrec", "tables and their optimizer fused"
        if self.backend == "torchrec":
            raise ConfigError(f"table_backend=torchrec: {obstacle}; use table_backend=auto")
        return "torch", obstacle

    def _on_cpu(self) -> bool:
        return all(table.device.type == "cpu" for table in self.tables.values())


def mean_weights(weights_N: Tensor, users_N: Tensor, num_users: int) -> Tensor:
    """The weights over the sum of their user's; where that is 0 they stay.

    Example:
        >>> mean_weights(torch.tensor([1., 3., 2.]), torch.tensor([0, 0, 1]), 2).tolist()
        [0.25, 0.75, 1.0]
    """
    zeros_B = torch.zeros(num_users, device=weights_N.device)
    totals_B = zeros_B.index_add(0, users_N, weights_N)
    return weights_N / totals_B.masked_fill(totals_B == 0.0, 1.0)[users_N]


def weighted_sum(
    table_VD: Tensor, values_N: Tensor, offsets_B1: Tensor, weights_N: Tensor | None
) -> Tensor:
    """float32 [B, D]: each user's rows of the table, weighted and summed. Scriptable."""
    return F.embedding_bag(
        values_N,
        table_VD,
        offsets_B1,
        mode="sum",
        per_sample_weights=weights_N,
        include_last_offset=True,
    )


def pair_products(
    rows_BD: Tensor, table_VD: Tensor, values_N: Tensor, offsets_B1: Tensor, users_N: Tensor
) -> Tensor:
    """float32 [N]: each user's row times the table's rows of its values. Scriptable.

    No [N, D] is held: it is the derivative of `weighted_sum` by its weights.
    """
    products_N: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        rows_BD, table_VD, values_N, offsets_B1, users_N, 0
    )
    return products_N


def weighted_bag(table_VD: Tensor, rows: Jagged) -> Tensor:
    return weighted_sum(table_VD, rows.values, rows.offsets, rows.weights)


def _bag_elsewhere(table_VD: Tensor, rows: Jagged) -> Tensor:
    """The same of a table on another device, which need not fit into that of the rows."""
    return weighted_bag(table_VD, rows.on(table_VD.device)).to(rows.values.device)


def sparse_gradient_bag(table_VD: Tensor, rows: Jagged) -> Tensor:
    bag: Tensor = _SparseGradientBag.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
        table_VD, rows
    )
    return bag


class _SparseGradientBag(torch.autograd.Function):
    """A weighted embedding bag whose table gets a sparse gradient of distinct rows."""

    @staticmethod
    def forward(ctx: Any, table_VD: Tensor, rows: Jagged) -> Tensor:
        ctx.rows, ctx.shape = rows, table_VD.shape
        return weighted_bag(table_VD, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rows_R, gradient_RD = _row_gradients(gradients[0], ctx.rows)
        gradient = torch.sparse_coo_tensor(
            rows_R[None], gradient_RD, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return gradient, None


class _TorchTables:
    """Tables whose rows are updated in backward by plain torch."""

    name = "torch"

    def __init__(
        self, tables: Mapping[str, nn.Parameter], fields_of: FieldsOfTables, rule: TableRule
    ) -> None:
        self.tables, self.fields_of, self.rule = tables, fields_of, rule
        self.states = {name: rule.new_state(table.data) for name, table in tables.items()}

    def set_learning_rate(self, lr: float) -> None:
        self.rule.lr = lr

    def finish_step(self) -> None:
        for state in self.states.values():
            self.rule.finish_step(state)

    def lookup(self, fields: Mapping[str, Jagged]) -> Tensor:
        bags = [
            self._updating_bag(name, [fields[field] for field in self.fields_of[name]])
            for name in self.tables
        ]
        return torch.stack(bags).sum(0) if len(bags) > 1 else bags[0]

    def _updating_bag(self, name: str, fields: Sequence[Jagged]) -> Tensor:
        def update(rows_R: Tensor, gradient_RD: Tensor) -> None:
            table, state = self.tables[name].data, self.states[name]
            update_rows(self.rule, table, state, rows_R, gradient_RD)

        rows = _joined(fields)  # a row in two fields changes once, by the sum of its gradients
        bags: Tensor = _UpdatingBag.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            self.tables[name], rows, update
        )
        return bags.view(len(fields), -1, bags.shape[1]).sum(0) if len(fields) > 1 else bags


class _UpdatingBag(torch.autograd.Function):
    """A weighted embedding bag whose backward updates the touched rows and returns no gradient."""

    @staticmethod
    def forward(
        ctx: Any, table_VD: Tensor, rows: Jagged, update: Callable[[Tensor, Tensor], None]
    ) -> Tensor:
        ctx.rows, ctx.update = rows, update
        return weighted_bag(table_VD, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        if len(ctx.rows.values):
            ctx.update(*_row_gradients(gradients[0], ctx.rows))
        return None, None, None


def _row_gradients(gradient_BD: Tensor, rows: Jagged) -> tuple[Tensor, Tensor]:
    """The distinct rows that were read and the gradient of each: the bag, transposed."""
    by_item = transposed(rows)
    weights = None if rows.weights is None else rows.weights[by_item.order]
    bag = Jagged(by_item.users, by_item.offsets, weights)
    gradient_RD = weighted_bag(gradient_BD.contiguous(), bag)
    if by_item.places is not None:  # what stands again changes as it does, to the same values
        gradient_RD = gradient_RD.index_select(0, by_item.places)
    return by_item.distinct, gradient_RD


def _users_of(offsets_B1: Tensor, num_values: int) -> Tensor:
    """int64 [N]: the user of each value."""
    return torch.repeat_interleave(offsets_B1.diff(), output_size=num_values)


def _joined(fields: Sequence[Jagged]) -> Jagged:
    """Several fields as one of F * B rows."""
    if len(fields) == 1:
        return fields[0]
    plain = all(field.weights is None for field in fields)
    lengths = torch.cat([field.offsets.diff() for field in fields])
    return Jagged(
        torch.cat([field.values for field in fields]),
        F.pad(lengths.cumsum(0), (1, 0)),
        None if plain else torch.cat([field.all_weights() for field in fields]),
    )


def _check(pooling: Mapping[str, str], fields: Collection[str]) -> None:
    for name, how in pooling.items():
        if how not in POOLINGS:
            raise ValueError(f"pooling must be 'sum' or 'mean', got {how!r}")
        assert name in fields, f"pooling is of no field: {name}"
