"""What becomes of a score before a target is compared with it, and how fast."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Output = Literal[
    "identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "softplus", "softsign"
]
OUTPUTS: tuple[Output, ...] = get_args(Output)
PARAMETERS = {"slope": 0.01, "alpha": 1.0, "scale": 1.0507}  # what each is if nothing is said
READ_BY = {"slope": ("leaky_relu",), "alpha": ("elu", "selu"), "scale": ("selu",)}


def refuse_unread(activation: str, **given: float | None) -> None:
    """Raises ValueError if a parameter was set that this activation does not have.

    Example:
        >>> refuse_unread("elu", slope=0.01, alpha=2.0)
    """
    for name, value in given.items():
        if value not in (None, PARAMETERS[name]) and activation not in READ_BY[name]:
            raise ValueError(
                f"{name} is read by {' and '.join(READ_BY[name])} alone, got {name}={value:g} with "
                f"{activation!r}; leave it out"
            )


class Activated:
    """An activation of scores, which ranks as they do, or ties.

    Args:
        output: which.
        slope: of a leaky_relu below 0, 0 or more.
        alpha: of an elu or selu, above 0: minus this is where it ends.
        scale: of a selu, above 0.

    Raises:
        ValueError: there is no such activation, or a parameter lies outside its range.

    Example:
        >>> elu = Activated("elu", alpha=2.0)
        >>> values = elu(torch.tensor([3.0, 0.0]))
        >>> values, elu.derivative(values)
        (tensor([3., 0.]), tensor([1., 2.]))
    """

    def __init__(
        self, output: Output, *, slope: float = 0.01, alpha: float = 1.0, scale: float = 1.0507
    ) -> None:
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(OUTPUTS)}; got {output!r}")
        if not slope >= 0.0:
            raise ValueError(f"slope must be 0 or more, got {slope}")
        for name, value in (("alpha", alpha), ("scale", scale)):
            if not value > 0.0:
                raise ValueError(f"{name} must be above 0, got {value}")
        self.output, self.slope, self.alpha = output, slope, alpha
        self.scale = scale if output == "selu" else 1.0

    def __call__(self, scores: Tensor) -> Tensor:
        """A new tensor."""
        if self.output == "sigmoid":
            return torch.sigmoid(scores)
        if self.output == "tanh":
            return torch.tanh(scores)
        if self.output == "relu":
            return torch.relu(scores)
        if self.output == "leaky_relu":
            return F.leaky_relu(scores, self.slope)
        if self.output in ("elu", "selu"):
            return F.elu(scores, self.alpha).mul_(self.scale)
        if self.output == "softplus":
            return F.softplus(scores)
        return F.softsign(scores) if self.output == "softsign" else scores.clone()

    def derivative(self, activated: Tensor) -> Tensor:
        """A new tensor: the slope, by what became of the scores."""
        if self.output == "sigmoid":
            return activated * (1.0 - activated)
        if self.output == "tanh":
            return 1.0 - activated * activated
        if self.output in ("relu", "leaky_relu"):
            below = self.slope if self.output == "leaky_relu" else 0.0
            return torch.where(activated > 0, torch.ones_like(activated), below)
        if self.output in ("elu", "selu"):
            of_below = activated + self.scale * self.alpha
            return torch.where(activated > 0, self.scale, of_below)
        if self.output == "softplus":
            return -torch.expm1(-activated)
        if self.output == "softsign":
            return (1.0 - activated.abs()).square_()
        return torch.ones_like(activated)
