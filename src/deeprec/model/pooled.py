"""Layers that put others together without weights of their own.

Shapes as in deeprec/batch.py, and H, the units of a layer.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pooling = Literal["none", "maxout", "dot", "cosine"]


class PooledLayer(nn.Module):
    """One of several layers, unit by unit, or how like the first one the others are.

    Args:
        pooling: `maxout`, `dot` or `cosine`; see `Hidden`.
        sources: places of the layers that it reads, two or more of as many units.

    Reference:
        DSSTNE, `engine/kernels.cu`, kCalculateMaxout, kCalculateDotProduct and kCalculateCosine.

    Example:
        >>> both = [torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 0.0]])]
        >>> [PooledLayer(kind, [0, 1])([], both).tolist() for kind in ("maxout", "dot", "cosine")]
        [[[6.0, 4.0]], [[18.0]], [[0.6000000238418579]]]
    """

    sources: list[int]

    def __init__(self, pooling: Pooling, sources: list[int]) -> None:
        super().__init__()
        self.pooling, self.sources = str(pooling), sources

    def forward(self, sums: list[Tensor], outputs: list[Tensor]) -> Tensor:
        """float32 [B, H]; see `HiddenLayer`."""
        first_BH = outputs[self.sources[0]]
        found: list[Tensor] = []
        for i in self.sources[1:]:
            if self.pooling == "maxout":
                first_BH = torch.maximum(first_BH, outputs[i])
            elif self.pooling == "dot":
                found.append((first_BH * outputs[i]).sum(1))
            else:
                found.append(F.cosine_similarity(first_BH, outputs[i], dim=1))
        return first_BH if self.pooling == "maxout" else torch.stack(found, 1)


def check_pooling(pooling: str, sources: Sequence[str] | None) -> None:
    """Raises ValueError if there is no such pooling, or it is not said of what."""
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}; got {pooling!r}")
    if pooling != "none" and (sources is None or len(sources) < 2):
        raise ValueError(f"sources must be two layers or more with pooling={pooling}")


def pooled_units(pooling: Pooling, widths: Sequence[int]) -> int:
    """The units of such a layer, by those of its sources.

    Raises:
        ValueError: these differ.
    """
    if len({*widths}) > 1:
        raise ValueError(
            f"layers: pooling={pooling} needs sources of as many units, got {list(widths)}"
        )
    return widths[0] if pooling == "maxout" else len(widths) - 1
