"""Layers that drop and denoise as DSSTNE does, where its form is another one than ours.

For runs with `compatibility=dsstne`; nothing here is used once a model is trained.

Shapes as in deeprec/batch.py, and H, the units of a layer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from deeprec.activated import OUTPUTS, Activated
from deeprec.errors import ConfigError
from deeprec.model.hidden import Hidden, HiddenLayer


class LayerAsDsstne(HiddenLayer):
    """A hidden layer whose dropout and denoising are those of DSSTNE.

    What it reads before the input, biases included, is multiplied by 1 / (1 - denoising) in
    training, as the items that are kept are; its gradient is not.

    Args:
        hidden: as of `HiddenLayer`, and the others.
        denoising: chance of dropping an item.
        before_input: units of the sources that come before the input.
    """

    def __init__(
        self,
        hidden: Hidden,
        *,
        reads: int,
        sources: list[int],
        skips: list[int],
        width: int,
        denoising: float,
        before_input: int,
    ) -> None:
        super().__init__(hidden, reads=reads, sources=sources, skips=skips, width=width)
        self.more = denoising / (1.0 - denoising)
        self.before_input = before_input
        if hidden.dropout:
            self.activation = DroppedAsDsstne(hidden, self.activation)
            self.dropout = nn.Identity()

    def forward(self, sums: list[Tensor], outputs: list[Tensor]) -> Tensor:
        """As of `HiddenLayer`."""
        if not self.training or self.reads < 0 or not self.more:
            return super().forward(sums, outputs)
        before: Tensor = self.bias
        if self.before_input:
            assert isinstance(self.from_layers, nn.Linear)
            read = torch.cat([outputs[i] for i in self.sources], 1)[:, : self.before_input]
            before = before + F.linear(read, self.from_layers.weight[:, : self.before_input])
        shown = list(sums)
        shown[self.reads] = sums[self.reads] + self.more * before.detach()
        return super().forward(shown, outputs)


class DroppedAsDsstne(nn.Module):
    """An activation and then dropout, neither scaled back nor masked in backward.

    A dropped sigmoid becomes 0.5 and the others stay; of elu and selu the mean and variance stay;
    of the rest, a dropped unit becomes 0 and the others are divided by 1 - dropout. Backward takes
    the derivative that belongs to what came out.

    Args:
        hidden: activation and dropout.
        plain: the activation alone, in evaluation.

    Raises:
        ConfigError: DSSTNE does not have the activation.

    Reference:
        DSSTNE, `engine/NNLayer.cpp`, `engine/kernels.cu` and `engine/kDelta.cu`.
    """

    def __init__(self, hidden: Hidden, plain: nn.Module) -> None:
        super().__init__()
        if hidden.activation not in OUTPUTS:
            raise ConfigError(
                f"compatibility=dsstne: layer {hidden.name!r} has dropout after "
                f"{hidden.activation}, which DSSTNE has not"
            )
        alpha = 1.6732632 if hidden.activation == "selu" else 1.0
        self.activated = Activated(
            hidden.activation,
            slope=hidden.slope,
            alpha=alpha if hidden.alpha is None else hidden.alpha,
            scale=hidden.scale,
        )
        self.dropout, self.plain = hidden.dropout, plain

    def forward(self, z_BH: Tensor) -> Tensor:
        if not self.training:
            plain_BH: Tensor = self.plain(z_BH)
            return plain_BH
        kept_BH = torch.rand_like(z_BH) >= self.dropout
        dropped_BH: Tensor = _Dropped.apply(z_BH, kept_BH, self.activated, self.dropout)  # type: ignore[no-untyped-call]  # torch leaves it so
        return dropped_BH


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z_BH: Tensor, kept_BH: Tensor, activated: Activated, dropout: float
    ) -> Tensor:
        a_BH = dropped(activated(z_BH), kept_BH, activated, dropout)
        ctx.save_for_backward(a_BH)
        ctx.activated, ctx.dropout = activated, dropout
        return a_BH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BH: Tensor) -> tuple[Tensor, None, None, None]:
        [a_BH] = ctx.saved_tensors
        if ctx.activated.output == "tanh":  # the one that knows of its scale
            scale = 1.0 / (1.0 - ctx.dropout)
            return grad_BH * scale * ctx.activated.derivative(a_BH / scale), None, None, None
        return grad_BH * ctx.activated.derivative(a_BH), None, None, None


def dropped(a_BH: Tensor, kept_BH: Tensor, activated: Activated, dropout: float) -> Tensor:
    """What dropout leaves of activations.

    Example:
        >>> kept = torch.tensor([True, False])
        >>> dropped(torch.tensor([0.8, 0.8]), kept, Activated("sigmoid"), 0.2)
        tensor([0.8000, 0.5000])
        >>> dropped(torch.tensor([0.8, 0.8]), kept, Activated("relu"), 0.2)
        tensor([1., 0.])
    """
    if activated.output == "sigmoid":
        return torch.where(kept_BH, a_BH, 0.5)
    keep = 1.0 - dropout
    if activated.output not in ("elu", "selu"):
        return torch.where(kept_BH, a_BH / keep, 0.0)
    end = -activated.scale * activated.alpha
    gain = float((keep + end * end * dropout * keep) ** -0.5)
    return torch.where(kept_BH, a_BH, end) * gain - gain * dropout * end
