"""Where weights start."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Init = Literal[
    "xavier", "caffe_xavier", "gaussian", "uniform", "unit_ball", "selu", "selu_narrow", "constant"
]
INITS = get_args(Init)


def fill(weight: Tensor, init: Init, scale: float, *, num_in: int, num_out: int) -> None:
    """Draws a matrix anew, in place.

        xavier        evenly from +-scale sqrt(6 / (num_in + num_out))
        caffe_xavier  evenly from +-scale sqrt(3 / num_out)
        gaussian      normal, standard deviation scale
        uniform       evenly from +-scale
        unit_ball     evenly from [0, scale)
        selu          normal, standard deviation scale / sqrt(num_in)
        selu_narrow   normal, standard deviation scale / num_in
        constant      scale

    Args:
        weight: of any shape that holds num_in * num_out numbers.
        init: the scheme.
        scale: what it is multiplied with.
        num_in: units that the matrix reads.
        num_out: units that it makes.

    Reference:
        Glorot and Bengio, 2010; Klambauer et al., Self-Normalizing Neural Networks, NIPS 2017.
        DSSTNE, `engine/NNWeight.cpp`, differs: its xavier has half the range, its selu is
        selu_narrow of scale 1, and its constant is minus the scale.
    """
    if init == "constant":
        nn.init.constant_(weight, scale)
    elif init in ("gaussian", "selu", "selu_narrow"):
        over = {"gaussian": 1.0, "selu": math.sqrt(num_in), "selu_narrow": float(num_in)}
        nn.init.normal_(weight, std=scale / over[init])
    else:
        edges = {
            "xavier": scale * math.sqrt(6.0 / (num_in + num_out)),
            "caffe_xavier": scale * math.sqrt(3.0 / num_out),
            "uniform": scale,
            "unit_ball": scale,
        }
        edge = edges[init]
        nn.init.uniform_(weight, 0.0 if init == "unit_ball" else -edge, edge)


def check_init(name: str, init: str) -> None:
    """Raises ValueError if there is no such scheme."""
    if init not in INITS:
        raise ValueError(f"{name} must be one of {', '.join(INITS)}; got {init!r}")


def begin_biases(model: nn.Module, changes: Sequence[Callable[[Tensor], Tensor]]) -> None:
    """Changes output biases that begin at log odds to those that training aims at.

    Else a run would begin with popularity counted twice, and its best checkpoint be an early one.
    """
    for name in ("item_bias", "reconstruction_bias"):
        bias_V = getattr(model, name, None)
        if bias_V is None or not bias_V.requires_grad or not bias_V.any():
            continue  # there is none, or it begins at no odds
        with torch.no_grad():
            for change in changes:
                bias_V.copy_(change(bias_V))
