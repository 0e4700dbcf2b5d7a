"""Hidden layers: from summed embeddings, or a code, to what a model says of a user."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal[
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "softplus",
    "softsign",
    "identity",
]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
    "identity": nn.Identity,
}


class Layers(nn.Module):
    """From the summed embeddings, which are the first layer but for its bias, to hidden."""

    def __init__(
        self,
        hidden_dims: Sequence[int],
        activation: str,
        output_activation: str,
        dropout: float,
        unit_length: bool,
    ) -> None:
        super().__init__()
        self.unit_length = unit_length
        self.bias = nn.Parameter(torch.zeros(hidden_dims[0]))
        layers: list[nn.Module] = []
        for width, next_width in itertools.pairwise(hidden_dims):
            layers += [ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(width, next_width)]
        self.layers = nn.Sequential(*layers, ACTIVATIONS[output_activation](), nn.Dropout(dropout))

    def forward(self, sum_BH: Tensor) -> Tensor:
        hidden_BD: Tensor = self.layers(sum_BH + self.bias)
        return F.normalize(hidden_BD, dim=1) if self.unit_length else hidden_BD


class Decoder(nn.Sequential):
    """From a code to hidden; of one width alone nothing is changed."""

    def __init__(self, dims: Sequence[int], activation: str) -> None:
        layers: list[nn.Module] = []
        for width, next_width in itertools.pairwise(dims):
            layers += [nn.Linear(width, next_width), ACTIVATIONS[activation]()]
        super().__init__(*layers)


def check_layers(hidden_dims: Sequence[int], activations: Sequence[str]) -> None:
    """Raises ValueError if no layers can be made of these."""
    if not hidden_dims or min(hidden_dims) < 1:
        raise ValueError(f"hidden_dims must be one or more positive numbers, got {hidden_dims}")
    for activation in activations:
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}; got {activation!r}"
            )
