"""An output that reads the input itself, as one that reads a linear layer between the two."""

import numpy as np

from deeprec.dsstne.network import Activation, Init, Layer, LayerKind, Network, Weight

WIDEST = 4_096  # units of such a layer: 64 MiB of weights to the output


def bridge(network: Network) -> list[tuple[str, str]]:
    """Puts a linear layer wherever the output reads an input, in place; the answers stay the same.

    Scores here are products with rows of a catalog table, so an output needs a layer to read; one
    of as many units as the output, with the identity behind it, is what was there. Where the output
    is wider than 4,096 units, or as wide as its data, nothing is done.

    Returns:
        The output and the input of each.
    """
    found = []
    inputs = {layer.name for layer in network.of_kind(LayerKind.INPUT)}
    for output in network.of_kind(LayerKind.OUTPUT):
        for source in [name for name in output.sources if name in inputs]:
            if 0 < output.units <= WIDEST and not _shares(network, source, output.name):
                _put_between(network, source, output)
                found.append((output.name, source))
    return found


def _shares(network: Network, source: str, target: str) -> bool:
    ends = source, target
    weights = network.weights
    return any(
        one.shared_with == ends or ((one.source, one.target) == ends and one.shared_with)
        for one in weights
    )


def _put_between(network: Network, source: str, output: Layer) -> None:
    name = f"{source}To{output.name}"
    output.sources = [name if one == source else one for one in output.sources]
    between = Layer(
        name,
        LayerKind.HIDDEN,
        extents=(output.units,),
        sources=[source],
        activation=Activation.LINEAR,
        init=output.init,
        init_scale=output.init_scale,
    )
    network.layers.insert(network.layers.index(output), between)
    for weight in network.weights:
        if (weight.source, weight.target) == (source, output.name):
            nothing = np.zeros_like(weight.bias)
            network.weights.append(Weight(source, name, nothing, weight.values))
            weight.source, weight.values = name, np.eye(output.units, dtype=np.float32)
            break
    else:  # a definition; behind a layer whose weights are drawn, the output begins evenly
        output.init = Init.CAFFE_XAVIER
