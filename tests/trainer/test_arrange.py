"""A batch is arranged without a look at the device: a process that makes batches has none.

Where nothing of a model or a loss can be read, on the meta device, a batch is arranged as ever.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from deeprec.trainer.module import Training
from deeprec.trainer.optimizer import Sgd
from steps import (
    COSINES,
    LOSSES,
    MODELS,
    boltzmann,
    contrast,
    cosine_contrastive,
    linear,
    new_batch,
    training_of,
)

ALL_MODELS = MODELS | {"linear": linear, "two towers": COSINES["mean"], "boltzmann": boltzmann}
ALL_LOSSES = LOSSES | {
    "cosine_contrastive": cosine_contrastive,
    "contrastive_divergence": contrast,
}
CASES = [
    (model, loss)
    for model in ALL_MODELS
    for loss in ALL_LOSSES
    if model == "boltzmann" or loss != "contrastive_divergence"
]


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_a_batch_is_arranged_without_the_device(model: str, loss: str) -> None:
    here, nowhere = made(model, loss), made(model, loss).to("meta")
    assert nowhere.recommender.item_weight.is_meta
    found = [arranged(one) for one in (here, nowhere)]
    assert len(found[0]) > 5
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def made(model: str, loss: str) -> Training:
    torch.manual_seed(3)
    built = ALL_MODELS[model]()
    return training_of(built, ALL_LOSSES[loss](built), Sgd())


def arranged(training: Training) -> list[Any]:
    """All that a batch has to say, flat."""
    draw = torch.Generator().manual_seed(5)
    return flat(training.arrange(new_batch(1), draw))


def flat(one: Any) -> list[Any]:
    if isinstance(one, Tensor):
        assert one.device.type == "cpu"
        return [one.numpy()]
    if hasattr(one, "__dataclass_fields__"):
        return [leaf for name in one.__dataclass_fields__ for leaf in flat(getattr(one, name))]
    if isinstance(one, dict | list | tuple):
        return [leaf for part in tree_leaves(one) for leaf in flat(part)]
    return [one]
