"""Whether the layers and the weights of a network file belong together."""

from pathlib import Path

from deeprec.dsstne.network import Layer, LayerKind, LayerType, Network
from deeprec.errors import DataError


def check_network(network: Network, path: Path) -> None:
    """Every layer that reads another one has weights for it, of the size of both.

    Layers that are no part of a recommender are passed over; who reads the network refuses them.

    Raises:
        DataError: something is missing, twice, or of another size.
    """
    for kind in (LayerKind.INPUT, LayerKind.OUTPUT):
        if not network.of_kind(kind):
            raise DataError(f"{path}: has no layer of kind {int(kind)} ({kind.name})")
    known = {layer.name: layer for layer in network.layers}
    if len(known) < len(network.layers):
        names = [layer.name for layer in network.layers]
        raise DataError(f"{path}: layers must have names of their own, got {', '.join(names)}")
    _check_sharing(network, path)
    for layer in network.layers:
        plain = layer.type == LayerType.FULLY_CONNECTED
        if not plain or layer.kind == LayerKind.INPUT:
            continue
        _check_batch_norm(layer, path)
        for name in layer.sources:
            if name not in known or known[name].type != LayerType.CONVOLUTIONAL:
                _check_weight(network, name, layer, path)


def _check_sharing(network: Network, path: Path) -> None:
    """Weights that share others end at some that are in the file."""
    held = {(weight.source, weight.target): weight for weight in network.weights}
    for weight in network.weights:
        passed, one = 0, weight
        while one.shared_with is not None:
            passed += 1
            if one.shared_with not in held or passed > len(held):
                raise DataError(
                    f"{path}: weights from {weight.source!r} to {weight.target!r} share those of "
                    f"{one.shared_with}, which the file does not have"
                )
            one = held[one.shared_with]


def _check_weight(network: Network, source: str, layer: Layer, path: Path) -> None:
    where = f"{path}: weights from {source!r} to {layer.name!r}"
    if (source, layer.name) not in {(one.source, one.target) for one in network.weights}:
        raise DataError(f"{where}: the layer reads it, and the file has none")
    weight = network.weight(source, layer.name)
    shape = network.layer(source).units, layer.units
    if network.matrix(weight).shape != shape:
        raise DataError(f"{where} must be {shape}, got {network.matrix(weight).shape}, shared")
    if len(weight.bias) != layer.units:
        raise DataError(f"{where}: bias must be {layer.units} numbers, got {len(weight.bias)}")


def _check_batch_norm(layer: Layer, path: Path) -> None:
    if layer.batch_norm is None:
        return
    for name, values in vars(layer.batch_norm).items():
        if len(values) != layer.units:
            raise DataError(
                f"{path}: {name} of layer {layer.name!r} must be {layer.units} numbers, got "
                f"{len(values)}"
            )
