"""Embedding tables that TorchRec holds and trains, their optimizer fused into backward.

Its binaries fit exactly one version of torch, so nothing here is imported before it is used.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from deeprec.batch import Jagged
from deeprec.table import Adagrad, RowwiseAdagrad, Sgd, State, TableRule

FUSED = (Sgd, Adagrad, RowwiseAdagrad)  # rules that TorchRec has in its tables on every device
FieldsOfTables = Mapping[str, Sequence[str]]  # table -> the fields that read it


def obstacle_to_torchrec(rule: TableRule, width: int) -> str | None:
    """Why TorchRec cannot train tables of this width by this rule, if so."""
    if find_spec("torchrec") is None or find_spec("fbgemm_gpu") is None:
        return "TorchRec is not installed: slower on large tables"
    if not isinstance(rule, FUSED):
        # Adam is fused on CUDA only, and decays the moments of untouched rows differently
        return f"TorchRec has no fused update for {getattr(rule, 'told', type(rule).__name__)}"
    if rule.weight_decay or rule.clip_norm is not None:
        return "TorchRec's fused tables neither decay nor clip single rows"
    if width % 4 != 0:
        return f"TorchRec tables need a width divisible by 4, not {width}"
    return _import_error()


def _import_error() -> str | None:
    """Why TorchRec cannot be imported, if so: its binaries fit exactly one torch version."""
    try:
        import torchrec  # noqa: F401
    except (ImportError, OSError) as error:
        return f"TorchRec does not load ({str(error).splitlines()[0]}); run deeprec doctor"
    return None


class TorchRecTables:
    """The same tables held by TorchRec's FusedEmbeddingBagCollection.

    The parameters of the caller become views of TorchRec's memory, so that there is one copy.
    """

    name = "torchrec"

    def __init__(
        self, tables: Mapping[str, nn.Parameter], fields_of: FieldsOfTables, rule: TableRule
    ) -> None:
        from torchrec.modules.fused_embedding_modules import (
            FusedEmbeddingBagCollection,
        )

        configs = bag_configs(tables, fields_of)
        self._fields = [field for name in tables for field in fields_of[name]]
        self._collection = FusedEmbeddingBagCollection(
            configs,
            *fused_optimizer(rule),
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
        bags: Tensor = self._collection(keyed(fields, self._fields)).values()
        return bags.view(len(bags), len(self._fields), -1).sum(1)


def bag_configs(tables: Mapping[str, Tensor], fields_of: FieldsOfTables) -> list[Any]:
    """What TorchRec must know of these tables."""
    from torchrec.modules.embedding_configs import EmbeddingBagConfig

    return [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=table.shape[0],
            embedding_dim=table.shape[1],
            feature_names=list(fields_of[name]),
        )
        for name, table in tables.items()
    ]


def keyed(fields: Mapping[str, Jagged], names: Sequence[str]) -> Any:
    """These fields as TorchRec takes them, a KeyedJaggedTensor."""
    from torchrec import KeyedJaggedTensor

    rows = [fields[name] for name in names]
    return KeyedJaggedTensor(
        keys=list(names),
        values=torch.cat([field.values for field in rows]),
        weights=torch.cat([field.all_weights() for field in rows]),
        lengths=torch.cat([field.offsets.diff() for field in rows]),
        length_per_key=[len(field.values) for field in rows],  # else it asks the device
    )


def fused_optimizer(rule: TableRule) -> tuple[type[torch.optim.Optimizer], dict[str, float]]:
    """What TorchRec calls a rule, and its arguments."""
    from torchrec.optim import RowWiseAdagrad

    if isinstance(rule, Sgd):
        return torch.optim.SGD, {"lr": rule.lr}
    assert isinstance(rule, Adagrad | RowwiseAdagrad)
    name = torch.optim.Adagrad if isinstance(rule, Adagrad) else RowWiseAdagrad
    return name, {"lr": rule.lr, "eps": rule.eps}
