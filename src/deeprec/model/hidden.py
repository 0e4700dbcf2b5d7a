"""One hidden layer of a network whose layers are said one by one: its sizes, and what it computes.

    z = what it reads of the input + sum over sources W a + bias, + the activations it skips to
    a = dropout(activation(batch norm(z)))

Shapes as in deeprec/batch.py, and H, the units of a layer.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.activated import refuse_unread
from deeprec.model.dropping import check_share
from deeprec.model.initial import Init, check_init, fill
from deeprec.model.layers import ACTIVATIONS, Activation
from deeprec.model.pooled import Pooling, check_pooling

SMALLEST_CHANCE = 1e-6  # of a unit being on, as the sparseness penalty sees it


class Hidden:
    """How one hidden layer of a `Layered` network is made.

    Args:
        name: by which other layers read it.
        units: of it.
        sources: what it reads: earlier layers by name, or the summed embeddings of inputs, which
            have tables of their own for each layer that reads them: `history`, `user:NAME` of a
            user attribute, or `input`, all of these. None: the layer before; of the first layer,
            `input`.
        skips: earlier layers of as many units, whose activations are added to what it reads.
        activation: after it.
        slope: of a leaky_relu below 0.
        alpha: of an elu or selu: minus this is where it ends; None: 1 of elu, 1.6733 of selu.
        scale: of a selu.
        dropout: chance of dropping each unit in training; of a selu a dropped one becomes what it
            is at its end, and mean and variance stay what they are where z is standard normal.
        batch_norm: normalise what a unit reads over the users of a batch.
        sparseness: above 0, the share of users that should switch a unit on; for sigmoid layers.
        sparseness_weight: of the divergence from it in the loss, summed over units.
        init: where its weights start, see `deeprec.model.initial.fill`.
        init_scale: of that.
        init_bias: where its bias starts.
        unit_norm: longest weights into one of its units in training, as of `Constraints`, from the
            layers that it reads together and from each table of the input; None: as the optimizer
            says.
        slope_norm: longest slope of one user's loss in what its units read, likewise.
        pooling: of layers alone, in place of weights, bias and activation: `maxout`, the highest of
            its sources unit by unit; `dot` and `cosine`, the product or cosine of its first source
            with each other one, a unit for each.

    Raises:
        ValueError: a value is not what it must be.
    """

    def __init__(
        self,
        *,
        name: str,
        units: int,
        sources: Sequence[str] | None = None,
        skips: Sequence[str] = (),
        activation: Activation = "sigmoid",
        slope: float = 0.01,
        alpha: float | None = None,
        scale: float = 1.0507,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparseness: float = 0.0,
        sparseness_weight: float = 0.0,
        init: Init = "xavier",
        init_scale: float = 1.0,
        init_bias: float = 0.0,
        unit_norm: float | None = None,
        slope_norm: float | None = None,
        pooling: Pooling = "none",
    ) -> None:
        if units < 1:
            raise ValueError(f"units must be 1 or more, got {units}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}")
        check_share("dropout", dropout)
        check_share("sparseness", sparseness)
        check_init("init", init)
        if sparseness_weight and not (sparseness and activation == "sigmoid"):
            raise ValueError("sparseness_weight needs sparseness above 0 and activation=sigmoid")
        if sparseness and not sparseness_weight:
            raise ValueError(f"sparseness={sparseness} needs sparseness_weight above 0")
        for what, value in (
            ("unit_norm", unit_norm),
            ("slope_norm", slope_norm),
            ("scale", scale),
        ):
            if value is not None and not value > 0.0:
                raise ValueError(f"{what} must be above 0, got {value}")
        refuse_unread(activation, slope=slope, alpha=alpha, scale=scale)
        self.name, self.units = name, units
        self.unit_norm, self.slope_norm = unit_norm, slope_norm
        check_pooling(pooling, sources)
        self.pooling: Pooling = pooling
        self.sources = None if sources is None else tuple(sources)
        self.skips, self.activation = tuple(skips), activation
        self.slope, self.alpha, self.scale = slope, alpha, scale
        self.dropout, self.batch_norm = dropout, batch_norm
        self.sparseness, self.sparseness_weight = sparseness, sparseness_weight
        self.init: Init = init
        self.init_scale, self.init_bias = init_scale, init_bias

    def new_activation(self) -> nn.Module:
        if self.activation == "leaky_relu":
            return nn.LeakyReLU(self.slope)
        if self.activation == "elu":
            return nn.ELU(1.0 if self.alpha is None else self.alpha)
        if self.activation == "selu":
            return ScaledElu(self._selu_alpha, self.scale)
        return ACTIVATIONS[self.activation]()

    def new_dropout(self) -> nn.Module:
        if self.activation == "selu" and self.dropout:
            return AlphaDropout(self.dropout, self._selu_alpha, self.scale)
        return nn.Dropout(self.dropout)

    @property
    def _selu_alpha(self) -> float:
        return 1.6732632 if self.alpha is None else self.alpha


class ScaledElu(nn.Module):
    """SELU of any alpha and scale."""

    def __init__(self, alpha: float, scale: float) -> None:
        super().__init__()
        self.alpha, self.scale = alpha, scale

    def forward(self, z_BH: Tensor) -> Tensor:
        return F.elu(z_BH, self.alpha) * self.scale


class AlphaDropout(nn.Module):
    """Dropout after a SELU of any alpha and scale: a dropped unit is where the SELU ends.

    What is left is scaled and shifted so that the activations of a standard normal z keep mean and
    variance.

    Reference:
        Klambauer et al., Self-Normalizing Neural Networks, NeurIPS 2017. Differs: `nn.AlphaDropout`
        is the case of its own alpha and scale, where mean is 0 and variance 1.
    """

    def __init__(self, dropout: float, alpha: float, scale: float) -> None:
        super().__init__()
        self.keep, self.end = 1.0 - dropout, -scale * alpha
        # of exp(z) and exp(2 z) where z < 0: exp(k * k / 2) * P(z < -k)
        once, twice = (math.exp(k * k / 2) * math.erfc(k / math.sqrt(2.0)) / 2 for k in (1, 2))
        mean = scale * (1.0 / math.sqrt(2.0 * math.pi) + alpha * (once - 0.5))
        square = scale * scale * (0.5 + alpha * alpha * (twice - 2.0 * once + 0.5))
        variance = square - mean * mean
        dropped = self.keep * (variance + dropout * (mean - self.end) ** 2)
        self.gain = math.sqrt(variance / dropped)
        self.shift = mean - self.gain * (self.keep * mean + dropout * self.end)

    def forward(self, a_BH: Tensor) -> Tensor:
        if not self.training:
            return a_BH
        kept_BH = torch.empty_like(a_BH).bernoulli_(self.keep)
        return (self.end + kept_BH * (a_BH - self.end)) * self.gain + self.shift


class OverUsers(nn.BatchNorm1d):
    """Batch norm; a batch of one user, which has no variance, is normalised as in evaluation."""

    def forward(self, input: Tensor) -> Tensor:
        learns = self.training and input.shape[0] > 1
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            learns,
            0.1,
            self.eps,
        )


class HiddenLayer(nn.Module):
    """A hidden layer at work.

    Args:
        hidden: how it is made.
        reads: which of the summed inputs it reads; -1: none.
        sources: places of the layers that it reads.
        skips: places of the layers that are added.
        width: units of its sources together.
    """

    sources: list[int]
    skips: list[int]

    def __init__(
        self,
        hidden: Hidden,
        *,
        reads: int,
        sources: list[int],
        skips: list[int],
        width: int,
    ) -> None:
        super().__init__()
        self.reads, self.sources, self.skips = reads, sources, skips
        self.bias = nn.Parameter(torch.full((hidden.units,), float(hidden.init_bias)))
        self.from_layers: nn.Module = nn.Identity()
        if width:
            linear = nn.Linear(width, hidden.units, bias=False)
            fill(linear.weight, hidden.init, hidden.init_scale, num_in=width, num_out=hidden.units)
            self.from_layers = linear
        self.norm: nn.Module = OverUsers(hidden.units) if hidden.batch_norm else nn.Identity()
        self.activation = hidden.new_activation()
        self.dropout = hidden.new_dropout()

    def forward(self, sums: list[Tensor], outputs: list[Tensor]) -> Tensor:
        """float32 [B, H].

        Args:
            sums: what the layers that read the input get of it, each [B, H].
            outputs: of all layers before.
        """
        z_BH = sums[self.reads] if self.reads >= 0 else torch.zeros_like(self.bias)
        z_BH = z_BH + self.bias
        if len(self.sources) > 0:
            z_BH = z_BH + self.from_layers(torch.cat([outputs[i] for i in self.sources], 1))
        for i in self.skips:
            z_BH = z_BH + outputs[i]
        a_BH: Tensor = self.dropout(self.activation(self.norm(z_BH)))
        return a_BH


def divergence(activations_BH: Tensor, share: float) -> Tensor:
    """float32 []: how far units are from being on for this share of users, summed over units.

    Of each unit it is the Kullback-Leibler divergence of its mean over the batch from `share`.

    Example:
        >>> divergence(torch.tensor([[0.1, 0.5], [0.3, 0.5]]), 0.2)  # 0 + .2 log .4 + .8 log 1.6
        tensor(0.1927)

    Reference:
        DSSTNE, `engine/kDelta.cu`, kCalculateSparsenessPenalty: the same gradient.
    """
    mean_H = activations_BH.mean(0).clamp(SMALLEST_CHANCE, 1.0 - SMALLEST_CHANCE)
    of_on = share * torch.log(share / mean_H)
    return (of_on + (1.0 - share) * torch.log((1.0 - share) / (1.0 - mean_H))).sum()
