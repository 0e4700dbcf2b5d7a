"""Named sparse fields to one summed embedding per user: a history and any user attributes.

Until `fuse` is called the tables are ordinary parameters. Afterwards their optimizer runs inside
backward, on the rows that the batch touched and no others, so a step costs what the batch holds
and not what the catalog holds. Two backends do this with equal results: TorchRec's fused tables,
and plain torch. Values, optimizer state and state dict are the same whichever ran.

Shapes: B users, N values, R touched rows, D width.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.batch import Jagged
from deeprec.errors import ConfigError
from deeprec.table import Adagrad, RowwiseAdagrad, Sgd, State, TableRule, update_rows

Backend = Literal["auto", "torchrec", "torch"]
FUSED = (Sgd, Adagrad, RowwiseAdagrad)  # rules that TorchRec has in its tables on every device


class SparseInput(nn.Module):
    """The sum, over fields, of the weighted embeddings of each user's values.

    Args:
        fields: name, without dots -> number of rows of its table.
        width: D, floats in a row.
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
        self.reason = "not fused"  # why the backend in use was taken, for a log line
        self._fused: _TorchTables | _TorchRecTables | None = None

    def fuse(self, rule: TableRule) -> None:
        """From now on backward updates the tables by `rule`; they get no gradient any more."""
        backend, self.reason = self._choose_backend(rule)
        tables = dict(self.tables.items())
        self._fused = (
            _TorchRecTables(tables, rule) if backend == "torchrec" else _TorchTables(tables, rule)
        )

    @property
    def backend_in_use(self) -> str:
        """`autograd` before `fuse`, then `torchrec` or `torch`."""
        return "autograd" if self._fused is None else self._fused.name

    @property
    def optimizer_state(self) -> dict[str, State]:
        """By field, what the fused optimizer remembers; changing a tensor in place changes it."""
        assert self._fused is not None, "call fuse first"
        return self._fused.states

    def set_learning_rate(self, lr: float) -> None:
        assert self._fused is not None, "call fuse first"
        self._fused.set_learning_rate(lr)

    def finish_step(self) -> None:
        """To be called once a step, after backward."""
        assert self._fused is not None, "call fuse first"
        self._fused.finish_step()

    def forward(self, fields: Mapping[str, Jagged]) -> Tensor:
        """float32 [B, D]: every field of `self.tables` must be given, with the same B."""
        if self._fused is not None and self.training and torch.is_grad_enabled():
            return self._fused.lookup(fields)
        bags = [_bag(table, fields[name]) for name, table in self.tables.items()]
        return torch.stack(bags).sum(0) if len(bags) > 1 else bags[0]

    def _choose_backend(self, rule: TableRule) -> tuple[str, str]:
        if self.backend == "torch":
            return "torch", "as configured"
        obstacle = self._obstacle_to_torchrec(rule)
        if obstacle is None and self.backend == "auto" and self._on_cpu():
            return "torch", "as fast as TorchRec on a CPU"
        if obstacle is None:
            return "torchrec", "tables and their optimizer fused"
        if self.backend == "torchrec":
            raise ConfigError(f"table_backend=torchrec: {obstacle}; use table_backend=auto")
        return "torch", obstacle

    def _on_cpu(self) -> bool:
        return all(table.device.type == "cpu" for table in self.tables.values())

    def _obstacle_to_torchrec(self, rule: TableRule) -> str | None:
        if find_spec("torchrec") is None or find_spec("fbgemm_gpu") is None:
            return "TorchRec is not installed: slower on large tables"
        if not isinstance(rule, FUSED):
            # Adam is fused on CUDA only, and decays the moments of untouched rows differently
            return f"TorchRec does not fuse {type(rule).__name__} here"
        if rule.weight_decay or rule.clip_norm is not None:
            return "TorchRec's fused tables neither decay nor clip single rows"
        if self.width % 4 != 0:
            return f"TorchRec tables need a width divisible by 4, not {self.width}"
        return _import_error()


def _import_error() -> str | None:
    """Why TorchRec cannot be imported, if so: its binaries fit exactly one torch version."""
    try:
        import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        return f"TorchRec does not load ({str(error).splitlines()[0]}); run deeprec doctor"
    return None


def _bag(table_VD: Tensor, rows: Jagged) -> Tensor:
    bag: Tensor = F.embedding_bag(
        rows.values,
        table_VD,
        rows.offsets,
        mode="sum",
        per_sample_weights=rows.weights,
        include_last_offset=True,
    )
    return bag


