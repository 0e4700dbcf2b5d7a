"""A package with parts of its own and configs for them, as a user of deeprec would write it.

The tests of config and command line compose these, so that they say nothing of deeprec's own parts.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from os import system
from pathlib import Path
from typing import Literal

from deeprec.config import configs_dir

run_anything = system  # not the shop's own, though found in it


class Autoencoder:
    def __init__(
        self,
        num_items: int,
        *,
        hidden_dims: Sequence[int] = (128,),
        activation: Literal["sigmoid", "relu", "tanh"] = "sigmoid",
        input_dropout: float = 0.2,
        popularity: list[float] | None = None,
    ) -> None:
        self.num_items, self.hidden_dims, self.activation = num_items, hidden_dims, activation
        self.input_dropout, self.popularity = input_dropout, popularity


class Popularity:
    def __init__(self, *, smoothing: int = 0) -> None:
        self.smoothing = smoothing


class Loss:
    def __init__(self, *, scale: float = 1.0) -> None:
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale = scale


class Trainer:
    def __init__(
        self,
        *,
        max_epochs: int,
        deterministic: bool = True,
        name: str | None = None,
        callbacks: Sequence[object] = (),
        on_step: Callable[[int], None] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.max_epochs, self.callbacks = max_epochs, callbacks


class Swallower:
    def __init__(self, **anything: object) -> None:
        pass


def table(*, events: str, user: str = "user_id") -> str:
    return f"{events} by {user}"


FILES = {
    "model/autoencoder.yaml": """\
# History -> hidden layers -> catalog.
_target_: shop.Autoencoder
_partial_: true
hidden_dims: [128]
activation: sigmoid
""",
    "model/popularity.yaml": "# What everybody\n# buys. And more.\n_target_: shop.Popularity\n",
    "loss/softmax.yaml": "_target_: shop.Loss\nscale: 1.0\n",
    "loss/marginal.yaml": "# DSSTNE's.\n_target_: shop.Loss\nscale: 2\n",
    "optimizer/adam.yaml": "_target_: shop.Loss\n",
    "target/reconstruct.yaml": "_target_: shop.Loss\n",
    "logger/default.yaml": "_target_: shop.Loss\n",
    "trainer/default.yaml": """\
_target_: shop.Trainer
max_epochs: 10
callbacks:
  - _target_: shop.Popularity
    smoothing: 3
""",
    "experiment/quick.yaml": """\
# @package _global_
# A run of seconds.
defaults:
  - override /model: popularity
  - override /loss: marginal
seed: 7
trainer:
  max_epochs: 1
""",
    "data/table.yaml": "_target_: shop.table\nevents: ???  # where they are\n",
    "split/auto.yaml": "_target_: shop.Loss\n",
}


def write_configs(folder: Path) -> Path:
    """Our own primary configs with the shop's choices."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for primary in configs_dir().glob("*.yaml"):
        shutil.copy(primary, folder)
    return folder
