"""A step asks its device for few things, whatever is in its batch.

On CUDA each costs Python some thirty microseconds, more than most of them take there: a step of 512
users and 27,278 items waits for their number (benchmarks/gpu.md). What is counted here on a CPU is
what would be a kernel there.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deeprec.loss.cosine import Cosine
from deeprec.loss.marginal import Marginal
from deeprec.loss.sampled_softmax import SampledSoftmax
from deeprec.loss.softmax import Softmax
from deeprec.model.autoencoder import Autoencoder
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.trainer.optimizer import Adam
from steps import ITEMS, POPULARITY, new_batch, training_of

NO_KERNEL = (
    *(
        "alias",
        "as_strided",
        "detach",
        "empty",
        "expand",
        "new_empty",
        "permute",
        "select",
        "slice",
    ),
    *(
        "split",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
        "_unsafe_view",
        "_record_function",
    ),
    *("lift_fresh", "_local_scalar_dense", "unbind", "empty_like", "empty_strided", "reshape"),
)


class Kernels(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::").removesuffix("_")
        self.count += not (name in NO_KERNEL or name.startswith("profiler::"))
        return func(*args, **kwargs or {})


MODELS = {
    "autoencoder": partial(Autoencoder, ITEMS, hidden_dims=[8], table_backend="torch"),
    "linear": partial(LinearAutoencoder, ITEMS, popularity=POPULARITY, width=8),
}
drawn = {"negatives": 40, "popularity": POPULARITY}
LOSSES = {
    "softmax": Softmax,
    "marginal": Marginal,
    "sampled": partial(SampledSoftmax, ITEMS, **drawn),
    "own targets": partial(SampledSoftmax, ITEMS, shared_targets=False, **drawn),
    "cosine": partial(Cosine, ITEMS, linear=True),
}


@pytest.mark.parametrize(
    ("model", "loss", "most"),
    [  # of plain PyTorch, dense, with softmax: some 60 (benchmarks/dense.py)
        ("autoencoder", "softmax", 80),
        ("autoencoder", "marginal", 71),
        ("autoencoder", "sampled", 99),
        ("autoencoder", "own targets", 134),
        ("linear", "cosine", 99),
    ],
)
def test_a_step_is_few_kernels(model: str, loss: str, most: int) -> None:
    training = training_of(MODELS[model](), LOSSES[loss](), Adam())
    batches = [training.arrange(new_batch(step), torch.Generator()) for step in range(2)]
    training.training_step(batches[0], 0)
    with Kernels() as kernels:
        training.training_step(batches[1], 0)
    assert kernels.count <= most
