"""A network of DSSTNE, wherever it was read: its settings, its layers, and their weights.

The numbers of the enumerations are those of network files.
"""

import math
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class LayerKind(IntEnum):
    INPUT = 0
    HIDDEN = 1
    OUTPUT = 2
    TARGET = 3


class LayerType(IntEnum):
    FULLY_CONNECTED = 0
    CONVOLUTIONAL = 1
    POOLING = 2


class Activation(IntEnum):
    SIGMOID = 0
    TANH = 1
    RECTIFIED_LINEAR = 2
    LINEAR = 3
    PARAMETRIC_RELU = 4
    SOFT_PLUS = 5
    SOFT_SIGN = 6
    SOFT_MAX = 7
    RELU_MAX = 8
    LINEAR_MAX = 9
    ELU = 10
    LEAKY_RELU = 11
    SELU = 12


class Error(IntEnum):
    L1 = 0
    L2 = 1
    CROSS_ENTROPY = 2
    SCALED_MARGINAL = 3
    DATA_SCALED_MARGINAL = 4
    HINGE = 5
    L2_HINGE = 6


class Init(IntEnum):
    XAVIER = 0
    CAFFE_XAVIER = 1
    GAUSSIAN = 2
    UNIFORM = 3
    UNIT_BALL = 4
    CONSTANT = 5
    SELU = 6


class Pooling(IntEnum):
    NONE = 0
    MAX = 1
    AVERAGE = 2
    LRN = 3
    MAXOUT = 4
    DOT_PRODUCT = 5
    COSINE = 6
    STOCHASTIC = 7
    LCN = 8
    GLOBAL_TEMPORAL = 9


class LayerFlag(IntFlag):
    SPARSE = 1
    DENOISING = 2
    BATCH_NORMALIZATION = 4


NO_FLAGS = LayerFlag(0)


@dataclass
class BatchNorm:
    """Of each unit of a layer."""

    scale: Floats
    bias: Floats
    running_mean: Floats
    running_variance: Floats


@dataclass
class Layer:
    """One layer; defaults are those of DSSTNE."""

    name: str
    kind: LayerKind
    type: LayerType = LayerType.FULLY_CONNECTED
    pooling: Pooling = Pooling.NONE
    data_set: str = ""
    extents: tuple[int, ...] = (0,)  # units over its dimensions; 0: as many as the data set has
    sources: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    activation: Activation = Activation.SIGMOID
    flags: LayerFlag = NO_FLAGS
    dropout: float = 0.0
    init: Init = Init.XAVIER
    init_scale: float = 1.0
    bias_init: float = 0.0
    weight_norm: float = 0.0
    delta_norm: float = 0.0
    sparseness_p: float = 0.0
    sparseness_beta: float = 0.0
    slope: float = 1.0  # of a leaky rectifier
    alpha: float = 1.0  # of ELU
    scale: float = 1.050701  # of SELU
    batch_norm: BatchNorm | None = None

    @property
    def units(self) -> int:
        return math.prod(self.extents)


@dataclass
class Weight:
    """From one layer to another; `values` [units of source, units of target], None where shared."""

    source: str
    target: str
    bias: Floats
    values: Floats | None
    norm: float = 0.0
    locked: bool = False
    shared_with: tuple[str, str] | None = None  # source and target of the weights that it shares
    transposed: bool = False


@dataclass
class Network:
    """A network; defaults are those of DSSTNE."""

    name: str
    layers: list[Layer]
    weights: list[Weight] = field(default_factory=list)
    version: float = 0.9
    kind: int = 0
    error: Error = Error.CROSS_ENTROPY
    sparseness: tuple[float, float] = (0.0, 0.0)  # p and beta
    denoising_p: float = 0.0
    boost: tuple[float, float] = (1.0, 1.0)  # of ones and zeros
    one_target: float = 0.9
    zero_target: float = 0.1
    one_scale: float = 1.0
    zero_scale: float = 1.0
    shuffle: bool = True
    decay: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)  # what is kept and not used

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def of_kind(self, kind: LayerKind) -> list[Layer]:
        return [layer for layer in self.layers if layer.kind == kind]

    @property
    def history(self) -> Layer:
        """The input that is a user's history: of the data set of the output, or else the first."""
        inputs = self.of_kind(LayerKind.INPUT)
        asked = {layer.data_set for layer in self.of_kind(LayerKind.OUTPUT)}
        return next((one for one in inputs if one.data_set and one.data_set in asked), inputs[0])

    @property
    def further(self) -> dict[str, Layer]:
        """Every other input, by the user attribute that it is, which is called as its data set."""
        inputs = self.of_kind(LayerKind.INPUT)
        return {one.data_set or one.name: one for one in inputs if one is not self.history}

    def weight(self, source: str, target: str) -> Weight:
        return next(
            weight for weight in self.weights if (weight.source, weight.target) == (source, target)
        )

    def matrix(self, weight: Weight) -> Floats:
        """The values of a weight, [units of source, units of target], of what it shares too."""
        if weight.values is not None:
            return weight.values
        assert weight.shared_with is not None
        found = self.matrix(self.weight(*weight.shared_with))
        return found.T if weight.transposed else found
