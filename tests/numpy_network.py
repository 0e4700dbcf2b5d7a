"""The forward pass of a network file in numpy, written from the formulas and nothing of ours."""

import numpy as np
from scipy.special import expit, softmax

from deeprec.dsstne.network import Activation, LayerKind, LayerType, Network, Pooling

ACTIVATIONS = {
    Activation.SIGMOID: lambda z, _: expit(z),
    Activation.TANH: lambda z, _: np.tanh(z),
    Activation.RECTIFIED_LINEAR: lambda z, _: np.maximum(z, 0),
    Activation.LINEAR: lambda z, _: z,
    Activation.LEAKY_RELU: lambda z, layer: np.maximum(z, layer.slope * z),
    Activation.ELU: lambda z, layer: np.where(z > 0, z, layer.alpha * np.expm1(z)),
    Activation.SELU: lambda z, layer: layer.scale * np.where(z > 0, z, layer.alpha * np.expm1(z)),
    Activation.SOFT_MAX: lambda z, _: softmax(z, axis=1),
}


def forward(
    network: Network, *columns: list[list[int]], weights: np.ndarray | None = None
) -> np.ndarray:
    """Activated outputs, [examples, width], of examples that have these columns of each input.

    `weights` is what an example's columns count, of every input, [examples].
    """
    known: dict[str, np.ndarray] = {}
    count, given = len(columns[0]), iter(columns)
    for layer in network.layers:
        if layer.kind == LayerKind.INPUT:
            known[layer.name] = np.zeros((count, layer.units))
            for row, having in zip(known[layer.name], next(given), strict=True):
                row[having] = 1.0
            known[layer.name] *= 1.0 if weights is None else weights[:, None]
            continue
        if layer.type == LayerType.POOLING:
            known[layer.name] = pooled(layer.pooling, [known[name] for name in layer.sources])
            continue
        z = np.zeros((count, layer.units))
        for source in layer.sources:
            weight = network.weight(source, layer.name)
            z += known[source] @ network.matrix(weight).astype(np.float64) + weight.bias
        for skipped in layer.skips:
            z += known[skipped]
        if layer.batch_norm is not None:
            norm = layer.batch_norm
            z = (z - norm.running_mean) / np.sqrt(norm.running_variance + 1e-5)
            z = z * norm.scale + norm.bias
        known[layer.name] = ACTIVATIONS[layer.activation](z, layer)
    return known[network.layers[-1].name]


def pooled(pooling: Pooling, read: list[np.ndarray]) -> np.ndarray:
    """Layers put together, [examples, units]."""
    if pooling == Pooling.MAXOUT:
        return np.max(read, axis=0)
    found = []
    for other in read[1:]:
        dots = [float(np.dot(one, two)) for one, two in zip(read[0], other)]
        sizes = [np.sqrt((one**2).sum() * (two**2).sum()) for one, two in zip(read[0], other)]
        found.append(np.divide(dots, sizes) if pooling == Pooling.COSINE else np.array(dots))
    return np.stack(found, axis=1)


def drawn(widths: tuple[int, int], seed: int = 0) -> Network:
    """A network of every activation, with a skip, batch norm and several sources."""
    from deeprec.dsstne.network import BatchNorm, Layer, LayerFlag, Weight

    draw = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        return (draw.normal(size=shape) * 0.5).astype(np.float32)

    norm = BatchNorm(floats(6), floats(6), floats(6), np.abs(floats(6)) + 0.1)
    layers = [
        Layer("Items", LayerKind.INPUT, data_set="d_input", extents=widths[:1],
              flags=LayerFlag.SPARSE),
        Layer("A", LayerKind.HIDDEN, extents=(6,), sources=["Items"], activation=Activation.SELU,
              alpha=1.67326),
        Layer("B", LayerKind.HIDDEN, extents=(6,), sources=["A", "Items"], skips=["A"],
              activation=Activation.LEAKY_RELU, slope=0.2, batch_norm=norm,
              flags=LayerFlag.BATCH_NORMALIZATION),
        Layer("C", LayerKind.HIDDEN, extents=(4,), sources=["B", "A"], activation=Activation.TANH),
        Layer("Output", LayerKind.OUTPUT, data_set="d_output", extents=widths[1:],
              sources=["C", "B"], flags=LayerFlag.SPARSE),
    ]  # fmt: skip
    network = Network("drawn", layers)
    for layer in layers[1:]:
        for source in layer.sources:
            shape = network.layer(source).units, layer.units
            weight = Weight(source, layer.name, floats(layer.units), floats(*shape))
            network.weights.append(weight)
    return network
