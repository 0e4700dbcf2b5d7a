"""The error and the output layer of a network file, by the loss that a run was trained with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deeprec.dsstne.mapping import ERRORS
from deeprec.dsstne.network import Activation, Error, Layer, LayerFlag, LayerKind
from deeprec.dsstne.output import OUTPUTS
from deeprec.errors import ConfigError
from deeprec.part import find

MARGINS = ("one_target", "zero_target", "one_scale", "zero_scale")


@dataclass(frozen=True)
class Learned:
    """What a loss says of a network.

    Args:
        settings: of the network, by their names.
        output: the output layer, without sources and extents.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    output: Layer = field(default_factory=lambda: _output(Activation.SIGMOID))


def learned_by(
    loss: Mapping[str, Any], constraints: Mapping[str, float | None], source: object
) -> Learned:
    """The error that a loss is, or else one whose outputs rank as its scores do.

    Args:
        loss: the config part.
        constraints: of the optimizer.
        source: of both, for errors.

    Raises:
        ConfigError: DSSTNE does not compute the activation that the loss compares.
    """
    name = loss["_target_"].rpartition(".")[2]
    if name == "Regression":
        learned = _regression(loss, source)
    elif name in ("Softmax", "SampledSoftmax"):
        margins = {key: loss[key] for key in MARGINS if key in loss}
        plain = all(margins.get(key, 1.0) == 1.0 for key in MARGINS if key != "zero_target")
        plain &= margins.get("zero_target", 0.0) == 0.0
        error = Error.CROSS_ENTROPY if plain else Error.SCALED_MARGINAL
        settings = {"one_target": 1.0, "zero_target": 0.0, **margins, "error": error}
        learned = Learned(settings, _output(Activation.SOFT_MAX))
    elif getattr(find(loss["_target_"]), "log_odds", True):
        margins = {key: loss[key] for key in MARGINS if key in loss}
        settings = {"one_target": 1.0, "zero_target": 0.0, **margins}
        learned = Learned({**settings, "error": Error.SCALED_MARGINAL})
    else:  # scores that should be the targets themselves
        learned = Learned({"error": Error.L2}, _output(Activation.LINEAR))
    learned.output.weight_norm = constraints.get("item_norm") or 0.0
    learned.output.delta_norm = constraints.get("score_slope_norm") or 0.0
    return learned


def _regression(loss: Mapping[str, Any], source: object) -> Learned:
    activations = {name: activation for activation, name in OUTPUTS.items()}
    activation = activations[loss["output"]]
    if activation in (Activation.SOFT_PLUS, Activation.SOFT_SIGN):
        raise ConfigError(
            f"{source} compares {loss['output']} of scores (loss.output), which DSSTNE reads and "
            "does not compute; train with another output"
        )
    errors = {name: error for error, name in ERRORS.items()} | {
        "cross_entropy": Error.CROSS_ENTROPY
    }
    output = _output(activation)
    for name in ("slope", "alpha", "scale"):
        setattr(output, name, loss.get(name, getattr(output, name)))
    boost = loss["one_scale"], loss["zero_scale"]
    return Learned({"error": errors[loss["error"]], "boost": boost}, output)


def _output(activation: Activation) -> Layer:
    return Layer("Output", LayerKind.OUTPUT, flags=LayerFlag.SPARSE, activation=activation)
