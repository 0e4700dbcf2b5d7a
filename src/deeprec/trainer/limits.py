"""What keeps weights and gradients small."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Limits:
    """What keeps weights and gradients small; see `Adam`."""

    weight_decay: float
    table_weight_decay: float
    clip_norm: float | None
    table_clip_norm: float | None

    def __post_init__(self) -> None:
        check_positive(clip_norm=self.clip_norm, table_clip_norm=self.table_clip_norm)
        for name in ("weight_decay", "table_weight_decay"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def of_tables(self) -> dict[str, Any]:
        """Arguments of a rule of rows; one of numbers has no weight_decay."""
        return {"weight_decay": self.table_weight_decay, "clip_norm": self.table_clip_norm}

    def hold(self, layers: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Clips and decays before each step of the optimizer of the layers."""
        layers.register_step_pre_hook(lambda optimizer, *_: self._before_step(optimizer))
        return layers

    @torch.no_grad()
    def _before_step(self, layers: torch.optim.Optimizer) -> None:
        for group in layers.param_groups:
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(group["params"], self.clip_norm)
            if self.weight_decay:
                for weight in shrinking(group["params"]):
                    weight.mul_(1.0 - group["lr"] * self.weight_decay)


def shrinking(parameters: Iterable[nn.Parameter]) -> Iterator[nn.Parameter]:
    """Of layers, what decays in a step: weights that it trains, no biases or gains of norms."""
    return (one for one in parameters if one.dim() > 1 and one.grad is not None)


def check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
        if value == math.inf:
            raise ValueError(f"{name} must be finite, got {value}")
