"""The activation of an output layer, as losses and lists of ours have it."""

from typing import Any

from deeprec.activated import Activated, Output
from deeprec.dsstne.network import Activation, Layer

OUTPUTS: dict[Activation, Output] = {
    Activation.SIGMOID: "sigmoid", Activation.TANH: "tanh", Activation.LINEAR: "identity",
    Activation.RECTIFIED_LINEAR: "relu", Activation.LEAKY_RELU: "leaky_relu",
    Activation.ELU: "elu", Activation.SELU: "selu", Activation.SOFT_PLUS: "softplus",
    Activation.SOFT_SIGN: "softsign",
}  # fmt: skip
PARAMETERS = {
    Activation.LEAKY_RELU: ("slope",),
    Activation.ELU: ("alpha",),
    Activation.SELU: ("alpha", "scale"),
}


def output_of(layer: Layer) -> dict[str, Any]:
    """The activation and its parameters, as arguments; of one in OUTPUTS."""
    told = {name: getattr(layer, name) for name in PARAMETERS.get(layer.activation, ())}
    return {"output": OUTPUTS[layer.activation], **told}


def activated(layer: Layer) -> Activated:
    """What becomes of scores in this layer."""
    return Activated(**output_of(layer))