class _TorchTables:
    """Tables whose rows are updated in backward by plain torch."""

    name = "torch"

    def __init__(self, tables: Mapping[str, nn.Parameter], rule: TableRule) -> None:
        self.tables, self.rule = tables, rule
        self.states = {name: rule.new_state(table.data) for name, table in tables.items()}

    def set_learning_rate(self, lr: float) -> None:
        self.rule.lr = lr

    def finish_step(self) -> None:
        for state in self.states.values():
            self.rule.finish_step(state)

    def lookup(self, fields: Mapping[str, Jagged]) -> Tensor:
        bags = [self._updating_bag(name, fields[name]) for name in self.tables]
        return torch.stack(bags).sum(0) if len(bags) > 1 else bags[0]

    def _updating_bag(self, name: str, rows: Jagged) -> Tensor:
        def update(rows_R: Tensor, gradient_RD: Tensor) -> None:
            table, state = self.tables[name].data, self.states[name]
            update_rows(self.rule, table, state, rows_R, gradient_RD)

        bag: Tensor = _UpdatingBag.apply(  # type: ignore[no-untyped-call]  # torch leaves it so
            self.tables[name], rows.values, rows.offsets, rows.weights, update
        )
        return bag


class _UpdatingBag(torch.autograd.Function):
    """A weighted embedding bag whose backward updates the touched rows and returns no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        table_VD: Tensor,
        values_N: Tensor,
        offsets_B1: Tensor,
        weights_N: Tensor | None,
        update: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        ctx.save_for_backward(values_N, offsets_B1, weights_N)
        ctx.update = update
        return _bag(table_VD, Jagged(values_N, offsets_B1, weights_N))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None, None, None]:
        values_N, offsets_B1, weights_N = ctx.saved_tensors
        if len(values_N):
            ctx.update(*_row_gradients(gradients[0], values_N, offsets_B1, weights_N))
        return None, None, None, None, None


def _row_gradients(
    gradient_BD: Tensor, values_N: Tensor, offsets_B1: Tensor, weights_N: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The distinct rows that were read and the gradient of each: the bag, transposed."""
    num_users = gradient_BD.shape[0]
    users = torch.arange(num_users, device=values_N.device)
    users_N = users.repeat_interleave(offsets_B1.diff(), output_size=len(values_N))
    sorted_N, order_N = torch.sort(values_N, stable=True)
    rows_R, counts_R = torch.unique_consecutive(sorted_N, return_counts=True)
    offsets_R1 = F.pad(counts_R.cumsum(0), (1, 0))
    weights = None if weights_N is None else weights_N[order_N]
    return rows_R, _bag(gradient_BD.contiguous(), Jagged(users_N[order_N], offsets_R1, weights))


class _TorchRecTables:
    """The same tables held by TorchRec's FusedEmbeddingBagCollection.

    The parameters of the caller become views of TorchRec's memory, so that there is one copy.
    """

    name = "torchrec"

    def __init__(self, tables: Mapping[str, nn.Parameter], rule: TableRule) -> None:
        from torchrec.modules.embedding_configs import EmbeddingBagConfig
        from torchrec.modules.fused_embedding_modules import (
            FusedEmbeddingBagCollection,
        )

        assert isinstance(rule, FUSED)
        configs = [
            EmbeddingBagConfig(
                name=name,
                num_embeddings=table.shape[0],
                embedding_dim=table.shape[1],
                feature_names=[name],
            )
            for name, table in tables.items()
        ]
        self._collection = FusedEmbeddingBagCollection(
            configs,
            *_fused_optimizer(rule),
            is_weighted=True,
            device=next(iter(tables.values())).device,
        )
        self._optimizer = self._collection.fused_optimizer()
        for name, table in tables.items():
            held = self._collection.embedding_bags[name].weight.data
            table.data = held.copy_(table.data)
        remembered = self._optimizer.state_dict()["state"]
        self.states: dict[str, State] = {
            name: {
                key: remembered[f"{name}.weight"][f"{name}.weight.momentum_1"]
                for key in rule.new_state(table.data[:0])
            }
            for name, table in tables.items()
        }

    def set_learning_rate(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()  # only hands the learning rate on; backward does the updates

    def finish_step(self) -> None:
        pass

    def lookup(self, fields: Mapping[str, Jagged]) -> Tensor:
        from torchrec import KeyedJaggedTensor

        rows = [fields[name] for name in self.states]
        keyed = KeyedJaggedTensor(
            keys=list(self.states),
            values=torch.cat([field.values for field in rows]),
            weights=torch.cat([_weights(field) for field in rows]),
            lengths=torch.cat([field.offsets.diff() for field in rows]),
        )
        bags: Tensor = self._collection(keyed).values()
        return bags.view(len(bags), len(rows), -1).sum(1)


def _fused_optimizer(rule: TableRule) -> tuple[type[torch.optim.Optimizer], dict[str, float]]:
    """What TorchRec calls a rule, and its arguments."""
    from torchrec.optim import RowWiseAdagrad

    if isinstance(rule, Sgd):
        return torch.optim.SGD, {"lr": rule.lr}
    assert isinstance(rule, Adagrad | RowwiseAdagrad)
    name = torch.optim.Adagrad if isinstance(rule, Adagrad) else RowWiseAdagrad
    return name, {"lr": rule.lr, "eps": rule.eps}


def _weights(rows: Jagged) -> Tensor:
    if rows.weights is not None:
        return rows.weights
    return torch.ones(len(rows.values), device=rows.values.device)
