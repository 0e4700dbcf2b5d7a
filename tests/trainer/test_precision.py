"""What `trainer.precision=bfloat16` makes narrow: matrix products, and nothing that is kept."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deeprec.batch import Batch, Jagged
from deeprec.loss.softmax import Softmax
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.recvae import RecVae
from deeprec.model.variational import Variational
from deeprec.trainer.learner import Progress
from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Adam

PRODUCTS = {"mm", "addmm", "addmm_", "bmm"}


class Dtypes(TorchDispatchMode):
    """Notes in which dtype matrix products and embedding bags run."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[torch.dtype] = set()
        self.bags: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            self.products.add(out.dtype)
        if "embedding_bag" in name:
            self.bags.add(out[0].dtype)
        return out


@pytest.mark.parametrize(
    "model",
    [
        Autoencoder(40, hidden_dims=[8, 6], table_backend="torch"),
        Variational(40, hidden_dims=[8], code_dim=6, table_backend="torch"),
        RecVae(40, width=8, code_dim=6, table_backend="torch"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_products_are_narrow_and_tables_layers_and_what_is_remembered_are_not(
    model: nn.Module,
) -> None:
    training = Training(model, Softmax(), Adam(), seed=0, total_steps=9, progress=Progress())
    training.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    rows = Jagged(torch.arange(40), torch.arange(11) * 4)
    arranged = training.arrange(Batch(torch.arange(10), rows, target=rows), torch.Generator())
    with Dtypes() as seen, torch.autocast("cpu", torch.bfloat16):
        training.training_step(arranged, 0)
    assert seen.products == {torch.bfloat16}
    assert seen.bags == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    remembered = [
        value
        for optimizer in training.built
        for state in optimizer.state.values()
        for value in state.values()
    ]
    assert {value.dtype for value in remembered} == {torch.float32}
