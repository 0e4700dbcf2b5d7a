"""A batch is arranged without a look at the device: a process that makes batches has none.

Where nothing of a model or a loss can be read, on the meta device, a batch is arranged as ever.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from deeprec.loss.contrastive_divergence import ContrastiveDivergence
from deeprec.loss.cosine_contrastive import CosineContrastive
from deeprec.model.linear_autoencoder import LinearAutoencoder
from deeprec.model.rbm import Rbm
from deeprec.model.two_tower import TwoTower
from deeprec.trainer.module import Progress, Training
from deeprec.trainer.optimizer import Sgd
from steps import AGES, ITEMS, LOSSES, MODELS, POPULARITY, new_batch

BESIDES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: LinearAutoencoder(ITEMS, popularity=POPULARITY, width=8),
    "two towers": lambda: TwoTower(ITEMS, fields={"age": AGES}, width=8),
    "boltzmann": lambda: Rbm(ITEMS, popularity=POPULARITY, num_users=500, hidden_units=8),
}
ALL_MODELS = MODELS | BESIDES
ALL_LOSSES = LOSSES | {
    "cosine_contrastive": lambda _: CosineContrastive(ITEMS, margin=0.1, block_items=64),
    "contrastive_divergence": lambda model: ContrastiveDivergence(
        hidden_bias=model.hidden_bias, steps=2, block_items=64
    ),
}
CASES = [
    (model, loss)
    for model in ALL_MODELS
    for loss in ALL_LOSSES
    if model == "boltzmann" or loss != "contrastive_divergence"
]


@pytest.mark.parametrize(("model", "loss"), CASES)
def test_a_batch_is_arranged_without_the_device(model: str, loss: str) -> None:
    here, nowhere = training_of(model, loss), training_of(model, loss).to("meta")
    assert nowhere.recommender.item_weight.is_meta
    found = [arranged(one) for one in (here, nowhere)]
    assert len(found[0]) > 5
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def training_of(model: str, loss: str) -> Training:
    torch.manual_seed(3)
    built = ALL_MODELS[model]()
    return Training(
        built,  # type: ignore[arg-type]
        ALL_LOSSES[loss](built),
        Sgd(),
        seed=0,
        total_steps=10,
        progress=Progress(),
    )


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
